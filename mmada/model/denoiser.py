"""Answers the sampler's queries with the transformer: any mixture of requests in one forward pass.

    queries -> rows cut to what they attend to, sorted by length, laid end to end -> trunk -> hidden states at the asked
    positions -> head, each query with its own vocabulary slice

No padding is computed, and a row's numbers do not depend on its neighbours. On a CPU the rows are dealt out to threads, which work
side by side: they wait for each other once a pass, and not after each product of two matrices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor

from mmada.canvas import Query
from mmada.model.attention import Packing
from mmada.model.transformer import MMadaModelLM

__all__ = ["TransformerDenoiser"]


@dataclass(frozen=True, slots=True, eq=False)
class _Row:
    query: int
    row: int
    tokens: Tensor  # (length,)
    positions: Tensor  # (Q,), from the start of the row


class TransformerDenoiser:
    """model(queries) for the sampler.

    max_tokens    how many tokens share one forward pass; more are evaluated in several. A single longer row still runs.
    side_by_side  parts of a pass computed at the same time, by a share of torch's threads each; more than 1 for a plain model on a CPU
    """

    def __init__(self, model: MMadaModelLM, *, max_tokens: int = 65536, side_by_side: int = 1) -> None:
        self.model, self.max_tokens, self.side_by_side = model, max_tokens, side_by_side
        self.num_forwards = 0
        self.num_tokens = 0

    @torch.inference_mode()
    def __call__(self, queries: Sequence[Query]) -> list[Tensor]:
        rows = [
            _Row(q, r, query.tokens[r, start:stop], query.positions[r] - start)
            for q, query in enumerate(queries)
            for r, (start, stop) in enumerate(query.spans)
        ]
        hidden: list[list[Tensor]] = [[torch.empty(0)] * len(query.spans) for query in queries]
        for chunk in self._chunks(sorted(rows, key=lambda row: len(row.tokens))):
            for row, state in zip(chunk, self._states(chunk), strict=True):
                hidden[row.query][row.row] = state  # (Q, D)
            self.num_forwards += 1
            self.num_tokens += sum(len(row.tokens) for row in chunk)
        return [self.model.head(torch.stack(h), (query.ids.start, query.ids.stop)) for h, query in zip(hidden, queries, strict=True)]

    def _states(self, rows: Sequence[_Row]) -> list[Tensor]:
        """The hidden states of each row at its positions, (Q, D) each."""
        parts = _dealt_out(rows, self.side_by_side)
        if len(parts) == 1:
            return self._trunk(rows)
        num_threads = torch.get_num_threads()
        each = max(1, num_threads // len(parts))
        torch.set_num_threads(each)  # of the matrix library, for all threads
        try:
            found = list(_pool(self.side_by_side).map(partial(self._trunk_with, each), parts))
        finally:
            torch.set_num_threads(num_threads)
        return [state for states in found for state in states]

    def _trunk_with(self, num_threads: int, rows: Sequence[_Row]) -> list[Tensor]:
        torch.set_num_threads(num_threads)  # of the thread that this runs in
        with torch.inference_mode():
            return self._trunk(rows)

    def _trunk(self, rows: Sequence[_Row]) -> list[Tensor]:
        lengths = [len(row.tokens) for row in rows]
        states = self.model.trunk(torch.cat([row.tokens for row in rows])[None], Packing.of(lengths))[0]  # (T, D)
        return [state[row.positions] for row, state in zip(rows, states.split(lengths), strict=True)]

    def _chunks(self, rows: list[_Row]) -> Iterator[list[_Row]]:
        chunk: list[_Row] = []
        size = 0
        for row in rows:
            if chunk and size + len(row.tokens) > self.max_tokens:
                yield chunk
                chunk, size = [], 0
            chunk.append(row)
            size += len(row.tokens)
        if chunk:
            yield chunk


def _dealt_out(rows: Sequence[_Row], num_parts: int) -> list[Sequence[_Row]]:
    """Neighbouring rows in at most `num_parts` parts of about as many tokens each."""
    total = sum(len(row.tokens) for row in rows)
    parts: list[list[_Row]] = [[] for _ in range(num_parts)]
    before = 0
    for row in rows:
        middle = before + len(row.tokens) / 2
        parts[int(middle * num_parts / total)].append(row)
        before += len(row.tokens)
    return [part for part in parts if part]


@cache
def _pool(size: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(size, thread_name_prefix="trunk")
