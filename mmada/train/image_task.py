"""The image tokenizer's training as a `Task` of the same loop.

    loss = l1 |x - y| + l2 (x - y)^2 + gradient |sobel(x) - sobel(y)| + quantizer + entropy      x pixels in [-1, 1], y reconstruction

Each is a mean over the images of a global batch. A VQ-VAE sees pixels in [0, 1]; its reconstruction is compared in [-1, 1], so that weights mean
the same. Its quantizer loss moves codebook and latents towards each other, and gradients of the pixels pass the codebook as if it were not there
(straight-through; image/vqvae.py). It has no entropy.

The entropy of the mean code is not a sum over images: each micro-batch has its
own, and only the mean over micro-batches is the same for any split.

A tokenizer with an upscaler (image/upscaler.py) is shown larger pictures of the same scenes. Then x is a square of such a picture in which
something is drawn. Of the other squares one in FLAT is learned. Codes come from the small picture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from mmada.errors import InputError
from mmada.image import VQVAE, BaseImageTokenizer, ImageTokenizer, to_images
from mmada.image.base import Reconstruction
from mmada.image.upscaler import enlarged, squares
from mmada.train.stages import ImageStage

__all__ = ["LOSSES", "ImageBatch", "ImageTask", "EndlessPictures", "PixelObjective", "in_range_of", "signed", "sobel", "spread_codebook"]

_LATENTS_PER_CODE = 4
_MOST_PICTURES = 256
_NOISE = 0.01
"""Share of the latents' deviation by which vectors differ that are drawn from the same one."""
FLAT = 17
"""Of squares of one colour every so many-th is learned; no divisor of a picture's squares, so that each place has its turn."""

LOSSES = ("l1", "l2", "gradient", "quantizer", "entropy")


class EndlessPictures(Protocol):
    """index >= 0 -> (H, W, 3) uint8, without end, all of one size."""

    def __getitem__(self, index: int, /) -> NDArray[np.uint8]: ...


