"""Counts that replicas of one server share, wherever they run: how much each has to do, and what it has counted so far.

    replica ──► own numbers ──► Counts ──► sums over the others ──► queue limit, /health, gauges
            ──► own counters ──►       ──► sums over all        ──► /metrics, whichever replica is asked

Workers of one machine share memory instead (serve/board.py). Sums are as old as the last exchange: `PERIOD` seconds at most while there is
work. So a burst may exceed the queue's limit by what arrives at all replicas meanwhile.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import get_args

from mmada.serve.board import Count, Place
from mmada.serve.metrics import Samples

__all__ = ["PERIOD", "Counts", "RemotePlace"]

PERIOD = 0.1
"""Seconds between two looks at whether there is something to exchange."""
_FRESH = 5.0
"""Seconds after which a replica that says nothing is taken for dead: what it had to do is forgotten, what it counted stays."""


@dataclass(frozen=True, slots=True, eq=False)
class RemotePlace(Place):
    """A replica's numbers, and the sums over the others when it last asked."""

    others: dict[str, int] = field(default_factory=dict)

    def elsewhere(self, name: Count) -> int:
        return self.others.get(name, 0)

    def own(self) -> dict[str, int]:
        """Name -> its own number, for the exchange with the others."""
        return {name: self.board.read(self.worker, name) for name in get_args(Count)}


class Counts:
    """What replicas have told. It lives in one process, and remembers those that ended as long as it lives."""

    def __init__(self) -> None:
        self._created = int(time.time())
        self._numbers: dict[str, tuple[float, dict[str, int]]] = {}
        self._counted: dict[str, Samples] = {}

    def created(self) -> int:
        """Seconds since 1970 that all replicas say of their model."""
        return self._created

    def exchange(self, replica: str, numbers: Mapping[str, int]) -> dict[str, int]:
        """Enter a replica's numbers. Returns the sums over the others that were heard of lately."""
        now = time.monotonic()
        self._numbers[replica] = (now, dict(numbers))
        self._numbers = {name: entry for name, entry in self._numbers.items() if now - entry[0] < _FRESH}
        total: Counter[str] = Counter()
        for name, (_, theirs) in self._numbers.items():
            if name != replica:
                total.update(theirs)
        return dict(total)

    def add(self, replica: str, counted: Samples) -> None:
        """Enter what a replica has counted since it began."""
        self._counted[replica] = counted

    def total(self, replica: str, counted: Samples) -> Samples:
        """The same, and the sums over all replicas that there were."""
        self.add(replica, counted)
        sums: Samples = {}
        for samples in self._counted.values():
            for key, value in samples.items():
                sums[key] = sums.get(key, 0.0) + value
        return sums
