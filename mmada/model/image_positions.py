"""Where an image token stands in its image, read off the ids alone.

    text text <soi> 7 9 <mask> 4 <eoi> text          ids
      -1   -1    -1 0 1      2 3    -1   -1          places

Rotary positions count from the start of a row, and an image starts wherever its prompt ends. A small network spends much of its
training on finding out which row and column a token is in. A model with `image_positions` adds a learned vector for each place.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmada.canvas import VocabLayout

__all__ = ["image_position_ids"]


def image_position_ids(ids: Tensor, layout: VocabLayout) -> Tensor:
    """(..., L) ids -> (..., L) int64: how many image tokens of the same image come before, -1 outside of images.

    An image begins behind <soi> and ends before <eoi>; masks inside have places as codes do.
    """
    index = torch.arange(ids.shape[-1], device=ids.device).expand_as(ids)
    opened = torch.where(ids == layout.special("soi"), index, -1).cummax(-1).values
    closed = torch.where(ids == layout.special("eoi"), index, -1).cummax(-1).values
    return torch.where((opened > closed) & (opened < index), index - opened - 1, -1)
