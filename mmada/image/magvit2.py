"""The MAGVIT-v2 networks: pixels -> latents (Encoder) and signs -> pixels (Decoder), fully convolutional.

    pixels (B, 3, H, W)  conv_in  down.0 ... down.n  mid  norm_out  conv_out  quant_conv   latents (B, K, H/f, W/f)
    pixels (B, 3, H, W)  conv_out  norm_out  up.0 ... up.n  mid  conv_in  post_quant_conv  signs   (B, K, H/f, W/f)

Read the second line from right to left. Level i works at 1/2^i of the image size with ch * ch_mult[i] channels; all levels
but the last one halve (or, backwards, double) the sides, so f = 2^n. With a patch of p > 1, p x p pixels become the channels of
one position first. Level 0 then works at 1/p of the image size, and f = p 2^n. Only the attention of `mid` sees the whole image.
Attribute names are those of the published state dict (showlab/magvitv2). Source: Yu et al. 2023; Esser et al. 2021 for the blocks.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from mmada.errors import InputError

__all__ = ["MAX_GROUPS", "Decoder", "Encoder", "NetworkShape"]

MAX_GROUPS = 32
"""Groups of each GroupNorm; a width below 32 gets one group per channel (no published network has one)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkShape:
    """Sizes of an encoder or a decoder. Level 0 works at full image size.

    Raises InputError if a list is empty or of the wrong length, a number is not positive, or a width does not divide into groups.
    """

    ch: int
    """channels at multiplier 1; also those of the encoder's first convolution"""
    ch_mult: tuple[int, ...]
    """channels of each level, in units of ch"""
    num_res_blocks: tuple[int, ...]
    """residual blocks of each level"""
    z_channels: int
    """channels of the latent, which are the bits of a code"""
    attn_resolutions: tuple[int, ...]
    """levels whose nominal side is listed attend after each block, on top of the attention in `mid`"""
    resolution: int
    """nominal side of level 0 in pixels. It only selects the levels with attention; any image size is accepted"""
    patch: int = 1
    """side of the squares of pixels that level 0 takes as one; 1, as published, is full size, more is faster"""
    kernel: int = 3
    """side of the convolutions, of an encoder only: 3, as published, or 1 without attention, where each square is encoded by itself"""

    def __post_init__(self) -> None:
        if not self.ch_mult or len(self.ch_mult) != len(self.num_res_blocks):
            raise InputError(
                f"ch_mult={self.ch_mult} and num_res_blocks={self.num_res_blocks} need one number for each level, at least one"
            )
        if self.kernel not in (1, 3) or (self.kernel == 1 and (len(self.ch_mult) > 1 or any(map(self.attends, range(len(self.ch_mult)))))):
            raise InputError(f"kernel={self.kernel} must be 3, or 1 with one level that does not attend, got {self}")
        if min(self.ch, self.z_channels, self.resolution, self.patch, *self.ch_mult, *self.num_res_blocks) < 1:
            raise InputError(f"all sizes must be positive, got {self}")
        uneven = [width for width in (self.ch, *self.widths) if width % min(MAX_GROUPS, width)]
        if uneven:
            raise InputError(
                f"ch={self.ch} and ch_mult={self.ch_mult} give widths {uneven}; a width above {MAX_GROUPS} must be a multiple of it"
            )

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(self.ch * factor for factor in self.ch_mult)

    def attends(self, level: int) -> bool:
        """Whether blocks of a level have attention, which depends on its resolution. Level 0 is that of the pixels."""
        return self.resolution // 2**level in self.attn_resolutions


class _PositionNorm(nn.GroupNorm):
    """Normalize each position by itself, in one group. Nothing from other positions gets in."""

    def __init__(self, width: int) -> None:
        super().__init__(1, width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1).flatten(0, -2)).view(*x.shape[:1], *x.shape[2:], -1).movedim(-1, 1)


def _norm(width: int, kernel: int = 3) -> nn.GroupNorm:
    return _PositionNorm(width) if kernel == 1 else nn.GroupNorm(min(MAX_GROUPS, width), width, eps=1e-6)


