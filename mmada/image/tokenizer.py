"""The MAGVIT-v2 image tokenizer: a code is the signs of the latent's channels (image/quantizer.py).

Reads the published tokenizer (showlab/magvitv2) and writes checkpoints under its names. What it offers is in image/base.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from mmada.errors import InputError
from mmada.image.base import BaseImageTokenizer, Reconstruction
from mmada.image.magvit2 import Decoder, Encoder, NetworkShape
from mmada.image.quantizer import LookupFreeQuantizer, entropy_loss, quantizer_loss, straight_through
from mmada.image.upscaler import Upscaler, enlarged

__all__ = ["ImageTokenizer", "ImageTokenizerConfig"]


@dataclass(frozen=True, kw_only=True)
class ImageTokenizerConfig:
    """Sizes of an image tokenizer; the defaults are the published MAGVIT-v2. Fields are explained at `NetworkShape`.

    Encoder and decoder have the same number of levels, each its own widths and depths.
    Raises InputError if the sizes do not fit together.
    """

    ch: int = 128
    encoder_ch_mult: tuple[int, ...] = (1, 2, 2, 4, 4)
    encoder_num_res_blocks: tuple[int, ...] = (4, 3, 4, 3, 4)
    decoder_ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    decoder_num_res_blocks: tuple[int, ...] = (4, 4, 3, 4, 3)
    z_channels: int = 13
    # no level of a 256-pixel image is 5 wide: the published network attends in the middle only
    attn_resolutions: tuple[int, ...] = (5,)
    resolution: int = 256
    patch: int = 1
    encoder_kernel: int = 3
    upscale: int = 1
    """pixels that are decoded for one that was encoded, along a side; above 1 an upscaler follows the decoder (image/upscaler.py)"""
    upscaler_ch: int = 256
    """its channels at each code"""
    upscaler_num_res_blocks: int = 2
    """its residual blocks"""

    def __post_init__(self) -> None:
        if self.upscale < 1 or (self.upscale > 1 and len(self.decoder_ch_mult) > 1):
            raise InputError(
                f"upscale={self.upscale} must be at least 1, and 1 where decoder_ch_mult={self.decoder_ch_mult} has several levels: "
                "an upscaler starts at the size of the codes"
            )
        if len(self.encoder_shape.ch_mult) != len(self.decoder_shape.ch_mult):
            raise InputError(
                f"encoder_ch_mult={self.encoder_ch_mult} and decoder_ch_mult={self.decoder_ch_mult} differ in the number of levels; "
                "the decoder must undo each halving of the encoder"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ImageTokenizerConfig:
        """A config.json as sizes; what is no size of a tokenizer is left out. Raises InputError."""
        flat = [name for name in ("ch_mult", "num_res_blocks") if name in values]
        if flat:
            raise InputError(f"{flat[0]}={values[flat[0]]} is one list for two networks; use ImageTokenizerConfig.symmetric")
        known = {one.name for one in fields(cls)}
        # JSON brings lists
        own: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in known}
        return cls(**own)

    def to_dict(self) -> dict[str, Any]:
        """What config.json says; a tokenizer without an upscaler is written as before there were any."""
        values = asdict(self)
        return values if self.upscale > 1 else {name: value for name, value in values.items() if not name.startswith("upscale")}

    @classmethod
    def symmetric(
        cls,
        *,
        ch: int,
        ch_mult: Sequence[int],
        num_res_blocks: Sequence[int],
        z_channels: int,
        attn_resolutions: Sequence[int] = (),
        resolution: int = 256,
    ) -> ImageTokenizerConfig:
        """A tokenizer whose encoder and decoder share one list of widths and one of depths."""
        return cls(
            ch=ch,
            encoder_ch_mult=tuple(ch_mult),
            encoder_num_res_blocks=tuple(num_res_blocks),
            decoder_ch_mult=tuple(ch_mult),
            decoder_num_res_blocks=tuple(num_res_blocks),
            z_channels=z_channels,
            attn_resolutions=tuple(attn_resolutions),
            resolution=resolution,
        )

    @property
    def factor(self) -> int:
        """Pixels along the side of the square that one code stands for."""
        return int(self.patch * 2 ** (len(self.encoder_ch_mult) - 1))

    @property
    def encoder_shape(self) -> NetworkShape:
        return self._shape(self.encoder_ch_mult, self.encoder_num_res_blocks, self.encoder_kernel)

    @property
    def decoder_shape(self) -> NetworkShape:
        return self._shape(self.decoder_ch_mult, self.decoder_num_res_blocks)

    def _shape(self, ch_mult: Sequence[int], num_res_blocks: Sequence[int], kernel: int = 3) -> NetworkShape:
        return NetworkShape(
            ch=self.ch,
            ch_mult=tuple(ch_mult),
            num_res_blocks=tuple(num_res_blocks),
            z_channels=self.z_channels,
            attn_resolutions=tuple(self.attn_resolutions),
            resolution=self.resolution,
            patch=self.patch,
            kernel=kernel,
        )


class ImageTokenizer(BaseImageTokenizer):
    """MAGVIT-v2: pixels in [-1, 1] <-> codes of `num_bits` bits.

    `quantize` is the module that turns latents into codes. Calling the object runs the training pass, see `forward`.
    """

    config: ImageTokenizerConfig

    def __init__(self, config: ImageTokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self._build(config)
        # As published, torch's own. They were always drawn twice, and a seed is to give the weights that it always gave.
        for part in self.modules():
            if isinstance(part, nn.Conv2d | nn.GroupNorm):
                part.reset_parameters()
        if self.upscaler is not None:
            self.upscaler.reset_parameters()

    def _build(self, config: ImageTokenizerConfig) -> None:
        self.encoder = Encoder(config.encoder_shape)
        self.decoder = Decoder(config.decoder_shape)
        self.quantize = LookupFreeQuantizer(config.z_channels)
        self.upscaler: Upscaler | None = None
        if config.upscale > 1:
            width = config.decoder_shape.widths[0] + config.z_channels
            side = config.factor * config.upscale
            self.upscaler = Upscaler(features=width, ch=config.upscaler_ch, num_res_blocks=config.upscaler_num_res_blocks, side=side)

    @property
    def num_bits(self) -> int:
        """Bits of a code."""
        return self.config.z_channels

    @property
    def codebook_size(self) -> int:
        """Number of codes."""
        return int(2**self.num_bits)

    @property
    def factor(self) -> int:
        """Pixels along the side of the square that one code stands for."""
        return self.config.factor

    def encode_latent(self, pixels: Tensor) -> Tensor:
        return self.encoder(pixels)  # type: ignore[no-any-return]

    def codes_of(self, latent: Tensor) -> Tensor:
        return self.quantize(latent)  # type: ignore[no-any-return]

    @property
    def upscale(self) -> int:
        return self.config.upscale

    def decode_codes(self, codes: Tensor) -> Tensor:
        """(B, h, w) codes -> pixels (B, 3, H, W) around [-1, 1], enlarged `upscale` times along each side."""
        if self.upscaler is None:
            return self.restore_codes(codes)
        features, small = self.decoded(codes)
        return enlarged(small, self.upscale) + self.upscaler(features)  # type: ignore[no-any-return]

    def restore_codes(self, codes: Tensor) -> Tensor:
        """(B, h, w) codes -> pixels (B, 3, H, W) of the size that was encoded, without the upscaler."""
        return self.decoder(self.quantize.signs(codes))  # type: ignore[no-any-return]

    def decoded(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """(B, h, w) codes -> what the upscaler sees (B, features, h, w), and the picture that it enlarges (B, 3, H, W)."""
        signs = self.quantize.signs(codes)
        features = self.decoder.features(signs)
        return torch.cat([signs, features], dim=1), self.decoder.pixels(features)

    def encoding_tensors(self) -> dict[str, Tensor]:
        return dict(self.encoder.state_dict())

    def forward(self, pixels: Tensor) -> Reconstruction:
        """The training pass: reconstruct pixels (B, 3, H, W) with gradients through the signs (straight-through estimator)."""
        z = self.latent(pixels)
        return Reconstruction(self.decoder(straight_through(z)), self.quantize(z), quantizer_loss(z), entropy_loss(z))
