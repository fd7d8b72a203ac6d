"""From the features of a decoder to a picture several times as large: what an enlarged picture lacks in sharpness.

    features, signs (B, D, h, w)   conv_in (3x3)   blocks (1x1)   enlarge   cells (B, C, 4 h, 4 w)   hidden, conv_out (1x1)   (B, 3, s H, s W)
    decoded picture (B, 3, H, W)   bilinear                                                                                 + (B, 3, s H, s W)

After the first convolution each code's square is drawn by itself. So training can leave out the squares in which nothing is drawn, and a picture
costs little on a CPU. The pieces of a square share their last two layers: an edge is an edge wherever it is.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmada.errors import InputError
from mmada.image.magvit2 import ResnetBlock

__all__ = ["CELLS", "Upscaler", "enlarged", "squares"]

CELLS = 4
"""Cells along the side of a code's square that share their last layers."""


class Upscaler(nn.Module):
    """(B, features, h, w) -> (B, 3, h side, w side), to be added to the enlarged picture.

    side  pixels along the side of the square that a code is decoded to
    ch    channels of a code; a cell has a quarter of them
    Raises InputError if side is no multiple of CELLS, or ch none of 4.
    """

    def __init__(self, *, features: int, ch: int, num_res_blocks: int, side: int) -> None:
        super().__init__()
        if side % CELLS or ch % 4 or ch < 4 or num_res_blocks < 0:
            raise InputError(
                f"a square of {side} pixels and upscaler_ch={ch} must be multiples of {CELLS} and 4, "
                f"and upscaler_num_res_blocks={num_res_blocks} must not be negative"
            )
        self.patch = side // CELLS
        self.conv_in = nn.Conv2d(features, ch, kernel_size=3, padding=1)
        self.blocks = nn.ModuleList(ResnetBlock(ch, ch, kernel=1) for _ in range(num_res_blocks))
        self.enlarge = nn.Conv2d(ch, CELLS**2 * (ch // 4), kernel_size=1)
        self.hidden = nn.Conv2d(ch // 4, 3 * ch // 4, kernel_size=1)
        self.conv_out = nn.Conv2d(3 * ch // 4, 3 * self.patch**2, kernel_size=1)

    def reset_parameters(self) -> None:
        """Begin near 0, at the enlarged picture."""
        with torch.no_grad():
            self.conv_out.weight.mul_(0.1)
            self.conv_out.bias.zero_()  # type: ignore[union-attr]

    def draw(self, x: Tensor) -> Tensor:
        """(N, ch, h, w) of `conv_in`, any positions of any pictures -> (N, 3, h side, w side)."""
        for block in self.blocks:
            x = block(x)
        cells = F.pixel_shuffle(self.enlarge(F.silu(x)), CELLS)
        return F.pixel_shuffle(self.conv_out(F.silu(self.hidden(F.silu(cells)))), self.patch)

    def forward(self, features: Tensor) -> Tensor:
        """(B, features, h, w) of the decoder -> (B, 3, h side, w side)."""
        return self.draw(self.conv_in(features))


def enlarged(pixels: Tensor, scale: int) -> Tensor:
    """(B, 3, H, W) -> (B, 3, scale H, scale W), bilinear."""
    return F.interpolate(pixels, scale_factor=float(scale), mode="bilinear", align_corners=False)


def squares(x: Tensor, side: int) -> Tensor:
    """(B, C, h side, w side) -> (B h w, C, side, side), in raster order."""
    blocks = x.unflatten(2, (-1, side)).unflatten(4, (-1, side))  # (B, C, h, side, w, side)
    rows: Tensor = blocks.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
    return rows
