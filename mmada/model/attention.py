"""Bidirectional attention over rows that are padded and masked, or packed without any padding.

The only place where a mask becomes numbers. Masks are bool, True = may attend:

    None             everything attends to everything
    (B, L)           keys that exist; padding is never attended to
    (B, L, L)        pairs (query, key)
    Packing          rows of different lengths laid end to end in one row of T tokens; each sees itself only:

        T tokens   a a a a | b b b b | c c c c c c        runs (2 rows of 4), (1 row of 6)

    and within a row all see all, or what its Sight says (canvas/query.py): blocks that do not see the blocks behind them.

Packing costs no padding and gives each row the same numbers as alone, so the sampler uses it for every batch.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from mmada.canvas import Sight, sees
from mmada.errors import InputError
from mmada.model.cache import Reuse

__all__ = ["Neighbours", "Packing", "Visibility", "attend", "leave_packing_uncompiled", "neighbours", "rotary", "rotate", "visibility"]


@dataclass(frozen=True, eq=False)
class Packing:
    """Rows of a packed sequence.

    lengths  of the rows
    sighted  per row, whether a Sight says who sees whom in it; where none does, all see all
    levels   (T,) int64 on the CPU, by which tokens see each other (canvas.Sight); 0 in rows without a Sight
    places   (T,) int64 on the CPU: each row counts from 0, or as its Sight says
    """

    lengths: tuple[int, ...]
    sighted: tuple[bool, ...]
    levels: Tensor
    places: Tensor

    @classmethod
    def of(cls, lengths: Sequence[int], sights: Sequence[Sight | None] = ()) -> Packing:
        """Rows in the given order; neighbours of equal length are computed together. Raises InputError."""
        if not lengths or min(lengths) < 1:
            raise InputError(f"lengths={list(lengths)} must be positive; leave empty rows out")
        sights = sights or (None,) * len(lengths)
        known = [length if sight is None else len(sight.levels) for length, sight in zip(lengths, sights, strict=True)]
        if known != list(lengths):
            raise InputError(f"rows of {list(lengths)} tokens with sights of {known}; they must agree")
        levels = [torch.zeros(n, dtype=torch.long) if s is None else s.levels for n, s in zip(lengths, sights, strict=True)]
        places = [torch.arange(n) if s is None or s.places is None else s.places for n, s in zip(lengths, sights, strict=True)]
        return cls(tuple(lengths), tuple(sight is not None for sight in sights), torch.cat(levels), torch.cat(places))

    @property
    def num_tokens(self) -> int:
        return sum(self.lengths)

    @cached_property
    def runs(self) -> tuple[tuple[int, int], ...]:
        """Neighbours that are computed together, of equal length and with or without a sight: (rows, length)."""
        groups = groupby(zip(self.lengths, self.sighted, strict=True))
        return tuple((len(list(group)), length) for (length, _), group in groups)

    def starts(self) -> Tensor:
        """(T,) int64 on the CPU: where each token's row begins."""
        lengths = torch.tensor(self.lengths)
        return (lengths.cumsum(0) - lengths).repeat_interleave(lengths)


