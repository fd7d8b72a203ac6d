"""Tokens that pass through the layers, and the keys and values of those that do not.

    row    g g g g g g M M M M g g      window [6, 10): four tokens are evaluated
    q                  q q q q
    k, v   r r r r r r k k k k r r      r: remembered from the last pass that evaluated them

An approximation where what is remembered depends on tokens that have changed since, as in a bidirectional row. Exact where no token sees a block
behind its own (canvas.BlockMask), and all that has changed lies in the window. A window as large as its row is the exact pass, bit for bit, and fills
the row's KV cache. One that ends with its row may begin where the KV cache ends, so a KV cache grows with its row.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import torch
from torch import Tensor

from mmada.canvas import KVCache
from mmada.errors import InputError

__all__ = ["PackedKVCache", "is_cached"]


@dataclass(frozen=True, eq=False)
class PackedKVCache:
    """The windows of packed rows, with the caches of the rows that have any.

    lengths   of the rows
    windows   [start, stop) in each row, not empty
    kv_caches  where a row's keys and values are kept; None keeps nothing, and its window must be the whole row
    selections  of each row, the positions (n,) int64 on the CPU, ascending, that are evaluated in the place of its window; None or () for a window
    has_block_mask   whether each row has a BlockMask: only rows alike in this are computed together
    Raises InputError if a window needs what is not remembered.
    """

    lengths: tuple[int, ...]
    windows: tuple[tuple[int, int], ...]
    kv_caches: tuple[KVCache | None, ...]
    has_block_mask: tuple[bool, ...] = ()
    selections: tuple[Tensor | None, ...] = ()

    def __post_init__(self) -> None:
        for length, (start, stop), kv_cache in zip(self.lengths, self.windows, self.kv_caches, strict=True):
            if not 0 <= start < stop <= length:
                raise InputError(f"window=({start}, {stop}) must lie in a row of {length} tokens, and hold one at least")
            if not is_cached(kv_cache, (start, stop), length):
                raise InputError(
                    f"window=({start}, {stop}) of a row of {length} tokens needs keys and values of the rest; evaluate all once"
                )

    @property
    def rows(self) -> list[int]:
        """Rows of each run."""
        return [len(run.kv_caches) for run in self._runs]

    @cached_property
    def sizes(self) -> list[int]:
        """Evaluated tokens of each run."""
        return [len(run.kv_caches) * run.num_evaluated for run in self._runs]

    def index(self, device: torch.device) -> Tensor:
        """(evaluated tokens,) int64 into the packed rows."""
        first, parts = 0, []
        for run in self._runs:
            own = run.position_ids(device)
            for _ in run.kv_caches:
                parts.append(first + own)
                first += run.length
        return torch.cat(parts)

    def position_ids(self, device: torch.device | str) -> tuple[Tensor, ...]:
        """For each run, where its evaluated tokens stand in their rows: (n,) int64."""
        return tuple(run.position_ids(device) for run in self._runs)

    def update(self, layer: int, k: Tensor, v: Tensor, position_ids: Sequence[Tensor]) -> Iterator[tuple[int, Tensor, Tensor]]:
        """k and v (evaluated tokens, K, hd) of a layer -> run after run of equal rows: their number, keys and values (rows, length, K, hd).

        position_ids  as above
        What was evaluated is remembered: in place where a row's memory has its length already.
        """
        parts = zip(self._runs, k.split(self.sizes), v.split(self.sizes), position_ids, strict=True)
        for run, own_k, own_v, place in parts:
            rows, length, start = run.kv_caches, run.length, run.window[0]
            own_k, own_v = own_k.unflatten(0, (len(rows), -1)), own_v.unflatten(0, (len(rows), -1))
            is_whole = run.num_evaluated == length
            for kv_cache, new_k, new_v in zip(rows, own_k, own_v, strict=True):
                if kv_cache is None:
                    continue
                kept_k, kept_v = kv_cache.layers[layer] if layer < len(kv_cache.layers) else (k[:0], v[:0])
                if len(kept_k) == length:
                    kept_k.index_copy_(0, place, new_k)
                    kept_v.index_copy_(0, place, new_v)
                elif is_whole:
                    kv_cache.layers[layer:] = [(new_k.clone(), new_v.clone())]
                else:
                    kv_cache.layers[layer] = (torch.cat([kept_k[:start], new_k]), torch.cat([kept_v[:start], new_v]))
            if is_whole:
                yield len(rows), own_k, own_v
            else:
                kept = [kv_cache.layers[layer] for kv_cache in rows if kv_cache is not None]
                yield len(rows), torch.stack([k for k, _ in kept]), torch.stack([v for _, v in kept])

    @property
    def shape(self) -> Hashable | None:
        """All that a pass depends on but numbers: lengths, windows' sizes, and where caches lie. None if the pass makes any of them longer."""
        addresses = []
        for kv_cache, length in zip(self.kv_caches, self.lengths, strict=True):
            if kv_cache is None:
                continue
            if not kv_cache.layers or any(len(k) != length for k, _ in kv_cache.layers):
                return None
            addresses.append(tuple(tensor.data_ptr() for layer in kv_cache.layers for tensor in layer))
        widths = tuple(run.num_evaluated for run in self._runs for _ in run.kv_caches)
        cached = tuple(kv_cache is not None for kv_cache in self.kv_caches)
        return self.lengths, widths, cached, self.has_block_mask, tuple(self.rows), tuple(addresses)

    @cached_property
    def _runs(self) -> list[_Run]:
        """Neighbors of equal length and window; a row with a selection is alone."""
        has_block_mask = self.has_block_mask or (False,) * len(self.lengths)
        selections = self.selections or (None,) * len(self.lengths)
        alone = [None if selection is None else row for row, selection in enumerate(selections)]
        rows = zip(self.kv_caches, selections, self.lengths, self.windows, has_block_mask, alone, strict=True)
        runs = []
        for (length, window, *_), group in groupby(rows, key=lambda row: row[2:]):
            kv_caches, chosen, *_ = zip(*group, strict=True)
            runs.append(_Run(kv_caches, length, window, chosen[0]))
        return runs


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """Rows that are computed together."""

    kv_caches: tuple[KVCache | None, ...]
    length: int
    window: tuple[int, int]
    selection: Tensor | None

    @property
    def num_evaluated(self) -> int:
        """Tokens of each row."""
        return self.window[1] - self.window[0] if self.selection is None else len(self.selection)

    def position_ids(self, device: torch.device | str) -> Tensor:
        return torch.arange(*self.window, device=device) if self.selection is None else self.selection.to(device)


def is_cached(kv_cache: KVCache | None, window: tuple[int, int], length: int) -> bool:
    """Whether a memory holds what a window of a row of `length` tokens leaves out."""
    start, stop = window
    kept = len(kv_cache.layers[0][0]) if kv_cache is not None and kv_cache.layers else 0
    return kept == length or start <= kept < length == stop
