"""Ruining artwork, so that a judge learns to refuse what no person would recognise.

Each function takes a picture (S, S, 3) uint8 and returns one of the same shape. `SPOILERS` are drawn from by name; those in
`HARMLESS_TO_SHAPES` leave plain shapes what they are: a blurred circle is still a circle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = [
    "HARMLESS_TO_SHAPES",
    "SPOILERS",
    "Picture",
    "Spoiler",
    "blurred",
    "erased",
    "melted",
    "mixed",
    "noised",
    "pieced",
    "shuffled",
    "warped",
]

Picture = NDArray[np.uint8]
Spoiler = Callable[[Picture, Picture, np.random.Generator], Picture]


def blurred(picture: Picture, other: Picture, rng: np.random.Generator) -> Picture:
    """Shrunk to 5 to 8 pixels and enlarged again: a smear of the right colours."""
    side = len(picture)
    small = Image.fromarray(picture).resize((int(rng.integers(5, 9)),) * 2, Image.Resampling.BOX)
    return np.asarray(small.resize((side, side), Image.Resampling.BICUBIC))


def mixed(picture: Picture, other: Picture, rng: np.random.Generator) -> Picture:
    """Two objects through each other."""
    share = rng.uniform(0.35, 0.65)
    return (share * picture + (1 - share) * other).astype(np.uint8)


def noised(picture: Picture, other: Picture, rng: np.random.Generator) -> Picture:
    """A third to two thirds of the squares of a grid replaced by other colours of the same two pictures."""
    side = len(picture)
    square = side // int(rng.choice([8, 16]))
    rows = side // square
    grid = rng.random((rows, rows)) < rng.uniform(0.35, 0.65)
    colours = np.where(rng.random((rows, rows, 1)) < 0.5, _sampled(picture, rows, rng), _sampled(other, rows, rng))
    chosen = np.kron(grid, np.ones((square, square), bool))[..., None]
    result: Picture = np.where(chosen, np.kron(colours, np.ones((square, square, 1))), picture).astype(np.uint8)
    return result


def shuffled(picture: Picture, other: Picture, rng: np.random.Generator) -> Picture:
    """Quarters or sixteenths of the picture in another order."""
    parts = int(rng.choice([2, 4]))
    size = len(picture) // parts
    tiles = picture.reshape(parts, size, parts, size, 3).swapaxes(1, 2).reshape(-1, size, size, 3)
    order = rng.permutation(len(tiles))
    if (order == np.arange(len(tiles))).mean() > 0.3:
        order = np.roll(np.arange(len(tiles)), 1)
    return tiles[order].reshape(parts, parts, size, size, 3).swapaxes(1, 2).reshape(picture.shape)


def erased(picture: Picture, other: Picture, rng: np.random.Generator) -> Picture:
    """Half drawn: a half of the picture is background, or belongs to another object."""
    result = picture.copy()
    source = other if rng.random() < 0.5 else np.broadcast_to(picture[0, 0], picture.shape)
    half = len(picture) // 2
    cut = (slice(None, half), slice(half, None))[int(rng.integers(2))]
    index = (cut, slice(None)) if rng.random() < 0.5 else (slice(None), cut)
    result[index] = source[index]
    return result


def warped(picture: Picture, other: Picture, rng: np.random.Generator) -> Picture:
    """Pulled about by a smooth random field of a seventh to a fourth of the side."""
    side = len(picture)
    pull = rng.normal(size=(2, 5, 5)) * side * rng.uniform(0.14, 0.25)
    field = [np.asarray(Image.fromarray(p.astype(np.float32)).resize((side, side), Image.Resampling.BICUBIC)) for p in pull]
    y, x = np.mgrid[:side, :side]
    pulled: Picture = picture[np.clip(y + field[0], 0, side - 1).astype(int), np.clip(x + field[1], 0, side - 1).astype(int)]
    return pulled


def melted(picture: Picture, other: Picture, rng: np.random.Generator) -> Picture:
    """A lump with an uneven edge, in the object's own colours flowing into one another: what a model draws that knows no more than colours."""
    side = len(picture)
    y, x = (np.mgrid[:side, :side] + 0.5) / side - rng.uniform(0.42, 0.58, size=(2, 1, 1))
    angle, edge = np.arctan2(y, x), np.full((side, side), rng.uniform(0.3, 0.42))
    for k in range(2, 6):
        edge *= 1 + rng.uniform(0.05, 0.16) * np.cos(k * angle + rng.uniform(0, 2 * np.pi))
    inside = (np.hypot(x, y) < edge)[..., None]
    own = picture[(picture != picture[0, 0]).any(-1)]
    own = own if len(own) else picture.reshape(-1, 3)
    grid = int(rng.integers(3, 7))
    colours = Image.fromarray(own[rng.integers(len(own), size=(grid, grid))])
    result: Picture = np.where(inside, np.asarray(colours.resize((side, side), Image.Resampling.BICUBIC)), picture[0, 0]).astype(np.uint8)
    return result


def pieced(picture: Picture, other: Picture, rng: np.random.Generator) -> Picture:
    """Squares of an eighth of the side, most of them replaced by ones that stand one or two further: the outline is right, and nothing in it."""
    rows = 8
    size = len(picture) // rows
    tiles = picture.reshape(rows, size, rows, size, 3).swapaxes(1, 2)  # (8, 8, size, size, 3)
    place = np.indices((rows, rows))
    moved = np.clip(place + rng.integers(-2, 3, size=place.shape), 0, rows - 1)
    filled = (tiles != picture[0, 0]).any((2, 3, 4))
    swap = filled & filled[tuple(moved)] & (rng.random((rows, rows)) < rng.uniform(0.6, 0.95))
    source = np.where(swap, moved, place)
    result: Picture = tiles[tuple(source)].swapaxes(1, 2).reshape(picture.shape)
    return result


SPOILERS: Mapping[str, Spoiler] = {
    "blurred": blurred,
    "mixed": mixed,
    "noised": noised,
    "shuffled": shuffled,
    "erased": erased,
    "warped": warped,
    "melted": melted,
    "pieced": pieced,
}

HARMLESS_TO_SHAPES = ("blurred", "pieced")


def _sampled(picture: Picture, rows: int, rng: np.random.Generator) -> Picture:
    """(rows, rows, 3) colours taken from anywhere in a picture."""
    at = rng.integers(0, len(picture), size=(2, rows, rows))
    colours: Picture = picture[at[0], at[1]]
    return colours