def _conv3(width_in: int, width: int, kernel: int = 3) -> nn.Conv2d:
    return nn.Conv2d(width_in, width, kernel_size=kernel, padding=kernel // 2)


def _conv1(width_in: int, width: int) -> nn.Conv2d:
    return nn.Conv2d(width_in, width, kernel_size=1)


class ResnetBlock(nn.Module):
    """x + two 3x3 convolutions. Where the width changes, x passes a 1x1 convolution."""

    def __init__(self, width_in: int, width: int, kernel: int = 3) -> None:
        super().__init__()
        self.norm1 = _norm(width_in, kernel)
        self.conv1 = _conv3(width_in, width, kernel)
        self.norm2 = _norm(width, kernel)
        self.conv2 = _conv3(width, width, kernel)
        self.nin_shortcut = _conv1(width_in, width) if width_in != width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + self.nin_shortcut(x)  # type: ignore[no-any-return]


class AttnBlock(nn.Module):
    """x + full self-attention over positions, with one head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = _norm(width)
        self.q = _conv1(width, width)
        self.k = _conv1(width, width)
        self.v = _conv1(width, width)
        self.proj_out = _conv1(width, width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (to(h).flatten(2).transpose(1, 2).unsqueeze(1) for to in (self.q, self.k, self.v))  # (B, 1, h w, D)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(mixed.squeeze(1).transpose(1, 2).reshape(x.shape))  # type: ignore[no-any-return]


class Downsample(nn.Module):
    """Halve height and width. Padding is one row at the bottom and one column at the right."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, kernel_size=3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))  # type: ignore[no-any-return]


class Upsample(nn.Module):
    """Double height and width by repetition, then convolve."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = _conv3(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))  # type: ignore[no-any-return]


class Level(nn.Module):
    """Residual blocks at one image size, each with optional attention; then an optional change of size."""

    def __init__(
        self,
        width_in: int,
        width: int,
        num_blocks: int,
        *,
        attends: bool,
        downsample: bool = False,
        upsample: bool = False,
        kernel: int = 3,
    ) -> None:
        super().__init__()
        self.block = nn.ModuleList(ResnetBlock(width if j else width_in, width, kernel) for j in range(num_blocks))
        self.attn = nn.ModuleList(AttnBlock(width) if attends else nn.Identity() for _ in range(num_blocks))
        self.downsample = Downsample(width) if downsample else nn.Identity()
        self.upsample = Upsample(width) if upsample else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        for block, attn in zip(self.block, self.attn, strict=True):
            x = attn(block(x))
        return self.upsample(self.downsample(x))  # type: ignore[no-any-return]


def _middle(width: int, kernel: int = 3) -> nn.Sequential:
    parts: dict[str, nn.Module] = {"block_1": ResnetBlock(width, width, kernel), "block_2": ResnetBlock(width, width, kernel)}
    if kernel > 1:
        parts = {"block_1": parts["block_1"], "attn_1": AttnBlock(width), "block_2": parts["block_2"]}
    return nn.Sequential(OrderedDict(parts))


class Encoder(nn.Module):
    """(B, 3, H, W) in [-1, 1] -> latents (B, z_channels, H/f, W/f)."""

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        widths = shape.widths
        sizes = zip((shape.ch, *widths[:-1]), widths, shape.num_res_blocks, strict=True)
        self.patch = shape.patch
        kernel = shape.kernel
        self.conv_in = _conv3(3 * shape.patch**2, shape.ch, kernel)
        self.down = nn.ModuleList(
            Level(*size, attends=shape.attends(i), downsample=i + 1 < len(widths), kernel=kernel) for i, size in enumerate(sizes)
        )
        self.mid = _middle(widths[-1], kernel)
        self.norm_out = _norm(widths[-1], kernel)
        self.conv_out = _conv3(widths[-1], shape.z_channels, kernel)
        self.quant_conv = _conv1(shape.z_channels, shape.z_channels)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.conv_in(F.pixel_unshuffle(pixels, self.patch) if self.patch > 1 else pixels)
        for level in self.down:
            x = level(x)
        x = F.silu(self.norm_out(self.mid(x)))
        return self.quant_conv(self.conv_out(x))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """Signs (B, z_channels, h, w) -> (B, 3, h f, w f), near [-1, 1] but not bounded."""

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        widths = shape.widths
        sizes = zip((*widths[1:], widths[-1]), widths, shape.num_res_blocks, strict=True)
        self.post_quant_conv = _conv1(shape.z_channels, shape.z_channels)
        self.conv_in = _conv3(shape.z_channels, widths[-1])
        self.mid = _middle(widths[-1])
        self.up = nn.ModuleList(Level(*size, attends=shape.attends(i), upsample=i > 0) for i, size in enumerate(sizes))
        self.norm_out = _norm(widths[0])
        self.patch = shape.patch
        self.conv_out = _conv3(widths[0], 3 * shape.patch**2)

    def features(self, signs: Tensor) -> Tensor:
        """(B, z_channels, h, w) -> what the last convolution makes pixels of."""
        x = self.mid(self.conv_in(self.post_quant_conv(signs)))
        for level in reversed(self.up):
            x = level(x)
        return F.silu(self.norm_out(x))

    def pixels(self, features: Tensor) -> Tensor:
        """What `features` returns -> (B, 3, h f, w f)."""
        x = self.conv_out(features)
        return F.pixel_shuffle(x, self.patch) if self.patch > 1 else x

    def forward(self, signs: Tensor) -> Tensor:
        return self.pixels(self.features(signs))
