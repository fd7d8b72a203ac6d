"""Noised rows, and how they are laid end to end for one forward pass. Training and reinforcement learning share this file.

    NoisedRow   what the model sees, what it should say, and where it is scored
    join_looks  several looks at one answer in one row, for models whose blocks do not see ahead
    pack        rows end to end, without padding, and the list of what is scored

Looks that share a row (canvas.BlockMask): the answer as it is, once, then each look's block, noised

    clean   p p p | a a a a | b b b b | c c . .            a prompt, and three blocks
    row     p p p a a a a b b b b | a M a M | M M b M | c M . .     each noised block sees what comes before it, as it is, and itself
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Self, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from mmada.canvas import BlockMask, causal_block_ids
from mmada.model import Packing

__all__ = ["NoisedRow", "Packed", "join_looks", "moved", "pack"]

T = TypeVar("T")
Row = TypeVar("Row", bound="NoisedRow")

_PADDING = 2**31 + 1
"""Level of padding: odd, and so seen by itself alone."""
_TENSORS = ("tokens", "clean", "attend", "scored", "weight")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class NoisedRow:
    """A row as the model sees it.

    tokens  (L,) int64, with masks in place; clean (L,) int64 holds the targets
    attend  (L,) bool; scored (L,) bool; weight (L,) float, read where something is scored
    span    [start, stop) of the attended run
    block_mask  block mask; None for full attention
    """

    tokens: Tensor
    clean: Tensor
    attend: Tensor
    scored: Tensor
    weight: Tensor
    span: tuple[int, int]
    block_mask: BlockMask | None = None

    def cut(self) -> Self:
        """Nothing but the attended run."""
        start, stop = self.span
        parts = {name: getattr(self, name)[start:stop] for name in _TENSORS}
        block_mask = None if self.block_mask is None else self.block_mask.cut(start, stop)
        return replace(self, span=(0, stop - start), block_mask=block_mask, **parts)

    def rounded(self, multiple: int, fill: int) -> Self:
        """With padding after the row, which nothing else sees, up to a multiple of so many tokens."""
        length = len(self.tokens)
        block_mask = self.block_mask or BlockMask(torch.zeros(length, dtype=torch.long))
        position_ids = torch.arange(length) if block_mask.position_ids is None else block_mask.position_ids
        missing = -length % multiple

        def padded(x: Tensor, value: float) -> Tensor:
            return F.pad(x, (0, missing), value=value)

        fills = {"tokens": fill, "clean": fill}
        parts: dict[str, Any] = {name: padded(getattr(self, name), fills.get(name, 0)) for name in _TENSORS}
        return replace(self, block_mask=BlockMask(padded(block_mask.block_ids, _PADDING), padded(position_ids, 0)), **parts)


def join_looks(looks: Sequence[tuple[Row, int, int]], first: int, block_length: int, *, prompt_in_blocks: bool = False) -> Row:
    """One row for several looks at one canvas, each of which noises one block of the answer.

    looks  (the whole row as this look shows it, begin and end of its block); all show the same prompt. They may be one row
    first  position where the answer begins
    prompt_in_blocks  blocks are counted from the beginning of the row, and a look shows what the prompt holds of its block, too
    The row has the fields of the first look. Cut it as any other.
    """
    origin = 0 if prompt_in_blocks else first
    blocks = [(begin - origin) // block_length for _, begin, _ in looks]
    last, most = origin + max(blocks) * block_length, max(map(blocks.count, blocks))
    is_answer = torch.arange(last) >= first
    # The last block need not stand there as it is: no block comes after it.
    shown = looks[0][0]
    parts = {name: [getattr(shown, name)[:last]] for name in _TENSORS}
    parts["tokens"] = [torch.where(is_answer, shown.clean[:last], shown.tokens[:last])]
    parts["scored"] = [shown.scored[:last] & ~is_answer]
    parts["weight"] = [shown.weight[:last].masked_fill(is_answer, 0.0)]
    block_ids, position_ids = [most * causal_block_ids(origin, last - origin, block_length)], [torch.arange(last)]
    for i, ((look, begin, end), block) in enumerate(zip(looks, blocks, strict=True)):
        for name in _TENSORS:
            parts[name].append(getattr(look, name)[begin:end])
        # Looks at the same block see what comes before it and not each other: each has an odd level of its own.
        block_ids.append(torch.full((end - begin,), 2 * most * block + 2 * blocks[:i].count(block) + 1))
        position_ids.append(torch.arange(begin, end))
    block_mask = BlockMask(torch.cat(block_ids), torch.cat(position_ids))
    joined: dict[str, Any] = {name: torch.cat(pieces) for name, pieces in parts.items()}
    return replace(shown, span=(shown.span[0], len(block_mask.block_ids)), block_mask=block_mask, **joined)


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """Rows laid end to end, and the S positions that are scored, in the order of the tokens.

    tokens     (T,) int64; packing says where rows begin and which tokens attend to which
    positions  (S,) int64 into the tokens; row (S,) int64, whose it is; targets (S,) int64 clean ids; weight (S,)
    """

    tokens: Tensor
    packing: Packing
    positions: Tensor
    row: Tensor
    targets: Tensor
    weight: Tensor


def pack(rows: Sequence[NoisedRow]) -> Packed:
    """Rows in the given order; neighbors of equal length are computed together. Raises InputError if one is empty."""
    lengths = [len(row.tokens) for row in rows]
    tokens, clean, _, scored, weight = (torch.cat([getattr(row, name) for row in rows]) for name in _TENSORS)  # (T,)
    positions = scored.nonzero()[:, 0]
    owner = torch.arange(len(rows)).repeat_interleave(torch.tensor(lengths))
    packing = Packing.of(lengths, [row.block_mask for row in rows])
    return Packed(tokens, packing, positions, owner[positions], clean[positions], weight[positions])


def moved(record: T, device: torch.device | str) -> T:
    """A record with its tensors on a device. A Packing stays on the CPU, where it is read."""
    found: Any = record
    if isinstance(record, Tensor):
        found = record.to(device, non_blocking=True)
    elif isinstance(record, tuple):
        found = tuple(moved(item, device) for item in record)
    elif is_dataclass(record) and not isinstance(record, (Packing, type)):
        found = replace(record, **{f.name: moved(getattr(record, f.name), device) for f in fields(record)})
    return found  # type: ignore[no-any-return]
