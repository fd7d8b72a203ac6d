"""How many tokens a sampling step commits.

even        n tokens over s steps: n // s each, one more in the first n % s          (text, LLaDA)
remaining   at progress r, keep max(1, min(open - 1, floor(total * mask_ratio(r))))  (images, MaskGIT)
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmada.diffusion.schedule import Schedule
from mmada.errors import InputError

__all__ = ["even", "even_at", "remaining"]


def even_at(num_open: Tensor, step: Tensor, steps: Tensor | int) -> Tensor:
    """Tokens to commit at `step` if `num_open` tokens, counted before step 0, are split evenly over `steps`. All (B,) int64."""
    return num_open // steps + (step < num_open % steps).long()


def even(num_open: Tensor, steps: int) -> Tensor:
    """All steps at once: (B,) int64 counts -> (B, steps) int64, larger shares first. Each row sums to its count."""
    if steps < 1:
        raise InputError(f"steps={steps} must be at least 1")
    step = torch.arange(steps, device=num_open.device)
    return even_at(num_open[:, None], step[None, :], steps)


def remaining(num_open: Tensor, num_total: Tensor, progress: Tensor, schedule: Schedule) -> Tensor:
    """How many of `num_open` positions stay masked at `progress`, all (B,); progress float32 in (0, 1].

    num_total counts the whole region, given positions included, because the published sampler applies its schedule to it.
    A half-given image therefore gets one token a step until the curve falls below the number of masked positions.
    At least one position stays masked; the last step fills it.
    """
    keep = torch.floor(num_total.to(progress.dtype) * schedule.mask_ratio(progress)).long()
    return torch.minimum(keep, num_open - 1).clamp_min(1)
