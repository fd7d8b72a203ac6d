"""Answers the sampler's queries with the transformer: any mixture of requests in one forward pass.

    queries -> rows cut to what they attend to, sorted by length, laid end to end
            -> trunk, on their windows where they have any -> hidden states at the asked positions
            -> head, each query with its own vocabulary slice

No padding is computed, and a row's numbers do not depend on its neighbors. On a CPU that holds to the last bit,
in float32 and, if the CPU multiplies it, in bfloat16. Elsewhere it holds but for rounding, since matrix products
of another size may add up in another order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmada.canvas import BlockMask, KVCache, Query
from mmada.model.attention import Packing
from mmada.model.cache import PackedKVCache, is_cached
from mmada.model.graphs import LayerGraphs
from mmada.model.transformer import Transformer

__all__ = ["TransformerDenoiser"]


@dataclass(frozen=True, slots=True, eq=False)
class _Row:
    query: int
    row: int
    tokens: Tensor  # (length,)
    positions: Tensor  # (Q,), from the start of the window
    window: tuple[int, int]  # from the start of the row
    kv_cache: KVCache | None
    block_mask: BlockMask | None
    selection: Tensor | None = None  # from the start of the row

    @classmethod
    def of(cls, number: int, row: int, query: Query) -> _Row:
        start, stop = query.spans[row]
        kv_cache = query.kv_caches[row] if query.kv_caches else None
        window = (0, stop - start)
        if query.windows:
            first, last = query.windows[row]
            # What is not remembered is evaluated, whoever asks.
            window = (first - start, last - start) if is_cached(kv_cache, (first - start, last - start), stop - start) else window
        block_mask = query.block_masks[row] if query.block_masks else None
        positions = torch.cat([part.positions[row] for part in (query, *query.also) if row < len(part.positions)]) - start
        chosen = query.selections[row] if query.selections else None
        if chosen is not None and kv_cache is not None and kv_cache.layers and len(kv_cache.layers[0][0]) == stop - start:
            selection = chosen - start
            positions = torch.searchsorted(selection.to(positions.device), positions)
            return cls(number, row, query.tokens[row, start:stop], positions, window, kv_cache, block_mask, selection)
        return cls(number, row, query.tokens[row, start:stop], positions - window[0], window, kv_cache, block_mask)

    @property
    def num_evaluated(self) -> int:
        return self.window[1] - self.window[0] if self.selection is None else len(self.selection)


class TransformerDenoiser:
    """model(queries) for the sampler.

    max_tokens  how many tokens share one forward pass; more are evaluated in several. A single longer row still runs.
    graphs      record short passes as CUDA graphs (model/graphs.py), where all weights lie on one GPU
    """

    def __init__(self, model: Transformer, *, max_tokens: int = 65536, graphs: bool = False) -> None:
        self.model, self.max_tokens = model, max_tokens
        self._layers = LayerGraphs(model, model.layers) if graphs else None
        self.num_forwards = 0
        self.num_tokens = 0
        """tokens that were evaluated, in all"""

    @torch.inference_mode()
    def __call__(self, queries: Sequence[Query]) -> list[Tensor]:
        """Logits (R, Q, V) of each query; of one that asks `also`, all of them as one flat tensor."""
        return self.logits(queries)

    def logits(self, queries: Sequence[Query]) -> list[Tensor]:
        """The same outside of inference mode: FSDP gathers weights into tensors that must not be made in one."""
        rows = [_Row.of(q, r, query) for q, query in enumerate(queries) for r in range(len(query.spans))]
        hidden: list[list[Tensor]] = [[torch.empty(0)] * len(query.spans) for query in queries]
        for chunk in self._chunks(sorted(rows, key=lambda row: (len(row.tokens), row.window, row.block_mask is None))):
            lengths = [len(row.tokens) for row in chunk]
            tokens = torch.cat([row.tokens for row in chunk])[None]
            packing = Packing.of(lengths, [row.block_mask for row in chunk])
            index = _asked(chunk)
            cache, dtype = _packed_cache(chunk, lengths), self.model.wide_dtype
            states = self.model.trunk(tokens, packing, kv_cache=cache, layers=self._layers, index=index, compute_dtype=dtype)[0]
            sizes = [len(row.positions) for row in chunk]
            for row, state in zip(chunk, states[: sum(sizes)].split(sizes), strict=True):
                hidden[row.query][row.row] = state  # (Q, D)
            self.num_forwards += 1
            self.num_tokens += sum(row.num_evaluated for row in chunk)
        return [self._head(h, query) for h, query in zip(hidden, queries, strict=True)]

    def _head(self, hidden: list[Tensor], query: Query) -> Tensor:
        """hidden: of each row, (Q, D) at the positions of the query and of those `also` about it."""
        if not query.also:
            return self.model.head(torch.stack(hidden), (query.ids.start, query.ids.stop))
        found, first = [], 0
        for part in (query, *query.also):
            rows, num_positions = part.positions.shape
            states = torch.stack([row[first : first + num_positions] for row in hidden[:rows]])
            found.append(self.model.head(states, (part.ids.start, part.ids.stop)).flatten())
            first += num_positions
        return torch.cat(found)

    def _chunks(self, rows: list[_Row]) -> Iterator[list[_Row]]:
        chunk: list[_Row] = []
        size = 0
        for row in rows:
            if chunk and size + row.num_evaluated > self.max_tokens:
                yield chunk
                chunk, size = [], 0
            chunk.append(row)
            size += row.num_evaluated
        if chunk:
            yield chunk


_LEAST_ROWS = 4
"""A matrix product of fewer rows adds up in another order on a CPU."""


def _asked(rows: Sequence[_Row]) -> Tensor:
    """(n,) int64: where the asked positions of each row stand among all evaluated tokens; a few more, so that a short answer has the same bits."""
    first, parts = 0, []
    for row in rows:
        parts.append(row.positions + first)
        first += row.num_evaluated
    if (lacking := _LEAST_ROWS - sum(map(len, parts))) > 0:
        parts.append(torch.arange(min(lacking, first), device=parts[0].device))
    return torch.cat(parts)


def _packed_cache(rows: Sequence[_Row], lengths: Sequence[int]) -> PackedKVCache | None:
    if all(row.kv_cache is None for row in rows):
        return None
    return PackedKVCache(
        tuple(lengths),
        tuple(row.window for row in rows),
        tuple(row.kv_cache for row in rows),
        tuple(row.block_mask is not None for row in rows),
        tuple(row.selection for row in rows),
    )
