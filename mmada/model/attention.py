"""Bidirectional attention over rows that are padded and masked, or packed without any padding.

The only place where a mask becomes numbers. Masks are bool, True = may attend, or whole numbers, 1 = may attend (`as_bool`):

    None             everything attends to everything
    (B, L)           keys that exist; padding is never attended to
    (B, L, L)        pairs (query, key)
    Packing          rows of different lengths laid end to end in one row of T tokens; each sees itself only:

        T tokens   a a a a | b b b b | c c c c c c        runs (2 rows of 4), (1 row of 6)

    and within a row attention is full, or what its BlockMask says (canvas/query.py): blocks that do not see the blocks behind them.

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

from mmada.canvas import BlockMask, can_attend
from mmada.errors import InputError
from mmada.model.cache import PackedKVCache

__all__ = [
    "AttentionBias",
    "Neighbors",
    "Packing",
    "as_bool",
    "attend",
    "attention_bias",
    "leave_packing_uncompiled",
    "neighbors",
    "rotary",
    "rotate",
]


@dataclass(frozen=True, eq=False)
class Packing:
    """Rows of a packed sequence.

    lengths  of the rows
    has_block_mask  per row, whether a BlockMask says which tokens attend to which; rows without one use full attention
    block_ids  (T,) int64 on the CPU, by which tokens see each other (canvas.BlockMask); 0 in rows without a BlockMask
    position_ids  (T,) int64 on the CPU: each row counts from 0, or as its BlockMask says
    """

    lengths: tuple[int, ...]
    has_block_mask: tuple[bool, ...]
    block_ids: Tensor
    position_ids: Tensor

    @classmethod
    def of(cls, lengths: Sequence[int], block_masks: Sequence[BlockMask | None] = ()) -> Packing:
        """Rows in the given order; neighbors of equal length are computed together. Raises InputError."""
        if not lengths or min(lengths) < 1:
            raise InputError(f"lengths={list(lengths)} must be positive; leave empty rows out")
        block_masks = block_masks or (None,) * len(lengths)
        known = [
            length if block_mask is None else len(block_mask.block_ids) for length, block_mask in zip(lengths, block_masks, strict=True)
        ]
        if known != list(lengths):
            raise InputError(f"rows of {list(lengths)} tokens with block masks of {known}; they must agree")
        block_ids = [torch.zeros(n, dtype=torch.long) if s is None else s.block_ids for n, s in zip(lengths, block_masks, strict=True)]
        position_ids = [
            torch.arange(n) if s is None or s.position_ids is None else s.position_ids for n, s in zip(lengths, block_masks, strict=True)
        ]
        return cls(
            tuple(lengths), tuple(block_mask is not None for block_mask in block_masks), torch.cat(block_ids), torch.cat(position_ids)
        )

    @property
    def num_tokens(self) -> int:
        return sum(self.lengths)

    @cached_property
    def num_positions(self) -> int:
        """Positions of the row that has most: a row with a noised copy of its answer has more tokens than positions."""
        return int(self.position_ids.max()) + 1

    @cached_property
    def runs(self) -> tuple[tuple[int, int], ...]:
        """Neighbors that are computed together, of equal length and with or without a block mask: (rows, length)."""
        groups = groupby(zip(self.lengths, self.has_block_mask, strict=True))
        return tuple((len(list(group)), length) for (length, _), group in groups)

    def starts(self) -> Tensor:
        """(T,) int64 on the CPU: where each token's row begins."""
        lengths = torch.tensor(self.lengths)
        return (lengths.cumsum(0) - lengths).repeat_interleave(lengths)


