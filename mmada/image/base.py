"""What every image tokenizer offers, whatever its networks and its codebook: pictures in, codes out, and back.

    pixels (B, 3, H, W) --latent--> z (B, K, h, w) --codes_of--> codes (B, h, w) --decode--> pixels (B, 3, s H, s W)
                                                                                 --restore-> pixels (B, 3, H, W)

h = H / factor, w = W / factor. Codes flattened in raster order are the image part of a prompt, before the image offset is added.
s is the upscale, 1 for all published tokenizers: then `decode` and `restore` are the same.
A tokenizer brings the arrows and says in which range its pixels lie.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from PIL import Image
from torch import Tensor, nn

from mmada.errors import ImageError, InputError
from mmada.image.pixels import FitMode, ImageSource, check_pixels, fit, load_image, to_images, to_pixels

__all__ = ["BaseImageTokenizer", "Reconstruction"]


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """What training a tokenizer needs: the reconstruction, differentiable down to the encoder, and the quantizer's two losses."""

    pixels: Tensor
    """(B, 3, s H, s W), not clamped"""
    codes: Tensor
    """(B, h, w) int64"""
    quantizer_loss: Tensor
    """scalar, squared units of the latent"""
    entropy_loss: Tensor
    """scalar, nats; 0 where the codebook is learned"""


class BaseImageTokenizer(nn.Module):
    """Pixels <-> codes, for every height and width that are multiples of `factor`."""

    pixel_range: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    """values of black and white, in both directions"""
    rounds_pixels: ClassVar[bool] = False
    """whether 8-bit levels are rounded to the nearest or, as MAGVIT-v2 is published, cut off"""

    @property
    @abstractmethod
    def codebook_size(self) -> int:
        """Number of codes."""

    @property
    @abstractmethod
    def factor(self) -> int:
        """Pixels along the side of the square that one code stands for."""

    @property
    def upscale(self) -> int:
        """Pixels that are decoded for one that was encoded, along a side."""
        return 1

    @property
    def decode_factor(self) -> int:
        """Pixels along the side of the square that one code is decoded to."""
        return self.factor * self.upscale

    @abstractmethod
    def encode_latent(self, pixels: Tensor) -> Tensor:
        """`latent` of pixels that have been checked."""

    @abstractmethod
    def codes_of(self, latent: Tensor) -> Tensor:
        """(B, K, h, w) -> (B, h, w) int64."""

    @abstractmethod
    def decode_codes(self, codes: Tensor) -> Tensor:
        """`decode` of codes that have been checked."""

    def restore_codes(self, codes: Tensor) -> Tensor:
        """`restore` of codes that have been checked."""
        return self.decode_codes(codes)

    @abstractmethod
    def encoding_tensors(self) -> dict[str, Tensor]:
        """The weights that codes depend on, by name."""

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def latent(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in `pixel_range` -> (B, K, h, w), the encoder's output before it is quantized.

        Raises InputError if the tensor is of another kind, ImageError if H or W is not a multiple of `factor`.
        """
        check_pixels(pixels, value_range=self.pixel_range)
        size = tuple(pixels.shape[2:])
        near = tuple(max(1, round(side / self.factor)) * self.factor for side in size)
        if size != near:
            raise ImageError(
                f"pixels are {size[0]}x{size[1]} (height x width), not multiples of factor={self.factor}; "
                f"the nearest size is {near[0]}x{near[1]}: fit the image to it, or give encode_images size={near}"
            )
        return self.encode_latent(pixels.to(self.dtype))

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in `pixel_range` -> (B, h, w) int64 codes, raster order when flattened. Errors as for `latent`."""
        return self.codes_of(self.latent(pixels))

    def decode(self, codes: Tensor) -> Tensor:
        """(B, h, w) int64 codes -> (B, 3, h decode_factor, w decode_factor), near `pixel_range` but not clamped.

        Raises InputError if the tensor has another shape or type, or a code lies outside 0 .. codebook_size - 1.
        """
        return self.decode_codes(self._checked(codes))

    def restore(self, codes: Tensor) -> Tensor:
        """(B, h, w) int64 codes -> (B, 3, h factor, w factor), as large as what was encoded, to be compared with it. Errors as for `decode`."""
        return self.restore_codes(self._checked(codes))

    def _checked(self, codes: Tensor) -> Tensor:
        if codes.ndim != 3 or codes.dtype != torch.int64 or not codes.numel():
            raise InputError(
                f"codes is {tuple(codes.shape)} {codes.dtype}; give int64 of shape (B, height / {self.factor}, width / {self.factor})"
            )
        low, high = (int(bound) for bound in torch.aminmax(codes))
        if low < 0 or high >= self.codebook_size:
            raise InputError(
                f"codes reach from {low} to {high}, the codebook from 0 to {self.codebook_size - 1}; subtract the image offset"
            )
        return codes

    def encode_images(self, images: Sequence[ImageSource], *, size: tuple[int, int] | None = None, mode: FitMode = "crop") -> Tensor:
        """Pictures (PIL images, paths or bytes) -> (B, h, w) int64 codes on the tokenizer's device.

        size  (height, width) in pixels that each is brought to, as `mode` says; None takes them as they are, all of one size
        """
        if isinstance(images, (str, bytes, Path, Image.Image)):
            raise InputError(f"images is one {type(images).__name__}; give a list, if only of one image")
        loaded = [load_image(image) for image in images]
        if size is not None:
            loaded = [fit(image, height=size[0], width=size[1], mode=mode) for image in loaded]
        return self.encode(to_pixels(loaded, value_range=self.pixel_range).to(self.device))

    @torch.no_grad()
    def decode_images(self, codes: Tensor) -> list[Image.Image]:
        """(B, h, w) int64 codes -> B pictures of (h decode_factor, w decode_factor) pixels."""
        return self._images(self.decode(codes.to(self.device)))

    @torch.no_grad()
    def restore_images(self, codes: Tensor) -> list[Image.Image]:
        """(B, h, w) int64 codes -> B pictures of (h factor, w factor) pixels, as large as what was encoded."""
        return self._images(self.restore(codes.to(self.device)))

    def _images(self, pixels: Tensor) -> list[Image.Image]:
        return to_images(pixels, value_range=self.pixel_range, rounds=self.rounds_pixels)
