"""Rows become tensors: noise is drawn, rows are laid end to end, and what is scored is listed for the head.

    row   [t2i][bos] a red heart [eos][soi] c c c c c c [eoi]      clean tokens; a field says what may be masked
                                            M c M M c M            noised, by (seed, flow, index) alone
    batch rows sorted by length, packed without padding            one forward pass for all flows
          Scored(image codes: positions, targets, weights, flow)   the head computes these logits and no others
          Scored(text ids:    ...)

An answer noised by the law `block` stands in its row twice, as it is and noised (canvas.Sight):

    clean   p p p | a a a a | b b b b | c c . .            a prompt, and three blocks
    row     p p p a a a a b b b b | a M a M | M M b M | c M . .     each noised block sees what comes before it, as it is, and itself

so that all of its blocks are scored in one row, each as the sampler meets it. The last one need not stand there as it is.

On a GPU many rows of equal length are one kernel, and rows of a hundred lengths a hundred: there rows are rounded up with padding that
no other token sees (`round_to`).

A stage with a soft mask (`hidden_score`) cannot be packed: its rows are padded and a pair mask says who sees whom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from mmada.canvas import Canvas, Sight, VocabLayout, block_levels
from mmada.data.seeds import integer
from mmada.model import Packing
from mmada.train.stages import UNSCORED, Flow, draw_mask, exact_mask

__all__ = ["Batch", "NoisedRow", "Row", "Scored", "base_weight", "collate", "noise_row"]

_GOLDEN = 0.6180339887498949
_SILVER = 0.41421356237309515
_PADDING = 2**31 + 1
"""Level of padding: odd, and so seen by itself alone."""


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
    sight     who sees whom, if not all see all
    """

    flow: str
    tokens: Tensor
    clean: Tensor
    attend: Tensor
    scored: Tensor
    weight: Tensor
    maskable: float
    span: tuple[int, int]
    sight: Sight | None = None

    def cut(self) -> NoisedRow:
        """Nothing but the attended run."""
        start, stop = self.span
        parts = {name: getattr(self, name)[start:stop] for name in ("tokens", "attend", "scored", "weight", "clean")}
        sight = None if self.sight is None else self.sight.cut(start, stop)
        return replace(self, span=(0, stop - start), sight=sight, **parts)

    def rounded(self, multiple: int, fill: int) -> NoisedRow:
        """With padding behind the attended run, which nothing else sees, up to a multiple of so many tokens."""
        length = len(self.tokens)
        sight = self.sight or Sight(torch.zeros(length, dtype=torch.long))
        places = torch.arange(length) if sight.places is None else sight.places
        missing = -length % multiple

        def padded(x: Tensor, value: float) -> Tensor:
            return F.pad(x, (0, missing), value=value)

        return replace(
            self,
            tokens=padded(self.tokens, fill),
            clean=padded(self.clean, fill),
            attend=padded(self.attend, False),
            scored=padded(self.scored, False),
            weight=padded(self.weight, 0.0),
            sight=Sight(padded(sight.levels, _PADDING), padded(places, 0)),
        )


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
    canvas = row.canvas
    generator = Generator().manual_seed(integer("noise", seed, row.flow, row.index))
    t = float(torch.rand((), generator=generator))
    if stratified:
        # Rows i, i + 1, ... of a flow cover [0, 1) evenly; the start depends on the seed, so that each time alone is uniform.
        t = (integer("time", seed, row.flow) / 2**63 + row.index * _GOLDEN) % 1.0
    factor = torch.ones(len(canvas)) if row.factor is None else row.factor
    is_masked, is_open = torch.zeros(2, len(canvas), dtype=torch.bool)
    share = torch.ones(len(canvas))
    blocks: tuple[Tensor, ...] = ()
    # A row whose condition was dropped has lost its first field; the image is the last.
    for part, law in zip(canvas.fields, flow.noise[-len(canvas.fields) :], strict=True):
        if law == "block":
            assert block_length is not None
            blocks = _blocks(part.positions, canvas.tokens[part.positions], layout.eos_id, block_length)
        for n, at in enumerate(blocks if law == "block" else (part.positions,)):
            if law in UNSCORED or ratio is None:
                drawn, p = draw_mask("count" if law == "block" else law, len(at), (t + n * _SILVER) % 1.0, generator)
            else:
                drawn, p = exact_mask(len(at), round(ratio * len(at)), generator)
            is_masked[at], is_open[at], share[at] = drawn, law not in UNSCORED, p
        if law == "block":
            break  # what lies behind is filled later
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
    noised = []
    for view in views:
        tokens, scored = torch.where(view, layout.mask_id, canvas.tokens), view & is_open
        if flow.markers:
            scored |= (canvas.tokens == layout.soi_id) | (canvas.tokens == layout.eoi_id)
        weights = weight.masked_fill(scored & ~view, 1.0)
        new = NoisedRow(row.flow, tokens, canvas.tokens, canvas.attend, scored, weights, maskable, canvas.span)
        noised.append(_twice(new, blocks) if blocks else new)
    return tuple(noised)


