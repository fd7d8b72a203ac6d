"""Sums and counts of a run of reinforcement learning, for its log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

__all__ = ["MEASURES", "Measures"]


class Measures:
    """Sums and counts for the log, by name; names without a value are there all the same, for every process must report the same."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = tuple(names)
        self._values = {name: [0.0, 0.0] for name in self._names}

    def add(self, name: str, values: Tensor | Sequence[float]) -> None:
        """Each of the values counts as one."""
        found = torch.as_tensor(values, dtype=torch.float64).detach().flatten()
        entry = self._values[name]
        entry[0] += float(found.sum())
        entry[1] += len(found)

    def take(self) -> dict[str, tuple[float, float]]:
        """Everything since the last call."""
        taken = self.pending
        self._values = {name: [0.0, 0.0] for name in self._names}
        return taken

    @property
    def pending(self) -> dict[str, tuple[float, float]]:
        """What the next call of `take` would return."""
        return {name: (values[0], values[1]) for name, values in self._values.items()}

    def restore(self, pending: Mapping[str, tuple[float, float]]) -> None:
        """Go on from what was pending when a run was stopped; names that are not measured any more are left out."""
        self._values |= {name: list(values) for name, values in pending.items() if name in self._values}

    def add_pending(self, pending: Mapping[str, tuple[float, float]]) -> None:
        """Also count what was pending in another process."""
        for name, (total, count) in pending.items():
            if name in self._values:
                self._values[name][0] += total
                self._values[name][1] += count


MEASURES = (
    "reward",
    "advantage",
    "signal",
    "empty",
    "failed",
    "unfinished",
    "distinct",
    "length",
    "kl",
    "ratio",
    "ratio_change",
    "clipped",
    "entropy",
    "logp",
)
"""Of each task; docs/rl.md says what they mean."""
