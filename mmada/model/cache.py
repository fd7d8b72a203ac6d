"""Tokens that pass through the layers, and the keys and values of those that do not.

    row    g g g g g g M M M M g g      window [6, 10): four tokens are evaluated
    q                  q q q q
    k, v   r r r r r r k k k k r r      r: remembered from the last pass that evaluated them

An approximation where what is remembered depends on tokens that have changed since, as in a bidirectional row. Exact where no token sees a block
behind its own (canvas.Sight), and all that has changed lies in the window. A window as large as its row is the exact pass, bit for bit, and fills
the row's memory; one that ends with its row may begin where the memory ends: so a memory grows with its row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import torch
from torch import Tensor

from mmada.canvas import Memory
from mmada.errors import InputError

__all__ = ["Reuse", "remembers"]


@dataclass(frozen=True, eq=False)
class Reuse:
    """The windows of packed rows, with the memories of the rows that have any.

    lengths   of the rows
    windows   [start, stop) in each row, not empty
    memories  where a row's keys and values are kept; None keeps nothing, and its window must be the whole row
    sighted   whether each row has a Sight: only rows alike in this are computed together
    Raises InputError if a window needs what is not remembered.
    """

    lengths: tuple[int, ...]
    windows: tuple[tuple[int, int], ...]
    memories: tuple[Memory | None, ...]
    sighted: tuple[bool, ...] = ()

    def __post_init__(self) -> None:
        for length, (start, stop), memory in zip(self.lengths, self.windows, self.memories, strict=True):
            if not 0 <= start < stop <= length:
                raise InputError(f"window=({start}, {stop}) must lie in a row of {length} tokens, and hold one at least")
            if not remembers(memory, (start, stop), length):
                raise InputError(
                    f"window=({start}, {stop}) of a row of {length} tokens needs keys and values of the rest; evaluate all once"
                )

    @property
    def rows(self) -> list[int]:
        """Rows of each run."""
        return [len(rows) for rows, _, _ in self._runs]

    @cached_property
    def sizes(self) -> list[int]:
        """Evaluated tokens of each run."""
        return [len(rows) * (stop - start) for rows, _, (start, stop) in self._runs]

    def index(self, device: torch.device) -> Tensor:
        """(evaluated tokens,) int64 into the packed rows."""
        first, parts = 0, []
        for length, (start, stop) in zip(self.lengths, self.windows, strict=True):
            parts.append(torch.arange(first + start, first + stop, device=device))
            first += length
        return torch.cat(parts)

    def recall(self, layer: int, k: Tensor, v: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
        """k and v (evaluated tokens, K, hd) of a layer -> run after run of equal rows: their number, keys and values (rows, length, K, hd).

        What was evaluated is remembered.
        """
        for (rows, length, (start, stop)), own_k, own_v in zip(self._runs, k.split(self.sizes), v.split(self.sizes), strict=True):
            own_k, own_v = own_k.unflatten(0, (len(rows), -1)), own_v.unflatten(0, (len(rows), -1))
            is_whole = stop - start == length
            for memory, new_k, new_v in zip(rows, own_k, own_v, strict=True):
                if memory is not None and is_whole:
                    memory.layers[layer:] = [(new_k.clone(), new_v.clone())]
                elif memory is not None:
                    kept_k, kept_v = memory.layers[layer]
                    if len(kept_k) == length:
                        kept_k[start:stop], kept_v[start:stop] = new_k, new_v
                    else:
                        memory.layers[layer] = (torch.cat([kept_k[:start], new_k]), torch.cat([kept_v[:start], new_v]))
            if is_whole:
                yield len(rows), own_k, own_v
            else:
                kept = [memory.layers[layer] for memory in rows if memory is not None]
                yield len(rows), torch.stack([k for k, _ in kept]), torch.stack([v for _, v in kept])

    @cached_property
    def _runs(self) -> list[tuple[Sequence[Memory | None], int, tuple[int, int]]]:
        """Neighbours of equal length and window: their memories, length and window."""
        sighted = self.sighted or (False,) * len(self.lengths)
        rows = zip(self.memories, self.lengths, self.windows, sighted, strict=True)
        groups = groupby(rows, key=lambda row: row[1:])
        return [([memory for memory, *_ in group], length, window) for (length, window, _), group in groups]


def remembers(memory: Memory | None, window: tuple[int, int], length: int) -> bool:
    """Whether a memory holds what a window of a row of `length` tokens leaves out."""
    start, stop = window
    kept = len(memory.layers[0][0]) if memory is not None and memory.layers else 0
    return kept == length or start <= kept < length == stop