def _blocks(at: Tensor, ids: Tensor, eos_id: int, length: int) -> tuple[Tensor, ...]:
    """The blocks of an answer's positions that hold a part of it or its end token."""
    ends = (ids == eos_id).nonzero()
    num_blocks = -(-(int(ends[0]) + 1 if len(ends) else len(at)) // length)
    return tuple(torch.split(at[: num_blocks * length], length))


def _twice(row: NoisedRow, blocks: Sequence[Tensor]) -> NoisedRow:
    """The row up to its last block, as it is, and behind it the blocks, noised."""
    noised, last = torch.cat(tuple(blocks)), int(blocks[-1][0])
    first = int(noised[0])
    index = torch.cat([torch.arange(last), noised])
    levels = torch.cat([block_levels(first, last - first, len(blocks[0])), 1 + 2 * (torch.arange(len(noised)) // len(blocks[0]))])
    tokens, scored, is_clean = row.tokens[index], row.scored[index], (index >= first) & (torch.arange(len(index)) < last)
    return replace(
        row,
        tokens=torch.where(is_clean, row.clean[index], tokens),
        clean=row.clean[index],
        attend=row.attend[index],
        scored=scored & ~is_clean,
        weight=row.weight[index].masked_fill(is_clean, 0.0),
        span=(row.span[0], len(index)),
        sight=Sight(levels, index),
    )


def _seen(canvas: Canvas, layout: VocabLayout) -> Tensor:
    """Positions of the image codes that are given, not asked for."""
    is_given = canvas.attend & (canvas.tokens >= layout.image_ids.start) & (canvas.tokens < layout.image_ids.stop)
    for part in canvas.fields:
        is_given = is_given.index_fill(0, part.positions, False)
    return is_given.nonzero()[:, 0]


def base_weight(flow: Flow, p: Tensor, maskable: float) -> Tensor:
    """Weights of scored positions that were masked with probability p, by the flow's rule, before the factors of positions."""
    return {"1": torch.ones_like(p), "1/p": 1 / p, "1/(p a)": 1 / (p * maskable)}[flow.weight]


def collate(
    rows: Sequence[NoisedRow], flows: Sequence[Flow], *, layout: VocabLayout, hidden_score: float | None = None, round_to: int = 1
) -> Batch:
    """One forward pass for noised rows of any flows; packed, or padded if pairs are hidden softly.

    round_to  packed rows are padded to a multiple of so many tokens
    """
    names = tuple(flow.name for flow in flows)
    rows = sorted(rows, key=lambda row: (row.span[1] - row.span[0], row.sight is None)) if hidden_score is None else rows
    rows = [row.cut() for row in rows] if hidden_score is None else rows
    sizes = [len(row.tokens) for row in rows]
    rows = [row.rounded(round_to, layout.eos_id) for row in rows] if round_to > 1 and hidden_score is None else rows
    lengths = [len(row.tokens) for row in rows]
    longest = max(lengths)

    def joined(name: str, fill: int) -> Tensor:
        parts = [getattr(row, name) for row in rows]
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
    mask: Packing | Tensor = Packing.of(lengths, [row.sight for row in rows])
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
        normalisers=_normalisers(rows, flows, sizes, positions=flow, weight=weight),
        num_rows=len(rows),
        num_tokens=sum(sizes),
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
