"""What a sampler asks of a model: which logits, over which tokens, and who may attend to whom.

The sampler writes a `Query` and never calls the model; the denoiser answers it (model/denoiser.py).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from mmada.canvas.vocab import IdRange

__all__ = ["BlockMask", "KVCache", "Query", "can_attend", "causal_block_ids"]


@dataclass(frozen=True, slots=True, eq=False)
class BlockMask:
    """Which tokens of a row attend to which, where the pattern is not full attention: a prompt, then blocks that see what comes before them and themselves.

        tokens   g  g  g  a  a  b  b | M  a  b  M        a row of training: the answer a a b b, then its blocks once more, noised
        block_ids  0  0  0  2  2  4  4 | 1  1  3  3        an even id is visible to itself and to all higher ids, an odd one only to itself
        position_ids  0  1  2  3  4  5  6 | 3  4  5  6        so each noised block meets what the sampler shows it, and all are scored at once

    block_ids  (L,) int64
    position_ids  (L,) int64, where each token stands; None: one after the other
    """

    block_ids: Tensor
    position_ids: Tensor | None = None

    def cut(self, start: int, stop: int) -> BlockMask:
        """Tokens start .. stop, as a row of their own."""
        return BlockMask(self.block_ids[start:stop], None if self.position_ids is None else self.position_ids[start:stop] - start)


def can_attend(query: Tensor, key: Tensor) -> Tensor:
    """Whether a token of block id `query` may attend to one of block id `key`, elementwise."""
    return torch.where(key % 2 == 0, key <= query, key == query)


def causal_block_ids(num_given: int, num_open: int, block_length: int, *, prompt_in_blocks: bool = False) -> Tensor:
    """(num_given + num_open,) levels of a prompt and the blocks behind it: 0 0 … 2 2 … 4 4 …

    prompt_in_blocks  blocks are counted from the beginning of the prompt, and its last one may hold the first open positions, too (SDAR)
    """
    block_length = min(block_length, num_given + num_open + 1)  # a block beyond the row is the row; torch knows no number above 2^63
    if prompt_in_blocks:
        return 2 * (torch.arange(num_given + num_open) // block_length)
    blocks = torch.arange(num_open) // block_length
    return torch.cat([torch.zeros(num_given, dtype=torch.long), 2 + 2 * blocks])


@dataclass(slots=True, eq=False, weakref_slot=True)
class KVCache:
    """Keys and values of a row, as the last passes left them that computed them. Who evaluates writes it, who asks holds it.

    layers  per layer, keys and values, each (length of the span, K, hd); empty before the first pass
    """

    layers: list[tuple[Tensor, Tensor]] = dataclasses.field(default_factory=list)


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """What a sampler needs to know next: logits of `ids` at `positions` of each row.

    tokens     (R, L) int64
    spans      per row, [start, stop) of the attended run; the rest is padding and need not be evaluated
    positions  (R, Q) int64, inside the spans
    ids        the vocabulary slice; the answer is (R, Q, ids.stop - ids.start)
    windows    per row, [start, stop) inside the span: what is evaluated, with the positions in it; () evaluates spans. A window is as large
               as the span, or keys and values of the rest are taken from the KV cache
    selections  per row, the positions (n,) int64, ascending and on the CPU, that are evaluated in the place of its window; None or () for a window
    kv_caches  per row, where keys and values are put, and taken from; () keeps nothing
    block_masks  per row, block mask of its span, on the CPU; None or () for full attention
    also       queries about the first rows of this one, with other positions and ids; the rows are evaluated once, and the answer is flat
    """

    tokens: Tensor
    spans: tuple[tuple[int, int], ...]
    positions: Tensor
    ids: IdRange
    windows: tuple[tuple[int, int], ...] = ()
    kv_caches: tuple[KVCache, ...] = ()
    selections: tuple[Tensor | None, ...] = ()
    block_masks: tuple[BlockMask | None, ...] = ()
    also: tuple[Query, ...] = ()

    @property
    def num_evaluated(self) -> int:
        """Tokens that are evaluated."""
        windows = self.windows or self.spans
        chosen = self.selections or (None,) * len(windows)
        return sum(b - a if own is None else len(own) for (a, b), own in zip(windows, chosen, strict=True))

    @property
    def num_logits(self) -> int:
        """Numbers of the answer, without those of `also`."""
        return self.positions.numel() * (self.ids.stop - self.ids.start)

    def split(self, logits: Tensor) -> list[Tensor]:
        """An answer as those of this query and of the queries `also`, each (R, Q, V)."""
        parts = (self, *self.also)
        pieces = logits.flatten().split([part.num_logits for part in parts])
        return [piece.view(*part.positions.shape, -1) for piece, part in zip(pieces, parts, strict=True)]

    def rows(self, which: slice) -> Query:
        """The same about some of its rows."""
        cut = {
            name: getattr(self, name)[which]
            for name in ("tokens", "spans", "positions", "windows", "kv_caches", "selections", "block_masks")
        }
        return dataclasses.replace(self, **cut)
