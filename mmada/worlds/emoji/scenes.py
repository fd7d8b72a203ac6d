"""Scenes: one to four objects on a plain background, 64 x 64 RGB, or a multiple of it.

    single            row               stack             grid
    +-----------+     +-----------+     +-----------+     +-----+-----+
    |           |     |           |     |    top    |     | top | top |
    |  center   |     |left  right|     |           |     | left|right|
    |  (64 px)  |     |  (32 px)  |     |   bottom  |     +-----+-----+   bottom left, bottom right
    +-----------+     +-----------+     +-----------+     +-----+-----+

A scene says which object stands in which cell; its place inside the cell is jittered. Rows and stacks fill both
cells, a grid one to four. Cells are named alike everywhere: in scenes, sentences, answers and by the verifiers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmada.errors import InputError, suggest
from mmada.worlds.emoji.objects import SPRITE_SIZE, STYLES, objects, sprite
from mmada.worlds.emoji.variation import varied

__all__ = [
    "BACKGROUNDS",
    "BOXES",
    "LAYOUTS",
    "MAX_ITEMS",
    "SCENE_SIZE",
    "Item",
    "Scene",
    "as_encoded",
    "jittered_item",
    "layout_of",
    "render",
]

SCENE_SIZE = 64
MAX_ITEMS = 4

BACKGROUNDS: Mapping[str, tuple[int, int, int]] = {
    "white": (255, 255, 255),
    "gray": (190, 195, 200),
    "sky blue": (170, 214, 245),
    "mint green": (178, 230, 200),
    "pink": (250, 200, 214),
    "beige": (238, 222, 190),
}
"""Light colours, so that nearly every object stands out on each of them."""

LAYOUTS: Mapping[str, tuple[str, ...]] = {
    "single": ("center",),
    "row": ("left", "right"),
    "stack": ("top", "bottom"),
    "grid": ("top left", "top right", "bottom left", "bottom right"),
}
"""Layout -> its cells in reading order."""

BOXES: Mapping[str, tuple[int, int, int]] = {
    "center": (0, 0, 64),
    "left": (0, 16, 32),
    "right": (32, 16, 32),
    "top": (16, 0, 32),
    "bottom": (16, 32, 32),
    "top left": (0, 0, 32),
    "top right": (32, 0, 32),
    "bottom left": (0, 32, 32),
    "bottom right": (32, 32, 32),
}
"""Cell -> left, top and side of its square, in pixels."""

_PLACEMENTS: Mapping[int, tuple[int, tuple[tuple[int, int], ...]]] = {
    64: (48, ((8, 8), (0, 8), (16, 8), (8, 16))),
    32: (24, ((0, 0), (8, 0), (0, 8), (8, 8))),
}
"""Side of a cell -> size of an object in it, and its places, in pixels: multiples of 8, the side of the square that one image code stands for.
Any other size or place would be another set of squares for the image tokenizer to learn (docs/decisions.md, 2026-11-24)."""


@dataclass(frozen=True, slots=True)
class Item:
    """One object in a scene; (x, y) is the upper left corner of its square of `size` pixels."""

    name: str
    style: str
    cell: str
    x: int
    y: int
    size: int

    def __post_init__(self) -> None:
        if self.name not in objects():
            raise InputError(f"object {self.name!r} is not in the emoji world: {suggest(self.name, objects())}")
        if self.style not in STYLES:
            raise InputError(f"style={self.style!r} is not drawn here: {suggest(self.style, STYLES)}")
        if self.cell not in BOXES:
            raise InputError(f"cell={self.cell!r} is unknown: {suggest(self.cell, BOXES)}")
        left, top, side = BOXES[self.cell]
        if not (left <= self.x and top <= self.y and 1 <= self.size <= min(left + side - self.x, top + side - self.y)):
            raise InputError(
                f"item at x={self.x}, y={self.y}, size={self.size} leaves its cell {self.cell!r}, a square of {side} at {(left, top)}"
            )


@dataclass(frozen=True, slots=True)
class Scene:
    """Objects on a background. Raises InputError unless the items fill cells of the layout, each once, in reading order."""

    layout: str
    background: str
    items: tuple[Item, ...]

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise InputError(f"layout={self.layout!r} is unknown: {suggest(self.layout, LAYOUTS)}")
        if self.background not in BACKGROUNDS:
            raise InputError(f"background={self.background!r} is unknown: {suggest(self.background, BACKGROUNDS)}")
        cells, filled = LAYOUTS[self.layout], [item.cell for item in self.items]
        if not filled or filled != [cell for cell in cells if cell in filled] or (self.layout != "grid" and len(filled) != len(cells)):
            raise InputError(f"items fill {filled}, but layout {self.layout!r} has the cells {list(cells)}; fill them in this order")

    @property
    def cells(self) -> dict[str, str]:
        """Occupied cell -> object name, in reading order."""
        return {item.cell: item.name for item in self.items}

    @property
    def counts(self) -> dict[str, int]:
        """Object name -> how many of it, in the order in which they come first."""
        return dict(Counter(item.name for item in self.items))

    @property
    def style(self) -> str:
        """The art style of all objects, or "mixed"."""
        first, *others = {item.style for item in self.items}
        return "mixed" if others else first


def layout_of(cells: Mapping[str, str]) -> str | None:
    """The layout whose cells these are, or None if they are of no single layout."""
    for layout, known in LAYOUTS.items():
        if set(cells) <= set(known) and (layout == "grid" or len(cells) == len(known)):
            return layout
    return None


def jittered_item(name: str, style: str, cell: str, rng: np.random.Generator) -> Item:
    """An item at one of the places inside its cell."""
    left, top, side = BOXES[cell]
    size, places = _PLACEMENTS[side]
    x, y = places[int(rng.random() * len(places))]
    return Item(name, style, cell, left + x, top + y, size)


@lru_cache(maxsize=4096)
def _resized(name: str, style: str, size: int) -> Image.Image:
    """A sprite at its drawn size. Pillow premultiplies alpha while it resizes RGBA, so no dark fringe appears; this filter does not ring."""
    picture = sprite(name, style, is_large=size > SPRITE_SIZE)
    return picture if size == picture.width else picture.resize((size, size), Image.Resampling.HAMMING)


def render(scene: Scene, variation: np.random.Generator | None = None, *, scale: int = 1) -> NDArray[np.uint8]:
    """The picture of a scene: (64 scale, 64 scale, 3) uint8; with a generator, each of its objects in a variation of its artwork."""
    side = scale * SCENE_SIZE
    canvas = Image.new("RGB", (side, side), BACKGROUNDS[scene.background])
    for item in scene.items:
        picture = _resized(item.name, item.style, scale * item.size)
        if variation is not None:
            picture = varied(picture, variation)
        canvas.paste(picture, (scale * item.x, scale * item.y), picture)
    return np.array(canvas)


def as_encoded(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(B, k 64, k 64, 3) -> (B, 64, 64, 3), each pixel the mean of k x k: what a verifier looks at. Raises InputError for another shape."""
    scale = pictures.shape[1] // SCENE_SIZE if pictures.ndim == 4 else 0
    if scale < 1 or pictures.shape[1:] != (scale * SCENE_SIZE, scale * SCENE_SIZE, 3):
        raise InputError(f"pictures have the shape {pictures.shape}; give (B, {SCENE_SIZE}, {SCENE_SIZE}, 3), or a multiple of both sides")
    if scale == 1:
        return pictures
    blocks = pictures.reshape(-1, SCENE_SIZE, scale, SCENE_SIZE, scale, 3)
    means: NDArray[np.uint8] = np.rint(blocks.mean((2, 4))).astype(np.uint8)
    return means
