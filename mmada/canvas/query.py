"""What a sampler asks of a model: which logits, over which tokens, and who may attend to whom.

The sampler writes a `Query` and never calls the model; the denoiser answers it (model/denoiser.py).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from mmada.canvas.vocab import IdRange

__all__ = ["Memory", "Query", "Sight", "block_levels", "sees"]


@dataclass(frozen=True, slots=True, eq=False)
class Sight:
    """Who sees whom in a row, where not all see all: a prompt, then blocks that see what comes before them and themselves.

        tokens   g  g  g  a  a  b  b | M  a  b  M        a row of training: the answer a a b b, then its blocks once more, noised
        levels   0  0  0  2  2  4  4 | 1  1  3  3        an even level is seen by itself and all above, an odd one by itself alone
        places   0  1  2  3  4  5  6 | 3  4  5  6        so each noised block meets what the sampler shows it, and all are scored at once

    levels  (L,) int64
    places  (L,) int64, where each token stands; None: one after the other
    """

    levels: Tensor
    places: Tensor | None = None

    def cut(self, start: int, stop: int) -> Sight:
        """Tokens start .. stop, as a row of their own."""
        return Sight(self.levels[start:stop], None if self.places is None else self.places[start:stop] - start)


def sees(query: Tensor, key: Tensor) -> Tensor:
    """Whether a token of level `query` sees one of level `key`, elementwise."""
    return torch.where(key % 2 == 0, key <= query, key == query)


def block_levels(num_given: int, num_open: int, block_length: int) -> Tensor:
    """(num_given + num_open,) levels of a prompt and the blocks behind it: 0 0 … 2 2 … 4 4 …"""
    blocks = torch.arange(num_open) // block_length
    return torch.cat([torch.zeros(num_given, dtype=torch.long), 2 + 2 * blocks])


@dataclass(slots=True, eq=False)
class Memory:
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
    windows    per row, [start, stop) inside the span that holds the positions: what is evaluated, as large as the span or with the keys
               and values of the rest taken from memory; () evaluates spans
    memories   per row, where keys and values are put, and taken from; () keeps nothing
    sights     per row, who sees whom in its span, on the CPU; None or () where all see all
    """

    tokens: Tensor
    spans: tuple[tuple[int, int], ...]
    positions: Tensor
    ids: IdRange
    windows: tuple[tuple[int, int], ...] = ()
    memories: tuple[Memory, ...] = ()
    sights: tuple[Sight | None, ...] = ()
