"""Model and batch become losses.

    loss = sum over components f of   c_f * S_f / N_f

    S_f = sum over processes, micro-batches and scored positions of   weight * -log p(clean token | noised row)
    N_f = sum over processes and micro-batches of the component's normalizer

Sums and normalizers stay apart until both are global. So one process, several, and accumulation give the same gradient, which
dividing in each micro-batch would not. On one batch it is diffusion.loss.masked_diffusion_loss, which the tests compare.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmada.canvas import Query
from mmada.model import Transformer, TransformerDenoiser
from mmada.train.batch import Batch
from mmada.train.scoring import is_correct, masked_logprobs

__all__ = ["DiffusionLoss"]


class DiffusionLoss(nn.Module):
    """The model together with its loss, so that wrappers (DDP, FSDP, DeepSpeed) see one forward pass.

    objective(batch)               (F,) float32: S_f of this batch, in nats times weight
    objective(batch, counts=True)  (2, F): the sums, and how many scored tokens had the largest logit
    objective(queries=[...])       logits for the sampler, through the same door: FSDP gathers weights there
    """

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model
        self._denoiser = TransformerDenoiser(model)

    def forward(self, batch: Batch | None = None, *, counts: bool = False, queries: Sequence[Query] | None = None) -> Tensor | list[Tensor]:
        if queries is not None:
            with torch.no_grad():
                return self._denoiser.logits(queries)
        assert batch is not None
        hidden = self.model.trunk(batch.tokens, batch.mask, mask_value=batch.mask_value).flatten(0, 1)  # (B L, D)
        sums = hidden.new_zeros(2, len(batch.components), dtype=torch.float32)
        member = F.one_hot(batch.component, len(batch.components)).float()  # (S, F)
        for index, logp, correct in masked_logprobs(self.model, hidden, batch.scored, is_correct if counts else None):
            sums = sums + torch.stack([-batch.weight[index] * logp, correct]).to(sums) @ member[index]
        if not batch.scored:  # wrappers wait for a gradient of every weight
            sums = sums + 0 * self.model.head(hidden[:1]).float().sum()
        return sums if counts else sums[0].clone()  # FSDP warns of views
