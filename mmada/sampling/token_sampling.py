"""Which token each open position would take now.

    temperature 0   the arg max
    temperature T   a draw from softmax(logits / T), after min-p, top-k and top-p

Draws use one uniform number a position (the inverse of the cumulative distribution), taken from the request's own generator
on the CPU. The same logits and seed give the same tokens on any device, alone or in a batch. The distribution is that of
arg max(logits + T * Gumbel), the published form.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mmada.diffusion.loss import widest

__all__ = ["inverse_cumulative", "keep_top_k", "keep_top_p", "sample_tokens", "sample_with_probability"]


def sample_tokens(
    logits: Tensor,
    uniform: Tensor,
    *,
    temperature: float,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
) -> Tensor:
    """logits (..., V), -inf where an id is not allowed; uniform (...) in [0, 1) -> (...) int64 indices into V."""
    if temperature == 0:
        return logits.argmax(-1)
    scaled = logits - logits.amax(-1, keepdim=True)
    if temperature != 1:
        scaled = scaled / temperature  # after the subtraction, so that no temperature is too low for it
    if min_p:
        scaled = scaled.masked_fill(scaled < math.log(min_p), -torch.inf)  # the likeliest has 0
    if top_k is not None:
        scaled = keep_top_k(scaled, top_k)
    if top_p is not None:
        scaled = keep_top_p(scaled, top_p)
    return inverse_cumulative(scaled.exp_(), uniform)


def sample_with_probability(logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """`sample_tokens` at temperature 1, and `confidence.probability` of what it drew: the same bits by one exponential of each logit instead of two.

    logits (..., V), uniform (...) in [0, 1) -> (...) int64 and (...) float64
    """
    weight = (logits - logits.amax(-1, keepdim=True)).exp_().to(widest(logits.device))
    index = inverse_cumulative(weight, uniform)
    return index, weight.gather(-1, index[..., None])[..., 0] / weight.sum(-1)


_RUN = 128


def inverse_cumulative(weight: Tensor, uniform: Tensor) -> Tensor:
    """The first index at which the running sum of weight (..., V) >= 0 exceeds uniform (...) in [0, 1) of its total: (...) int64.

    An index of weight 0 is never returned, and none outside V even where weights are not numbers. Sums are float64: in float32 a running
    sum over 126,000 ids loses the small ones. The run of 128 ids in which it happens is found first, so that nothing but its own ids is
    summed up one by one.
    """
    wide = widest(weight.device)
    lacking = -weight.shape[-1] % _RUN
    padded = (F.pad(weight, (0, lacking)) if lacking else weight).unflatten(-1, (-1, _RUN))  # (..., runs, 128)
    total = padded.sum(-1, dtype=wide).cumsum(-1)  # (..., runs)
    target = uniform.to(wide)[..., None] * total[..., -1:]
    run = torch.searchsorted(total, target, right=True).clamp_max(total.shape[-1] - 1)  # (..., 1)
    before = F.pad(total, (1, 0)).gather(-1, run)
    inner = padded.gather(-2, run[..., None].expand(*run.shape, _RUN))[..., 0, :].cumsum(-1, dtype=wide)
    # Both sums are of the same numbers in another order: the rest may come out an ulp too large.
    rest = torch.minimum(target - before, inner[..., -1:] * (1 - 4 * torch.finfo(wide).eps))
    return (run * _RUN + torch.searchsorted(inner, rest, right=True))[..., 0].clamp_max(weight.shape[-1] - 1)


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """All but the k largest logits of each position become -inf."""
    if k >= logits.shape[-1]:
        return logits
    least = logits.topk(k, dim=-1).values[..., -1:]
    return logits.masked_fill(logits < least, -torch.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the smallest set of ids whose probability reaches p; the likeliest id always stays."""
    ordered, order = logits.sort(dim=-1, descending=True)
    probability = ordered.softmax(-1)
    before = probability.cumsum(-1) - probability
    drop = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= p)
    drop.scatter_(-1, order[..., :1], False)
    return logits.masked_fill(drop, -torch.inf)
