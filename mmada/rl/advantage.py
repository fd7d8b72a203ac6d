"""Rewards of groups become advantages: how much better a rollout is than the others of its prompt.

    reward  r   (P, G), NaN where a rollout failed
    centered r - mean of the group's rollouts that did not fail
    scale   none: as it is (Dr. GRPO)    group: divided by the group's deviation (GRPO)    batch: by that of all groups (REINFORCE++)

    group   1 0 0 1 nan   ->   advantages  1 -1 -1 1 0     kept  yes yes yes yes no
            1 1 1 1 1     ->               0  0  0 0 0           no signal: nothing to learn from, left out if asked for
            nan nan nan 1 ->               0  0  0 0             empty: fewer than two rollouts to compare

Each group's advantages sum to 0. Source: Shao et al. 2024 (GRPO); Liu et al. 2025 (Dr. GRPO); MMaDA, eq. 15.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from mmada.errors import InputError

__all__ = ["Advantages", "Scale", "advantages"]

Scale: TypeAlias = Literal["none", "group", "batch"]


@dataclass(frozen=True, slots=True, eq=False)
class Advantages:
    """values (P, G) float64, 0 where a rollout takes no part; is_kept (P, G) bool: which take part in the objective.

    is_failed (P, G), is_empty (P,), is_flat (P,)  bool: what was left out, and why; is_flat groups may be kept
    """

    values: Tensor
    is_kept: Tensor
    is_failed: Tensor
    is_empty: Tensor
    is_flat: Tensor


def advantages(
    rewards: Tensor, *, scale: Scale = "group", drop_zero_variance: bool = True, total: Callable[[Tensor], Tensor] = lambda own: own
) -> Advantages:
    """rewards (P, G), NaN where a rollout failed -> advantages.

    drop_zero_variance  leave groups without signal out of the objective, so that the others weigh as much as in a batch full of signal
    total      adds numbers over processes, for scale="batch"
    Raises InputError unless rewards are (P, G) with G >= 2.
    """
    if rewards.dim() != 2 or rewards.shape[1] < 2:
        raise InputError(f"rewards have the shape {tuple(rewards.shape)}; give (P, G) with groups of at least 2 rollouts")
    rewards = rewards.double()
    is_failed = ~rewards.isfinite()
    counts = (~is_failed).sum(1, keepdim=True)  # (P, 1)
    known = rewards.masked_fill(is_failed, 0.0)
    centered = (known - known.sum(1, keepdim=True) / counts.clamp_min(1)).masked_fill(is_failed, 0.0)
    is_empty = counts[:, 0] < 2
    spread = known.masked_fill(is_failed, -torch.inf).amax(1) - known.masked_fill(is_failed, torch.inf).amin(1)
    is_flat = ~is_empty & (spread <= 1e-9)
    centered[is_empty | is_flat] = 0.0  # exactly: the mean of equal numbers may differ from them in the last bit
    if scale == "group":
        deviation = (centered.square().sum(1, keepdim=True) / counts.clamp_min(1)).sqrt()
        values = centered / deviation.where(deviation > 0, 1.0)
    elif scale == "batch":
        used = ~is_failed & ~is_empty[:, None]
        squares, number = total(torch.stack([centered.square().sum(), used.sum().double()])).tolist()
        values = centered / ((squares / max(number, 1.0)) ** 0.5 or 1.0)
    else:
        values = centered
    is_kept = ~is_failed & ~is_empty[:, None] & ~(is_flat[:, None] & drop_zero_variance)
    return Advantages(values, is_kept, is_failed, is_empty, is_flat)
