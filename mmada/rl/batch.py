"""Rollouts with their mask samples become one packed forward pass, and a list of the tokens whose log-probability is asked for.

    sequences  rollout parts with the mask samples of one update       rows, sorted by length, without padding
               LogitTargets(text ids: positions, targets, ...)  the head computes these logits and no others
               LogitTargets(image codes: ...)

    a view     question  t t t t | M t M t                                a row of its own, or, if no block sees those after it,
    all views  question  t t t t | t t t t | M M t t | M t M t | t M t M  one row: the beginning once, each block noised

A batch carries everything that its loss needs, the old and reference log-probabilities included, so that it can be saved and used later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from mmada.canvas import VocabLayout
from mmada.model import Packing
from mmada.rl.mask_samples import MaskSample
from mmada.rl.records import Segment
from mmada.train.rows import NoisedRow, join_looks, moved, pack
from mmada.train.scoring import LogitTargets, logit_targets

__all__ = ["PolicyBatch", "TrainSegment", "collate"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrainSegment:
    """One part of a rollout, to be trained on.

    task   index of its task; share  of its rollout: 1 / number of parts
    """

    part: Segment
    mask_samples: tuple[MaskSample, ...]
    advantage: float
    task: int
    share: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PolicyBatch:
    """One micro-batch of one update.

    tokens (1, T) int64 of the packed rows; packing says which tokens attend to which
    scored      one entry for each vocabulary slice that is needed
    weight, sequence, token (S,)  as in Evidence
    advantage, length, task, share (R,)
    old, ref    (S,) or None: not computed, or not needed
    normalizers (F,) number of rollouts of each task
    """

    tokens: Tensor
    packing: Packing
    scored: tuple[LogitTargets, ...]
    weight: Tensor
    sequence: Tensor
    token: Tensor
    advantage: Tensor
    length: Tensor
    task: Tensor
    share: Tensor
    normalizers: Tensor
    num_tokens: int
    old: Tensor | None = None
    ref: Tensor | None = None

    def to(self, device: torch.device | str) -> PolicyBatch:
        """The same batch with all of its tensors on a device."""
        return moved(self, device)

    def state_dict(self) -> dict[str, Any]:
        """Plain values for torch.save."""
        return asdict(self)

    @classmethod
    def from_state_dict(cls, values: Mapping[str, Any]) -> PolicyBatch:
        """What `state_dict` wrote."""
        scored = tuple(LogitTargets(**part) for part in values["scored"])
        return cls(**{**values, "scored": scored, "packing": Packing(**values["packing"])})


def collate(
    sequences: Sequence[TrainSegment], *, layout: VocabLayout, normalizers: Tensor, dtype: torch.dtype = torch.float32
) -> PolicyBatch:
    """One forward pass. Without sequences, a single token that nothing is asked about, so that every process has a pass to do.

    normalizers  (F,) float32, number of rollouts of each task
    """
    found = [(r, row) for r, s in enumerate(sequences) for row in _rows(s.part, s.mask_samples, layout.mask_id)]
    found.sort(key=lambda entry: len(entry[1].tokens))  # stable, so that equal batches are equal to the bit
    packed = pack([row for _, row in found] or [_nothing(layout)])
    parts = [s.part for s in sequences]
    slices = list(dict.fromkeys(parts[r].field.ids for r, _ in found))
    sequence = torch.tensor([r for r, _ in found], dtype=torch.long)[packed.row]  # (S,)
    member = torch.tensor([slices.index(part.field.ids) for part in parts], dtype=torch.long)[sequence]
    temperature = torch.tensor([part.temperature or 1.0 for part in parts], dtype=dtype)[sequence]
    # Looks at one token of a sequence stand in the same place, whichever row they are in.
    width = max((len(part.canvas) for part in parts), default=1)
    return PolicyBatch(
        tokens=packed.tokens[None],
        packing=packed.packing,
        scored=logit_targets(slices, member, packed.positions, packed.targets, temperature),
        weight=packed.weight.to(dtype),
        sequence=sequence,
        token=sequence * width + packed.packing.position_ids[packed.positions],
        advantage=torch.tensor([s.advantage for s in sequences], dtype=dtype),
        length=torch.tensor([part.num_tokens for part in parts], dtype=torch.long),
        task=torch.tensor([s.task for s in sequences], dtype=torch.long),
        share=torch.tensor([s.share for s in sequences], dtype=dtype),
        normalizers=normalizers,
        num_tokens=sum(len(row.tokens) for _, row in found),
    )


def _rows(part: Segment, mask_samples: Sequence[MaskSample], mask_id: int) -> list[NoisedRow]:
    """Views of a text whose blocks do not see ahead share a row, if they hide the same of the question."""
    looks = [_look(part, mask_sample, mask_id) for mask_sample in mask_samples]
    if part.is_image or part.full_attention or not looks:
        return [look.cut() for look in looks]
    first, answer_length = int(part.field.positions[0]), len(part.field.positions)
    length = part.block_length or answer_length
    pieces = []
    for look, mask_sample in zip(looks, mask_samples, strict=True):
        begin = first - part.num_begun + (mask_sample.num_kept - 1 + part.num_begun) // length * length
        pieces.append((look, begin, first + mask_sample.num_kept))
    share = all(mask_sample.given is mask_samples[0].given for mask_sample in mask_samples)
    groups = [pieces] if share else [[piece] for piece in pieces]
    return [join_looks(some, first, length, prompt_in_blocks=part.prompt_in_blocks).cut() for some in groups]


def _look(part: Segment, mask_sample: MaskSample, mask_id: int) -> NoisedRow:
    """The canvas as the view shows it; what is cut off is left out of the span."""
    canvas, slots = part.canvas, part.field.positions
    start, stop = canvas.span
    if mask_sample.num_kept < len(slots):
        stop = int(slots[mask_sample.num_kept - 1]) + 1
    tokens = canvas.tokens.clone()
    if mask_sample.given is not None:
        tokens[mask_sample.given] = mask_id
    tokens[slots[mask_sample.is_masked]] = mask_id
    weight = torch.zeros(len(tokens), dtype=mask_sample.weight.dtype)
    weight[slots] = mask_sample.weight
    return NoisedRow(tokens=tokens, clean=canvas.tokens, attend=canvas.attend, scored=weight > 0, weight=weight, span=(start, stop))


def _nothing(layout: VocabLayout) -> NoisedRow:
    """One token, and nothing to say about it."""
    no = torch.zeros(1, dtype=torch.bool)
    tokens = torch.full((1,), layout.eos_id)
    return NoisedRow(tokens=tokens, clean=tokens, attend=~no, scored=no, weight=no.float(), span=(0, 1))
