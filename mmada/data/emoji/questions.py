"""Questions about pictures, with thoughts and exact answers.

    question   How many dogs are there?
    think      top left dog 1, top right cat 1, bottom left dog 2
    answer     2

Thoughts list the occupied cells in reading order; what is counted is counted along, so that each number follows from the one before and
the object beside it; and what else the answer needs comes behind a semicolon. Each function makes one kind. Called without a scene it
makes one that suits (so that answers are balanced), otherwise it asks about the given scene, and raises `DeadEndError` if that leaves
nothing to ask.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Protocol

from mmada.data.emoji.chooser import Chooser, DeadEndError, Groups
from mmada.data.emoji.example import Example, Meta
from mmada.data.emoji.grammar import PLACE_PHRASES, canonical, caption
from mmada.data.emoji.objects import CATEGORY_PLURALS, SHAPES, objects
from mmada.data.emoji.scenes import BOXES, LAYOUTS, MAX_ITEMS, Scene
from mmada.data.emoji.spec import SceneSpec, spec_of
from mmada.data.emoji.split import Templates

__all__ = ["PARTITIONS", "QUESTIONS", "TABLES", "Question", "seen", "unique"]

PARTITIONS: Mapping[int, tuple[tuple[int, ...], ...]] = {
    0: ((),),
    1: ((1,),),
    2: ((1, 1), (2,)),
    3: ((1, 1, 1), (2, 1), (3,)),
    4: ((1, 1, 1, 1), (2, 1, 1), (2, 2), (3, 1), (4,)),
}
"""Number of objects -> the ways to share it among kinds."""

_DESCRIBE = Templates(
    "describe",
    "Describe the picture.",
    "Describe this image.",
    "Describe what you see.",
    "What does the picture show?",
    "Give a caption for this image.",
    "Tell me exactly what is where.",
    "Please describe the image.",
    "Caption this picture.",
    "What do you see, and where?",
    "Write a caption.",
    "Explain what is in the image and where.",
)
_CONTENTS = Templates(
    "contents",
    "What is in the picture?",
    "What is in this image?",
    "What things are there?",
    "Name what you see.",
    "List the things in the picture.",
    "Which things does the image show?",
    "What can be seen here?",
    "What objects are in the image?",
    "List what is there.",
    "Name the objects and how many there are.",
)
_COUNT = Templates(
    "count",
    "How many {things} are there?",
    "How many {things} do you see?",
    "How many {things} are in the picture?",
    "Count the {things}.",
    "What is the number of {things}?",
    "How many {things} does the image show?",
    "Number of {things}?",
    "How many {things} can you find?",
    "Tell me how many {things} there are.",
    "Please count the {things}.",
    "how many {things}?",
)
_TOTAL = Templates(
    "total",
    "How many things are there?",
    "How many objects are in the picture?",
    "How many things do you see?",
    "Count everything.",
    "How many objects are there in all?",
    "What is the total number of objects?",
    "How many things does the image show?",
    "Count all the objects.",
    "How many items are in the image?",
    "how many things in total?",
)
_PRESENCE = Templates(
    "presence",
    "Is there {a_thing}?",
    "Is there {a_thing} in the picture?",
    "Do you see {a_thing}?",
    "Can you see {a_thing}?",
    "Does the picture show {a_thing}?",
    "Does the image contain {a_thing}?",
    "Is {a_thing} there?",
    "Can you find {a_thing} here?",
    "Are there any {things}?",
    "Do you see any {things} in the image?",
    "Any {things} in the picture?",
)
_WHERE = Templates(
    "where",
    "Where is the {thing}?",
    "Where do you see the {thing}?",
    "Where is the {thing} in the picture?",
    "In which place is the {thing}?",
    "What is the position of the {thing}?",
    "Where can I find the {thing}?",
    "Find the {thing}.",
    "Locate the {thing}.",
    "Tell me where the {thing} is.",
    "The {thing} is where?",
)
_WHAT_AT = Templates(
    "what at",
    "What is {place}?",
    "What do you see {place}?",
    "What is {place} of the picture?",
    "Which object is {place}?",
    "Which thing is {place}?",
    "Name the object {place}.",
    "What can be seen {place}?",
    "Tell me what is {place}.",
    "What does the image show {place}?",
    "Look {place}: what is there?",
    "Look at the picture: what is {place}?",
)
_COLOUR_OF = Templates(
    "colour of",
    "What color is the {thing}?",
    "What colour is the {thing}?",
    "Which color does the {thing} have?",
    "What is the color of the {thing}?",
    "Name the color of the {thing}.",
    "The {thing} is what color?",
    "Which colour is the {thing}?",
    "Tell me the color of the {thing}.",
    "Of what color is the {thing} in the picture?",
)
_COLOUR_AT = Templates(
    "colour at",
    "What color is the object {place}?",
    "What colour is the thing {place}?",
    "Which color does the thing {place} have?",
    "What is the color of the object {place}?",
    "Name the color of what is {place}.",
    "The thing {place} is what color?",
    "Which colour is the object {place}?",
    "Tell me the color of the object {place}.",
)
_BACKGROUND = Templates(
    "background",
    "What color is the background?",
    "What colour is the background?",
    "Which color does the background have?",
    "What is the background color?",
    "Name the color of the background.",
    "On what color do the things stand?",
    "What color is behind the objects?",
    "The background is what color?",
    "Tell me the color of the background.",
)
_COMPARE = Templates(
    "compare",
    "Are there more {ones} or {others}?",
    "Do you see more {ones} or more {others}?",
    "Which are there more of: {ones} or {others}?",
    "What is there more of, {ones} or {others}?",
    "More {ones} or more {others}?",
    "Does the picture show more {ones} or {others}?",
    "Compare the number of {ones} and {others}.",
    "Which is more frequent: {ones} or {others}?",
    "Are the {ones} or the {others} more in number?",
    "Which wins in number, {ones} or {others}?",
)
_RELATION = Templates(
    "relation",
    "Is the {one} {words} the {other}?",
    "Is the {one} {words} the {other} in the picture?",
    "Do you see the {one} {words} the {other}?",
    "Does the {one} stand {words} the {other}?",
    "Can you see the {one} {words} the {other}?",
    "Is it true that the {one} is {words} the {other}?",
    "Would you say the {one} is {words} the {other}?",
    "The {one} is {words} the {other}, right?",
    "Check: is the {one} {words} the {other}?",
)
TABLES = (
    _DESCRIBE,
    _CONTENTS,
    _COUNT,
    _TOTAL,
    _PRESENCE,
    _WHERE,
    _WHAT_AT,
    _COLOUR_OF,
    _COLOUR_AT,
    _BACKGROUND,
    _COMPARE,
    _RELATION,
)


def _picture(c: Chooser, groups: Groups) -> Scene:
    """A scene with these objects anywhere."""
    return c.scene(c.arrange(groups, c.layout(sum(groups.values()))))


def _any_picture(c: Chooser, *, has_unique: bool = False) -> Scene:
    """A scene of one to four objects, if asked for with at least one that is there once."""
    total = c.weighted({1: 0.15, 2: 0.3, 3: 0.28, 4: 0.27})
    return _picture(c, c.groups(c.pick([sizes for sizes in PARTITIONS[total] if 1 in sizes or not has_unique])))


def seen(scene: Scene, *kinds: Container[str]) -> str:
    """The occupied cells with their contents, and how many of each of these kinds there were so far: "top dog 1, bottom cat 1"."""
    numbers, parts = [0] * len(kinds), []
    for cell, name in scene.cells.items():
        numbers = [number + (name in kind) for number, kind in zip(numbers, kinds, strict=True)]
        parts.append(" ".join((cell, name, *map(str, numbers))))
    return ", ".join(parts)


def _example(
    c: Chooser,
    kind: str,
    scene: Scene,
    prompt: str,
    think: str,
    answer: str,
    *,
    named: tuple[str, ...] = (),
    spec: SceneSpec | None = None,
) -> Example:
    meta = Meta(named=named, templates=tuple(c.templates))
    return Example(task="understand", kind=kind, prompt=prompt, think=think, answer=answer, scene=scene, spec=spec, meta=meta)


def _describe(c: Chooser, scene: Scene | None = None) -> Example:
    scene = scene or _any_picture(c)
    prompt = c.template(_DESCRIBE)
    return _example(c, "caption", scene, prompt, f"{seen(scene)}; background {scene.background}", caption(scene), spec=spec_of(scene))


def _contents(c: Chooser, scene: Scene | None = None) -> Example:
    scene = scene or _any_picture(c)
    spec = SceneSpec.of(scene.counts)
    tally = ", ".join(f"{name} {number}" for name, number in spec.counts)
    return _example(c, "contents", scene, c.template(_CONTENTS), f"{seen(scene)}; {tally}", canonical(spec), spec=spec)


def _number_and_rest(c: Chooser) -> tuple[int, int]:
    """How many there are of what is counted, each answer about equally often, and how many others."""
    number = c.weighted({0: 0.12, 1: 0.22, 2: 0.22, 3: 0.22, 4: 0.22})
    return number, c.between(0 if number else 1, MAX_ITEMS - number)


def _count(c: Chooser, scene: Scene | None = None) -> Example:
    name = None
    if scene is None:
        number, rest = _number_and_rest(c)
        groups = c.groups(((number,) if number else ()) + c.pick(PARTITIONS[rest]))
        scene = _picture(c, groups)
        name = next(iter(groups)) if number else None
    elif c.chance(0.75):
        name = c.pick(list(scene.counts))
    name = name or c.absent(scene, related=c.chance(0.5))
    prompt = c.template(_COUNT).format(things=objects()[name].plural)
    return _example(c, "count", scene, prompt, seen(scene, {name}), str(scene.counts.get(name, 0)), named=(name,))


def _count_category(c: Chooser, scene: Scene | None = None) -> Example:
    category = c.pick(list(CATEGORY_PLURALS))
    if scene is None:
        number, rest = _number_and_rest(c)
        inside = c.groups(c.pick(PARTITIONS[number]), [thing.name for thing in objects().values() if thing.is_a(category)])
        outside = [thing.name for thing in objects().values() if not thing.is_a(category)]
        scene = _picture(c, inside | c.groups(c.pick(PARTITIONS[rest]), outside, present=inside))
    elif c.chance(0.75):
        categories = {objects()[name].category for name in scene.counts} | {objects()[name].kingdom for name in scene.counts}
        category = c.pick(sorted(categories - {"thing"}) or [category])
    ones = {name for name in scene.counts if objects()[name].is_a(category)}
    prompt = c.template(_COUNT).format(things=CATEGORY_PLURALS[category])
    number = sum(scene.counts[name] for name in ones)
    return _example(c, "count_category", scene, prompt, seen(scene, ones), str(number))


def _total(c: Chooser, scene: Scene | None = None) -> Example:
    scene = scene or _picture(c, c.groups(c.pick(PARTITIONS[c.between(1, MAX_ITEMS)])))
    return _example(c, "total", scene, c.template(_TOTAL), seen(scene, scene.counts), str(len(scene.items)))


def _presence(c: Chooser, scene: Scene | None = None) -> Example:
    is_there = c.chance(0.5)
    scene = scene or _any_picture(c)
    name = c.pick(list(scene.counts)) if is_there else c.absent(scene, related=c.chance(0.5))
    prompt = c.template(_PRESENCE).format(a_thing=canonical(SceneSpec.of({name: 1})), things=objects()[name].plural)
    return _example(c, "presence", scene, prompt, seen(scene, {name}), "yes" if name in scene.counts else "no", named=(name,))


def unique(scene: Scene) -> dict[str, str]:
    """Object name -> cell, of the objects that are there once."""
    return {name: cell for cell, name in scene.cells.items() if scene.counts[name] == 1}


def _where(c: Chooser, scene: Scene | None = None) -> Example:
    scene = scene or _any_picture(c, has_unique=True)
    once = unique(scene)
    if not once:
        raise DeadEndError
    name = c.pick(list(once))
    return _example(c, "where", scene, c.template(_WHERE).format(thing=name), f"{seen(scene)}; {name} is {once[name]}", once[name])


def _what_at(c: Chooser, scene: Scene | None = None) -> Example:
    scene = scene or _any_picture(c)
    empty = [cell for cell in LAYOUTS[scene.layout] if cell not in scene.cells]
    cell = c.pick(empty) if empty and c.chance(0.25) else c.pick(list(scene.cells))
    name = scene.cells.get(cell, "nothing")
    prompt = c.template(_WHAT_AT).format(place=c.pick(PLACE_PHRASES[cell]))
    return _example(c, "what_at", scene, prompt, f"{seen(scene)}; {cell} is {name}", name)


def _coloured_picture(c: Chooser) -> Scene:
    """A scene with an object of a random colour; among shapes it is the only one of its shape."""
    coloured = [thing for thing in objects().values() if thing.colour]
    colour = c.pick(sorted({str(thing.colour) for thing in coloured}))
    group = c.groups((1,), [thing.name for thing in coloured if thing.colour == colour])
    category = objects()[next(iter(group))].category
    others = [thing.name for thing in objects().values() if category not in SHAPES or thing.category != category]
    return _picture(c, group | c.groups(c.pick(PARTITIONS[c.between(0, MAX_ITEMS - 1)]), others, present=group))


def _colour(c: Chooser, scene: Scene | None = None) -> Example:
    scene = scene or _coloured_picture(c)
    options = []
    for name, cell in unique(scene).items():
        category = objects()[name].category
        if category in SHAPES:
            only = sum(objects()[other].category == category for other in scene.counts) == 1
            options += [(_COLOUR_OF, category, name, cell)] if only else []
        elif objects()[name].colour:
            options += [(_COLOUR_OF, name, name, cell)]
    options += [(_COLOUR_AT, cell, name, cell) for cell, name in scene.cells.items() if objects()[name].colour]
    if not options:
        raise DeadEndError
    table, subject, name, cell = c.pick(options)
    colour = str(objects()[name].colour)
    prompt = c.template(table).format(thing=subject, place=PLACE_PHRASES[cell][0])
    think = f"{seen(scene)}; {subject} is {name if subject != name else cell} -> {colour}"
    return _example(c, "colour", scene, prompt, think, colour)


def _background(c: Chooser, scene: Scene | None = None) -> Example:
    scene = scene or _any_picture(c)
    return _example(c, "background", scene, c.template(_BACKGROUND), f"{seen(scene)}; background {scene.background}", scene.background)


def _compare(c: Chooser, scene: Scene | None = None) -> Example:
    if scene is None:
        are_equal = c.chance(1 / 3)
        sizes = c.pick(((1, 1), (1, 1, 1), (1, 1, 2), (2, 2)) if are_equal else ((2, 1), (3, 1), (2, 1, 1)))
        groups = c.groups(sizes)
        scene, names = _picture(c, groups), list(groups)[:2]
    else:
        names = list(scene.counts)
        if len(names) < 2:
            raise DeadEndError
    one, other = c.shuffled(names)[:2]
    numbers = [scene.counts[name] for name in (one, other)]
    sign = {-1: "<", 0: "=", 1: ">"}[(numbers[0] > numbers[1]) - (numbers[0] < numbers[1])]
    plurals = [objects()[name].plural for name in (one, other)]
    answer = {"<": plurals[1], "=": "same", ">": plurals[0]}[sign]
    think = f"{seen(scene, {one}, {other})}; {numbers[0]} {sign} {numbers[1]}"
    prompt = c.template(_COMPARE).format(ones=plurals[0], others=plurals[1])
    return _example(c, "compare", scene, prompt, think, answer)


_DIRECTIONS: Mapping[str, tuple[int, int]] = {"to the left of": (0, -1), "to the right of": (0, 1), "above": (1, -1), "below": (1, 1)}
"""Words -> axis (0 across, 1 down), and on which side the first object lies."""


def _relation(c: Chooser, scene: Scene | None = None) -> Example:
    scene = scene or _picture(c, c.groups(c.pick(((1, 1), (1, 1), (1, 1, 1), (1, 1, 2), (1, 1, 1, 1)))))
    is_so = c.chance(0.5)
    once = unique(scene)
    options = []
    for words, (axis, side) in _DIRECTIONS.items():
        for one, cell in once.items():
            for other, other_cell in once.items():
                if (BOXES[cell][axis] - BOXES[other_cell][axis]) * side > 0:
                    options.append((words, one, other))
    if not options:
        raise DeadEndError
    words, one, other = c.pick(options)
    if not is_so:
        one, other = other, one
    prompt = c.template(_RELATION).format(one=one, words=words, other=other)
    answer = "yes" if is_so else "no"
    # "top left" is left across, and top down.
    sides = [once[name].split(" ")[-1 if _DIRECTIONS[words][0] == 0 else 0] for name in (one, other)]
    think = f"{seen(scene)}; {one} is {sides[0]}, {other} is {sides[1]} -> {answer}"
    return _example(c, "relation", scene, prompt, think, answer)


class Question(Protocol):
    """What makes an example of one kind, about a given scene or a new one."""

    def __call__(self, c: Chooser, scene: Scene | None = None, /) -> Example: ...


QUESTIONS: Mapping[str, Question] = {
    "caption": _describe,
    "contents": _contents,
    "count": _count,
    "count_category": _count_category,
    "total": _total,
    "presence": _presence,
    "where": _where,
    "what_at": _what_at,
    "colour": _colour,
    "background": _background,
    "compare": _compare,
    "relation": _relation,
}
"""Kind -> what makes an example of it."""