@dataclass(frozen=True, slots=True)
class Visibility:
    """Who sees whom, ready for every layer: either a packing, or an additive bias broadcastable to (B, H, L, L), or neither.

    biases  for each run of the packing, or of `reuse`: (rows, 1, queries, keys), or None where all see all
    reuse   which tokens of the packing are evaluated, and the keys and values of the others; layer says whose
    places  for each run of `reuse`, where its windows stand in their rows
    """

    packing: Packing | None = None
    bias: Tensor | None = None
    biases: tuple[Tensor | None, ...] = ()
    reuse: Reuse | None = None
    places: tuple[Tensor, ...] = ()
    layer: int = 0

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All numbers that it holds."""
        return *(bias for bias in (self.bias, *self.biases) if bias is not None), *self.places

    def with_tensors(self, tensors: Sequence[Tensor]) -> Visibility:
        """The same with other tensors of the same shapes, in the order of `tensors`."""
        rest = iter(tensors)
        bias, *biases = (None if old is None else next(rest) for old in (self.bias, *self.biases))
        return replace(self, bias=bias, biases=tuple(biases), places=tuple(rest))

    @property
    def shape(self) -> Hashable | None:
        """All of packed rows but numbers: passes that are alike in it run the same kernels. None if they change more than numbers."""
        if self.packing is None:
            return None
        hidden = tuple(None if bias is None else (bias.shape, bias.dtype) for bias in self.biases)
        if self.reuse is None:
            return self.packing.lengths, self.packing.sighted, hidden
        remembered = self.reuse.shape
        return None if remembered is None else (remembered, hidden)

    def at(self, layer: int) -> Visibility:
        """The same for one layer. Only memories know of layers: without them all layers share one object."""
        return self if self.reuse is None else replace(self, layer=layer)


def visibility(
    mask: Tensor | Packing | None,
    shape: tuple[int, int],
    *,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    hidden_score: float | None = None,
    reuse: Reuse | None = None,
) -> Visibility:
    """Turn a mask for tokens of `shape` (B, L) into numbers, once per forward pass.

    hidden_score  what is added to the score of a hidden pair; None is -inf. The published training code adds 1 to visible
                  pairs and nothing to hidden ones, which is -1.0 here (docs/parity.md, "soft mask").
    reuse         of packed rows, evaluate these windows only
    A query that sees nothing (padding under a pair mask) attends to everything alike, so that it stays finite.
    Raises InputError unless the mask is bool and has one of the shapes above, or if there is a `reuse` without a packing.
    """
    rows, length = shape
    if reuse is not None and not isinstance(mask, Packing):
        raise InputError("reuse is for packed rows; give a Packing as attention_mask")
    if mask is None:
        return Visibility()
    if isinstance(mask, Packing):
        if rows != 1 or mask.num_tokens != length:
            raise InputError(f"tokens {shape} must be one row of the {mask.num_tokens} tokens that are packed")
        windows = [(0, length) for length in mask.lengths] if reuse is None else reuse.windows
        sizes = [rows for rows, _ in mask.runs] if reuse is None else reuse.rows
        biases = _biases(mask, windows, sizes, dtype, device)
        return Visibility(packing=mask, biases=biases, reuse=reuse, places=() if reuse is None else reuse.places(device))
    if mask.dtype != torch.bool:
        raise InputError(f"attention_mask has dtype {mask.dtype}; give a bool mask, True where attention is allowed: attention_mask.bool()")
    if tuple(mask.shape) == (rows, length):
        pairs = mask[:, None, None, :]
    elif tuple(mask.shape) == (rows, length, length):
        pairs = mask[:, None]
    else:
        raise InputError(f"attention_mask has the shape {tuple(mask.shape)}; expected ({rows}, {length}) or ({rows}, {length}, {length})")
    hidden = torch.finfo(dtype).min if hidden_score is None else hidden_score
    return Visibility(bias=torch.zeros(pairs.shape, dtype=dtype, device=mask.device).masked_fill(~pairs, hidden))


def _biases(
    packing: Packing, windows: Sequence[tuple[int, int]], sizes: Sequence[int], dtype: torch.dtype, device: torch.device | str
) -> tuple[Tensor | None, ...]:
    """For each run of `sizes` rows, whose lengths and windows are equal, an additive bias (rows, 1, queries, keys), or None."""
    found: list[Tensor | None] = []
    levels = packing.levels.to(device) if any(packing.sighted) else packing.levels
    row = first = 0
    for size in sizes:
        length, (start, stop) = packing.lengths[row], windows[row]
        if packing.sighted[row]:
            own = levels[first : first + size * length].unflatten(0, (size, length))
            is_hidden = ~sees(own[:, start:stop, None], own[:, None])[:, None]
            found.append(torch.zeros(is_hidden.shape, dtype=dtype, device=device).masked_fill(is_hidden, torch.finfo(dtype).min))
        else:
            found.append(None)
        row, first = row + size, first + size * length
    return tuple(found)


@dataclass(frozen=True, slots=True, eq=False)
class Neighbours:
    """The tokens at offsets of -reach .. reach.

    seen   (2 reach + 1, B, L) bool, whether each is there and seen
    index  (2 reach + 1, L) int64, which token it is, if some do not stand at that offset; else None
    """

    seen: Tensor
    index: Tensor | None = None


def neighbours(mask: Tensor | Packing | None, reach: int, device: torch.device) -> Neighbours | None:
    """The tokens around each, or None if only the ends of rows count.

    mask  as for `visibility`, which checks it: padding is not seen, nor is another packed row, nor what a sight hides
    """
    if mask is None:
        return None
    if isinstance(mask, Packing):
        return _packed_neighbours(mask, torch.arange(-reach, reach + 1, device=device), device)
    offsets = torch.arange(-reach, reach + 1, device=device)
    index = torch.arange(mask.shape[1], device=device) + offsets[:, None]  # (2 reach + 1, L)
    inside = (index >= 0) & (index < mask.shape[1])
    here, there = torch.arange(mask.shape[1], device=device), index.clamp(0, mask.shape[1] - 1)
    seen = mask[:, there] if mask.dim() == 2 else mask[:, here, there]  # (B, 2 reach + 1, L)
    return Neighbours(seen.transpose(0, 1) & inside[:, None])


def _packed_neighbours(packing: Packing, offsets: Tensor, device: torch.device) -> Neighbours:
    """A token's neighbours stand beside it; before the first one of a noised block stands the clean answer, which is elsewhere in the row."""
    places, levels, starts = packing.places.to(device), packing.levels.to(device), packing.starts().to(device)
    wanted, here = places + offsets[:, None], torch.arange(packing.num_tokens, device=device)

    def is_there(index: Tensor) -> Tensor:
        inside = (index >= 0) & (index < packing.num_tokens)
        index = index.clamp(0, packing.num_tokens - 1)
        return inside & (starts[index] == starts) & (places[index] == wanted) & sees(levels, levels[index])

    beside = here + offsets[:, None]  # (2 reach + 1, T)
    seen = is_there(beside)
    if not bool((packing.levels % 2).any()):
        return Neighbours(seen[:, None])
    elsewhere = starts + wanted
    index = beside.where(seen, elsewhere).clamp(0, packing.num_tokens - 1)
    return Neighbours((seen | is_there(elsewhere))[:, None], index)


