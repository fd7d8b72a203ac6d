"""Several rewards become one, each kept for the log.

total = sum of weight * part, over the parts that bear on a sample

A part that is None does not bear on the sample. One that is NaN or infinite makes the total NaN: the rollout failed, takes no part in
its group, and is counted. A sample that no part bears on has failed too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from mmada.errors import InputError
from mmada.rl.records import Completion

__all__ = ["Reward", "Scores", "combine"]

Reward: TypeAlias = Callable[[Sequence[Completion]], Sequence[float | None]]


@dataclass(frozen=True, slots=True)
class Scores:
    """total: one number a sample, NaN where it failed; parts: name -> values before their weights."""

    total: tuple[float, ...]
    parts: Mapping[str, tuple[float | None, ...]]


def combine(samples: Sequence[Completion], rewards: Mapping[str, tuple[float, Reward]]) -> Scores:
    """name -> (weight, reward). Raises InputError if a reward returns another number of values than there are samples."""
    parts: dict[str, tuple[float | None, ...]] = {}
    for name, (_, reward) in rewards.items():
        parts[name] = tuple(None if value is None else float(value) for value in reward(samples))
        if len(parts[name]) != len(samples):
            raise InputError(f"reward {name!r} returned {len(parts[name])} values for {len(samples)} samples; return one for each")
    return Scores(tuple(_total([(rewards[name][0], parts[name][i]) for name in parts]) for i in range(len(samples))), parts)


def _total(weighted: Sequence[tuple[float, float | None]]) -> float:
    known = [(weight, value) for weight, value in weighted if value is not None]
    if not known or not all(math.isfinite(value) for _, value in known):
        return math.nan
    return math.fsum(weight * value for weight, value in known)
