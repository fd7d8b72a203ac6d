"""Sizes and windows for models that see images of any shape, as Lumina-DiMOO and MMaDA-Parallel-A are published.

crop_sizes(16)            all (width, height) of a square's area or a little less: 512 x 512, 544 x 480, ... up to 4:1
best_crop_size(image, s)  the one whose shape is nearest
crop_window(image, size)  scale until the size is covered, keep a window of it: the middle, or where a generator says
crops_of_area(...)        those sizes for a checkpoint's usual image
windows(images, sizes, seed=0)    a window of each, drawn by a seed
floor_to_multiple(image)  both sides down to a multiple of 16, as diffusers' VaeImageProcessor does
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from PIL import Image

from mmada.errors import ImageError, InputError
from mmada.image.pixels import MAX_PIXELS

__all__ = ["best_crop_size", "crop_sizes", "crop_window", "crops_of_area", "floor_to_multiple", "windows"]

_PATCH = 2
"""Codes along the side of a square of `crop_sizes`: 32 pixels, as published."""


def crop_sizes(num_patches: int, *, patch_size: int = 32, max_ratio: float = 4.0) -> list[tuple[int, int]]:
    """(width, height) in pixels, from the widest to the tallest, of an area of at most num_patches^2 squares.

    num_patches  squares along the side of a square image: 16 for editing (512 pixels), 32 for understanding (1024)
    max_ratio    the longer side over the shorter
    The walk is a staircase under w h = num_patches^2: a step up where there is room, or else one to the left.
    Raises InputError if an argument is below 1.
    """
    if num_patches < 1 or patch_size < 1 or max_ratio < 1:
        raise InputError(f"num_patches={num_patches}, patch_size={patch_size} and max_ratio={max_ratio} must be at least 1")
    area, sizes = num_patches**2, []
    width, height = area, 1
    while width:
        if max(width, height) <= max_ratio * min(width, height):
            sizes.append((width * patch_size, height * patch_size))
        if width * (height + 1) <= area:
            height += 1
        else:
            width -= 1
    return sizes


def crops_of_area(height: int, width: int, *, factor: int, side: int = 0) -> list[tuple[int, int]]:
    """(width, height) of the crops with the area of an image of height x width pixels, or of a square of `side` pixels, if that is less.

    factor  pixels along the side of a code
    """
    whole, patch = math.isqrt(height * width), _PATCH * factor
    return crop_sizes(max(1, min(side or whole, whole) // patch), patch_size=patch)


def best_crop_size(image: Image.Image, sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The (width, height) that leaves out least of the image; of two alike the wider. Raises InputError without sizes."""
    if not sizes:
        raise InputError("sizes is empty; give those of crop_sizes")

    def kept(size: tuple[int, int]) -> float:
        across, down = size[0] / image.width, size[1] / image.height
        return min(across, down) / max(across, down)

    return max(sizes, key=lambda size: (kept(size), size))


def crop_window(image: Image.Image, size: tuple[int, int], *, rng: random.Random | None = None) -> Image.Image:
    """The part of an image that a window of `size` (width, height) shows, at the smallest scale that covers it.

    rng  draws where the window lies, as published: first its left, then its upper edge; None: the middle, rounded down
    Twice as large as needed, it is halved by averaging first; what remains is scaled by PIL's bicubic filter.
    Raises ImageError if the scaled picture would have more than MAX_PIXELS pixels, as that of a line has.
    """
    width, height = size
    while image.width >= 2 * width and image.height >= 2 * height:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = max(width / image.width, height / image.height)
    scaled = round(image.width * scale), round(image.height * scale)
    if scaled[0] * scaled[1] > MAX_PIXELS:
        raise ImageError(
            f"an image of {image.height}x{image.width} scaled to cover {height}x{width} has {scaled[1]}x{scaled[0]} pixels, "
            f"where 1 to {MAX_PIXELS} are allowed; give one of less unequal sides"
        )
    image = image.resize(scaled, Image.Resampling.BICUBIC)
    spare = image.width - width, image.height - height
    left, upper = (s // 2 for s in spare) if rng is None else (rng.randint(0, s) for s in spare)
    return image.crop((left, upper, left + width, upper + height))


def windows(images: Sequence[Image.Image], sizes: Sequence[tuple[int, int]], *, seed: int) -> list[Image.Image]:
    """`crop_window` of each image to its own (width, height); one generator draws all of them."""
    rng = random.Random(seed)
    return [crop_window(image, size, rng=rng) for image, size in zip(images, sizes, strict=True)]


def floor_to_multiple(image: Image.Image, multiple: int = 16) -> Image.Image:
    """An image whose sides are multiples, made smaller by Lanczos where they are not.

    Raises InputError if a side is below one multiple.
    """
    width, height = (side - side % multiple for side in image.size)
    if not width or not height:
        raise InputError(f"image is {image.height}x{image.width} (height x width); both sides must be at least {multiple}, scale it up")
    return image if (width, height) == image.size else image.resize((width, height), Image.Resampling.LANCZOS)
