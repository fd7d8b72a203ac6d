"""Which token each open position would take now.

    temperature 0   the arg max
    temperature T   a draw from softmax(logits / T), after top-k and top-p

Draws use one uniform number a position (the inverse of the cumulative distribution), taken from the request's own
generator on the CPU: the same seed gives the same tokens on any device, alone or in a batch. The distribution is that of
arg max(logits + T * Gumbel), the published form.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["keep_top_k", "keep_top_p", "propose"]


def propose(logits: Tensor, uniform: Tensor, *, temperature: float, top_k: int | None = None, top_p: float | None = None) -> Tensor:
    """logits (..., V), -inf where an id is not allowed; uniform (...) in [0, 1) -> (...) int64 indices into V."""
    if temperature == 0:
        return logits.argmax(-1)
    scaled = logits / temperature
    if top_k is not None:
        scaled = keep_top_k(scaled, top_k)
    if top_p is not None:
        scaled = keep_top_p(scaled, top_p)
    # float64: in float32 the cumulative sum over 126,000 ids loses the small ones.
    cumulative = scaled.double().softmax(-1).cumsum(-1)
    target = uniform.double()[..., None] * cumulative[..., -1:]
    return torch.searchsorted(cumulative, target, right=True)[..., 0].clamp_max(logits.shape[-1] - 1)


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
