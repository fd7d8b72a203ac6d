"""ML-Cache: between full passes, evaluate only the positions whose largest logit is low.

    step        0 1 2 3 | 4    5    6 | 7    8    9      warmup_ratio 0.3 of 10 steps, refresh_interval 3
    evaluated   all     | some some all some some all

"Some" are the positions of a row, given ones included, whose largest logit is among the lowest 1 - cache_ratio. What the model is least sure of
changes most. They attend to keys and values of all others as the last pass left them; logits elsewhere stay what they were.
An approximation, as every cache of a bidirectional model is. Source: Lumina-DiMOO (Xin et al. 2025), "Max Logit-based Cache".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mmada.canvas import Query
from mmada.sampling.params import MaxLogitCacheConfig

__all__ = ["LogitCache"]


class LogitCache:
    """What the policy remembers of the R evaluated rows of a `Denoising`.

    spans    per row, [start, stop) of what is attended to
    slots    (R, N+1) slot -> position, `length` where there is none
    length   positions of the longest row
    num_ids  size of the vocabulary slice that is asked for
    """

    def __init__(self, config: MaxLogitCacheConfig, *, spans: Sequence[tuple[int, int]], slots: Tensor, length: int, num_ids: int) -> None:
        self.config, self._spans = config, spans
        rows, width = slots.shape
        self._slot_of = torch.full(
            (rows, length + 1), width - 1, device=slots.device
        )  # position -> slot, the spare one for given positions
        self._slot_of.scatter_(1, slots, torch.arange(width, device=slots.device).expand(rows, -1))
        self._slot_of[:, length] = width - 1
        self._logits = torch.zeros(rows, width, num_ids, device=slots.device)  # latest, of each open position
        self._largest = torch.zeros(rows, length, device=slots.device)  # latest, of each position
        self._selected: list[Tensor | None] = [None] * rows  # positions that the next step evaluates, on the CPU; None: the span

    def num_positions(self, row: int) -> int:
        """Positions that the next step evaluates."""
        start, stop = self._spans[row]
        chosen = self._selected[row]
        return stop - start if chosen is None else len(chosen)

    def query(self, query: Query, rows: Sequence[int]) -> Query:
        """The same about all positions that are evaluated; rows with fewer than others repeat their first."""
        most = max(map(self.num_positions, rows))
        lists = [self._positions(row) for row in rows]
        positions = torch.stack([torch.cat([p, p[:1].expand(most - len(p))]) for p in lists]).to(query.tokens.device)
        return replace(query, positions=positions, windows=query.spans, selections=tuple(self._selected[row] for row in rows))

    def update(self, rows: Sequence[int], logits: Tensor) -> None:
        """Remember the answer (len(rows), Q, num_ids) to the query."""
        for row, answer in zip(rows, logits, strict=True):
            at = self._positions(row).to(answer.device)
            fresh = answer[: len(at)]
            self._largest[row, at] = fresh.amax(-1)
            self._logits[row, self._slot_of[row, at]] = fresh

    def at(self, rows: Tensor, slots: Tensor) -> Tensor:
        """(len(rows), Q, num_ids), the latest logits of slots (len(rows), Q)."""
        return self._logits[rows[:, None], slots]

    def select(self, rows: Sequence[int], *, steps: Sequence[tuple[int, int]]) -> None:
        """Choose what the next step evaluates. steps: per row, its number and how many there are. Waits for the device once."""
        few = [row for row, (step, total) in zip(rows, steps, strict=True) if not self.config.is_full(step, total)]
        for row in rows:
            self._selected[row] = None
        if not few:
            return
        is_low = torch.zeros(len(few), self._largest.shape[1], dtype=torch.bool, device=self._largest.device)
        for i, row in enumerate(few):
            start, stop = self._spans[row]
            largest = self._largest[row, start:stop]
            is_low[i, start:stop] = largest <= torch.quantile(largest, 1 - self.config.cache_ratio)
        for row, chosen in zip(few, is_low.cpu(), strict=True):
            self._selected[row] = chosen.nonzero()[:, 0]

    def _positions(self, row: int) -> Tensor:
        chosen = self._selected[row]
        return torch.arange(*self._spans[row]) if chosen is None else chosen
