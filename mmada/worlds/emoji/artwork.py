"""A verifier of drawings without a network: each place of each cell is compared with the world's own artwork.

    picture -> background, the commonest of its border -> nine cells, the places where objects stand in them
            -> artwork that is nearest in its pixels, and how much is left over -> the layout that leaves least over

An object is recognised if what is left over between it and the artwork is a small share of how it differs from the plain background.
It knows every object, style and place alike, and nothing of the train/test split. It shares no weight, data or method with the judge of
worlds/emoji/measure, so that what is learnt to please the one is still measured by the other.

match      what a picture shows, for the rewards that ask whether it is right (emoji.py)
likeness   the share of objects that picture and request have in common, each counting as far as its artwork explains it. Where `objects` says
           that a dog falls apart, this says how much
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmada.rl.records import Completion
from mmada.worlds.emoji.example import Example
from mmada.worlds.emoji.objects import STYLES, objects
from mmada.worlds.emoji.rewards import looked_at
from mmada.worlds.emoji.scenes import BACKGROUNDS, BOXES, LAYOUTS, SCENE_SIZE, Item, Scene, as_encoded, render

__all__ = ["NOTHING", "Match", "likeness", "match"]

NOTHING = "?"
"""Stands for something that is no object."""

_SIZES = {64: (48, ((8, 8), (0, 8), (16, 8), (8, 16))), 32: (24, ((0, 0), (8, 0), (0, 8), (8, 8)))}
"""Side of a cell -> size of an object, and its places (worlds/emoji/scenes.py draws it there and nowhere else)."""
_LEFT_OVER = 0.2
"""Largest share of an object's contrast that may be left over."""
_CALM = 0.001
"""Mean squared difference from the background, colours in 0..1, below which a cell is empty."""


@dataclass(frozen=True, slots=True)
class Match:
    """What a picture shows. cells holds NOTHING, under a name that no cell has, if it is no scene of the world.

    left_over  share of the picture's contrast that its best scene does not explain, 0 for untouched artwork
    nearest    cell -> the object whose artwork is nearest, recognised or not, and the share of the cell's contrast that it explains
    """

    cells: dict[str, str]
    background: str
    left_over: float
    nearest: dict[str, tuple[str, float]]


def match(pictures: NDArray[np.uint8]) -> list[Match]:
    """(B, 64, 64, 3) uint8, or larger by a whole factor -> a match for each. Raises InputError for another shape."""
    pictures = as_encoded(pictures)
    borders = np.concatenate([pictures[:, 0], pictures[:, -1], pictures[:, :, 0], pictures[:, :, -1]], axis=1).astype(int)
    medians = np.median(borders, axis=1)  # (B, 3)
    names = [min(BACKGROUNDS, key=lambda name: float(np.abs(median - np.array(BACKGROUNDS[name])).sum())) for median in medians]
    found: dict[int, Match] = {}
    for background in dict.fromkeys(names):
        own = [i for i, name in enumerate(names) if name == background]
        found.update(zip(own, _on(background, pictures[own]), strict=True))
    return [found[i] for i in range(len(pictures))]


def likeness(samples: Sequence[Completion]) -> list[float | None]:
    """Sum of explained shares of objects that were asked for / |asked or drawn|, 0 to 1."""

    def value(example: Example, seen: Match) -> float:
        assert example.spec is not None
        asked, found = Counter(dict(example.spec.counts)), Counter(name for name, _ in seen.nearest.values())
        explained = 0.0
        for name, count in (asked & found).items():
            explained += sum(sorted((max(0.0, share) for other, share in seen.nearest.values() if other == name), reverse=True)[:count])
        return explained / (asked | found).total()

    return looked_at(samples, match, value)


@dataclass(frozen=True, slots=True)
class _Cell:
    """What stands in a cell of a picture: the nearest object, the squared error next to its artwork, and the squared difference from the
    background alone."""

    name: str
    error: float
    contrast: float


def _on(background: str, pictures: NDArray[np.uint8]) -> Iterator[Match]:
    """Matches of pictures with one background."""
    difference = torch.from_numpy(pictures.astype(np.float32) / 255) - torch.tensor(BACKGROUNDS[background]) / 255  # (B, 64, 64, 3)
    contrasts = difference.square().sum((1, 2, 3)).tolist()
    cells = {cell: _nearest(cell, difference, background) for names in LAYOUTS.values() for cell in names}
    for i, contrast in enumerate(contrasts):
        options = [_layout({cell: cells[cell][i] for cell in names}, contrast) for names in LAYOUTS.values()]
        nearest, error = min(options, key=lambda option: option[1])
        shown = {cell: name if share >= 1 - _LEFT_OVER else NOTHING for cell, (name, share) in nearest.items()}
        left_over = error / max(contrast, 1e-6)
        if not shown or left_over > _LEFT_OVER:
            shown[""] = NOTHING
        yield Match(shown, background, left_over, nearest)


def _layout(cells: Mapping[str, _Cell], contrast: float) -> tuple[dict[str, tuple[str, float]], float]:
    """Cells that are not empty, with their nearest objects and the share that those explain, and the squared error of the whole picture, which
    is infinite if a needed cell is empty."""
    filled = {cell: one for cell, one in cells.items() if one.contrast >= _CALM * 3 * BOXES[cell][2] ** 2}
    if not filled or (len(filled) < len(cells) and len(cells) < 4):
        return {}, float("inf")
    nearest = {cell: (one.name, 1 - one.error / one.contrast) for cell, one in filled.items()}
    return nearest, contrast - sum(one.contrast - one.error for one in filled.values())


def _nearest(cell: str, difference: Tensor, background: str) -> list[_Cell]:
    """For each picture (B, 64, 64, 3), less its background, the object whose artwork is nearest to a cell, at any of its places."""
    left, top, side = BOXES[cell]
    box = difference[:, top : top + side, left : left + side]
    contrast = box.square().sum((1, 2, 3))  # (B,)
    names, templates, norms = _templates(side, background)
    size, places = _SIZES[side]
    crops = torch.stack([box[:, y : y + size, x : x + size].flatten(1) for x, y in places], 1)  # (B, P, 3 s s)
    # |crop - art|^2 and what is around the crop: contrast - 2 crop . art + |art|^2
    gain = (norms - 2 * crops @ templates.T).flatten(1)  # (B, P T)
    least, best = gain.min(1)
    errors = (contrast + least).clamp_min(0)
    return [
        _Cell(names[place % len(names)], error, here)
        for place, error, here in zip(best.tolist(), errors.tolist(), contrast.tolist(), strict=True)
    ]


@cache
def _templates(side: int, background: str) -> tuple[tuple[str, ...], Tensor, Tensor]:
    """Names and artwork (T, 3 s s), less the background, of every object in every style on a background, and its squared norms (T,)."""
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
    templates = torch.stack(rows)
    return tuple(names), templates, templates.square().sum(1)
