"""What a request asks of single ids: a bias, and penalties on what stands there already.

    frequency    l - f * how often the id is written
    presence     l - p where it is written
    repetition   l / r where it is written or stands in the prompt and l > 0, else l * r     (Keskar et al. 2019, CTRL)
    bias         l + b

"Written" is what is committed. Tokens of one step do not see each other, so a penalty counts from the next step on; end tokens never count,
for they fill what is behind a text.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["biased", "counted", "penalized"]


def biased(logits: Tensor, bias: tuple[tuple[int, float], ...], *, first: int) -> Tensor:
    """logits (..., V) of the ids from `first` on, plus what `bias` has for some of them; ids outside are left alone."""
    inside = [(token - first, value) for token, value in bias if first <= token < first + logits.shape[-1]]
    if not inside:
        return logits
    index = torch.tensor([token for token, _ in inside], device=logits.device)
    values = torch.tensor([value for _, value in inside], dtype=logits.dtype, device=logits.device)
    return logits.index_add(-1, index, values.expand(*logits.shape[:-1], -1).contiguous())


def counted(ids: Tensor, num_ids: int, *, first: int, ends: Tensor) -> Tensor:
    """(A, N) ids -> (A, num_ids) float: how often each of the ids from `first` on is among them, end tokens left out."""
    index = ids - first
    counts = (index >= 0) & (index < num_ids) & ~torch.isin(ids, ends)
    table = torch.zeros(len(ids), num_ids + 1, device=ids.device)
    return table.scatter_add(1, index.where(counts, num_ids), counts.float())[:, :num_ids]


def penalized(logits: Tensor, written: Tensor, present: Tensor, *, frequency: float, presence: float, repetition: float) -> Tensor:
    """logits (A, Q, V) less its penalties.

    written  (A, V) how often each id is written
    present  (A, V) the same with the prompt
    """
    if repetition != 1:
        scaled = torch.where(logits > 0, logits / repetition, logits * repetition)
        logits = torch.where(present[:, None] > 0, scaled, logits)
    return logits - frequency * written[:, None] - presence * (written > 0)[:, None].to(logits.dtype)
