"""Random choices that keep to one side of the split.

A `Chooser` makes the choices of one example. Training examples are made without any held-out combination. A test example has one
wanted type: of that type held-out combinations are sought, of all others it avoids them, like training. Choices are made part by
part (an object that forms a held-out pair is drawn again, not the whole example), so the split hardly distorts how often anything
occurs. A part that cannot be completed raises `DeadEndError`; `tasks.sample` judges each finished example once more.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from mmada.worlds.emoji.objects import STYLES, objects
from mmada.worlds.emoji.scenes import BACKGROUNDS, LAYOUTS, Scene, jittered_item, layout_of
from mmada.worlds.emoji.split import (
    Combination,
    HoldOut,
    Templates,
    held_out_numbers,
    held_out_partners,
    held_out_styles,
    is_held_out,
)

__all__ = ["Chooser", "DeadEndError", "Groups"]

T = TypeVar("T")
Groups = Mapping[str, int]
"""Object name -> how many of it, in a picture."""

_MAX_DRAWS = 60
"""Draws of one part before the whole example is begun again; nine in ten draws succeed."""


class DeadEndError(Exception):
    """The choices made so far cannot be completed within the split; begin the example again."""


class Chooser:
    """Choices for one example. `wanted` is the type of held-out combination to seek, or None for training."""

    def __init__(self, rng: np.random.Generator, wanted: HoldOut | None = None) -> None:
        self.rng = rng
        self.wanted = wanted
        self.templates: list[Combination] = []

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.rng.random() < probability

    def pick(self, options: Sequence[T], /) -> T:
        """One of the options, all equally likely."""
        return options[int(self.rng.random() * len(options))]

    def between(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return low + int(self.rng.random() * (high - low + 1))

    def weighted(self, weights: Mapping[T, float]) -> T:
        """A key, with probability proportional to its value."""
        mark = self.rng.random() * sum(weights.values())
        for option, weight in weights.items():
            mark -= weight
            if mark < 0:
                return option
        return option

    def shuffled(self, options: Iterable[T]) -> list[T]:
        """All options, in a random order."""
        left = list(options)
        return [left.pop(int(self.rng.random() * len(left))) for _ in range(len(left))]

    def allows(self, combination: Combination) -> bool:
        """Whether the example may contain a combination: any of the wanted type, else only trained ones."""
        return combination[0] == self.wanted or not is_held_out(combination)

    def allows_beside(self, name: str, others: Iterable[str]) -> bool:
        """Whether an object may share an example with others."""
        return all(self.allows(("pair", *sorted((name, other)))) for other in others)

    def template(self, table: Templates) -> str:
        """A way to say something; it is noted as used."""
        seeks = self.wanted == "template" and self.chance(0.6)
        text = self.pick((seeks and table.held_out) or table.trained)
        self.templates.append(("template", table.name, text))
        return text

    def groups(self, sizes: Sequence[int], pool: Sequence[str] | None = None, *, present: Collection[str] = ()) -> dict[str, int]:
        """Different objects, so many of each as `sizes` says, in its order.

        pool     where the names come from, all objects by default
        present  names that share the example, to which the new ones must be allowed
        """
        pool = tuple(objects()) if pool is None else pool
        chosen: dict[int, str] = {}
        # The group that must be held out comes first, while every object is still free.
        order = sorted(range(len(sizes)), key=lambda i: sizes[i] < 2) if self.wanted == "number" else range(len(sizes))
        for i in order:
            chosen[i] = self._object(sizes[i], pool, [*chosen.values(), *present])
        return {chosen[i]: size for i, size in enumerate(sizes)}

    def _object(self, size: int, pool: Sequence[str], others: Sequence[str]) -> str:
        options = self._sought(size, pool, others)
        for _ in range(_MAX_DRAWS):
            name = self.pick(options)
            if name not in others and self.allows(("number", name, str(size))) and self.allows_beside(name, others):
                return name
        raise DeadEndError

    def _sought(self, size: int, pool: Sequence[str], others: Sequence[str]) -> Sequence[str]:
        """The part of the pool that makes a combination of the wanted type, as long as the example lacks one."""
        sought: Collection[str] = pool
        if self.wanted == "pair" and len(others) == 1:
            sought = held_out_partners()[others[0]]
        elif self.wanted == "number" and size >= 2 and not others:
            sought = held_out_numbers()[size]
        elif self.wanted == "style" and not others:
            sought = held_out_styles()
        else:
            return pool
        options = [name for name in pool if name in sought]
        if not options:
            raise DeadEndError
        return options

    def layout(self, total: int) -> str:
        """A layout that can hold so many objects."""
        if total == 1:
            return "single" if self.chance(0.7) else "grid"
        if total == 2:
            return self.weighted({"row": 0.35, "stack": 0.25, "grid": 0.4})
        return "grid"

    def arrange(self, groups: Groups, layout: str) -> dict[str, str]:
        """Put every object of the groups into a cell of its own: cell -> object name."""
        names = [name for name, number in groups.items() for _ in range(number)]
        for _ in range(_MAX_DRAWS):
            cells = dict(zip(self.shuffled(LAYOUTS[layout]), names, strict=False))
            places = [("place", name, cell) for cell, name in cells.items()]
            is_sought = self.wanted == "place" and layout != "single"
            if all(map(self.allows, places)) and (not is_sought or any(map(is_held_out, places))):
                return cells
        raise DeadEndError

    def background(self, names: Collection[str]) -> str:
        """A background on which all of these can be seen."""
        things = objects()
        options = [
            background
            for background in BACKGROUNDS
            if all(background not in things[name].faint_on and self.allows(("backdrop", name, background)) for name in names)
        ]
        if self.wanted == "backdrop":
            options = [background for background in options if any(is_held_out(("backdrop", name, background)) for name in names)]
        if not options:
            raise DeadEndError
        return self.pick(options)

    def scene(self, cells: Mapping[str, str], *, style: str | None = None, background: str | None = None) -> Scene:
        """A scene with these objects in these cells, in a style or in any mixture of styles, on a background or on any."""
        layout = layout_of(cells)
        assert layout is not None
        if background is None:
            background = self.background(set(cells.values()))
        styles = self._styles(cells, style)
        items = (jittered_item(cells[cell], styles[cell], cell, self.rng) for cell in LAYOUTS[layout] if cell in cells)
        return Scene(layout, background, tuple(items))

    def _styles(self, cells: Mapping[str, str], style: str | None) -> dict[str, str]:
        """Cell -> style. Where the style is free, an object that lacks the drawn one in training takes the first style."""
        if style is not None:
            return dict.fromkeys(cells, style)
        if self.wanted == "style":
            return {cell: held_out_styles().get(name, STYLES[0]) for cell, name in cells.items()}
        drawn = self.weighted({(STYLES[0],): 0.45, (STYLES[1],): 0.35, STYLES: 0.2})
        picked = {cell: self.pick(drawn) for cell in cells}
        return {cell: picked[cell] if self.allows(("style", name, picked[cell])) else STYLES[0] for cell, name in cells.items()}

    def absent(self, scene: Scene, *, related: bool) -> str:
        """An object that is not in a scene; a related one shares its colour or its category with an object that is."""
        present = set(scene.cells.values())
        pool: Sequence[str] = tuple(objects())
        if related:
            there = [objects()[name] for name in present]
            kinds = {thing.category for thing in there} - {"thing"}
            colours = {thing.colour for thing in there} - {None}
            pool = [thing.name for thing in objects().values() if thing.category in kinds or thing.colour in colours]
            pool = [name for name in pool if name not in present] or tuple(objects())
        for _ in range(_MAX_DRAWS):
            name = self.pick(pool)
            if name not in present and self.allows_beside(name, present):
                return name
        raise DeadEndError