def attend(q: Tensor, k: Tensor, v: Tensor, visible: Visibility) -> Tensor:
    """Scaled dot-product attention, scale 1/sqrt(head_dim). q (B, L, H, hd), k and v (B, L, K, hd), H a multiple of K -> (B, L, H, hd)."""
    if visible.packing is None:
        return _sdpa(q, k, v, visible.bias)
    if visible.reuse is not None:
        recalled = visible.reuse.recall(visible.layer, k[0], v[0], visible.places)
        runs = zip(q[0].split(visible.reuse.sizes), recalled, visible.biases, strict=True)
        with sdpa_kernel(_KERNELS) if q.is_cuda else nullcontext():
            return torch.cat([_sdpa(a.unflatten(0, (rows, -1)), b, c, bias).flatten(0, 1) for a, (rows, b, c), bias in runs])[None]
    return _packed(q, k, v, visible.packing, visible.biases)


_KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""Without cuDNN, which makes a plan for every new shape: packed rows have new ones at every step."""


def _attend_packed(q: Tensor, k: Tensor, v: Tensor, packing: Packing, biases: Sequence[Tensor | None]) -> Tensor:
    # Split, not slices: the gradient of a split is one concatenation, that of n slices adds up n tensors of the whole length.
    sizes = [rows * length for rows, length in packing.runs]
    runs = zip(packing.runs, q[0].split(sizes), k[0].split(sizes), v[0].split(sizes), biases, strict=True)
    with sdpa_kernel(_KERNELS) if q.is_cuda else nullcontext():
        pieces = [_sdpa(a.unflatten(0, run), b.unflatten(0, run), c.unflatten(0, run), bias).flatten(0, 1) for run, a, b, c, bias in runs]
    return torch.cat(pieces)[None]


_packed = _attend_packed


def leave_packing_uncompiled() -> None:
    """Keep torch.compile out of packed attention: runs differ from batch to batch, and a block must not be specialised on them.

    Called when a block is compiled, not when this file is imported: marking the function imports the compiler, as long as torch itself.
    """
    global _packed
    if _packed is _attend_packed:
        _packed = torch.compiler.disable(_attend_packed)


def rotary(positions: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """cos and sin, each (L, head_dim) float32, of the angles positions * theta^(-2j/head_dim), the two halves alike."""
    frequency = theta ** (-torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim)
    angle = positions.float()[:, None] * frequency[None]
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate (B, L, H, hd) in float32 by the half-split convention: (a, b) -> (a cos - b sin, b cos + a sin)."""
    wide = x.float()
    a, b = wide.chunk(2, dim=-1)
    turned = wide * cos[:, None] + torch.cat([-b, a], dim=-1) * sin[:, None]
    return turned.to(x.dtype)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    if q.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        # CPUs have no fast bfloat16 product for matrices as small as a head's: float32 makes a training step 1.3 times faster.
        with torch.autocast("cpu", enabled=False):
            wide = None if bias is None else bias.float()
            return _sdpa(q.float(), k.float(), v.float(), wide).to(torch.get_autocast_dtype("cpu"))
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    grouped = k.shape[1] != q.shape[1]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, enable_gqa=grouped).transpose(1, 2)
