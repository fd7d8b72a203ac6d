"""The image tokenizer's training as a `Task` of the same loop.

    loss = l1 |x - y| + l2 (x - y)^2 + gradient |sobel(x) - sobel(y)| + quantizer + entropy      x pixels in [-1, 1], y reconstruction

Each is a mean over the images of a global batch. The entropy of the mean code is not a sum over images: each micro-batch has its
own, and only the mean over micro-batches is the same for any split.
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
from mmada.image import ImageTokenizer, to_images
from mmada.train.stages import ImageStage

__all__ = ["LOSSES", "ImageBatch", "ImageTask", "Pictures", "PixelObjective", "sobel"]

LOSSES = ("l1", "l2", "gradient", "quantizer", "entropy")


class Pictures(Protocol):
    """index >= 0 -> (H, W, 3) uint8, without end, all of one size."""

    def __getitem__(self, index: int, /) -> NDArray[np.uint8]: ...


@dataclass(frozen=True, slots=True, eq=False)
class ImageBatch:
    """pixels (B, 3, H, W) in [-1, 1]; normalizers (5,), each the number of images."""

    pixels: Tensor
    normalizers: Tensor
    num_tokens: int

    @classmethod
    def of(cls, pictures: Sequence[NDArray[np.uint8]], *, factor: int) -> ImageBatch:
        pixels = torch.from_numpy(np.stack(pictures)).movedim(-1, 1).float() / 127.5 - 1
        count = len(pictures)
        return cls(pixels, torch.full((len(LOSSES),), float(count)), count * (pixels[0, 0].numel() // factor**2))


def sobel(pixels: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, 2 C, H - 2, W - 2): horizontal and vertical gradients, in pixel units per pixel."""
    kernel = pixels.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 8
    channels = pixels.shape[1]
    both = torch.stack([kernel, kernel.T])[:, None].repeat(channels, 1, 1, 1)  # (2 C, 1, 3, 3)
    return F.conv2d(pixels, both, groups=channels)


class PixelObjective(nn.Module):
    """objective(pixels) -> (5,) float32: each loss, times the number of images."""

    def __init__(self, tokenizer: ImageTokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer

    def forward(self, pixels: Tensor) -> Tensor:
        result = self.tokenizer(pixels)
        error = result.pixels.float() - pixels
        parts = (error.abs().mean(), error.square().mean(), sobel(error).abs().mean(), result.quantizer_loss, result.entropy_loss)
        return torch.stack([part.float() for part in parts]) * len(pixels)


@dataclass(slots=True)
class ImageTask:
    """Train an image tokenizer on pictures. held_out: pictures that are never trained on."""

    stage: ImageStage
    module: PixelObjective
    pictures: Pictures
    held_out: Pictures
    num_held_out: int = 64
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
        return [ImageBatch.of([self.pictures[i] for i in share], factor=self.module.tokenizer.factor) for share in shares]

    def losses(self, model: nn.Module, batch: ImageBatch, device: torch.device) -> Tensor:
        sums: Tensor = model(batch.pixels.to(device))
        return sums

    def evaluate(self, model: nn.Module, device: torch.device, *, rank: int, world: int) -> dict[str, tuple[float, float]]:
        """eval/psnr in dB, mean over pictures, and eval/codes: different codes in them, mean over processes."""
        tokenizer, indices = self.module.tokenizer, range(rank, self.num_held_out, world)
        total, seen = 0.0, set[int]()
        for i in indices:
            pixels = ImageBatch.of([self.held_out[i]], factor=tokenizer.factor).pixels.to(device)
            codes = tokenizer.encode(pixels)
            error = (tokenizer.decode(codes).float().clamp(-1, 1) - pixels).square().mean()
            total += float(10 * torch.log10(4 / error.clamp_min(1e-10)))
            seen |= set(codes.flatten().tolist())
        return {"eval/psnr": (total, len(indices)), "eval/codes": (len(seen), 1)}

    def sample(self, directory: Path | None) -> None:
        """A sheet of held-out pictures, originals above reconstructions."""
        if directory is None:
            return
        directory.mkdir(parents=True, exist_ok=True)
        tokenizer = self.module.tokenizer
        batch = ImageBatch.of([self.held_out[i] for i in range(12)], factor=tokenizer.factor)
        pixels = batch.pixels.to(tokenizer.device)
        rows = [to_images(x) for x in (pixels, tokenizer.decode(tokenizer.encode(pixels)))]
        width, height = rows[0][0].size
        sheet = Image.new("RGB", (width * len(rows[0]), height * 2))
        for y, row in enumerate(rows):
            for x, image in enumerate(row):
                sheet.paste(image, (x * width, y * height))
        sheet.save(directory / "reconstructions.png")

    def export(self, directory: Path, weights: Mapping[str, Tensor]) -> None:
        if self.on_export is not None:
            self.on_export(directory, {name.removeprefix("tokenizer."): tensor for name, tensor in weights.items()})
