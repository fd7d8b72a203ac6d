"""Model and batch become losses.

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

from mmada.model import MMadaModelLM
from mmada.train.batch import Batch
from mmada.train.scoring import is_correct, masked_logprobs

__all__ = ["Objective"]


class Objective(nn.Module):
    """The model together with its loss, so that wrappers (DDP, FSDP, DeepSpeed) see one forward pass.

    objective(batch)               (F,) float32: S_f of this batch, in nats times weight
    objective(batch, counts=True)  (2, F): the sums, and how many scored tokens had the largest logit
    """

    def __init__(self, model: MMadaModelLM) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, *, counts: bool = False) -> Tensor:
        hidden = self.model.trunk(batch.tokens, batch.mask, hidden_score=batch.hidden_score).flatten(0, 1)  # (B L, D)
        sums = hidden.new_zeros(2, len(batch.flows), dtype=torch.float32)
        member = F.one_hot(batch.flow, len(batch.flows)).float()  # (S, F)
        for index, logp, correct in masked_logprobs(self.model, hidden, batch.scored, is_correct if counts else None):
            sums = sums + torch.stack([-batch.weight[index] * logp, correct]).to(sums) @ member[index]
        if not batch.scored:  # wrappers wait for a gradient of every weight
            sums = sums + 0 * self.model.head(hidden[:1]).float().sum()
        return sums if counts else sums[0].clone()  # FSDP warns of views
