"""Questions about pictures, with thoughts and exact answers.

    question   How many dogs are there?
    think      top left dog: dog 1, top right cat: dog 1, bottom left dog: dog 2
    answer     2

Thoughts list the occupied cells in reading order. What is asked for is named again beside each of them and counted along, so that each
number follows from the one before and the two names beside it. To find a name somewhere in a question, in the plural perhaps, and to
compare it with what is seen are two steps (docs/decisions.md). What else the answer needs comes behind a semicolon.

Each function makes one kind. Called without a scene it makes one that suits (so that answers are balanced), otherwise it asks about the
given scene, and raises `DeadEndError` if that leaves nothing to ask.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Protocol

from mmada.worlds.emoji.chooser import Chooser, DeadEndError, Groups
from mmada.worlds.emoji.example import Example, Meta
from mmada.worlds.emoji.grammar import PLACE_PHRASES, caption, counted, listed
from mmada.worlds.emoji.objects import CATEGORY_PLURALS, SHAPES, objects
from mmada.worlds.emoji.scenes import BOXES, LAYOUTS, MAX_ITEMS, Scene
from mmada.worlds.emoji.spec import SceneSpec, spec_of
from mmada.worlds.emoji.split import Templates

__all__ = ["PARTITIONS", "QUESTIONS", "TABLES", "Question", "each", "seen", "unique"]

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
    added=(
        "Say what you see, and where it is.",
        "What is there, and where?",
        "Where is what in this picture?",
        "What is shown, and at which places?",
        "Put the picture into words.",
        "Tell me what you see and where you see it.",
        "Describe the things, their places and the background.",
        "In words, what is this picture?",
        "What do you see here? Say where, too.",
        "Describe everything, please.",
        "How would you describe this image?",
        "A caption, please.",
        "Write down what is where, and on what background.",
        "What does this image look like?",
    ),
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
    added=(
        "What can you see?",
        "What is here?",
        "What can be found in the picture?",
        "What do you see?",
        "Which objects can be seen?",
        "What things can you see here?",
        "Say what there is.",
        "What is shown here?",
        "Which things are there, and how many of each?",
        "Tell me what is in the picture.",
        "What does the image contain?",
        "What all is there?",
    ),
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
    added=(
        "How many {things} are here?",
        "How many {things} are in the image?",
        "How many {things} are shown in the picture?",
        "How many {things} can be seen in the picture?",
        "In the picture, how many {things} are there?",
        "Give me the number of {things}.",
        "Find all {things}. How many are they?",
        "How many {things}?",
        "Say how many {things} you see.",
        "How many {things} does the picture have?",
        "Look at the picture: how many {things} are there?",
    ),
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
    added=(
        "How many things are in the image?",
        "How many objects do you see?",
        "How many objects does the picture show?",
        "How many are there in all?",
        "Say how many things there are.",
        "Give me the number of all things.",
        "What number of objects do you see?",
        "In all, how many objects does the image contain?",
        "How many objects are shown?",
    ),
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
    added=(
        "Is there {a_thing} in the image?",
        "Is there {a_thing} here?",
        "Is {a_thing} in the picture?",
        "Is {a_thing} to be seen?",
        "Does the picture have {a_thing}?",
        "Are there {things} in the picture?",
        "In the picture, is there {a_thing}?",
        "Look: is there {a_thing}?",
        "Is there at least one {thing}?",
        "Tell me whether there is {a_thing}.",
        "Could there be {a_thing} in this image?",
        "{a_thing}: is it there?",
        "Does this image show any {things}?",
        "Is there any {thing}?",
        "Yes or no: do you see {a_thing}?",
    ),
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
    added=(
        "Tell me the place of the {thing}.",
        "Say where the {thing} is.",
        "Tell me where you see the {thing}.",
        "Where in the image is the {thing}?",
        "At which place do you see the {thing}?",
        "Where does the {thing} stand?",
        "I am looking for the {thing}. Where is it?",
        "Please locate the {thing}.",
        "The place of the {thing}?",
        "Can you tell me where the {thing} stands?",
    ),
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
    added=(
        "Look {place}: what do you see?",
        "Look {place}. Which thing is there?",
        "{place}, what is there?",
        "What is there {place}?",
        "Which object do you see {place}?",
        "Say what is {place}.",
        "What stands {place}?",
        "There is something {place}. What is it?",
        "What can you find {place}?",
        "Name what is {place}.",
    ),
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
    added=(
        "Of what color is the {thing}?",
        "Of which color is the {thing} here?",
        "In the picture, what color is the {thing}?",
        "What color does the {thing} have in the picture?",
        "Say the color of the {thing}.",
        "What is the {thing}'s color?",
        "Look at the {thing}. What color is it?",
        "Give me the color of the {thing}.",
        "What color has the {thing}?",
    ),
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
    added=(
        "What colour is the object {place}?",
        "What color is what you see {place}?",
        "What colour has the thing {place}?",
        "Of what color is the thing {place}?",
        "Say the color of the thing {place}.",
        "Look {place}. What color is the thing there?",
        "There is a thing {place}. What color is it?",
        "Give me the color of the object {place}.",
    ),
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
    added=(
        "Name the background color.",
        "What color do you see behind the things?",
        "Of what color is the background?",
        "Say the color of the background.",
        "In what color is the background?",
        "What is the color of the background?",
        "What color is the ground on which the things stand?",
        "What background does the picture have?",
        "Give me the background's color.",
    ),
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
    added=(
        "Is there a greater number of {ones} or of {others}?",
        "Which do you see more of, {ones} or {others}?",
        "What do you see more of: {ones}, or {others}?",
        "Of {ones} and {others}, which are more?",
        "Say which are more: {ones} or {others}.",
        "Are there as many {ones} as {others}, or which are more?",
        "Which has the greater number, {ones} or {others}?",
        "Count {ones} and {others}: of which are there more?",
        "{ones} or {others}: which are there more of?",
        "What are there more of in the picture, {ones} or {others}?",
    ),
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
    added=(
        "Would you say that the {one} stands {words} the {other}?",
        "Do you find the {one} {words} the {other}?",
        "Would it be right that the {one} is {words} the {other}?",
        "Say whether the {one} is {words} the {other}.",
        "Is the place of the {one} {words} the {other}?",
        "Look: is the {one} {words} the {other}?",
        "Can you find the {one} {words} the {other}?",
        "Yes or no: the {one} is {words} the {other}?",
        "Does the picture show the {one} {words} the {other}?",
        "True or not: the {one} is {words} the {other}?",
    ),
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
    total = c.weighted({1: 0.25, 2: 0.27, 3: 0.24, 4: 0.24})
    return _picture(c, c.groups(c.pick([sizes for sizes in PARTITIONS[total] if 1 in sizes or not has_unique])))


Tally = Mapping[str, Container[str]]
"""What is counted: its name -> the objects that count."""


def each(*names: str) -> Tally:
    """Objects that count for themselves alone."""
    return {name: {name} for name in names}


def seen(scene: Scene, kinds: Tally | None = None) -> str:
    """The occupied cells with their contents, and how many of each kind there were so far: "top dog: dog 1, bottom cat: dog 1"."""
    return ", ".join(_tallied(scene, [kinds or {}] * len(scene.cells)))


def _tallied(scene: Scene, kinds: Sequence[Tally]) -> Iterator[str]:
    """The parts of `seen`, each with kinds of its own to count."""
    names: list[str] = []
    for (cell, name), counted_here in zip(scene.cells.items(), kinds, strict=True):
        names.append(name)
        tally = " ".join(f"{kind} {sum(other in those for other in names)}" for kind, those in counted_here.items())
        yield f"{cell} {name}: {tally}" if tally else f"{cell} {name}"


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
    listing = ", ".join(_tallied(scene, [each(name) for name in scene.cells.values()]))
    tally = ", ".join(f"{name} {number}" for name, number in scene.counts.items())
    answer = listed([counted(name, number) for name, number in scene.counts.items()])
    return _example(c, "contents", scene, c.template(_CONTENTS), f"{listing}; {tally}", answer, spec=SceneSpec.of(scene.counts))


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
    return _example(c, "count", scene, prompt, seen(scene, each(name)), str(scene.counts.get(name, 0)), named=(name,))


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
    return _example(c, "count_category", scene, prompt, seen(scene, {category: ones}), str(number))


def _total(c: Chooser, scene: Scene | None = None) -> Example:
    scene = scene or _picture(c, c.groups(c.pick(PARTITIONS[c.between(1, MAX_ITEMS)])))
    return _example(c, "total", scene, c.template(_TOTAL), seen(scene, {"thing": scene.counts}), str(len(scene.items)))


def _presence(c: Chooser, scene: Scene | None = None) -> Example:
    is_there = c.chance(0.5)
    scene = scene or _any_picture(c)
    name = c.pick(list(scene.counts)) if is_there else c.absent(scene, related=c.chance(0.5))
    prompt = c.template(_PRESENCE).format(a_thing=counted(name, 1), thing=name, things=objects()[name].plural)
    return _example(c, "presence", scene, prompt, seen(scene, each(name)), "yes" if name in scene.counts else "no", named=(name,))


def unique(scene: Scene) -> dict[str, str]:
    """Object name -> cell, of the objects that are there once."""
    return {name: cell for cell, name in scene.cells.items() if scene.counts[name] == 1}


def _where(c: Chooser, scene: Scene | None = None) -> Example:
    scene = scene or _any_picture(c, has_unique=True)
    once = unique(scene)
    if not once:
        raise DeadEndError
    name = c.pick(list(once))
    think = f"{seen(scene, each(name))}; {name} is {once[name]}"
    return _example(c, "where", scene, c.template(_WHERE).format(thing=name), think, once[name])


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
    asked = {subject: {other for other in scene.counts if subject in (other, objects()[other].category)}} if table is _COLOUR_OF else {}
    think = f"{seen(scene, asked)}; {subject} is {name if subject != name else cell} -> {colour}"
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
    think = f"{seen(scene, each(one, other))}; {numbers[0]} {sign} {numbers[1]}"
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
    think = f"{seen(scene, each(one, other))}; {one} is {sides[0]}, {other} is {sides[1]} -> {answer}"
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
