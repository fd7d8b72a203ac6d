"""Rows become tensors: noise is drawn, rows are laid end to end, and what is scored is listed for the head.

    row   [t2i][bos] a red heart [eos][soi] c c c c c c [eoi]      clean tokens; a field says what may be masked
                                            M c M M c M            noised, by (seed, flow, index) alone
    batch rows sorted by length, packed without padding            one forward pass for all flows
          Scored(image codes: positions, targets, weights, flow)   the head computes these logits and no others
          Scored(text ids:    ...)

A stage with a soft mask (`hidden_score`) cannot be packed: its rows are padded and a pair mask says who sees whom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from mmada.canvas import Canvas
from mmada.model import Packing
from mmada.train.seeds import integer
from mmada.train.stages import UNSCORED, Flow, draw_mask, exact_mask
from mmada.vocab import VocabLayout

__all__ = ["Batch", "NoisedRow", "Row", "Scored", "base_weight", "collate", "noise_row"]

_GOLDEN = 0.6180339887498949


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Row:
    """One row of a flow, clean.

    index   of the row in its flow: with the seed, it decides the noise
    factor  (L,) float32 extra weights of positions, or None
    """

    flow: str
    index: int
    canvas: Canvas
    factor: Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class NoisedRow:
    """A row as the model sees it: tokens (L,), attend (L,), scored (L,) bool, weight (L,) float32; clean (L,) holds the targets.

    maskable  sum of the factors of the positions that could have been masked: a of 1/(p a)
    span      [start, stop) of the attended run
    """

    flow: str
    tokens: Tensor
    clean: Tensor
    attend: Tensor
    scored: Tensor
    weight: Tensor
    maskable: float
    span: tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """What the head is asked for in one slice of the vocabulary.

    vocab      [start, stop) rows of the head, or None for all
    positions  (S,) int64 into the flattened tokens
    targets    (S,) int64, counted from `start`
    weight     (S,) float32
    flow       (S,) int64, index into Batch.flows
    """

    vocab: tuple[int, int] | None
    positions: Tensor
    targets: Tensor
    weight: Tensor
    flow: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """One forward pass.

    tokens       (1, T) packed, or (B, L) padded
    mask         the Packing, or (B, L, L) bool pairs
    scored       one entry for each vocabulary slice that is needed
    normalisers  (F,) float32: this batch's part of what each flow's sum is divided by
    """

    flows: tuple[str, ...]
    tokens: Tensor
    mask: Packing | Tensor
    hidden_score: float | None
    scored: tuple[Scored, ...]
    normalisers: Tensor
    num_rows: int
    num_tokens: int

    def to(self, device: torch.device | str) -> Batch:
        def move(s: Scored) -> Scored:
            return Scored(s.vocab, *(x.to(device, non_blocking=True) for x in (s.positions, s.targets, s.weight, s.flow)))

        return replace(
            self,
            tokens=self.tokens.to(device, non_blocking=True),
            mask=self.mask if isinstance(self.mask, Packing) else self.mask.to(device, non_blocking=True),
            scored=tuple(move(s) for s in self.scored),
            normalisers=self.normalisers.to(device),
        )


def noise_row(
    row: Row,
    flow: Flow,
    *,
    layout: VocabLayout,
    seed: int,
    stratified: bool = False,
    ratio: float | None = None,
    block_length: int | None = None,
) -> tuple[NoisedRow, ...]:
    """Draw the noise of a row: one noised row, or two if the flow is complementary.

    ratio  mask exactly this share of what is scored instead, at least one position: for evaluation
    block_length  of the law `block`, which needs it
    """
    canvas, attend = row.canvas, row.canvas.attend
    generator = Generator().manual_seed(integer("noise", seed, row.flow, row.index))
    t = float(torch.rand((), generator=generator))
    if stratified:
        # Rows i, i + 1, ... of a flow cover [0, 1) evenly; the start depends on the seed, so that each time alone is uniform.
        t = (integer("time", seed, row.flow) / 2**63 + row.index * _GOLDEN) % 1.0
    factor = torch.ones(len(canvas)) if row.factor is None else row.factor
    is_masked, is_open = torch.zeros(2, len(canvas), dtype=torch.bool)
    share = torch.ones(len(canvas))
    # A row whose condition was dropped has lost its first field; the image is the last.
    for part, law in zip(canvas.fields, flow.noise[-len(canvas.fields) :], strict=True):
        at = part.positions
        if law == "block":
            assert block_length is not None
            at, behind = _block(at, canvas.tokens[at], layout.eos_id, block_length, generator)
            attend = attend.index_fill(0, behind, False)
            law = "count"
        if law in UNSCORED or ratio is None:
            drawn, p = draw_mask(law, len(at), t, generator)
        else:
            drawn, p = exact_mask(len(at), round(ratio * len(at)), generator)
        is_masked[at], is_open[at], share[at] = drawn, law not in UNSCORED, p
    maskable = float(factor[is_open].sum())
    if flow.restore and ratio is None:
        seen = _seen(canvas, layout)
        num_hidden = round(flow.restore * float(torch.rand((), generator=generator)) * len(seen))
        if num_hidden:
            is_masked[seen] = is_open[seen] = exact_mask(len(seen), num_hidden, generator)[0]
    weight = torch.where(is_open, factor * base_weight(flow, share, maskable), 0.0)
    views = [is_masked]
    if flow.complement and bool((is_open & ~is_masked).any()):
        views.append(is_masked ^ is_open)
    noised, span = [], replace(canvas, attend=attend, fields=()).span
    for view in views:
        tokens, scored = torch.where(view, layout.mask_id, canvas.tokens), view & is_open
        if flow.markers:
            scored |= (canvas.tokens == layout.soi_id) | (canvas.tokens == layout.eoi_id)
        noised.append(NoisedRow(row.flow, tokens, canvas.tokens, attend, scored, weight.masked_fill(scored & ~view, 1.0), maskable, span))
    return tuple(noised)


def _seen(canvas: Canvas, layout: VocabLayout) -> Tensor:
    """Positions of the image codes that are given, not asked for."""
    is_given = canvas.attend & (canvas.tokens >= layout.image_ids.start) & (canvas.tokens < layout.image_ids.stop)
    for part in canvas.fields:
        is_given = is_given.index_fill(0, part.positions, False)
    return is_given.nonzero()[:, 0]


def _block(at: Tensor, ids: Tensor, eos_id: int, length: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """One block of an answer's positions, any that holds a part of it or its end token; and the positions behind that block."""
    ends = (ids == eos_id).nonzero()
    num_blocks = -(-(int(ends[0]) + 1 if len(ends) else len(at)) // length)
    start = int(torch.randint(num_blocks, (), generator=generator)) * length
    return at[start : start + length], at[start + length :]


def base_weight(flow: Flow, p: Tensor, maskable: float) -> Tensor:
    """Weights of scored positions that were masked with probability p, by the flow's rule, before the factors of positions."""
    return {"1": torch.ones_like(p), "1/p": 1 / p, "1/(p a)": 1 / (p * maskable)}[flow.weight]


def collate(rows: Sequence[NoisedRow], flows: Sequence[Flow], *, layout: VocabLayout, hidden_score: float | None = None) -> Batch:
    """One forward pass for noised rows of any flows; packed, or padded if pairs are hidden softly."""
    names = tuple(flow.name for flow in flows)
    rows = sorted(rows, key=lambda row: row.span[1] - row.span[0]) if hidden_score is None else rows
    cut = [slice(*row.span) if hidden_score is None else slice(None) for row in rows]
    lengths = [len(row.tokens[part]) for row, part in zip(rows, cut, strict=True)]
    longest = max(lengths)

    def joined(name: str, fill: int) -> Tensor:
        parts = [getattr(row, name)[part] for row, part in zip(rows, cut, strict=True)]
        if hidden_score is None:
            return torch.cat(parts)  # (T,)
        return torch.stack([F.pad(x, (0, longest - len(x)), value=fill) for x in parts]).flatten()  # (B L,)

    scored = joined("scored", False)
    flow_of_row = torch.tensor([names.index(row.flow) for row in rows])
    per_row = torch.tensor(lengths if hidden_score is None else [longest] * len(rows))
    positions = scored.nonzero()[:, 0]
    targets, weight = joined("clean", layout.eos_id)[positions], joined("weight", 0)[positions]
    flow = flow_of_row.repeat_interleave(per_row)[positions]
    is_full = torch.tensor([f.head == "full" for f in flows])[flow]
    text, image = (0, layout.image_offset), (layout.image_ids.start, layout.image_ids.stop)
    groups = ((None, is_full), (text, ~is_full & (targets < text[1])), (image, ~is_full & (targets >= text[1])))
    tokens = joined("tokens", layout.eos_id)
    mask: Packing | Tensor = Packing.of(lengths)
    if hidden_score is not None:
        attend = joined("attend", False).unflatten(0, (len(rows), longest))
        tokens, mask = tokens.unflatten(0, (len(rows), longest)), attend[:, :, None] & attend[:, None]  # (B, L, L)
    return Batch(
        flows=names,
        tokens=tokens if hidden_score is not None else tokens[None],
        mask=mask,
        hidden_score=hidden_score,
        scored=tuple(
            Scored(vocab, positions[chosen], targets[chosen] - (vocab or (0,))[0], weight[chosen], flow[chosen])
            for vocab, chosen in groups
            if bool(chosen.any())
        ),
        normalisers=_normalisers(rows, flows, lengths, positions=flow, weight=weight),
        num_rows=len(rows),
        num_tokens=sum(lengths),
    )


def _normalisers(rows: Sequence[NoisedRow], flows: Sequence[Flow], lengths: Sequence[int], *, positions: Tensor, weight: Tensor) -> Tensor:
    """(F,) float32; `positions` is the flow of every scored position, `weight` its weight."""
    values = torch.zeros(len(flows))
    for i, flow in enumerate(flows):
        own = [(row, length) for row, length in zip(rows, lengths, strict=True) if row.flow == flow.name]
        if flow.normaliser == "scored":
            values[i] = (positions == i).sum()
        elif flow.normaliser == "weight":
            values[i] = weight[positions == i].sum()
        elif flow.normaliser == "maskable":
            values[i] = sum(row.maskable for row, _ in own)
        else:
            values[i] = sum(length if flow.normaliser == "positions" else 1 for _, length in own)
    return values
