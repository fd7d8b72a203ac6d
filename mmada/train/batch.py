"""Rows become tensors: noise is drawn, rows are laid end to end, and what is scored is listed for the head.

    row   [t2i][bos] a red heart [eos][soi] c c c c c c [eoi]      clean tokens; a field says what may be masked
                                            M c M M c M            noised, by (seed, component, index) alone
    batch rows sorted by length, packed without padding            one forward pass for all components
          LogitTargets(image codes: positions, targets, index)     the head computes these logits and no others
          LogitTargets(text ids:    ...)

An answer noised by the noise type `block` stands in its row twice, as it is and noised (rows.join_looks). So all of
its blocks are scored in one row, each as the sampler meets it. By `last_block` one of them is scored, and the row ends behind it.

On a GPU many rows of equal length are one kernel, and rows of a hundred lengths a hundred. There rows are rounded up with padding that
no other token sees (`round_to`).

A stage with a soft mask (`mask_value`) cannot be packed: its rows are padded and a pair mask says which tokens attend to which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from mmada.canvas import Canvas, IdRange, VocabLayout
from mmada.data.seeds import integer
from mmada.model import Packing
from mmada.train.rows import NoisedRow, join_looks, moved, pack
from mmada.train.scoring import LogitTargets, logit_targets
from mmada.train.stages import IN_BLOCKS, UNSCORED, MixtureComponent, draw_mask, exact_mask

__all__ = ["Batch", "ComponentRow", "Row", "base_weight", "collate", "noise_row"]

_GOLDEN = 0.6180339887498949
_SILVER = 0.41421356237309515
"""The golden ratio spreads the times of rows, the silver one those of a row's blocks: multiples of either, modulo 1, never crowd."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Row:
    """One row of a component, clean.

    index   of the row in its component: with the seed, it decides the noise
    factor  (L,) float32 extra weights of positions, or None
    """

    component: str
    index: int
    canvas: Canvas
    factor: Tensor | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ComponentRow(NoisedRow):
    """A noised row of a component.

    maskable  sum of the factors of the positions that could have been masked: a of 1/(p a)
    """

    component: str
    maskable: float


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Batch:
    """One forward pass.

    tokens       (1, T) packed, or (B, L) padded
    mask         the Packing, or (B, L, L) bool pairs
    scored       one entry for each vocabulary slice that is needed
    weight       (S,) float32 of the scored tokens; component (S,) int64, index into `components`
    normalizers  (F,) float32: this batch's part of what each component's sum is divided by
    """

    components: tuple[str, ...]
    tokens: Tensor
    mask: Packing | Tensor
    mask_value: float | None
    scored: tuple[LogitTargets, ...]
    weight: Tensor
    component: Tensor
    normalizers: Tensor
    num_rows: int
    num_tokens: int

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with all of its tensors on a device."""
        return moved(self, device)


def noise_row(
    row: Row,
    component: MixtureComponent,
    *,
    layout: VocabLayout,
    seed: int,
    stratified: bool = False,
    ratio: float | None = None,
    block_length: int | None = None,
    prompt_in_blocks: bool = False,
) -> tuple[ComponentRow, ...]:
    """Draw the noise of a row: one noised row, or two if the component is complementary.

    ratio  mask exactly this share of what is scored instead, at least one position: for evaluation
    block_length  of the noise types `block` and `last_block`, which need it
    prompt_in_blocks  its blocks are counted from the beginning of the row
    """
    canvas = row.canvas
    generator = Generator().manual_seed(integer("noise", seed, row.component, row.index))
    t = float(torch.rand((), generator=generator))
    if stratified:
        # Rows i, i + 1, ... of a component cover [0, 1) evenly; the start depends on the seed, so that each time alone is uniform.
        t = (integer("time", seed, row.component) / 2**63 + row.index * _GOLDEN) % 1.0
    factor = torch.ones(len(canvas)) if row.factor is None else row.factor
    drawn = _draw(
        canvas, component, t, generator, eos_id=layout.eos_id, ratio=ratio, block_length=block_length, prompt_in_blocks=prompt_in_blocks
    )
    is_masked, is_open = drawn.is_masked, drawn.is_open
    maskable = float(factor[drawn.could_be].sum())  # before codes are restored, which do not count
    if component.image_mask_ratio and ratio is None:
        seen = _seen(canvas, layout)
        num_hidden = round(component.image_mask_ratio * float(torch.rand((), generator=generator)) * len(seen))
        if num_hidden:
            is_masked[seen] = is_open[seen] = exact_mask(len(seen), num_hidden, generator)[0]
    weight = torch.where(is_open, factor * base_weight(component, drawn.share, maskable), 0.0)
    views = [is_masked]
    if component.complement and bool((is_open & ~is_masked).any()):
        views.append(is_masked ^ is_open)
    noised = []
    for view in views:
        tokens, scored = torch.where(view, layout.mask_id, canvas.tokens), view & is_open
        if component.markers:
            scored |= (canvas.tokens == layout.soi_id) | (canvas.tokens == layout.eoi_id)
        weights = weight.masked_fill(scored & ~view, 1.0)
        new = ComponentRow(
            component=row.component, tokens=tokens, clean=canvas.tokens, attend=canvas.attend, scored=scored, weight=weights,
            maskable=maskable, span=(canvas.span[0], canvas.span[1] if drawn.stop is None else drawn.stop),
        )  # fmt: skip
        looks = [(new, int(at[0]), int(at[-1]) + 1) for at in drawn.blocks]
        if looks and prompt_in_blocks:
            assert block_length is not None
            # A block that the prompt has begun is shown whole: its tokens see each other.
            whole = [(look, begin // block_length * block_length, end) for look, begin, end in looks]
            noised.append(join_looks(whole, looks[0][1], block_length, prompt_in_blocks=True))
        else:
            noised.append(join_looks(looks, looks[0][1], len(drawn.blocks[0])) if looks else new)
    return tuple(noised)


class _Drawn(NamedTuple):
    """is_masked (L,) bool; is_open (L,) bool, what may be masked and is then scored; share (L,) float32, with which probability.

    blocks    positions of each block that is noised by itself, or none
    could_be  (L,) bool: is_open, or that of every block of which one was drawn
    stop      where the row ends; None: where the canvas does
    """

    is_masked: Tensor
    is_open: Tensor
    share: Tensor
    blocks: tuple[Tensor, ...]
    could_be: Tensor
    stop: int | None


def _draw(
    canvas: Canvas,
    component: MixtureComponent,
    t: float,
    generator: Generator,
    *,
    eos_id: int,
    ratio: float | None,
    block_length: int | None,
    prompt_in_blocks: bool,
) -> _Drawn:
    """Mask each field by its law at time t, or exactly that ratio of it."""
    is_masked, is_open, could_be = torch.zeros(3, len(canvas), dtype=torch.bool)
    share, stop = torch.ones(len(canvas)), None
    blocks: tuple[Tensor, ...] = ()
    # A row whose condition was dropped has lost its first field; the image is the last.
    for part, noise_type in zip(canvas.fields, component.noise[-len(canvas.fields) :], strict=True):
        in_blocks = noise_type in IN_BLOCKS
        runs: tuple[Tensor, ...] = (part.positions,)
        if in_blocks:
            assert block_length is not None
            begun = int(part.positions[0]) % block_length if prompt_in_blocks else 0
            runs = _blocks(part.positions, canvas.tokens[part.positions], eos_id, block_length, begun)
        blocks, num_runs = runs if noise_type == "block" else (), 1
        could_be[torch.cat(runs)] = noise_type not in UNSCORED
        if noise_type == "last_block":
            num_runs = len(runs)
            runs = (runs[int(torch.randint(num_runs, (), generator=generator))],)
            stop = int(runs[0][-1]) + 1
        for n, at in enumerate(runs):
            if noise_type in UNSCORED or ratio is None:
                # One time for all blocks would give them the same number of masks; spread, they average out in the row's loss.
                drawn, p = draw_mask("count" if in_blocks else noise_type, len(at), (t + n * _SILVER) % 1.0, generator)
            else:
                drawn, p = exact_mask(len(at), round(ratio * len(at)), generator)
            is_masked[at], is_open[at], share[at] = drawn, noise_type not in UNSCORED, p / num_runs
        if in_blocks:
            break  # later fields are filled later: no block sees them
    return _Drawn(is_masked, is_open, share, blocks, could_be, stop)


def _blocks(at: Tensor, ids: Tensor, eos_id: int, length: int, begun: int) -> tuple[Tensor, ...]:
    """The blocks of an answer's positions that hold a part of it or its end token. begun: positions of the first that the prompt holds."""
    ends = (ids == eos_id).nonzero()
    num_blocks = -(-(begun + (int(ends[0]) + 1 if len(ends) else len(at))) // length)
    return tuple(at[max(0, n * length - begun) : (n + 1) * length - begun] for n in range(num_blocks))


def _seen(canvas: Canvas, layout: VocabLayout) -> Tensor:
    """Positions of the image codes that are given, not asked for."""
    is_given = canvas.attend & (canvas.tokens >= layout.image_ids.start) & (canvas.tokens < layout.image_ids.stop)
    for part in canvas.fields:
        is_given = is_given.index_fill(0, part.positions, False)
    return is_given.nonzero()[:, 0]


def base_weight(component: MixtureComponent, p: Tensor, maskable: float) -> Tensor:
    """Weights of scored positions that were masked with probability p, by the component's rule, before the factors of positions."""
    return {"1": torch.ones_like(p), "1/p": 1 / p, "1/(p a)": 1 / (p * maskable)}[component.weight]


def collate(
    rows: Sequence[ComponentRow],
    components: Sequence[MixtureComponent],
    *,
    layout: VocabLayout,
    mask_value: float | None = None,
    round_to: int = 1,
) -> Batch:
    """One forward pass for noised rows of any components; packed, or padded if pairs are hidden softly.

    round_to  packed rows are padded to a multiple of so many tokens
    """
    names = tuple(component.name for component in components)
    if mask_value is None:
        rows = [row.cut() for row in sorted(rows, key=lambda row: (row.span[1] - row.span[0], row.block_mask is None))]
    sizes = [len(row.tokens) for row in rows]
    # Padded to a multiple of the longest row, all have the same length.
    multiple = round_to if mask_value is None else max(sizes)
    rows = [row.rounded(multiple, layout.eos_id) for row in rows] if multiple > 1 else rows
    packed = pack(rows)
    component = torch.tensor([names.index(row.component) for row in rows])[packed.row]  # (S,)
    is_full = torch.tensor([f.head == "full" for f in components])[component]
    slices = [None, IdRange(0, layout.image_offset), *([layout.image_ids] if layout.codebook_size else [])]
    member = torch.where(is_full, 0, 1 + (packed.targets >= layout.image_offset).long())
    mask: Packing | Tensor = packed.packing
    tokens = packed.tokens[None]
    if mask_value is not None:
        attend = torch.stack([row.attend for row in rows])
        tokens, mask = packed.tokens.unflatten(0, attend.shape), attend[:, :, None] & attend[:, None]  # (B, L, L)
    return Batch(
        components=names,
        tokens=tokens,
        mask=mask,
        mask_value=mask_value,
        scored=logit_targets(slices, member, packed.positions, packed.targets),
        weight=packed.weight,
        component=component,
        normalizers=_normalizers(rows, components, sizes, positions=component, weight=packed.weight),
        num_rows=len(rows),
        num_tokens=sum(sizes),
    )


def _normalizers(
    rows: Sequence[ComponentRow], components: Sequence[MixtureComponent], lengths: Sequence[int], *, positions: Tensor, weight: Tensor
) -> Tensor:
    """(F,) float32; `positions` is the component of every scored position, `weight` its weight."""
    values = torch.zeros(len(components))
    for i, component in enumerate(components):
        own = [(row, length) for row, length in zip(rows, lengths, strict=True) if row.component == component.name]
        if component.normalizer == "scored":
            values[i] = (positions == i).sum()
        elif component.normalizer == "weight":
            values[i] = weight[positions == i].sum()
        elif component.normalizer == "maskable":
            values[i] = sum(row.maskable for row, _ in own)
        else:
            values[i] = sum(length if component.normalizer == "positions" else 1 for _, length in own)
    return values
