"""Rollouts with their views become one packed forward pass, and a list of the tokens whose log-probability is asked for.

    sequences  rollout parts with the views of one update       rows, sorted by length, without padding
               Asked(text ids: positions, targets, ...)         the head computes these logits and no others
               Asked(image codes: ...)

    a view     question  t t t t | M t M t                                a row of its own, or, if nothing sees the block behind its own,
    all views  question  t t t t | t t t t | M M t t | M t M t | t M t M  one row: what stands before, once, and each view's block noised

A batch carries everything that its loss needs, the old and reference log-probabilities included, so that it can be saved and used later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from mmada.canvas import IdRange, VocabLayout, block_levels
from mmada.model import Packing
from mmada.rl.records import Part
from mmada.rl.views import View

__all__ = ["Asked", "PolicyBatch", "Trained", "collate"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Trained:
    """One part of a rollout, to be trained on.

    task   index of its task; share  of its rollout: 1 / number of parts
    """

    part: Part
    views: tuple[View, ...]
    advantage: float
    task: int
    share: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """What the head is asked for in one slice of the vocabulary.

    ids          ids that could have been proposed
    positions    (K,) int64 into the packed tokens
    targets      (K,) int64, counted from ids.start
    temperature  (K,) float32 that the logits are divided by, as the sampler did
    place        (K,) int64: which of the S scored tokens of the batch it is
    """

    ids: IdRange
    positions: Tensor
    targets: Tensor
    temperature: Tensor
    place: Tensor


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PolicyBatch:
    """One micro-batch of one update.

    tokens (1, T) int64; lengths of the packed rows; levels and places (T,) int64 of their tokens (canvas.Sight), on the CPU; levels are
    all 0 in a row where all see all
    weight, sequence, token (S,)  as in Evidence
    advantage, length, task, share (R,)
    old, ref    (S,) or None: not computed, or not needed
    normalisers (F,) number of rollouts of each task
    """

    tokens: Tensor
    lengths: tuple[int, ...]
    levels: Tensor
    places: Tensor
    asked: tuple[Asked, ...]
    weight: Tensor
    sequence: Tensor
    token: Tensor
    advantage: Tensor
    length: Tensor
    task: Tensor
    share: Tensor
    normalisers: Tensor
    num_tokens: int
    old: Tensor | None = None
    ref: Tensor | None = None

    @property
    def packing(self) -> Packing:
        sighted = tuple(bool(levels.any()) for levels in self.levels.split(list(self.lengths)))
        return Packing(self.lengths, sighted, self.levels, self.places)

    def to(self, device: torch.device | str) -> PolicyBatch:
        def moved(value: Any) -> Any:
            return value.to(device) if isinstance(value, Tensor) else value

        asked = tuple(replace(a, **{f.name: moved(getattr(a, f.name)) for f in fields(a)}) for a in self.asked)
        return replace(
            self, asked=asked, **{f.name: moved(getattr(self, f.name)) for f in fields(self) if f.name not in ("asked", "levels", "places")}
        )

    def state_dict(self) -> dict[str, Any]:
        """Plain values for torch.save."""
        asked = [
            {f.name: getattr(a, f.name) for f in fields(a) if f.name != "ids"} | {"ids": (a.ids.start, a.ids.stop, a.ids.never)}
            for a in self.asked
        ]
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "asked"} | {"asked": asked}

    @classmethod
    def from_state_dict(cls, values: Mapping[str, Any]) -> PolicyBatch:
        asked = tuple(Asked(**{**a, "ids": IdRange(*a["ids"])}) for a in values["asked"])
        return cls(**{**values, "asked": asked})


def collate(sequences: Sequence[Trained], *, layout: VocabLayout, normalisers: Tensor, dtype: torch.dtype = torch.float32) -> PolicyBatch:
    """One forward pass. Without sequences, a single token that nothing is asked about, so that every process has a pass to do.

    normalisers  (F,) float32, number of rollouts of each task
    """
    rows = [(r, row) for r, s in enumerate(sequences) for row in _rows(s.part, s.views, layout.mask_id)]
    rows.sort(key=lambda entry: len(entry[1].tokens))  # stable, so that equal batches are equal to the bit
    width = max((len(s.part.field.positions) for s in sequences), default=1)
    groups: dict[IdRange, list[tuple[Tensor, Tensor, Tensor, Tensor]]] = {}
    weights, owners, names = [], [], []
    begin = num_scored = 0
    for r, row in rows:
        part = sequences[r].part
        for view, shift in zip(row.views, row.shifts, strict=True):
            slots = (view.weight > 0).nonzero()[:, 0]
            positions = part.field.positions[slots]
            place = torch.arange(num_scored, num_scored + len(slots))
            temperature = torch.full((len(slots),), part.temperature or 1.0, dtype=dtype)
            found = (positions + shift + begin, part.canvas.tokens[positions] - part.field.ids.start, temperature, place)
            groups.setdefault(part.field.ids, []).append(found)
            weights.append(view.weight[slots])
            owners.append(torch.full((len(slots),), r))
            names.append(r * width + slots)
            num_scored += len(slots)
        begin += len(row.tokens)
    lengths = tuple(len(row.tokens) for _, row in rows)
    return PolicyBatch(
        tokens=torch.cat([row.tokens for _, row in rows])[None] if rows else torch.full((1, 1), layout.bos_id),
        lengths=lengths or (1,),
        levels=torch.cat([row.levels for _, row in rows]) if rows else torch.zeros(1, dtype=torch.long),
        places=torch.cat([row.places for _, row in rows]) if rows else torch.zeros(1, dtype=torch.long),
        asked=tuple(Asked(ids, *(torch.cat(column) for column in zip(*found, strict=True))) for ids, found in groups.items()),
        weight=torch.cat(weights).to(dtype) if rows else torch.zeros(0, dtype=dtype),
        sequence=torch.cat(owners) if rows else torch.zeros(0, dtype=torch.long),
        token=torch.cat(names) if rows else torch.zeros(0, dtype=torch.long),
        advantage=torch.tensor([s.advantage for s in sequences], dtype=dtype),
        length=torch.tensor([s.part.num_tokens for s in sequences], dtype=torch.long),
        task=torch.tensor([s.task for s in sequences], dtype=torch.long),
        share=torch.tensor([s.share for s in sequences], dtype=dtype),
        normalisers=normalisers,
        num_tokens=sum(lengths),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Row:
    """tokens, levels, places (L,) of a row, the views that it shows, and for each what is added to a position of the canvas to find it."""

    tokens: Tensor
    levels: Tensor
    places: Tensor
    views: tuple[View, ...]
    shifts: tuple[int, ...]


def _rows(part: Part, views: Sequence[View], mask_id: int) -> list[_Row]:
    """Views of a text whose blocks see none behind their own share a row, if they hide the same of the question."""
    if part.is_image or part.sees_ahead:
        return [_alone(part, view, mask_id) for view in views]
    share = all(view.given is views[0].given for view in views)
    return [_joined(part, some, mask_id) for some in ([views] if share else [[view] for view in views]) if some]


def _alone(part: Part, view: View, mask_id: int) -> _Row:
    """The canvas as the view shows it, without what is cut off."""
    start, stop = part.canvas.span
    if view.num_kept < len(part.field.positions):
        stop = int(part.field.positions[view.num_kept - 1]) + 1
    tokens = _given(part, view, mask_id)
    tokens[part.field.positions[view.is_masked]] = mask_id
    places = torch.arange(stop - start)
    return _Row(tokens[start:stop], torch.zeros_like(places), places, (view,), (-start,))


def _joined(part: Part, views: Sequence[View], mask_id: int) -> _Row:
    """What stands before the last of the views' blocks, as it is, and behind it the block of each view, noised (canvas.Sight)."""
    start, first, room = part.canvas.span[0], int(part.field.positions[0]), len(part.field.positions)
    length = part.block_length or room
    blocks = [(view.num_kept - 1) // length for view in views]
    tokens = _given(part, views[0], mask_id)
    size = first - start + max(blocks) * length
    most = max(map(blocks.count, blocks))
    pieces, shifts = [tokens[start : start + size]], []
    levels, places = [most * block_levels(first - start, size - (first - start), length)], [torch.arange(size)]
    for i, (view, block) in enumerate(zip(views, blocks, strict=True)):
        begin, end = first + block * length, first + view.num_kept
        pieces.append(tokens[begin:end].masked_fill(view.is_masked[block * length : view.num_kept], mask_id))
        # Views of the same block see what comes before it, and do not see each other: each has an odd level of its own.
        levels.append(torch.full((end - begin,), 2 * most * block + 2 * blocks[:i].count(block) + 1))
        places.append(torch.arange(begin - start, end - start))
        shifts.append(size - begin)
        size += end - begin
    return _Row(torch.cat(pieces), torch.cat(levels), torch.cat(places), tuple(views), tuple(shifts))


def _given(part: Part, view: View, mask_id: int) -> Tensor:
    """(L,) a copy of the canvas, with the answer as it is, and the question as the view shows it."""
    tokens = part.canvas.tokens.clone()
    if view.given is not None:
        tokens[view.given] = mask_id
    return tokens
