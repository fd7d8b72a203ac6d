"""A canvas: a token sequence in which every position is either given or open.

    tokens   [mmu][soi] v v v v [eoi][bos] u s e r … [M][M][M][M]
    open      .    .    . . . .  .    .    . . . . .  1  1  1  1        one field: the answer, text ids allowed
    attend    1    1    1 1 1 1  1    1    1 1 1 1 1  1  1  1  1        False on padding, which is never attended to

Chat, captioning, drawing, thinking before drawing, inpainting and infilling differ only in the canvas; one sampler fills
them all (sampling/loop.py). In training the same object holds the clean tokens, and its fields are what may be masked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mmada.canvas.vocab import IdRange
from mmada.errors import InputError

__all__ = ["Canvas", "Field", "Stack", "stack"]


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """Open positions that are filled with one kind of token.

    positions  (N,) int64, ascending
    ids        the ids allowed there
    num_total  size of the whole region, given positions included (an inpainted image: all of its tokens)
    """

    positions: Tensor
    ids: IdRange
    num_total: int


@dataclass(frozen=True, slots=True, eq=False)
class Canvas:
    """One row: what is given, what is open, what is padding.

    tokens  (L,) int64; for sampling, open positions hold the mask id; for training, the clean ids
    attend  (L,) bool; True on one contiguous run, padding lies before or after it
    fields  disjoint sets of open positions
    Raises InputError if a field is empty, does not ascend, leaves the row or lies on padding, or if fields overlap.
    """

    tokens: Tensor
    attend: Tensor
    fields: tuple[Field, ...]

    def __post_init__(self) -> None:
        length = len(self.tokens)
        if self.tokens.dim() != 1 or self.attend.shape != self.tokens.shape or self.attend.dtype != torch.bool:
            raise InputError(
                f"tokens {tuple(self.tokens.shape)} and attend {tuple(self.attend.shape)} must be 1-D of one length, attend bool"
            )
        attended = self.attend.nonzero()[:, 0]
        if len(attended) == 0 or int(attended[-1] - attended[0]) + 1 != len(attended):
            raise InputError("attend must be True on one contiguous run; padding goes before or after the content")
        counts = torch.zeros(length, dtype=torch.long)
        for field in self.fields:
            at = field.positions.cpu()
            if len(at) == 0:
                raise InputError("the canvas has nothing to fill in one of its fields; leave at least one position open")
            if int(at.min()) < 0 or int(at.max()) >= length or not bool(self.attend.cpu()[at].all()):
                raise InputError(
                    f"open positions {int(at.min())}..{int(at.max())} must lie on the attended part of a row of {length} tokens"
                )
            if bool((at[1:] <= at[:-1]).any()):
                raise InputError(f"open positions {at.tolist()} must ascend, each given once; sort them")
            counts[at] += 1
        if int(counts.max()) > 1:
            raise InputError("a position may be open in one field only")

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def is_open(self) -> Tensor:
        """(L,) bool: what the sampler fills, or what training may mask."""
        open_ = torch.zeros_like(self.attend)
        for field in self.fields:
            open_[field.positions] = True
        return open_

    @property
    def span(self) -> tuple[int, int]:
        """[start, stop) of the attended run."""
        start = int(self.attend.int().argmax())
        return start, start + int(self.attend.sum())

    @property
    def ends_open(self) -> bool:
        """Whether the open positions are one run at the end of what is attended to, so that the row can grow with them."""
        at = self.is_open.nonzero()[:, 0]
        return len(at) > 0 and int(at[-1] - at[0]) + 1 == len(at) and int(at[-1]) + 1 == self.span[1]

    def masked(self, mask_id: int) -> Canvas:
        """The same canvas with every open position set to the mask id: a training row as a prompt."""
        return replace(self, tokens=torch.where(self.is_open, mask_id, self.tokens))

    def clean(self, *ids: Sequence[int]) -> Canvas:
        """The same canvas with what each of its fields is to become: a prompt as a training row, the inverse of `masked`.

        Raises InputError unless there are as many ids as open positions in every field.
        """
        counts, wanted = [len(one) for one in ids], [len(field.positions) for field in self.fields]
        if counts != wanted:
            raise InputError(f"ids of {counts} positions do not fill fields of {wanted}; give one for each open position")
        tokens = self.tokens.clone()
        for field, values in zip(self.fields, ids, strict=True):
            tokens[field.positions] = torch.tensor(list(values), dtype=tokens.dtype)
        return replace(self, tokens=tokens)

    def only(self, field: int) -> Canvas:
        """The same canvas with one of its fields; the open positions of the others stay as they are."""
        return replace(self, fields=(self.fields[field],))

    def to(self, device: torch.device | str) -> Canvas:
        """The same canvas with all of its tensors on a device."""
        fields = tuple(replace(f, positions=f.positions.to(device)) for f in self.fields)
        return Canvas(self.tokens.to(device), self.attend.to(device), fields)


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """Canvases as one right-padded batch: tokens (B, L) int64, attend (B, L) bool, is_open (B, L) bool."""

    tokens: Tensor
    attend: Tensor
    is_open: Tensor


def stack(canvases: Sequence[Canvas], *, pad_id: int, length: int | None = None) -> Stack:
    """Pad on the right with `pad_id`, which is not attended to, up to `length` or the longest canvas.

    Raises InputError if there is no canvas, or one is longer than `length`.
    """
    if not canvases:
        raise InputError("canvases=[] is empty; give at least one")
    longest = max(len(c) for c in canvases)
    length = longest if length is None else length
    if longest > length:
        raise InputError(f"length={length} is shorter than the longest canvas of {longest} tokens; raise it or shorten the row")
    first = canvases[0].tokens
    tokens = first.new_full((len(canvases), length), pad_id)
    attend = torch.zeros_like(tokens, dtype=torch.bool)
    is_open = torch.zeros_like(attend)
    for row, canvas in enumerate(canvases):
        tokens[row, : len(canvas)] = canvas.tokens
        attend[row, : len(canvas)] = canvas.attend
        is_open[row, : len(canvas)] = canvas.is_open
    return Stack(tokens, attend, is_open)
