"""Forward noising: draw x_t from q(x_t | x_0) by replacing tokens with `[MASK]`.

    independent   each maskable position with probability p                (text; LLaDA algorithm 1)
    exact         exactly n maskable positions, uniformly                  (images; MaskGIT)
    complement    the positions that a mask left visible                   (two rows score each token once)

Each function returns the mask that it drew. Nothing derives it from `xt == mask_id` afterward.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmada.errors import InputError

__all__ = ["Noised", "complement", "exact", "independent", "stratified_uniform"]


@dataclass(frozen=True, slots=True)
class Noised:
    """xt (B, L) int64 with masks in place; is_masked (B, L) bool, the mask that was drawn."""

    xt: Tensor
    is_masked: Tensor


def independent(x0: Tensor, ratio: Tensor, maskable: Tensor, *, mask_id: int, generator: torch.Generator | None = None) -> Noised:
    """Mask each maskable position with probability ratio.

    x0 (B, L) int64; ratio (B,) float in (0, 1]; maskable (B, L) bool, False on prompt and padding.
    Raises InputError if a ratio leaves (0, 1].
    """
    _check(x0, maskable)
    if bool(((ratio <= 0) | (ratio > 1)).any()):
        raise InputError(f"ratio in [{ratio.min():.4g}, {ratio.max():.4g}] must lie in (0, 1]; use schedule.text_mask_ratio")
    draw = torch.rand(x0.shape, generator=generator, device=x0.device)
    return _apply(x0, maskable & (draw < ratio[:, None]), mask_id)


def exact(x0: Tensor, num_masked: Tensor, maskable: Tensor, *, mask_id: int, generator: torch.Generator | None = None) -> Noised:
    """Mask exactly num_masked maskable positions of each row, drawn uniformly without replacement.

    x0 (B, L) int64; num_masked (B,) int64; maskable (B, L) bool.
    Raises InputError if a row has fewer maskable positions than it should mask.
    """
    _check(x0, maskable)
    available = maskable.sum(1)
    if bool((num_masked > available).any()) or bool((num_masked < 0).any()):
        raise InputError(f"num_masked={num_masked.tolist()} must lie between 0 and the maskable positions {available.tolist()} of each row")
    draw = torch.rand(x0.shape, generator=generator, device=x0.device).masked_fill(~maskable, 2.0)
    rank = draw.argsort(dim=1, stable=True).argsort(dim=1)
    return _apply(x0, maskable & (rank < num_masked[:, None]), mask_id)


def complement(x0: Tensor, is_masked: Tensor, maskable: Tensor, *, mask_id: int) -> Noised:
    """Mask the maskable positions that `is_masked` (B, L) left visible."""
    _check(x0, maskable)
    return _apply(x0, maskable & ~is_masked, mask_id)


def stratified_uniform(count: int, *, generator: torch.Generator | None = None, device: torch.device | None = None) -> Tensor:
    """(count,) float32 in [0, 1): one draw in each of `count` equal intervals, in random order.

    Each value alone is uniform. Together they cover the interval evenly, which lowers the variance of a batch's loss.
    Source: Sahoo et al. 2024 (MDLM), antithetic sampling.
    """
    if count < 1:
        raise InputError(f"count={count} must be at least 1")
    shift = torch.rand(count, generator=generator, device=device)
    order = torch.randperm(count, generator=generator, device=device)
    return ((order + shift) / count).clamp_max(1 - 2**-24)


def _apply(x0: Tensor, is_masked: Tensor, mask_id: int) -> Noised:
    return Noised(torch.where(is_masked, mask_id, x0), is_masked)


def _check(x0: Tensor, maskable: Tensor) -> None:
    if x0.shape != maskable.shape or maskable.dtype != torch.bool:
        raise InputError(f"maskable must be bool with the shape {tuple(x0.shape)} of x0, got {maskable.dtype} {tuple(maskable.shape)}")
