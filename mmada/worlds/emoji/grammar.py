"""Sentences that describe pictures, and their meaning: `phrase(spec)` and `parse(text)` are each other's inverse.

    frame        draw {}                        a picture of {}
    body         two dogs and a cat             how many of what
                 two dogs above a cat           and how they lie
                 a dog at the top left          and where each one is
                 a large dog
    clauses      on a white background          in twemoji style

Each table holds the ways to say one thing, the plainest first: `canonical` takes the first everywhere, `paraphrase` any. The
parser reads the same tables backwards, so whatever can be said can be understood; held-out frames are only never trained.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import permutations
from typing import Protocol, TypeVar

from mmada.data.answers import NUMBER_WORDS
from mmada.errors import InputError
from mmada.worlds.emoji.chooser import Chooser
from mmada.worlds.emoji.objects import STYLES, article, noun_index, objects
from mmada.worlds.emoji.scenes import BACKGROUNDS, LAYOUTS, Scene
from mmada.worlds.emoji.spec import SceneSpec, spec_of
from mmada.worlds.emoji.split import Templates

__all__ = [
    "CAPTION_FRAMES",
    "DRAW_FRAMES",
    "PLACE_PHRASES",
    "TABLES",
    "Pick",
    "canonical",
    "caption",
    "counted",
    "drawing_prompt",
    "first",
    "listed",
    "paraphrase",
    "parse",
    "phrase",
    "placed",
]

T = TypeVar("T")


class Pick(Protocol):
    """How one of several ways to say a thing is chosen."""

    def __call__(self, options: Sequence[T], /) -> T: ...


def first(options: Sequence[T], /) -> T:
    """The plainest way."""
    return options[0]


PLACE_PHRASES: Mapping[str, tuple[str, ...]] = {
    "center": ("in the center", "in the middle"),
    "left": ("on the left", "on the left side"),
    "right": ("on the right", "on the right side"),
    "top": ("at the top", "in the upper half"),
    "bottom": ("at the bottom", "in the lower half"),
    "top left": ("at the top left", "in the top left corner", "in the upper left"),
    "top right": ("at the top right", "in the top right corner", "in the upper right"),
    "bottom left": ("at the bottom left", "in the bottom left corner", "in the lower left"),
    "bottom right": ("at the bottom right", "in the bottom right corner", "in the lower right"),
}
_LARGE = ("large", "big", "huge")
_ARRANGEMENTS: Mapping[str, tuple[str, ...]] = {
    "row": ("side by side", "next to each other"),
    "stack": ("one above the other", "on top of each other"),
}
_RELATIONS: Mapping[str, tuple[tuple[str, bool], ...]] = {
    "above": (("above", False), ("over", False), ("on top of", False), ("below", True), ("under", True), ("beneath", True)),
    "left of": (("to the left of", False), ("left of", False), ("to the right of", True), ("right of", True)),
}
"""Relation -> (words, whether the two sides are exchanged)."""
_JOINTS = (" and ", " with ", " together with ", " plus ")
_BACKGROUND_CLAUSES = (" on a {} background", " against a {} background", " with a {} background", ", {} background")
_STYLE_CLAUSES = (" in {} style", " in the style of {}", " drawn in {} style", ", {} style")

DRAW_FRAMES = Templates(
    "draw",
    "Draw {}.",
    "Draw {}",
    "Please draw {}.",
    "Can you draw {}?",
    "Paint {}.",
    "A picture of {}.",
    "a picture of {}",
    "An image of {}.",
    "Make a picture of {}.",
    "Make an image with {}.",
    "Show me {}.",
    "I want to see {}.",
    "I would like a picture with {}.",
    "Let me have a picture of {}.",
    "Create an image of {}.",
    "Generate a picture of {}.",
    "Could you paint {} for me?",
    "Sketch {}.",
    "A drawing of {}.",
    "Give me an image of {}.",
    "{}",
    "{}, please.",
    "Let me see {}.",
    "Please make an image that shows {}.",
    "New picture: {}.",
    added=(
        "Create {}.",
        "Create a picture of {}.",
        "Generate an image of {}.",
        "Let me see a picture of {}.",
        "Let me have {}.",
        "I want an image of {}.",
        "Show {}.",
        "Draw me {}.",
        "Now draw {}.",
        "Make me an image of {}.",
        "Please show me {}.",
        "Can I see {}?",
    ),
)
CAPTION_FRAMES = Templates(
    "caption frame",
    "{}",
    "{}.",
    "This is {}.",
    "The picture shows {}.",
    "I can see {}.",
    "You can see {} here.",
    "In the picture: {}.",
    "The image contains {}.",
    "Here we have {}.",
    "What we see is {}.",
    "Here one sees {}.",
    added=(
        "Here is {}.",
        "Here we see {}.",
        "We have {} here.",
        "What we have here is {}.",
        "It is {}.",
        "One can see {}.",
    ),
)
TABLES = (DRAW_FRAMES, CAPTION_FRAMES)


def counted(name: str, number: int, pick: Pick = first) -> str:
    """So many of an object: "a dog", "two dogs"."""
    if number == 1:
        return pick((f"{article(name)} {name}", f"one {name}"))
    return f"{pick((NUMBER_WORDS[number], str(number)))} {objects()[name].plural}"


def listed(parts: Sequence[str], pick: Pick = first) -> str:
    """A list in words: "a", "a and b", "a, b and c"."""
    if len(parts) == 1:
        return parts[0]
    if len(parts) == 2:
        return pick(_JOINTS).join(parts)
    return ", ".join(parts[:-1]) + pick((" and ", ", and ")) + parts[-1]


def phrase(spec: SceneSpec, pick: Pick = first) -> str:
    """The meaning of a spec in words, without a frame."""
    clauses = _clauses_for(spec, pick)
    if spec.places:
        return pick(tuple(_placed(spec, pick))) + clauses
    if spec.relation is not None:
        one, relation, other = spec.relation
        words, is_exchanged = pick(_RELATIONS[relation])
        sides = [counted(name, dict(spec.counts)[name], pick) for name in (one, other)]
        return f" {words} ".join(reversed(sides) if is_exchanged else sides) + clauses
    parts = [counted(name, number, pick) for name, number in spec.counts]
    return listed(pick(tuple(permutations(parts))), pick) + clauses


def _clauses_for(spec: SceneSpec, pick: Pick) -> str:
    """Background and style, where they are demanded."""
    clauses = ""
    if spec.background is not None:
        clauses += pick(_BACKGROUND_CLAUSES).format(spec.background)
    if spec.style is not None:
        clauses += pick(_STYLE_CLAUSES).format(spec.style)
    return clauses


def _placed(spec: SceneSpec, pick: Pick) -> Iterator[str]:
    """The forms in which the place of every object can be said."""
    cells = dict(spec.places)
    name = spec.counts[0][0]
    if "center" in cells:
        yield f"a {pick(_LARGE)} {name}"
    yield listed(pick(tuple(permutations([_at(cell, name, pick) for cell, name in spec.places]))))
    for layout, forms in _ARRANGEMENTS.items():
        if set(cells) == set(LAYOUTS[layout]) and len(spec.counts) == 1:
            yield f"{counted(name, 2, pick)} {pick(forms)}"


def _at(cell: str, name: str, pick: Pick) -> str:
    """One object and its place: "a dog at the top left"."""
    return f"{counted(name, 1, pick)} {pick(PLACE_PHRASES[cell])}"


def canonical(spec: SceneSpec) -> str:
    """The plainest phrase for a spec."""
    return phrase(spec, first)


def placed(spec: SceneSpec, cells: Mapping[str, str]) -> str:
    """The plainest phrase for what a spec demands with a place for every object (cell -> name), told in this order."""
    parts = [f"a {first(_LARGE)} {name}" if cell == "center" else _at(cell, name, first) for cell, name in cells.items()]
    return listed(parts) + _clauses_for(spec, first)


def caption(scene: Scene) -> str:
    """The full canonical caption: every object with its place, and the background."""
    return canonical(spec_of(scene))


def paraphrase(spec: SceneSpec, chooser: Chooser) -> str:
    """A sentence that says what a spec demands."""
    return chooser.template(CAPTION_FRAMES).format(phrase(spec, chooser.pick))


def drawing_prompt(spec: SceneSpec, chooser: Chooser) -> str:
    """A request to draw what a spec demands."""
    return chooser.template(DRAW_FRAMES).format(phrase(spec, chooser.pick))


def parse(text: str) -> SceneSpec | None:
    """The meaning of a sentence of this grammar, or None if it is no such sentence. Case and final punctuation do not matter."""
    plain = _plain(text)
    for before, after in _frames():
        if plain.startswith(before) and plain.endswith(after) and len(plain) > len(before) + len(after):
            spec = _parse_clauses(plain[len(before) : len(plain) - len(after)])
            if spec is not None:
                return spec
    return None


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(" .!?")


@cache
def _frames() -> tuple[tuple[str, str], ...]:
    """What stands before and after the body in each frame, longest first; none at all last."""
    halves = {tuple(half.lower() for half in frame.split("{}")) for frame in (*DRAW_FRAMES.options, *CAPTION_FRAMES.options)}
    bare = {(before, after.rstrip(" .!?")) for before, after in halves}
    return tuple(sorted(bare, key=lambda frame: -len("".join(frame))))


def _parse_clauses(body: str) -> SceneSpec | None:
    """Cut background and style off the end, in either order, and read the rest."""
    found: dict[str, str] = {}
    for ending, kind, value in (*_clauses(), *_clauses()):
        if kind not in found and body.endswith(ending):
            body, found[kind] = body.removesuffix(ending), value
    try:
        return _parse_body(body, found.get("background"), found.get("style"))
    except InputError:
        return None


@cache
def _clauses() -> tuple[tuple[str, str, str], ...]:
    """(clause, kind, value), longest first: "drawn in noto style" ends with "in noto style"."""
    tables = (("background", _BACKGROUND_CLAUSES, BACKGROUNDS), ("style", _STYLE_CLAUSES, STYLES))
    found = [(clause.format(value), kind, value) for kind, clauses, values in tables for clause in clauses for value in values]
    return tuple(sorted(found, key=lambda clause: -len(clause[0])))


def _parse_body(body: str, background: str | None, style: str | None) -> SceneSpec | None:
    """Raises InputError where the parts are understood, but contradict each other."""
    for layout, forms in _ARRANGEMENTS.items():
        for form in forms:
            two = _parse_counted(body.removesuffix(f" {form}")) if body.endswith(f" {form}") else None
            if two is not None and two[1] == len(LAYOUTS[layout]):
                return SceneSpec.placed(dict.fromkeys(LAYOUTS[layout], two[0]), background=background, style=style)
    for relation, words, is_exchanged in _relation_words():
        before, found, after = body.partition(f" {words} ")
        one, other = _parse_counted(before), _parse_counted(after)
        if found and one is not None and other is not None:
            if is_exchanged:
                one, other = other, one
            return SceneSpec.of(dict((one, other)), relation=(one[0], relation, other[0]), background=background, style=style)
    chunks = re.split(r", and |, | and | together with | with | plus ", body)
    places = [_parse_placed(chunk) for chunk in chunks]
    if all(place is not None for place in places):
        cells = dict(filter(None, places))
        return SceneSpec.placed(cells, background=background, style=style) if len(cells) == len(places) else None
    groups = [_parse_counted(chunk) for chunk in chunks]
    counts = dict(filter(None, groups))
    return SceneSpec.of(counts, background=background, style=style) if len(counts) == len(chunks) else None


@cache
def _relation_words() -> tuple[tuple[str, str, bool], ...]:
    """(relation, words, exchanged), longest words first: "to the left of" holds "left of"."""
    found = [(relation, words, flipped) for relation, ways in _RELATIONS.items() for words, flipped in ways]
    return tuple(sorted(found, key=lambda way: -len(way[1])))


def _parse_counted(text: str) -> tuple[str, int] | None:
    """ "two dogs" -> ("dog", 2)."""
    word, _, rest = text.partition(" ")
    number = 1 if word in ("a", "an") else NUMBER_WORDS.index(word) if word in NUMBER_WORDS else int(word) if word.isdecimal() else None
    name, may_be_one, may_be_several = noun_index().get(text if number is None else rest, (None, False, False))
    number = 1 if number is None else number
    if name is None or not (may_be_one if number == 1 else may_be_several and number > 1):
        return None
    return name, number


def _parse_placed(text: str) -> tuple[str, str] | None:
    """ "a dog at the top left" -> ("top left", "dog")."""
    for word in _LARGE:
        if text.startswith(f"a {word} "):
            thing = _parse_counted(text.removeprefix(f"a {word} "))
            return None if thing is None or thing[1] != 1 else ("center", thing[0])
    for cell, phrases in PLACE_PHRASES.items():
        for place in phrases:
            thing = _parse_counted(text.removesuffix(f" {place}")) if text.endswith(f" {place}") else None
            if thing is not None and thing[1] == 1:
                return cell, thing[0]
    return None
