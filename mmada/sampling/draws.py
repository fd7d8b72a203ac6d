"""Random numbers of a row, and how the published samplers use one for every id of the vocabulary.

`Denoising` needs two uniform numbers a position: one for the token, one for the order. Published samplers add noise to every logit instead and
take the largest: the same distribution for a vocabulary's worth of numbers. They are here for parity.

    rule            token                          who
    gumbel_power    arg max exp(l) / (-log U)^T    LLaDA, Lumina-DiMOO's and Parallel-M's text, in float64
    gumbel_divided  arg max l / T + G(U)           Lumina-DiMOO's images
    gumbel_added    arg max l + T G(U)             Parallel-A's text                                     G(U) = -log(-log U)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from mmada.diffusion.loss import widest

__all__ = ["ChoiceNoise", "Draws", "SeededDraws", "TokenNoise", "gumbel", "gumbel_added", "gumbel_divided", "gumbel_power", "normal"]

TokenNoise = Callable[[Tensor, Tensor, float], Tensor]
"""(logits (..., V), uniform numbers (..., V), temperature above 0) -> numbers (..., V) whose arg max is the token."""

ChoiceNoise = Callable[[Tensor], Tensor]
"""Uniform numbers -> noise on the confidence."""


class Draws(Protocol):
    """Where the random numbers of one row come from."""

    def numbers(self, slots: range, num_ids: int | None) -> tuple[Tensor, Tensor]:
        """Uniform numbers in [0, 1) for the tokens, (len(slots),) or (len(slots), num_ids), and (len(slots),) for the order."""
        ...

    def integers(self, count: int, below: int) -> Tensor:
        """(count,) int64 in 0..below-1."""
        ...


class SeededDraws:
    """Draws of a generator of its own on the CPU: what a row gets does not depend on its neighbors, nor on the device."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def numbers(self, slots: range, num_ids: int | None) -> tuple[Tensor, Tensor]:
        if num_ids is None:
            tokens, order = torch.rand(2, len(slots), generator=self._generator)
            return tokens, order
        tokens = torch.rand(len(slots), num_ids, generator=self._generator, dtype=torch.float64)
        return tokens, torch.rand(len(slots), generator=self._generator)

    def integers(self, count: int, below: int) -> Tensor:
        return torch.randint(below, (count,), generator=self._generator)


def gumbel(uniform: Tensor) -> Tensor:
    """Standard Gumbel noise from uniform numbers in [0, 1)."""
    tiny = torch.finfo(uniform.dtype).tiny
    return -torch.log((-torch.log(uniform.clamp_min(tiny))).clamp_min(tiny))


def normal(uniform: Tensor) -> Tensor:
    """Standard normal noise from uniform numbers in [0, 1)."""
    tiny = torch.finfo(uniform.dtype).tiny
    noise: Tensor = torch.special.ndtri(uniform.clamp_min(tiny))
    return noise


def gumbel_power(logits: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """exp(l) / (-log U)^T, in float64 where there is that."""
    wide = widest(logits.device)
    numbers: Tensor = logits.to(wide).exp() / (-torch.log(uniform.to(wide))) ** temperature
    return numbers


def gumbel_divided(logits: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """l / T + G(U), in the logits' precision."""
    return logits / temperature - torch.log(-torch.log(uniform.to(logits.dtype) + 1e-20) + 1e-20)


def gumbel_added(logits: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """l + T G(U), in the logits' precision."""
    return logits - temperature * torch.log(-torch.log(uniform.to(logits.dtype) + 1e-10) + 1e-10)
