"""Several fields of one canvas, filled in the same passes: a thought and the picture that it is about.

    step       0    1    2    3    4    5
    text       x    x    x    x    x    x        one `Denoising` a field, over one table of tokens:
    image           x         x         x        what either commits, both see from the next pass on

A `Timeline` says which fields take a step when: together, one after the other, or in any other order. Fields that step together ask one query, so that
each row is evaluated once. Sources: MMaDA-Parallel (Tian et al. 2025), whose two samplers differ in order, guidance and one detail (`fresh_negatives`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from mmada.canvas import Canvas, Query
from mmada.errors import InputError
from mmada.sampling.draws import Draws
from mmada.sampling.loop import Denoising, DenoisingStep
from mmada.sampling.params import SamplingParams

__all__ = ["JointDenoising", "JointParams", "Timeline", "evenly", "image_first", "text_first", "together"]

Timeline = tuple[tuple[tuple[int, int], ...], ...]
"""For each step, the fields that take one, in this order: (field, which of its own steps it is)."""


def evenly(first: int, last: int, count: int) -> tuple[int, ...]:
    """`count` steps from first to last, evenly spread, halves to the even neighbor, each once (published: the steps that update an image)."""
    if count < 1 or first > last:
        raise InputError(f"image_steps={count} from step {first} to {last} are none; give at least one, and more text steps")
    return tuple(sorted(set(torch.linspace(first, last, count).round().long().tolist())))


def together(text_steps: int, image_steps: int, *, first: int | None = None) -> Timeline:
    """The text at each step, the image at `image_steps` of them, from step `first` (a quarter of them) to the last."""
    at = evenly(text_steps // 4 if first is None else first, text_steps - 1, image_steps)
    return tuple(((0, k), (1, k)) if k in at else ((0, k),) for k in range(text_steps))


def text_first(text_steps: int, image_steps: int) -> Timeline:
    """The whole text, then the whole image."""
    return tuple(((0, k),) for k in range(text_steps)) + tuple(((1, k),) for k in range(image_steps))


def image_first(text_steps: int, image_steps: int) -> Timeline:
    """The whole image, then the whole text."""
    return tuple(((1, k),) for k in range(image_steps)) + tuple(((0, k),) for k in range(text_steps))


@dataclass(frozen=True, kw_only=True)
class JointParams:
    """How fields are filled together.

    fields    parameters of each field; `steps` is the number of steps that its schedules and its annealing count
    timeline  which fields step when
    fresh_negatives  parity only: evaluate the unconditional rows of a field in a pass of their own, after the fields before it have committed
    Raises InputError for a timeline that names a field or a step that is not there.
    """

    fields: tuple[SamplingParams, ...]
    timeline: Timeline
    fresh_negatives: bool = False

    def __post_init__(self) -> None:
        for turn in self.timeline:
            for number, step in turn:
                if not 0 <= number < len(self.fields) or not 0 <= step < (self.fields[number].steps or 0):
                    raise InputError(
                        f"timeline has step {step} of field {number}, which is none of {len(self.fields)} fields with their steps"
                    )
        if any(params.cache is not None or params.block_length is not None for params in self.fields):
            raise InputError("fields that are filled together have no blocks and no cache; give block_length=None and cache=None")

    # What others ask of any parameters.

    block_length = None
    full_attention = True
    prompt_in_blocks = False
    variable_length = False

    @property
    def steps(self) -> int:
        return len(self.timeline)

    @property
    def temperature(self) -> float:
        """Of the first field."""
        return self.fields[0].temperature

    def num_blocks(self, num_open: int, num_given: int = 0) -> int:
        """One: all fields are filled together."""
        return 1

    @property
    def num_negatives(self) -> int:
        """Unconditional rows of a canvas: as many as the field with the most scales has."""
        return max(len(params.scales) if params.is_guided else 0 for params in self.fields)


class JointDenoising:
    """Fills the fields of one canvas; to the engine it is a denoising of one row.

    negatives   unconditional rows with the same fields, as many as the field with the most scales has
    draws       where each field's random numbers come from; None: generators of `seed`
    Raises InputError if arguments disagree.
    """

    def __init__(
        self,
        canvas: Canvas,
        params: JointParams,
        *,
        mask_id: int,
        negatives: Sequence[Canvas] = (),
        seed: int = 0,
        draws: Sequence[Draws] | None = None,
        record: bool = False,
        num_alternatives: int = 0,
    ) -> None:
        if len(canvas.fields) != len(params.fields) or len(negatives) != params.num_negatives:
            raise InputError(
                f"{len(canvas.fields)} fields with {len(params.fields)} parameters, and {len(negatives)} unconditional rows for "
                f"{params.num_negatives}; give one of each"
            )
        self.params, self.mask_id = params, mask_id
        self.num_forwards = [0]
        self.fields: list[Denoising] = []
        for i, own in enumerate(params.fields):
            field = Denoising(
                [canvas.only(i)],
                own,
                mask_id=mask_id,
                seeds=[seed + i],
                negatives=[negative.only(i) for negative in negatives],
                draws=None if draws is None else [draws[i]],
                beside=tuple(self.fields),
                record=record,
                num_alternatives=num_alternatives,
            )
            self.fields.append(field)
        self._canvas, self._turn, self._is_dropped = canvas, -1, False
        self._kept: list[Tensor] = []  # conditional logits of a field that waits for its unconditional ones
        self._next_turn()

    # What the engine asks, as of a `Denoising` of one row.

    @property
    def done(self) -> bool:
        return self._is_dropped or self._turn == len(self.params.timeline)

    @property
    def live(self) -> tuple[int, ...]:
        return () if self.done else (0,)

    @property
    def finish_reasons(self) -> list[Literal["stop", "length"]]:
        return self.fields[0].finish_reasons

    @property
    def trace(self) -> list[DenoisingStep]:
        """Steps of all fields; slots count through them."""
        shifts = [sum(other.counts[0] for other in self.fields[:i]) for i in range(len(self.fields))]
        pairs = zip(self.fields, shifts, strict=True)
        return [replace(step, slots=tuple(slot + shift for slot in step.slots)) for field, shift in pairs for step in field.trace]

    def num_tokens(self, row: int) -> int:
        """Tokens that the next step evaluates."""
        return sum(stop - start for start, stop in self.inputs().spans)

    def num_logits(self, row: int) -> int:
        """Numbers that the next step is told."""
        return sum(query.num_logits for _, query in self._queries())

    def drop(self, row: int) -> None:
        """Take no further step."""
        self._is_dropped = True

    def token_ids(self, row: int) -> Tensor:
        """(N,) int64 ids of all fields' positions, one field after another; positions still open hold mask_id."""
        return torch.cat([field.token_ids(0) for field in self.fields])

    def preview(self, row: int) -> Tensor:
        """The same, with open positions showing their latest proposal."""
        return torch.cat([field.preview(0) for field in self.fields])

    def num_blocks_done(self, row: int) -> int:
        """1 at the end, 0 before it."""
        return int(self.done)

    def num_final(self, row: int) -> int:
        """How many leading positions of the first field are committed."""
        return self.fields[0].num_final(0)

    def canvas(self, row: int) -> Canvas:
        """The canvas with what was filled so far."""
        positions = torch.cat([field.positions for field in self._canvas.fields])
        return replace(self._canvas, tokens=self._canvas.tokens.index_copy(0, positions, self.token_ids(0)))

    # A step.

    def inputs(self, rows: Sequence[int] | None = None) -> Query:
        """What to evaluate next: the rows of the field that needs most. Other fields ask about the first of them (`Query.also`)."""
        (_, most), *others = self._queries()
        return replace(most, also=tuple(query for _, query in others))

    def advance(self, logits: Tensor) -> None:
        """Commit tokens by the logits that the last `inputs()` asked for (`Query.split`)."""
        parts = {number: part for (number, _), part in zip(self._queries(), self.inputs().split(logits), strict=True)}
        self.num_forwards[0] += 1
        waiting, kept = self._waiting, self._kept
        self._kept = []
        for number, _ in [turn for turn in self.params.timeline[self._turn] if turn[0] in parts]:
            if number != waiting:
                self.fields[number].advance(parts[number])
            elif kept:
                self.fields[number].advance(torch.cat([*kept, parts[number]]))
            else:
                self._kept = [parts[number]]
        if not self._kept:
            self._next_turn()

    @property
    def _due(self) -> list[int]:
        """Fields that step now and have something left to fill; a field that waits is alone in its second pass."""
        live = [number for number, _ in self.params.timeline[self._turn] if not self.fields[number].done]
        return [self._waiting] if self._kept and self._waiting is not None else live

    @property
    def _waiting(self) -> int | None:
        """The field of this turn whose unconditional rows are evaluated after the others have committed."""
        guided = [number for number, _ in self.params.timeline[self._turn] if self.params.fields[number].is_guided]
        return guided[-1] if self.params.fresh_negatives and guided and not self.fields[guided[-1]].done else None

    def _queries(self) -> list[tuple[int, Query]]:
        """What each field asks now, the one with the most rows first."""
        found = []
        for number in self._due:
            query = self.fields[number].inputs()
            if number == self._waiting:
                query = query.rows(slice(1, None) if self._kept else slice(0, 1))
            found.append((number, query))
        return sorted(found, key=lambda pair: -len(pair[1].tokens))

    def _next_turn(self) -> None:
        """Go to the next turn in which a field has something to fill."""
        while True:
            self._turn += 1
            if self._turn == len(self.params.timeline):
                return
            for number, step in self.params.timeline[self._turn]:
                self.fields[number].go_to(step)
            if self._due:
                return