@dataclass(frozen=True, slots=True)
class AttentionBias:
    """The attention mask as numbers, ready for every layer: either a packing, or an additive bias broadcastable to (B, H, L, L), or neither.

    biases  for each run of the packing, or of `kv_cache`: (rows, 1, queries, keys), or None for full attention
    kv_cache  which tokens of the packing are evaluated, and the keys and values of the others; layer says whose
    position_ids  for each run of `kv_cache`, where its windows stand in their rows
    """

    packing: Packing | None = None
    bias: Tensor | None = None
    biases: tuple[Tensor | None, ...] = ()
    kv_cache: PackedKVCache | None = None
    position_ids: tuple[Tensor, ...] = ()
    layer: int = 0

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All numbers that it holds."""
        return *(bias for bias in (self.bias, *self.biases) if bias is not None), *self.position_ids

    def with_tensors(self, tensors: Sequence[Tensor]) -> AttentionBias:
        """The same with other tensors of the same shapes, in the order of `tensors`."""
        rest = iter(tensors)
        bias, *biases = (None if old is None else next(rest) for old in (self.bias, *self.biases))
        return replace(self, bias=bias, biases=tuple(biases), position_ids=tuple(rest))

    @property
    def shape(self) -> Hashable | None:
        """All of packed rows but numbers: passes that are alike in it run the same kernels. None if they change more than numbers."""
        if self.packing is None:
            return None
        hidden = tuple(None if bias is None else (bias.shape, bias.dtype) for bias in self.biases)
        if self.kv_cache is None:
            return self.packing.lengths, self.packing.has_block_mask, hidden
        cached = self.kv_cache.shape
        return None if cached is None else (cached, hidden)

    def at(self, layer: int) -> AttentionBias:
        """The same for one layer. Only a KV cache differs between layers; without one all layers share one object."""
        return self if self.kv_cache is None else replace(self, layer=layer)


def attention_bias(
    mask: Tensor | Packing | None,
    shape: tuple[int, int],
    *,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    mask_value: float | None = None,
    kv_cache: PackedKVCache | None = None,
) -> AttentionBias:
    """Turn a mask for tokens of `shape` (B, L) into numbers, once per forward pass.

    mask_value  what is added to the score of a hidden pair; None is -inf. The published training code adds 1 to visible
                  pairs and nothing to hidden ones, which is -1.0 here (docs/parity.md, "soft mask").
    kv_cache      of packed rows, evaluate these windows only
    A query that sees nothing (padding under a pair mask) attends to everything alike, so that it stays finite.
    Raises InputError unless the mask is bool or of 0 and 1 and has one of the shapes above, or if there is a `kv_cache` without a packing.
    """
    rows, length = shape
    if kv_cache is not None and not isinstance(mask, Packing):
        raise InputError("reuse is for packed rows; give a Packing as attention_mask")
    if mask is None:
        return AttentionBias()
    if isinstance(mask, Packing):
        if rows != 1 or mask.num_tokens != length:
            raise InputError(f"tokens {shape} must be one row of the {mask.num_tokens} tokens that are packed")
        windows = [(0, length) for length in mask.lengths] if kv_cache is None else kv_cache.windows
        sizes = [rows for rows, _ in mask.runs] if kv_cache is None else kv_cache.rows
        biases = _biases(mask, windows, sizes, dtype, device)
        return AttentionBias(
            packing=mask, biases=biases, kv_cache=kv_cache, position_ids=() if kv_cache is None else kv_cache.position_ids(device)
        )
    mask = as_bool(mask)
    if tuple(mask.shape) == (rows, 1, length, length):
        mask = mask[:, 0]  # as transformers has them: one for all heads
    if tuple(mask.shape) == (rows, length):
        pairs = mask[:, None, None, :]
    elif tuple(mask.shape) == (rows, length, length):
        pairs = mask[:, None]
    else:
        raise InputError(f"attention_mask has the shape {tuple(mask.shape)}; expected ({rows}, {length}) or ({rows}, {length}, {length})")
    hidden = torch.finfo(dtype).min if mask_value is None else mask_value
    return AttentionBias(bias=torch.zeros(pairs.shape, dtype=dtype, device=mask.device).masked_fill(~pairs, hidden))


def as_bool(mask: Tensor) -> Tensor:
    """A mask of 0 and 1, as tokenizers make them, as bool: 1 is True. A bool mask stays as it is.

    Raises InputError for other numbers, and for floating point, whose conventions contradict each other: 0 hides in one and shows in another.
    """
    if mask.dtype == torch.bool:
        return mask
    if mask.is_floating_point() or mask.is_complex():
        raise InputError(
            f"attention_mask has dtype {mask.dtype}, where 0 may mean hidden or visible; give a mask of bool, or of the whole numbers 0 and 1 (1: visible)"
        )
    # A compiled graph takes the numbers as they are: looking at them would break it.
    if not torch.compiler.is_compiling() and bool(((mask != 0) & (mask != 1)).any()):
        raise InputError(
            f"attention_mask holds numbers from {int(mask.min())} to {int(mask.max())}; give 1 where a token may be attended to, 0 elsewhere"
        )
    return mask.bool()


def _biases(
    packing: Packing, windows: Sequence[tuple[int, int]], sizes: Sequence[int], dtype: torch.dtype, device: torch.device | str
) -> tuple[Tensor | None, ...]:
    """For each run of `sizes` rows, whose lengths and windows are equal, an additive bias (rows, 1, queries, keys), or None."""
    found: list[Tensor | None] = []
    block_ids = packing.block_ids.to(device) if any(packing.has_block_mask) else packing.block_ids
    row = first = 0
    for size in sizes:
        length, (start, stop) = packing.lengths[row], windows[row]
        if packing.has_block_mask[row]:
            own = block_ids[first : first + size * length].unflatten(0, (size, length))
            is_hidden = ~can_attend(own[:, start:stop, None], own[:, None])[:, None]
            found.append(torch.zeros(is_hidden.shape, dtype=dtype, device=device).masked_fill(is_hidden, torch.finfo(dtype).min))
        else:
            found.append(None)
        row, first = row + size, first + size * length
    return tuple(found)


@dataclass(frozen=True, slots=True, eq=False)
class Neighbors:
    """The tokens at offsets of -reach .. reach.

    seen   (2 reach + 1, B, L) bool, whether each is there and seen
    index  (2 reach + 1, L) int64, which token it is, if some do not stand at that offset; else None
    """

    seen: Tensor
    index: Tensor | None = None


def neighbors(mask: Tensor | Packing | None, reach: int, device: torch.device) -> Neighbors | None:
    """The tokens around each, or None if only the ends of rows count.

    mask  as for `attention_bias`, which checks it: padding is not seen, nor is another packed row, nor what a block mask hides
    """
    if mask is None:
        return None
    if isinstance(mask, Packing):
        return _packed_neighbors(mask, torch.arange(-reach, reach + 1, device=device), device)
    mask = as_bool(mask)
    mask = mask[:, 0] if mask.dim() == 4 else mask
    offsets = torch.arange(-reach, reach + 1, device=device)
    index = torch.arange(mask.shape[1], device=device) + offsets[:, None]  # (2 reach + 1, L)
    inside = (index >= 0) & (index < mask.shape[1])
    here, there = torch.arange(mask.shape[1], device=device), index.clamp(0, mask.shape[1] - 1)
    seen = mask[:, there] if mask.dim() == 2 else mask[:, here, there]  # (B, 2 reach + 1, L)
    return Neighbors(seen.transpose(0, 1) & inside[:, None])


def _packed_neighbors(packing: Packing, offsets: Tensor, device: torch.device) -> Neighbors:
    """A token's neighbors stand beside it; before the first one of a noised block stands the clean answer, which is elsewhere in the row."""
    position_ids, block_ids, starts = packing.position_ids.to(device), packing.block_ids.to(device), packing.starts().to(device)
    wanted, here = position_ids + offsets[:, None], torch.arange(packing.num_tokens, device=device)

    def is_there(index: Tensor) -> Tensor:
        inside = (index >= 0) & (index < packing.num_tokens)
        index = index.clamp(0, packing.num_tokens - 1)
        return inside & (starts[index] == starts) & (position_ids[index] == wanted) & can_attend(block_ids, block_ids[index])

    beside = here + offsets[:, None]  # (2 reach + 1, T)
    seen = is_there(beside)
    if not bool((packing.block_ids % 2).any()):
        return Neighbors(seen[:, None])
    elsewhere = starts + wanted
    index = beside.where(seen, elsewhere).clamp(0, packing.num_tokens - 1)
    return Neighbors((seen | is_there(elsewhere))[:, None], index)


