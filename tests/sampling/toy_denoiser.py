"""A denoiser without a network, and random problems for the sampler.

Ids: 0..9 text, 10 end of text, 11 never proposed, 12 `[MASK]`, 13..15 unused, 16..23 image codes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import lcm

import torch
from hypothesis import strategies as st
from torch import Tensor

from mmada.canvas import Canvas, Field, IdRange, Query
from mmada.diffusion.schedule import cosine
from mmada.sampling import Denoising, SamplingParams, denoise
from mmada.sampling.confidence import margin, negative_entropy, probability, random_order
from mmada.sampling.params import compounding, even, follow_schedule, linear_anneal

EOS, NEVER, MASK, VOCAB = 10, 11, 12, 24
TEXT = IdRange(0, 13, (NEVER, MASK))
ANY = IdRange(0, VOCAB)
CODES = IdRange(16, 24)
SOME_CODES = IdRange(16, 24, (17, 20))

LogitsOf = Callable[[Tensor], Tensor]  # the attended tokens of a row (L,) -> (L, VOCAB)


def contextual(tokens: Tensor) -> Tensor:
    """Random numbers that depend on every token of the row and its place, and on nothing else."""
    digest = hashlib.blake2b(tokens.numpy().tobytes(), digest_size=7).digest()
    return 3 * torch.randn(len(tokens), VOCAB, generator=torch.Generator().manual_seed(int.from_bytes(digest, "big")))


def stateless(tokens: Tensor) -> Tensor:
    """Random numbers that depend on the length of the row only: the same at every step."""
    return contextual(torch.full_like(tokens, -1))


class Toy:
    """Answers queries row by row, and remembers them."""

    def __init__(self, logits_of: LogitsOf = contextual) -> None:
        self.logits_of = logits_of
        self.queries: list[list[Query]] = []

    def __call__(self, queries: Sequence[Query]) -> list[Tensor]:
        self.queries.append(list(queries))
        return [torch.stack([self._row(query, r) for r in range(len(query.tokens))]) for query in queries]

    def _row(self, query: Query, r: int) -> Tensor:
        start, stop = query.spans[r]
        assert start <= query.positions[r].min()
        assert query.positions[r].max() < stop
        return self.logits_of(query.tokens[r, start:stop])[query.positions[r] - start, query.ids.start : query.ids.stop]


def canvas(tokens: Sequence[int], ids: IdRange = TEXT, *, before: int = 0, after: int = 0, num_total: int | None = None) -> Canvas:
    """A row whose MASK tokens are open, with padding before and after."""
    row = torch.tensor([0] * before + list(tokens) + [0] * after)
    attend = torch.tensor([False] * before + [True] * len(tokens) + [False] * after)
    positions = ((row == MASK) & attend).nonzero()[:, 0]
    return Canvas(row, attend, (Field(positions, ids, len(positions) if num_total is None else num_total),))


def run(denoising: Denoising, logits_of: LogitsOf = contextual) -> Denoising:
    """To the end, which must come."""
    for rounds in denoise([denoising], Toy(logits_of)):
        assert rounds <= 1000
    return denoising


@dataclass(frozen=True)
class Problem:
    canvases: list[Canvas]
    negatives: list[Canvas] | None
    params: SamplingParams
    seeds: list[int]

    def start(self, rows: Sequence[int] | None = None, **changes: object) -> Denoising:
        """All rows, or some of them in the given order."""
        rows = range(len(self.canvases)) if rows is None else rows
        settings = {
            "mask_id": MASK,
            "record": True,
            "seeds": [self.seeds[r] for r in rows],
            "negatives": self.negatives and [self.negatives[r] for r in rows],
            **changes,
        }
        return Denoising([self.canvases[r] for r in rows], settings.pop("params", self.params), **settings)


@st.composite
def canvases(draw: st.DrawFn, ids: IdRange, num_open: int | None = None) -> Canvas:
    """Open positions scattered among given tokens, with padding on either side."""
    num_open = draw(st.integers(1, 7)) if num_open is None else num_open
    given = draw(st.lists(st.integers(0, 9), max_size=6))
    tokens = draw(st.permutations([MASK] * num_open + given))
    before, after = draw(st.integers(0, 2)), draw(st.integers(0, 2))
    return canvas(tokens, ids, before=before, after=after, num_total=num_open + draw(st.integers(0, 5)))


@st.composite
def param_sets(draw: st.DrawFn, counts: Sequence[int]) -> SamplingParams:
    """Any settings that can be used for rows of these many open positions."""
    block_length = draw(st.none() | st.integers(1, 4))
    divisor = 1 if block_length is None else lcm(*(-(-count // block_length) for count in counts))
    confidence = draw(st.sampled_from([probability, margin, negative_entropy, random_order]))
    thresholds = {random_order: st.none(), negative_entropy: st.none() | st.floats(-2, 0)}
    threshold = draw(thresholds.get(confidence, st.none() | st.floats(0, 1)))
    steps = divisor * draw(st.integers(1, 4))
    steps = draw(st.sampled_from([None, steps])) if threshold is not None else steps
    return SamplingParams(
        steps=steps,
        block_length=block_length,
        transfer_schedule=draw(st.sampled_from([even, follow_schedule(cosine)])),
        confidence=confidence,
        threshold=threshold,
        temperature=draw(st.sampled_from([0.0, 0.7, 1.0, 1.5])),
        top_k=draw(st.none() | st.integers(1, 5)),
        top_p=draw(st.none() | st.floats(0.3, 1)),
        choice_temperature=0.0 if confidence is negative_entropy or steps is None else draw(st.sampled_from([0.0, 1.0])),
        anneal=draw(st.sampled_from([compounding, linear_anneal])),
        guidance_scale=draw(st.sampled_from([0.0, 1.5])),
    )


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    ids = draw(st.sampled_from([TEXT, SOME_CODES]))
    rows = draw(st.lists(canvases(ids), min_size=1, max_size=4))
    counts = [len(row.fields[0].positions) for row in rows]
    params = draw(param_sets(counts))
    negatives = [draw(canvases(ids, count)) for count in counts] if params.guidance_scale else None
    seeds = draw(st.lists(st.integers(0, 2**40), min_size=len(rows), max_size=len(rows)))
    return Problem(rows, negatives, params, seeds)
