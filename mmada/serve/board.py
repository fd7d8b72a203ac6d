"""Counts that the workers of one server share: memory of as many rows as there are workers. Each writes its own row, and all read all.

    board = Board(2)                      # before the workers are forked
    place = Place(board, 0)               # in the first of them
    place.write("waiting", 3)
    place.elsewhere("waiting")            # of the others

A number is eight bytes, which processors write at once. Nobody waits for anybody, so a sum may be a moment old.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass, field
from typing import Literal, get_args

__all__ = ["Board", "Count", "Place"]

Count = Literal["closed", "live", "waiting", "running", "cache_bytes", "takes"]
"""closed: connections that it had and that are closed; live, waiting, running: generations; takes: 1 while it takes requests"""
_COLUMNS = {name: column for column, name in enumerate(get_args(Count))}


class Board:
    """Shared by a process and those that are forked from it afterwards."""

    def __init__(self, num_workers: int) -> None:
        self.num_workers = num_workers
        self._numbers = memoryview(mmap.mmap(-1, 8 * num_workers * len(_COLUMNS))).cast("q")

    def read(self, worker: int, name: Count) -> int:
        """A worker's number."""
        return int(self._numbers[worker * len(_COLUMNS) + _COLUMNS[name]])

    def write(self, worker: int, name: Count, value: int) -> None:
        """Set a worker's number; only the worker itself does that while it lives."""
        self._numbers[worker * len(_COLUMNS) + _COLUMNS[name]] = value

    def clear(self, worker: int) -> None:
        """Forget a worker that ended."""
        for name in get_args(Count):
            self.write(worker, name, 0)


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """One worker's row."""

    board: Board = field(default_factory=lambda: Board(1))
    worker: int = 0

    def write(self, name: Count, value: int) -> None:
        """Set an own number."""
        self.board.write(self.worker, name, value)

    def add(self, name: Count, value: int) -> None:
        """Add to an own number. The worker must do so in one thread at a time."""
        self.write(name, self.board.read(self.worker, name) + value)

    def elsewhere(self, name: Count) -> int:
        """The sum over the other workers."""
        return sum(self.board.read(worker, name) for worker in range(self.board.num_workers) if worker != self.worker)
