"""Tokens that pass through the layers, and the keys and values of those that do not.

    row    g g g g g g M M M M g g      window [6, 10): four tokens are evaluated
    q                  q q q q
    k, v   r r r r r r k k k k r r      r: remembered from the last pass that evaluated them

An approximation where what is remembered depends on tokens that have changed since, as in a bidirectional row. Exact where no token sees a block
behind its own (canvas.Sight), and all that has changed lies in the window. A window as large as its row is the exact pass, bit for bit, and fills
the row's memory; one that ends with its row may begin where the memory ends: so a memory grows with its row.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
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

    def places(self, device: torch.device | str) -> tuple[Tensor, ...]:
        """For each run, where its windows stand in their rows: (stop - start,) int64."""
        return tuple(torch.arange(start, stop, device=device) for _, _, (start, stop) in self._runs)

    def recall(self, layer: int, k: Tensor, v: Tensor, places: Sequence[Tensor]) -> Iterator[tuple[int, Tensor, Tensor]]:
        """k and v (evaluated tokens, K, hd) of a layer -> run after run of equal rows: their number, keys and values (rows, length, K, hd).

        places  as above
        What was evaluated is remembered: in place where a row's memory has its length already.
        """
        parts = zip(self._runs, k.split(self.sizes), v.split(self.sizes), places, strict=True)
        for (rows, length, (start, stop)), own_k, own_v, place in parts:
            own_k, own_v = own_k.unflatten(0, (len(rows), -1)), own_v.unflatten(0, (len(rows), -1))
            is_whole = stop - start == length
            for memory, new_k, new_v in zip(rows, own_k, own_v, strict=True):
                if memory is None:
                    continue
                kept_k, kept_v = memory.layers[layer] if layer < len(memory.layers) else (k[:0], v[:0])
                if len(kept_k) == length:
                    kept_k.index_copy_(0, place, new_k)
                    kept_v.index_copy_(0, place, new_v)
                elif is_whole:
                    memory.layers[layer:] = [(new_k.clone(), new_v.clone())]
                else:
                    memory.layers[layer] = (torch.cat([kept_k[:start], new_k]), torch.cat([kept_v[:start], new_v]))
            if is_whole:
                yield len(rows), own_k, own_v
            else:
                kept = [memory.layers[layer] for memory in rows if memory is not None]
                yield len(rows), torch.stack([k for k, _ in kept]), torch.stack([v for _, v in kept])

    @property
    def shape(self) -> Hashable | None:
        """All that a pass depends on but numbers: lengths, windows' sizes, and where memories lie. None if the pass makes any of them longer."""
        addresses = []
        for memory, length in zip(self.memories, self.lengths, strict=True):
            if memory is None:
                continue
            if not memory.layers or any(len(k) != length for k, _ in memory.layers):
                return None
            addresses.append(tuple(tensor.data_ptr() for layer in memory.layers for tensor in layer))
        widths = tuple(stop - start for start, stop in self.windows)
        remembered = tuple(memory is not None for memory in self.memories)
        return self.lengths, widths, remembered, self.sighted, tuple(self.rows), tuple(addresses)

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
