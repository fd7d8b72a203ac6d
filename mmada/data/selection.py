"""Some records of a source: those of a task, those that fit, and those that are held out.

select(reader, reason)           the records for which `reason` says None; the others are counted by what it says
select_by_task(reader, reason)   the same, apart by task
held_out(selection, share)       those to learn, and those to measure by
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from mmada.data.order import Indexed, permuted
from mmada.data.records import Record, RecordError
from mmada.errors import InputError

__all__ = ["Selection", "held_out", "select", "select_by_task"]

T = TypeVar("T")


class Selection(Generic[T]):
    """Some items of a sequence, in order. `dropped` counts the others by reason."""

    def __init__(self, items: Indexed[T], indices: Sequence[int] | NDArray[np.int64], dropped: Mapping[str, int]) -> None:
        self.items, self.indices, self.dropped = items, np.asarray(indices, np.int64), dict(dropped)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> T:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.items[int(self.indices[index])]


def select(records: Indexed[Record], reason: Callable[[Record], str | None]) -> Selection[Record]:
    """Read every record once and keep those that are records and for which `reason` says None; it says the same words for all of a sort.

    select(reader, lambda r: lengths_of(r, prompts, grid=(32, 32)).reason(context=1539))
    """
    by_task, dropped = select_by_task(records, reason)
    return Selection(records, sorted(chain.from_iterable(chosen.indices.tolist() for chosen in by_task.values())), dropped)


def select_by_task(
    records: Indexed[Record], reason: Callable[[Record], str | None], *, part: range | None = None
) -> tuple[dict[str, Selection[Record]], dict[str, int]]:
    """As `select`, task -> the records of that task; and the numbers of those that were dropped, by reason. Each record is read once.

    part  indices that are looked at; None: all
    """
    kept: dict[str, list[int]] = {}
    dropped: Counter[str] = Counter()
    for index in range(len(records)) if part is None else part:
        try:
            record = records[index]
            why = reason(record)
        except RecordError as error:
            why = f"not a record ({error.problems[0].kind})"
        if why is None:
            kept.setdefault(record.task, []).append(index)
        else:
            dropped[why] += 1
    return {task: Selection(records, indices, {}) for task, indices in kept.items()}, dict(dropped)


def held_out(items: Selection[T], share: float) -> tuple[Selection[T], Selection[T]]:
    """Items apart into those to learn and those held out, about `share` of them and at least one of either.

    Which ones depends on their number alone, so that a run that is continued, or done with another seed, holds out the same.
    Raises InputError for fewer than two items.
    """
    n = len(items)
    if n < 2:
        raise InputError(f"of {n} records none can be held out; give at least two")
    count = min(max(1, round(share * n)), n - 1)
    apart = {permuted(position, n, key=(n,)) for position in range(count)}
    return (
        Selection(items.items, [int(i) for at, i in enumerate(items.indices) if at not in apart], {}),
        Selection(items.items, [int(items.indices[at]) for at in sorted(apart)], {}),
    )