def attend(q: Tensor, k: Tensor, v: Tensor, attn_bias: AttentionBias) -> Tensor:
    """Scaled dot-product attention, scale 1/sqrt(head_dim). q (B, L, H, hd), k and v (B, L, K, hd), H a multiple of K -> (B, L, H, hd)."""
    if attn_bias.packing is None:
        return _sdpa(q, k, v, attn_bias.bias)
    if attn_bias.kv_cache is not None:
        runs_of_cache = attn_bias.kv_cache.update(attn_bias.layer, k[0], v[0], attn_bias.position_ids)
        runs = zip(q[0].split(attn_bias.kv_cache.sizes), runs_of_cache, attn_bias.biases, strict=True)
        with sdpa_kernel(_KERNELS) if q.is_cuda else nullcontext():
            return torch.cat([_sdpa(a.unflatten(0, (rows, -1)), b, c, bias).flatten(0, 1) for a, (rows, b, c), bias in runs])[None]
    return _packed(q, k, v, attn_bias.packing, attn_bias.biases)


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
    """Keep torch.compile out of packed attention: runs differ from batch to batch, and a block must not be specialized on them.

    Called when a block is compiled, not when this file is imported: marking the function imports the compiler, as long as torch itself.
    """
    global _packed
    if _packed is _attend_packed:
        _packed = torch.compiler.disable(_attend_packed)


def rotary(positions: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """cos and sin, each (L, head_dim) float32, of the angles positions * theta^(-2j/head_dim) for both halves; sin is negative in the first."""
    frequency = theta ** (-torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim)
    angle = positions.float()[:, None] * frequency[None]
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate (B, L, H, hd) in float32 by the half-split convention: (a, b) -> (a cos - b sin, b cos + a sin). cos and sin are of `rotary`."""
    wide = x.float()
    a, b = wide.chunk(2, dim=-1)
    turned = torch.cat([b, a], dim=-1).mul_(sin[:, None]).add_(wide * cos[:, None])
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
