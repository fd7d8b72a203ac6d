"""A verifier of drawings without a network: each place of each cell is compared with the world's own artwork.

    picture -> background, the commonest of its border -> nine cells, the places where objects stand in them
            -> artwork that is nearest in its pixels, and how much is left over -> the layout that leaves least over

An object is recognised if what is left over between it and the artwork is a small share of how it differs from the plain background.
It knows every object, style and place alike, and nothing of the train/test split. It shares no weight, data or method with the judge of
eval/emoji, so that what is learnt to please the one is still measured by the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmada.data.emoji import BACKGROUNDS, BOXES, LAYOUTS, STYLES, objects
from mmada.data.emoji.scenes import SCENE_SIZE, Item, Scene, render
from mmada.errors import InputError

__all__ = ["NOTHING", "Match", "match"]

NOTHING = "?"
"""Stands for something that is no object."""

_SIZES = {64: (48, ((8, 8), (0, 8), (16, 8), (8, 16))), 32: (24, ((0, 0), (8, 0), (0, 8), (8, 8)))}
"""Side of a cell -> size of an object, and its places (data/emoji/scenes.py draws it there and nowhere else)."""
_LEFT_OVER = 0.2
"""Largest share of an object's contrast that may be left over."""
_CALM = 0.001
"""Mean squared difference from the background, colours in 0..1, below which a cell is empty."""


@dataclass(frozen=True, slots=True)
class Match:
    """What a picture shows. cells holds NOTHING, under a name that no cell has, if it is no scene of the world.

    left_over  share of the picture's contrast that its best scene does not explain, 0 for untouched artwork
    """

    cells: dict[str, str]
    background: str
    left_over: float


def match(pictures: NDArray[np.uint8]) -> list[Match]:
    """(B, 64, 64, 3) uint8 -> a match for each. Raises InputError for another shape."""
    if pictures.ndim != 4 or pictures.shape[1:] != (SCENE_SIZE, SCENE_SIZE, 3):
        raise InputError(f"pictures have the shape {pictures.shape}; give (B, {SCENE_SIZE}, {SCENE_SIZE}, 3)")
    return [_match(picture) for picture in pictures]


def _match(picture: NDArray[np.uint8]) -> Match:
    border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]]).astype(int)
    median = np.median(border, axis=0)
    background = min(BACKGROUNDS, key=lambda name: float(np.abs(median - np.array(BACKGROUNDS[name])).sum()))
    pixels = torch.from_numpy(picture.astype(np.float32) / 255)  # (64, 64, 3)
    plain = torch.tensor(BACKGROUNDS[background]) / 255
    contrast = float((pixels - plain).square().sum())
    options = [_layout(cells, pixels, plain, background) for cells in LAYOUTS.values()]
    cells, error = min(options, key=lambda option: option[1])
    left_over = error / max(contrast, 1e-6)
    if not cells or left_over > _LEFT_OVER:
        cells = {**cells, "": NOTHING}
    return Match(cells, background, left_over)


def _layout(names: tuple[str, ...], pixels: Tensor, plain: Tensor, background: str) -> tuple[dict[str, str], float]:
    """Cells of a layout with their nearest objects, and the squared error of the whole picture; infinite if a needed cell is empty."""
    found: dict[str, str] = {}
    explained = 0.0
    for cell in names:
        left, top, side = BOXES[cell]
        box = pixels[top : top + side, left : left + side]
        here = float((box - plain).square().sum())
        if here / box.numel() < _CALM:
            if len(names) < 4:
                return {}, float("inf")
            continue
        name, error = _nearest(box, plain, background)
        found[cell] = name if error <= _LEFT_OVER * here else NOTHING
        explained += here - error
    total = float((pixels - plain).square().sum())
    return found, total - explained if found else float("inf")


def _nearest(box: Tensor, plain: Tensor, background: str) -> tuple[str, float]:
    """The object whose artwork is nearest to a cell (S, S, 3), at any of its places, and the squared error of the cell."""
    names, templates = _templates(len(box), background)
    size, places = _SIZES[len(box)]
    difference = box - plain
    total = difference.square().sum()
    crops = torch.stack([difference[y : y + size, x : x + size].flatten() for x, y in places])  # (P, 3 s s)
    outside = total - crops.square().sum(1)
    errors = torch.cdist(crops, templates).square() + outside[:, None]  # (P, T)
    best = int(errors.argmin())
    return names[best % len(names)], float(errors.flatten()[best])


@cache
def _templates(side: int, background: str) -> tuple[tuple[str, ...], Tensor]:
    """Names and artwork (T, 3 s s), less the background, of every object in every style on a background."""
    size, _ = _SIZES[side]
    cell = "center" if side == SCENE_SIZE else "left"
    left, top, _ = BOXES[cell]
    plain = torch.tensor(BACKGROUNDS[background]) / 255
    names, rows = [], []
    for name in objects():
        for style in STYLES:
            items: tuple[Item, ...] = (Item(name, style, cell, left, top, size),)
            if cell == "left":
                items = (*items, Item(name, style, "right", BOXES["right"][0], BOXES["right"][1], size))
            picture = render(Scene("single" if cell == "center" else "row", background, items))
            art = torch.from_numpy(picture[top : top + size, left : left + size].astype(np.float32) / 255)
            names.append(name)
            rows.append((art - plain).flatten())
    return tuple(names), torch.stack(rows)
