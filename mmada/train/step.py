"""Model and batch become losses: the head works only where something is scored, and only on the slice of ids that is asked for.

    loss = sum over flows f of   c_f * S_f / N_f

    S_f = sum over processes, micro-batches and scored positions of   weight * -log p(clean token | noised row)
    N_f = sum over processes and micro-batches of the flow's normaliser

Sums and normalisers stay apart until both are global. So one process, several, and accumulation give the same gradient, which
dividing in each micro-batch would not. On one batch it is diffusion.loss.masked_diffusion_loss, which the tests compare.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmada.diffusion.loss import token_nll
from mmada.model import Transformer
from mmada.train.batch import Batch, Scored

__all__ = ["Objective"]

_MAX_LOGITS = 2**26
"""Logits in memory at once (256 MB of float32); more are computed in chunks, and again in the backward pass."""


class Objective(nn.Module):
    """The model together with its loss, so that wrappers (DDP, FSDP, DeepSpeed) see one forward pass.

    objective(batch)               (F,) float32: S_f of this batch, in nats times weight
    objective(batch, counts=True)  (2, F): the sums, and how many scored tokens had the largest logit
    """

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, *, counts: bool = False) -> Tensor:
        hidden = self.model.trunk(batch.tokens, batch.mask, hidden_score=batch.hidden_score).flatten(0, 1)  # (B L, D)
        sums = hidden.new_zeros(2, len(batch.flows), dtype=torch.float32)
        for part in batch.scored:
            size = max(1, _MAX_LOGITS // self._width(part))
            for chosen in torch.arange(len(part.positions), device=hidden.device).split(size):
                states, targets = hidden[part.positions[chosen]], part.targets[chosen]
                args = (states, targets, part.vocab, counts)
                is_chunked = size < len(part.positions) and torch.is_grad_enabled()
                nll, correct = checkpoint(self._scores, *args, use_reentrant=False) if is_chunked else self._scores(*args)
                member = F.one_hot(part.flow[chosen], len(batch.flows)).float()  # (S, F)
                sums = sums + torch.stack([part.weight[chosen] * nll, correct]) @ member
        if not batch.scored:  # wrappers wait for a gradient of every weight
            sums = sums + 0 * self.model.head(hidden[:1]).float().sum()
        return sums if counts else sums[0].clone()  # FSDP warns of views

    def _width(self, part: Scored) -> int:
        return self.model.head_weight.shape[0] if part.vocab is None else part.vocab[1] - part.vocab[0]

    def _scores(self, states: Tensor, targets: Tensor, vocab: tuple[int, int] | None, counts: bool) -> tuple[Tensor, Tensor]:
        """nll (S,) in nats, and whether the target was the arg max (S,), 0 or 1."""
        logits = self.model.head(states, vocab)  # (S, V)
        nll = token_nll(logits, targets)
        return nll, (logits.argmax(-1) == targets).float() if counts else torch.zeros_like(nll)
