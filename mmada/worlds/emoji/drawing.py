"""Plain drawing prompts: single objects, numbers, places, relations, and colours bound to shapes.

    draw    Draw two red hearts above a dog on a pink background.    -> picture

A prompt is first a demand (`SceneSpec`) with one way to fulfil it (cell -> object), then a sentence and a scene. Where no style is
stated the scene is in the first one, so that what is asked for without a word has one look.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import combinations, product

from mmada.worlds.emoji.chooser import Chooser, DeadEndError, Groups
from mmada.worlds.emoji.example import Example, Meta
from mmada.worlds.emoji.grammar import drawing_prompt
from mmada.worlds.emoji.objects import SHAPES, STYLES, objects
from mmada.worlds.emoji.questions import PARTITIONS
from mmada.worlds.emoji.scenes import LAYOUTS, MAX_ITEMS, Scene
from mmada.worlds.emoji.spec import RELATIONS, SceneSpec

__all__ = ["DRAWINGS", "Demand", "dressed", "placed_anywhere", "related", "stands"]

Demand = tuple[SceneSpec, Mapping[str, str]]
"""What a prompt demands, and one way to fulfil it: occupied cell -> object name."""


def placed_anywhere(c: Chooser, groups: Groups) -> Demand:
    """So many of each, wherever they are; one object alone is drawn large."""
    total = sum(groups.values())
    return SceneSpec.of(groups), c.arrange(groups, "single" if total == 1 else c.layout(total))


def stands(c: Chooser, groups: Groups) -> Demand:
    """Each object in a small cell of its own, which is stated."""
    total = sum(groups.values())
    cells = c.arrange(groups, "grid" if total == 1 else c.layout(total))
    return SceneSpec.placed(cells), cells


_SIDES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "above": (("top left", "top right"), ("bottom left", "bottom right")),
    "left of": (("top left", "bottom left"), ("top right", "bottom right")),
}
_LINES: Mapping[str, tuple[str, ...]] = {"above": LAYOUTS["stack"], "left of": LAYOUTS["row"]}


def related(c: Chooser, groups: Groups) -> Demand:
    """One kind above or left of another, one or two of each. Of two single objects none is drawn across the other."""
    (one, number), (other, other_number) = groups.items()
    relation = c.pick(RELATIONS)
    near, far = _SIDES[relation]
    ways = list(product(combinations(near, number), combinations(far, other_number)))
    if number == other_number == 1:
        near_cell, far_cell = _LINES[relation]
        ways = [((near_cell,), (far_cell,)), *(((a,), (b,)) for a, b in zip(near, far, strict=True))]
    for ones, others in c.shuffled(ways):
        cells = dict.fromkeys(ones, one) | dict.fromkeys(others, other)
        if all(c.allows(("place", name, cell)) for cell, name in cells.items()):
            return SceneSpec.of(groups, relation=(one, relation, other)), cells
    raise DeadEndError


def _single(c: Chooser) -> Demand:
    spec, cells = placed_anywhere(c, c.groups((1,)))
    return (SceneSpec.placed(cells) if c.chance(0.5) else spec), cells


def _two(c: Chooser) -> Demand:
    return placed_anywhere(c, c.groups((1, 1)))


def _count(c: Chooser) -> Demand:
    return placed_anywhere(c, c.groups((c.between(2, MAX_ITEMS),)))


def _counts(c: Chooser) -> Demand:
    return placed_anywhere(c, c.groups(c.pick(((2, 1), (2, 1), (2, 2), (3, 1), (1, 1, 1), (2, 1, 1), (1, 1, 1, 1)))))


def _place(c: Chooser) -> Demand:
    return stands(c, c.groups(c.pick(PARTITIONS[c.between(1, MAX_ITEMS)])))


def _relation(c: Chooser) -> Demand:
    return related(c, c.groups(c.pick(((1, 1), (1, 1), (1, 2), (2, 1), (2, 2)))))


def _binding(c: Chooser) -> Demand:
    """Shapes that differ both in colour and in shape, so that each colour must go to the right one."""
    groups = c.groups(c.pick(((1, 1), (1, 1), (1, 2), (2, 1))), [thing.name for thing in objects().values() if thing.category in SHAPES])
    one, other = (objects()[name] for name in groups)
    if one.colour == other.colour or one.category == other.category:
        raise DeadEndError
    return c.pick((placed_anywhere, stands, related))(c, groups)


def dressed(c: Chooser, demand: Demand, *, may_state_style: bool) -> tuple[SceneSpec, Scene]:
    """Choose background and style, state them in some prompts, and make the picture."""
    spec, cells = demand
    names = set(cells.values())
    background, style = c.background(names), STYLES[0]
    if c.wanted == "backdrop" or c.chance(0.4):
        spec = replace(spec, background=background)
    if may_state_style and (c.wanted == "style" or c.chance(0.25)):
        drawn = STYLES[1] if c.wanted == "style" else c.pick(STYLES)
        style = drawn if all(c.allows(("style", name, drawn)) for name in names) else STYLES[0]
        spec = replace(spec, style=style)
    return spec, c.scene(cells, style=style, background=background)


def _drawing(kind: str, demand: Callable[[Chooser], Demand]) -> Callable[[Chooser], Example]:
    def make(c: Chooser) -> Example:
        spec, scene = dressed(c, demand(c), may_state_style=True)
        prompt = drawing_prompt(spec, c)
        return Example(task="draw", kind=kind, prompt=prompt, scene=scene, spec=spec, meta=Meta(templates=tuple(c.templates)))

    return make


_DEMANDS: Mapping[str, Callable[[Chooser], Demand]] = {
    "draw_single": _single,
    "draw_two": _two,
    "draw_count": _count,
    "draw_counts": _counts,
    "draw_place": _place,
    "draw_relation": _relation,
    "draw_binding": _binding,
}

DRAWINGS: Mapping[str, Callable[[Chooser], Example]] = {kind: _drawing(kind, demand) for kind, demand in _DEMANDS.items()}
"""Kind -> what makes an example of it."""
