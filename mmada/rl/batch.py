"""Rollouts with their views become one packed forward pass, and a list of the tokens whose log-probability is asked for.

    sequences  rollout parts with the views of one update       rows, sorted by length, without padding
               Asked(text ids: positions, targets, ...)         the head computes these logits and no others
               Asked(image codes: ...)

A batch carries everything that its loss needs, the old and reference log-probabilities included, so that it can be saved and used later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from mmada.canvas import Sight, block_levels
from mmada.model import Packing
from mmada.rl.records import Part
from mmada.rl.views import View
from mmada.vocab import IdRange, VocabLayout

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

    tokens (1, T) int64; lengths of the packed rows; levels (T,) int64 of a row's tokens (canvas.Sight), on the CPU, all 0 where
    all see all
    weight, sequence, token (S,)  as in Evidence
    advantage, length, task, share (R,)
    old, ref    (S,) or None: not computed, or not needed
    normalisers (F,) number of rollouts of each task
    """

    tokens: Tensor
    lengths: tuple[int, ...]
    levels: Tensor
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
        rows = self.levels.split(list(self.lengths))
        return Packing.of(self.lengths, [Sight(row) if bool(row.any()) else None for row in rows])

    def to(self, device: torch.device | str) -> PolicyBatch:
        def moved(value: Any) -> Any:
            return value.to(device) if isinstance(value, Tensor) else value

        asked = tuple(replace(a, **{f.name: moved(getattr(a, f.name)) for f in fields(a)}) for a in self.asked)
        return replace(
            self, asked=asked, **{f.name: moved(getattr(self, f.name)) for f in fields(self) if f.name not in ("asked", "levels")}
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
    rows = [(r, view, *_tokens(s.part, view, layout.mask_id)) for r, s in enumerate(sequences) for view in s.views]
    rows.sort(key=lambda row: len(row[2]))  # stable, so that equal batches are equal to the bit
    width = max((len(s.part.field.positions) for s in sequences), default=1)
    groups: dict[IdRange, list[tuple[Tensor, Tensor, Tensor, Tensor]]] = {}
    weights, owners, names = [], [], []
    begin = num_scored = 0
    for r, view, tokens, first, _ in rows:
        part = sequences[r].part
        slots = (view.weight > 0).nonzero()[:, 0]
        positions = part.field.positions[slots]
        place = torch.arange(num_scored, num_scored + len(slots))
        temperature = torch.full((len(slots),), part.temperature or 1.0, dtype=dtype)
        found = (positions - first + begin, part.canvas.tokens[positions] - part.field.ids.start, temperature, place)
        groups.setdefault(part.field.ids, []).append(found)
        weights.append(view.weight[slots])
        owners.append(torch.full((len(slots),), r))
        names.append(r * width + slots)
        begin, num_scored = begin + len(tokens), num_scored + len(slots)
    lengths = tuple(len(tokens) for _, _, tokens, *_ in rows)
    return PolicyBatch(
        tokens=torch.cat([tokens for _, _, tokens, *_ in rows])[None] if rows else torch.full((1, 1), layout.bos_id),
        lengths=lengths or (1,),
        levels=torch.cat([levels for *_, levels in rows]) if rows else torch.zeros(1, dtype=torch.long),
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


def _tokens(part: Part, view: View, mask_id: int) -> tuple[Tensor, int, Tensor]:
    """The row of a view, where it begins in the canvas, and the levels of its tokens."""
    tokens, positions = part.canvas.tokens.clone(), part.field.positions
    tokens[positions[view.is_masked]] = mask_id
    if view.given is not None:
        tokens[view.given] = mask_id
    start, stop = part.canvas.span
    if view.num_kept < len(positions):
        stop = int(positions[view.num_kept - 1]) + 1
    levels = torch.zeros(stop - start, dtype=torch.long)
    if not part.sees_ahead and not part.is_image:
        num_given = int(positions[0]) - start
        levels = block_levels(num_given, stop - start - num_given, part.block_length or len(positions))
    return tokens[start:stop], start, levels
