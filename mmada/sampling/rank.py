"""Which of several fillings of a canvas the model itself finds likeliest.

    filled canvases -> a random half of the field masked in all of them, then the other half -> mean log p of what was there

A drawing that fell apart is one that the model finds unlikely once it sees all of it.
A sampler that commits several codes at a time has no other occasion to say so. Like `Denoising`, it says what it needs to know and is
told, so it shares forward passes with anything else.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmada.canvas import Canvas, Query
from mmada.diffusion.loss import token_nll
from mmada.errors import InputError

__all__ = ["Ranking"]

_NUM_SPLITS = 2
"""Random halvings of the field; each costs two evaluations of every canvas."""


class Ranking:
    """Compares canvases (C) that differ in what fills their first field. mask_id is that of [MASK].

    Scores depend on the canvases alone: which halves are masked is the same for all canvases of a length, always.
    Raises InputError unless all fields have the same positions and ids.
    """

    def __init__(self, canvases: Sequence[Canvas], *, mask_id: int) -> None:
        fields = [canvas.fields[0] for canvas in canvases]
        if not fields or any(f.ids != fields[0].ids or not torch.equal(f.positions, fields[0].positions) for f in fields):
            raise InputError(f"{len(fields)} canvases with different fields cannot be compared; give fillings of the same canvas")
        self.num_forwards = 0
        self._ids, self._positions = fields[0].ids, fields[0].positions
        self._tokens = torch.stack([canvas.tokens for canvas in canvases])  # (C, L)
        self._spans = tuple(canvas.span for canvas in canvases)
        self._mask_id = mask_id
        self._suppress_tokens = torch.tensor(self._ids.suppress_tokens, dtype=torch.long, device=self._tokens.device) - self._ids.start
        generator = torch.Generator().manual_seed(len(self._positions))
        orders = [torch.randperm(len(self._positions), generator=generator) for _ in range(_NUM_SPLITS)]
        self._halves = [half.sort().values.to(self._tokens.device) for order in orders for half in order.chunk(2)]
        self._total = torch.zeros(len(canvases), dtype=torch.float64)

    @property
    def done(self) -> bool:
        return self.num_forwards == len(self._halves)

    def inputs(self) -> Query:
        """What to evaluate next: every canvas, with the same half masked."""
        hidden = self._hidden
        return Query(self._tokens.scatter(1, hidden, self._mask_id), self._spans, hidden, self._ids)

    def advance(self, logits: Tensor) -> None:
        """Take the logits (C, Q, ids.stop - ids.start) that the last `inputs()` asked for."""
        logits = logits.float().index_fill(-1, self._suppress_tokens, -torch.inf)
        self._total -= token_nll(logits, self._tokens.gather(1, self._hidden) - self._ids.start).cpu().double().sum(1)
        self.num_forwards += 1

    @property
    def scores(self) -> tuple[float, ...]:
        """Mean log p of a token in nats, of each canvas, once all is known."""
        assert self.done, "ask when it is done"
        return tuple((self._total / (_NUM_SPLITS * len(self._positions))).tolist())

    @property
    def best(self) -> int:
        """The likeliest canvas; the first of equals."""
        scores = self.scores
        return scores.index(max(scores))

    @property
    def _hidden(self) -> Tensor:
        """(C, Q) positions that are masked next."""
        return self._positions[self._halves[self.num_forwards]].expand(len(self._tokens), -1)