@dataclass(frozen=True, slots=True, eq=False)
class ImageBatch:
    """pixels (B, 3, H, W) in [-1, 1]; normalizers (5,), each the number of images; large (B, s H, s W, 3) uint8, for an upscaler."""

    pixels: Tensor
    normalizers: Tensor
    num_tokens: int
    large: Tensor | None = None

    @classmethod
    def of(cls, pictures: Sequence[NDArray[np.uint8]], *, factor: int, large: Sequence[NDArray[np.uint8]] | None = None) -> ImageBatch:
        """A batch of pictures (H, W, 3) uint8 of one size. factor: pixels along a code's side; large: the same ones, larger."""
        pixels, count = _pixels(torch.from_numpy(np.stack(pictures))), len(pictures)
        return cls(
            pixels,
            torch.full((len(LOSSES),), float(count)),
            count * (pixels[0, 0].numel() // factor**2),
            None if large is None else torch.from_numpy(np.stack(large)),
        )


def _pixels(pictures: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) in [-1, 1]."""
    return pictures.movedim(-1, 1).float() / 127.5 - 1


def in_range_of(tokenizer: BaseImageTokenizer, pixels: Tensor) -> Tensor:
    """Pixels in [-1, 1] as a tokenizer takes them."""
    low, high = tokenizer.pixel_range
    return pixels if (low, high) == (-1.0, 1.0) else low + (pixels + 1) / 2 * (high - low)


def signed(tokenizer: BaseImageTokenizer, pixels: Tensor) -> Tensor:
    """A tokenizer's pixels in [-1, 1]: the inverse of `in_range_of`."""
    low, high = tokenizer.pixel_range
    return pixels if (low, high) == (-1.0, 1.0) else (pixels - low) / (high - low) * 2 - 1


@torch.no_grad()
def spread_codebook(tokenizer: VQVAE, pictures: EndlessPictures, *, seed: int) -> None:
    """Put the vectors of a new codebook where latents of pictures are, each drawn from the different ones among them.

    As drawn by `VQVAE`, all vectors lie around 0 and a few of them are nearest to all latents, so that the others never move.
    """
    config, embedding = tokenizer.config, tokenizer.quantize.embedding.weight
    found, index, generator = torch.empty(0, config.embedding_size), 0, torch.Generator().manual_seed(seed)
    while len(found) < _LATENTS_PER_CODE * len(embedding) and index < _MOST_PICTURES:
        pixels = in_range_of(tokenizer, _pixels(torch.from_numpy(np.stack([pictures[index]]))))
        latents = tokenizer.latent(pixels)[0].flatten(1).T  # (h w, K)
        found = torch.cat([found, latents]).unique(dim=0)
        index += 1
    chosen = torch.randperm(len(found), generator=generator)[: len(embedding)]
    if len(chosen) < len(embedding):
        more = torch.randint(len(found), (len(embedding) - len(chosen),), generator=generator)
        chosen = torch.cat([chosen, more])
    noise = torch.randn(embedding.shape, generator=generator) * found.std(0, correction=0) * _NOISE
    embedding.copy_(found[chosen] + noise)


def sobel(pixels: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, 2 C, H - 2, W - 2): horizontal and vertical gradients, in pixel units per pixel."""
    kernel = pixels.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 8
    channels = pixels.shape[1]
    both = torch.stack([kernel, kernel.T])[:, None].repeat(channels, 1, 1, 1)  # (2 C, 1, 3, 3)
    return F.conv2d(pixels, both, groups=channels)


class PixelObjective(nn.Module):
    """objective(pixels, large) -> (5,) float32: each loss, times the number of images.

    has_gradient  whether the loss of the gradients is computed, which costs as much as all others
    """

    def __init__(self, tokenizer: BaseImageTokenizer, *, has_gradient: bool = True) -> None:
        super().__init__()
        self.tokenizer, self.has_gradient = tokenizer, has_gradient

    def forward(self, pixels: Tensor, large: Tensor | None = None) -> Tensor:
        """pixels (B, 3, H, W) in [-1, 1] -> (5,), in the order of `LOSSES`. With `large`, the upscaler alone is measured."""
        if large is not None:
            error = self._upscaled(pixels, large)
            quantizer = entropy = error.new_zeros(())
        else:
            result: Reconstruction = self.tokenizer(in_range_of(self.tokenizer, pixels))
            error = signed(self.tokenizer, result.pixels.float()) - pixels
            quantizer, entropy = result.quantizer_loss, result.entropy_loss
        edges = sobel(error).abs().mean() if self.has_gradient else error.new_zeros(())
        parts = (error.abs().mean(), error.square().mean(), edges, quantizer, entropy)
        return torch.stack([part.float() for part in parts]) * len(pixels)

    def _upscaled(self, pixels: Tensor, large: Tensor) -> Tensor:
        """Errors of the squares that are learned (N, 3, side, side)."""
        tokenizer = self.tokenizer
        assert isinstance(tokenizer, ImageTokenizer)  # networks.py gives an upscaler to no other
        upscaler, side = tokenizer.upscaler, tokenizer.decode_factor
        assert upscaler is not None
        features, small = tokenizer.decoded(tokenizer.encode(pixels))
        wanted = squares(large.movedim(-1, 1), side)  # (B h w, 3, side, side) uint8
        inked = (wanted != wanted[:, :, :1, :1]).flatten(1).any(1)
        inked[::FLAT] = True
        beyond = wanted[inked].float() / 127.5 - 1 - squares(enlarged(small.float(), tokenizer.upscale), side)[inked]
        at_codes = upscaler.conv_in(features).movedim(1, -1).flatten(0, 2)[inked]  # (N, ch)
        drawn: Tensor = upscaler.draw(at_codes[:, :, None, None]).float()
        return drawn - beyond


@dataclass(slots=True)
class ImageTask:
    """Train an image tokenizer on pictures. held_out: pictures that are never trained on.

    large, large_held_out  the same pictures as an upscaler is to draw them
    """

    stage: ImageStage
    module: PixelObjective
    pictures: EndlessPictures
    held_out: EndlessPictures
    num_held_out: int = 64
    large: EndlessPictures | None = None
    large_held_out: EndlessPictures | None = None
    on_export: Callable[[Path, Mapping[str, Tensor]], None] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return LOSSES

    @property
    def coefficients(self) -> Tensor:
        stage = self.stage
        return torch.tensor([stage.l1, stage.l2, stage.gradient, stage.quantizer, stage.entropy])

    def batches(self, step: int, *, rank: int, world: int, accumulate: int) -> list[ImageBatch]:
        if self.stage.batch < world * accumulate:
            raise InputError(f"batch={self.stage.batch} images cannot be split over {world} processes with {accumulate} micro-batches each")
        begin = step * self.stage.batch
        shares = (range(begin + rank + micro * world, begin + self.stage.batch, world * accumulate) for micro in range(accumulate))
        return [self._batch(list(share)) for share in shares]

    def _batch(self, indices: Sequence[int], *, is_held_out: bool = False) -> ImageBatch:
        pictures, large = (self.held_out, self.large_held_out) if is_held_out else (self.pictures, self.large)
        return ImageBatch.of(
            [pictures[i] for i in indices],
            factor=self.module.tokenizer.factor,
            large=None if large is None else [large[i] for i in indices],
        )

    def losses(self, model: nn.Module, batch: ImageBatch, device: torch.device) -> Tensor:
        sums: Tensor = model(batch.pixels.to(device)) if batch.large is None else model(batch.pixels.to(device), batch.large.to(device))
        return sums

    def evaluate(self, model: nn.Module, device: torch.device, *, rank: int, world: int) -> dict[str, tuple[float, float]]:
        """eval/psnr in dB, mean over pictures, and eval/codes: different codes in them, mean over processes."""
        tokenizer, indices = self.module.tokenizer, range(rank, self.num_held_out, world)
        total, seen = 0.0, set[int]()
        for i in indices:
            batch = self._batch([i], is_held_out=True)
            codes = tokenizer.encode(in_range_of(tokenizer, batch.pixels.to(device)))
            made, wanted = self._compared(codes, batch)
            error = (made.float().clamp(-1, 1) - wanted.to(device)).square().mean()
            total += float(10 * torch.log10(4 / error.clamp_min(1e-10)))
            seen |= set(codes.flatten().tolist())
        return {"eval/psnr": (total, len(indices)), "eval/codes": (len(seen), 1)}

    def _compared(self, codes: Tensor, batch: ImageBatch) -> tuple[Tensor, Tensor]:
        """What codes are decoded to, and what they should be, at the size that is trained (B, 3, H, W)."""
        tokenizer = self.module.tokenizer
        if batch.large is None:
            return signed(tokenizer, tokenizer.restore(codes)), batch.pixels
        return signed(tokenizer, tokenizer.decode(codes)), _pixels(batch.large)

    def sample(self, directory: Path | None) -> None:
        """A sheet of held-out pictures, originals above reconstructions."""
        if directory is None:
            return
        directory.mkdir(parents=True, exist_ok=True)
        tokenizer = self.module.tokenizer
        batch = self._batch(range(12), is_held_out=True)
        made, wanted = self._compared(tokenizer.encode(in_range_of(tokenizer, batch.pixels.to(tokenizer.device))), batch)
        rows = [to_images(x) for x in (wanted, made)]
        width, height = rows[0][0].size
        sheet = Image.new("RGB", (width * len(rows[0]), height * 2))
        for y, row in enumerate(rows):
            for x, image in enumerate(row):
                sheet.paste(image, (x * width, y * height))
        sheet.save(directory / "reconstructions.png")

    def export(self, directory: Path, weights: Mapping[str, Tensor]) -> None:
        if self.on_export is not None:
            self.on_export(directory, {name.removeprefix("tokenizer."): tensor for name, tensor in weights.items()})
