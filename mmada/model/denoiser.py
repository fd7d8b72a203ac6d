"""Answers the sampler's queries with the transformer: any mixture of requests in one forward pass.

    queries -> rows cut to what they attend to, sorted by length, laid end to end -> trunk -> hidden states at the asked
    positions -> head, each query with its own vocabulary slice

No padding is computed, and a row's numbers do not depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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

    max_tokens  how many tokens share one forward pass; more are evaluated in several. A single longer row still runs.
    """

    def __init__(self, model: MMadaModelLM, *, max_tokens: int = 65536) -> None:
        self.model, self.max_tokens = model, max_tokens
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
            lengths = [len(row.tokens) for row in chunk]
            states = self.model.trunk(torch.cat([row.tokens for row in chunk])[None], Packing.of(lengths))[0]  # (T, D)
            for row, state in zip(chunk, states.split(lengths), strict=True):
                hidden[row.query][row.row] = state[row.positions]  # (Q, D)
            self.num_forwards += 1
            self.num_tokens += sum(lengths)
        return [self.model.head(torch.stack(h), (query.ids.start, query.ids.stop)) for h, query in zip(hidden, queries, strict=True)]

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
