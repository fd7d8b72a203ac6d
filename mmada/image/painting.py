"""Which codes of an image are drawn anew, where a rectangle in its middle is masked (inpainting) or all around it (outpainting).

    inpainting   given given given given      outpainting   [M] [M]   [M]   [M]
                 given [M]   [M]   given                    [M] given given [M]
                 given given given given                    [M] [M]   [M]   [M]

Source: Lumina-DiMOO and MMaDA-Parallel-A, whose commands take a share of the height and of the width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from mmada.errors import InputError

__all__ = ["PaintedRegion"]

_GRAY = (127, 127, 127)


@dataclass(frozen=True, kw_only=True, slots=True)
class PaintedRegion:
    """A rectangle in the middle of an image of (height, width) pixels.

    Raises InputError if a share lies outside 0 .. 1 or the image is empty.
    """

    height: int
    width: int
    height_share: float
    """of the image's height that the rectangle has"""
    width_share: float
    """of the image's width"""
    outside: bool = False
    """whether its surroundings are masked in its place"""

    def __post_init__(self) -> None:
        if not 0 <= self.height_share <= 1 or not 0 <= self.width_share <= 1:
            raise InputError(f"height_share={self.height_share} and width_share={self.width_share} must lie between 0 and 1")
        if self.height < 1 or self.width < 1:
            raise InputError(f"height={self.height} and width={self.width} must be positive")

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, upper, right and lower edge in pixels; the last two are the first that lie outside."""
        width, height = round(self.width_share * self.width), round(self.height_share * self.height)
        left, upper = (self.width - width) // 2, (self.height - height) // 2
        return left, upper, left + width, upper + height

    def mask(self, factor: int) -> Tensor:
        """(height / factor, width / factor) bool: codes of which more than half lies where the image is masked.

        Raises InputError if the image is no multiple of `factor`.
        """
        if self.height % factor or self.width % factor:
            raise InputError(f"height={self.height} and width={self.width} must be multiples of factor={factor}")
        left, upper, right, lower = self.box
        covered = torch.zeros(self.height, self.width)
        covered[upper:lower, left:right] = 1
        covered = 1 - covered if self.outside else covered
        return F.avg_pool2d(covered[None, None], factor)[0, 0] > 0.5

    def preview(self, image: Image.Image) -> Image.Image:
        """The image with the masked part in gray. An inner rectangle is a pixel larger than its mask, as published."""
        left, upper, right, lower = self.box
        if self.outside:
            shown = Image.new("RGB", image.size, _GRAY)
            shown.paste(image.crop(self.box), (left, upper))
            return shown
        shown = image.copy()
        ImageDraw.Draw(shown).rectangle((left, upper, right, lower), fill=_GRAY)
        return shown
