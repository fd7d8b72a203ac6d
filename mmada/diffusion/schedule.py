"""Noise schedules: the mask ratio as a function of progress.

Progress is 0 at the start of generation (all masked) and 1 at its end (nothing masked).
Training draws progress uniformly and masks that ratio. The image sampler follows the same curve downward.
Text uses `linear` with a floor: a time t in (0, 1] is progress 1 - t, and p = (1 - eps) t + eps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mmada.errors import InputError, suggest

__all__ = ["SCHEDULES", "Schedule", "cosine", "linear", "power", "schedule", "sigmoid", "text_mask_ratio"]

_FLOOR = 1e-6


@dataclass(frozen=True, slots=True)
class Schedule:
    """A decreasing curve from 1 to (almost) 0 over progress in [0, 1].

    mask_ratio(progress)  share of masked positions; same shape and dtype as progress
    derivative(progress)  d mask_ratio / d progress, negative; where the curve is clamped, that of the unclamped curve
    """

    name: str
    mask_ratio: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor], Tensor]


# Keep the published order of float operations. At progress 4/6, floor(16 cos(pi/2 * 4/6)) is 7 in float32, not 8,
# and the number of committed tokens depends on it.
cosine = Schedule(
    "cosine",
    lambda progress: torch.cos(progress * math.pi * 0.5),
    lambda progress: -0.5 * math.pi * torch.sin(progress * math.pi * 0.5),
)
linear = Schedule(
    "linear",
    lambda progress: (1 - progress).clamp(_FLOOR, 1.0),
    lambda progress: -torch.ones_like(progress),
)


def power(exponent: float) -> Schedule:
    """1 - progress^exponent. Exponent 1 is linear; larger exponents keep more positions masked for longer."""
    if not 0 < exponent < math.inf:
        raise InputError(f"exponent={exponent} must be a positive number; try 2")
    return Schedule(
        f"pow{exponent:g}",
        lambda progress: (1 - progress**exponent).clamp(_FLOOR, 1.0),
        lambda progress: -exponent * progress ** (exponent - 1),
    )


def _sigmoid(start: float, end: float) -> Schedule:
    low, high = (float(x) for x in torch.sigmoid(torch.tensor([start, end])))

    def mask_ratio(progress: Tensor) -> Tensor:
        s = torch.sigmoid(progress * (end - start) + start)
        ratio: Tensor = (high - s) / (high - low)
        return ratio.clamp(_FLOOR, 1.0)

    def derivative(progress: Tensor) -> Tensor:
        s = torch.sigmoid(progress * (end - start) + start)
        slope: Tensor = s * (1 - s) * (start - end) / (high - low)
        return slope

    return Schedule("sigmoid", mask_ratio, derivative)


sigmoid = _sigmoid(-3.0, 3.0)

SCHEDULES = {s.name: s for s in (cosine, linear, power(2), sigmoid)}


def schedule(name: str) -> Schedule:
    """The schedule of that name: cosine, linear, sigmoid, or powX such as pow2 or pow0.5. Raises InputError."""
    if name in SCHEDULES:
        return SCHEDULES[name]
    if name.startswith("pow"):
        try:
            return power(float(name.removeprefix("pow")))
        except ValueError as error:
            raise InputError(f"schedule={name!r} needs a positive number after pow; try pow2") from error
    raise InputError(f"schedule={name!r} is unknown: {suggest(name, [*SCHEDULES, 'powX'])}")


def text_mask_ratio(t: Tensor, *, eps: float = 1e-3) -> Tensor:
    """p = (1 - eps) t + eps: the mask ratio of text at time t in [0, 1]; never 0 (LLaDA, algorithm 1)."""
    return (1 - eps) * t + eps
