"""The image tokenizer that a user holds: pictures in, codes out, and back.

    pixels (B, 3, H, W) --latent--> z (B, K, h, w) --quantize--> codes (B, h, w) --decode--> pixels (B, 3, H, W)

h = H / factor, w = W / factor; codes flattened in raster order are the image part of a prompt, before the image offset is
added. Reads the published tokenizer (showlab/magvitv2) and writes checkpoints under its names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from mmada.errors import ImageError, InputError
from mmada.image.magvit2 import Decoder, Encoder, NetworkShape
from mmada.image.pixels import FitMode, ImageSource, check_pixels, fit, load_image, to_images, to_pixels
from mmada.image.quantizer import LookupFreeQuantizer, entropy_loss, quantizer_loss, straight_through

__all__ = ["ImageTokenizer", "ImageTokenizerConfig", "Reconstruction"]


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

    def __post_init__(self) -> None:
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
        return asdict(self)

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


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """What training a tokenizer needs: the reconstruction, differentiable down to the encoder, and the quantizer's two losses."""

    pixels: Tensor
    """(B, 3, H, W), not clamped"""
    codes: Tensor
    """(B, h, w) int64"""
    quantizer_loss: Tensor
    """scalar, squared units of the latent"""
    entropy_loss: Tensor
    """scalar, nats"""


class ImageTokenizer(nn.Module):
    """Pixels <-> codes, for every height and width that are multiples of `factor`.

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

    def _build(self, config: ImageTokenizerConfig) -> None:
        self.encoder = Encoder(config.encoder_shape)
        self.decoder = Decoder(config.decoder_shape)
        self.quantize = LookupFreeQuantizer(config.z_channels)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

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

    def latent(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, K, h, w), the encoder's output before its signs are taken.

        Raises InputError if the tensor is of another kind, ImageError if H or W is not a multiple of `factor`.
        """
        check_pixels(pixels)
        size = tuple(pixels.shape[2:])
        near = tuple(max(1, round(side / self.factor)) * self.factor for side in size)
        if size != near:
            raise ImageError(
                f"pixels are {size[0]}x{size[1]} (height x width), not multiples of factor={self.factor}; "
                f"the nearest size is {near[0]}x{near[1]}: fit the image to it, or give encode_images size={near}"
            )
        return self.encoder(pixels.to(self.dtype))  # type: ignore[no-any-return]

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, h, w) int64 codes, raster order when flattened. Errors as for `latent`."""
        return self.quantize(self.latent(pixels))  # type: ignore[no-any-return]

    def decode(self, codes: Tensor) -> Tensor:
        """(B, h, w) int64 codes -> (B, 3, h factor, w factor), near [-1, 1] but not clamped.

        Raises InputError if the tensor has another shape or type, or a code lies outside 0 .. codebook_size - 1.
        """
        if codes.ndim != 3 or codes.dtype != torch.int64 or not codes.numel():
            raise InputError(
                f"codes is {tuple(codes.shape)} {codes.dtype}; give int64 of shape (B, height / {self.factor}, width / {self.factor})"
            )
        low, high = (int(bound) for bound in torch.aminmax(codes))
        if low < 0 or high >= self.codebook_size:
            raise InputError(
                f"codes reach from {low} to {high}, the codebook from 0 to {self.codebook_size - 1}; subtract the image offset"
            )
        return self.decoder(self.quantize.signs(codes))  # type: ignore[no-any-return]

    def forward(self, pixels: Tensor) -> Reconstruction:
        """The training pass: reconstruct pixels (B, 3, H, W) with gradients through the signs (straight-through estimator)."""
        z = self.latent(pixels)
        return Reconstruction(self.decoder(straight_through(z)), self.quantize(z), quantizer_loss(z), entropy_loss(z))

    def encode_images(self, images: Sequence[ImageSource], *, size: tuple[int, int] | None = None, mode: FitMode = "crop") -> Tensor:
        """Pictures (PIL images, paths or bytes) -> (B, h, w) int64 codes on the tokenizer's device.

        size  (height, width) in pixels that each is brought to, as `mode` says; None takes them as they are, all of one size
        """
        if isinstance(images, (str, bytes, Path, Image.Image)):
            raise InputError(f"images is one {type(images).__name__}; give a list, if only of one image")
        loaded = [load_image(image) for image in images]
        if size is not None:
            loaded = [fit(image, height=size[0], width=size[1], mode=mode) for image in loaded]
        return self.encode(to_pixels(loaded).to(self.device))

    @torch.no_grad()
    def decode_images(self, codes: Tensor) -> list[Image.Image]:
        """(B, h, w) int64 codes -> B pictures of (h factor, w factor) pixels."""
        return to_images(self.decode(codes.to(self.device)))
