"""Drawing requests in ordinary English, and their plans. What the world lacks is named first in the plan, and not drawn.

    prompt   hey, can u draw 2 puppies next to a zeppelin pls
    think    unknown: zeppelin; dog 2; dog 1 left, dog 2 right
    answer   a dog on the left and a dog on the right

A request of which nothing can be drawn has the answer `nothing`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mmada.worlds.emoji.chooser import Chooser, DeadEndError
from mmada.worlds.emoji.drawing import Demand, placed_anywhere, related, stands
from mmada.worlds.emoji.example import Example
from mmada.worlds.emoji.grammar import placed
from mmada.worlds.emoji.natural.frames import DRAW_FRAMES, NOT_DRAWINGS
from mmada.worlds.emoji.natural.lists import DEEDS, MANY, NUMBERS, SOFT, SYNONYMS, plural_of, unknown_words
from mmada.worlds.emoji.natural.voice import sections
from mmada.worlds.emoji.objects import SHAPES, article, objects
from mmada.worlds.emoji.questions import PARTITIONS
from mmada.worlds.emoji.reasoning import plan_of
from mmada.worlds.emoji.scenes import BACKGROUNDS, MAX_ITEMS
from mmada.worlds.emoji.spec import SceneSpec
from mmada.worlds.emoji.split import Split

__all__ = ["NOTHING", "UNKNOWN", "natural_drawing"]

NOTHING = "nothing"
"""The answer to a request of which nothing can be drawn."""
UNKNOWN = "unknown: "
"""What a plan begins with that names what the world lacks; phrases stand apart by commas."""

PLACES: Mapping[str, tuple[str, ...]] = {
    "center": ("in the center", "in the middle", "in the centre", "right in the middle", "centered", "at the center"),
    "left": ("on the left", "at the left", "on the left side", "on the left-hand side", "to the left", "left"),
    "right": ("on the right", "at the right", "on the right side", "on the right-hand side", "to the right", "right"),
    "top": ("at the top", "on top", "up top", "in the top half", "above"),
    "bottom": ("at the bottom", "down below", "in the bottom half", "on the bottom", "below"),
    "top left": ("in the top left", "top left", "in the top left corner", "in the upper left corner", "at top left", "in the upper left"),
    "top right": (
        "in the top right",
        "top right",
        "in the top right corner",
        "in the upper right corner",
        "at top right",
        "in the upper right",
    ),
    "bottom left": ("in the bottom left", "bottom left", "in the bottom left corner", "in the lower left corner", "at bottom left"),
    "bottom right": ("in the bottom right", "bottom right", "in the bottom right corner", "in the lower right corner", "at bottom right"),
}
_JOINTS = (
    " and ",
    " and ",
    " and ",
    ", ",
    " with ",
    " & ",
    " plus ",
    " and also ",
    " along with ",
    " as well as ",
    " + ",
    " together with ",
    ", and ",
)
_BESIDE = ("next to", "beside", "by", "near", "close to", "alongside")
_RELATIONS = {
    ("above", False): ("above", "over", "on top of", "on", "right above"),
    ("above", True): ("below", "under", "beneath", "underneath", "right under"),
    ("left of", False): ("to the left of", "left of", "on the left of", "on the left side of"),
    ("left of", True): ("to the right of", "right of", "on the right of", "on the right side of"),
}
_BACKGROUND = (
    " on {}", " on a {} background", " with a {} background", " on {} background", ", {} background", ", background {}", ", make the background {}",
    ". the background should be {}", ". background: {}", " in front of a {} background", ". Use a {} background", ". I want a {} background",
    " with {} behind it", ", and the background is {}", " and a {} background", " before a {} background", " against {}",
)  # fmt: skip
_NOT = (
    " but no {0}", ", no {0}", " without {0}", " but without {0}", ", but not {0}", " and no {0}", ". no {0} please", ". Don't draw {0}",
    ", without any {0}", ". I don't want {0}", " (no {0})", ". leave out the {0}", ", not {0}", " instead of {0}", ", but please no {0}",
)  # fmt: skip
_ALONE_NOT = ("no {0}", "no {0} please", "don't draw {0}", "do not draw {0}", "no more {0}", "not {0}", "anything but {0}", "draw no {0}")
_PLAIN, _REMARKS = 0.5, 0.2
_DOING = (" that can {}", " who {}s", " trying to {}", " and let it {}", " ready to {}")
_WHERE = (
    " in the {}",
    " in a {}",
    " on a {}",
    " at the {}",
    " under a {}",
    " near a {}",
    " on the {}",
    " behind a {}",
    " inside a {}",
    " with a {}",
    " holding a {}",
    " riding a {}",
    " wearing a {}",
    " eating a {}",
)


@dataclass(frozen=True)
class _Said:
    """A part of a request: its words, and what of them the world lacks."""

    text: str
    unknown: tuple[str, ...] = ()


def natural_drawing(c: Chooser, split: Split = "train") -> Example:
    """A request in ordinary English. Words that the world lacks are of this side of the split."""
    make = c.weighted(_MAKERS)
    return make(c, split)


def _a(words: str) -> str:
    return f"{article(words)} {words}"


def _noun(c: Chooser, name: str, number: int) -> str:
    """An object in a visitor's words, in the right number."""
    thing = objects()[name]
    plain = name if number == 1 else thing.plural
    if thing.category in SHAPES:
        shape = thing.category if number == 1 else f"{thing.category}s"
        return c.weighted(
            {plain: 8, f"{shape} in {thing.colour}": 0.7, f"{shape} that {'is' if number == 1 else 'are'} {thing.colour}": 0.4}
        )
    if c.chance(0.2) and name in SYNONYMS and SYNONYMS[name]:
        other = c.pick(SYNONYMS[name])
        plain = other if number == 1 else plural_of(other)
    if thing.colour and c.chance(0.06):
        plain = f"{thing.colour} {plain}"
    return f"{c.pick(SOFT)} {plain}" if c.chance(0.08) else plain


def _counted(c: Chooser, words: str, number: int) -> str:
    if number == 1:
        return c.weighted({_a(words): 10, f"one {words}": 1.5, f"1 {words}": 1, f"a single {words}": 0.4, f"just one {words}": 0.2})
    ways = {f"{NUMBERS[number]} {words}": 6.0, f"{number} {words}": 4.0}
    if number == 2:
        ways |= {f"a pair of {words}": 0.6, f"a couple of {words}": 0.6}
    return c.weighted(ways)


def _group(c: Chooser, name: str, number: int) -> str:
    return _counted(c, _noun(c, name, number), number)


def _listed(c: Chooser, parts: Sequence[str]) -> str:
    if len(parts) == 1:
        return parts[0]
    if len(parts) == 2:
        return c.pick(_JOINTS).join(parts)
    return ", ".join(parts[:-1]) + c.pick((" and ", ", and ", ", ", " plus ")) + parts[-1]


def _some(c: Chooser) -> Mapping[str, int]:
    total = c.weighted({1: 5, 2: 4, 3: 3, 4: 2})
    return c.groups(c.pick(PARTITIONS[total]))


def _dress(c: Chooser, text: str, demand: Demand) -> tuple[str, Demand]:
    """Sometimes a background."""
    spec, cells = demand
    if c.chance(0.2):
        background = c.background(set(cells.values()))
        return text + c.pick(_BACKGROUND).format(background), (replace(spec, background=background), cells)
    return text, demand


def _framed(c: Chooser, body: str) -> str:
    """A request around what is wanted: plain, or with what people tell beside it, of which nothing is to be drawn."""
    if c.chance(_PLAIN):
        return c.pick(DRAW_FRAMES).format(body)
    said = c.pick(sections()["draw"]).format(body)
    if c.chance(_REMARKS):
        remark = c.pick(sections()["remark"])
        ended = said if said[-1] in ".!?" else f"{said}."
        said = f"{ended} {remark}" if c.chance(0.3) else f"{remark if remark[-1] in '.!?' else f'{remark}.'} {said}"
    return said


def _finish(c: Chooser, text: str, demand: Demand | None, unknown: Sequence[str] = (), order: Sequence[str] = ()) -> Example:
    """The example of a request: what cannot be drawn first in its thought, then the plan."""
    missing = f"{UNKNOWN}{', '.join(unknown)}" if unknown else ""
    prompt = _framed(c, text)
    if demand is None:
        return Example(task="text", kind="natural_draw", prompt=prompt, think=missing, answer=NOTHING)
    spec, cells = demand
    turn = order or tuple(dict.fromkeys(cells.values()))
    cells = {cell: name for one in turn for cell, name in cells.items() if name == one}
    plan = plan_of(spec, cells)
    think = f"{missing}; {plan}" if missing else plan
    scene = c.scene(cells, style=spec.style or "noto", background=spec.background)
    return Example(task="reason_draw", kind="natural_draw", prompt=prompt, think=think, answer=placed(spec, cells), scene=scene, spec=spec)


def _plain(c: Chooser, split: Split) -> Example:
    """So many of this and that."""
    groups = _some(c)
    order = c.shuffled(groups)
    text = _listed(c, [_group(c, name, groups[name]) for name in order])
    text, demand = _dress(c, text, placed_anywhere(c, groups))
    return _finish(c, text, demand, order=order)


def _beside(c: Chooser, split: Split) -> Example:
    """Two things side by side."""
    groups = c.groups((1, 1))
    one, other = groups
    cells = {"left": one, "right": other}
    if not all(c.allows(("place", name, cell)) for cell, name in cells.items()):
        raise DeadEndError
    text = f"{_group(c, one, 1)} {c.pick(_BESIDE)} {_group(c, other, 1)}"
    text, demand = _dress(c, text, (SceneSpec.of(groups), cells))
    return _finish(c, text, demand, order=(one, other))


def _related(c: Chooser, split: Split) -> Example:
    """One above another, or left of it."""
    spec, cells = related(c, c.groups(c.pick(((1, 1), (1, 1), (1, 1), (1, 2), (2, 1), (2, 2)))))
    assert spec.relation is not None
    counts = dict(spec.counts)
    flipped = c.chance(0.5)
    one, name, other = spec.relation
    first, second = (other, one) if flipped else (one, other)
    words = c.pick(_RELATIONS[name, flipped])
    text = f"{_group(c, first, counts[first])} {words} {_group(c, second, counts[second])}"
    text, demand = _dress(c, text, (spec, cells))
    return _finish(c, text, demand, order=(first, second))


def _in_places(c: Chooser, split: Split) -> Example:
    """Each thing in its place."""
    spec, cells = stands(c, c.groups(c.pick(PARTITIONS[c.weighted({1: 2, 2: 5, 3: 2, 4: 1})])))
    turn = c.shuffled(cells.items())
    form = c.weighted(
        {"{thing} {place}": 6, "{place} {thing}": 1, "{place}: {thing}": 1, "{thing} should be {place}": 0.5, "{thing} goes {place}": 0.3}
    )
    parts = [form.format(thing=_group(c, name, 1), place=c.pick(PLACES[cell])) for cell, name in turn]
    text = ", ".join(parts[:-1]) + c.pick((" and ", ", ", " and ")) + parts[-1] if len(parts) > 1 else parts[0]
    text, (spec, _) = _dress(c, text, (spec, cells))
    return replace(_finish(c, text, (spec, cells)), think=plan_of(spec, dict(turn)), answer=placed(spec, dict(turn)))


def _one_each(c: Chooser, split: Split) -> Example:
    """ "two hearts, one red and one blue": one shape in two colours."""
    shape = c.pick(SHAPES)
    groups = c.groups((1, 1), [thing.name for thing in objects().values() if thing.category == shape])
    one, other = (objects()[name].colour for name in groups)
    text = c.pick(
        (
            f"two {shape}s, one {one} and one {other}",
            f"2 {shape}s: one {one}, one {other}",
            f"a {one} and a {other} {shape}",
            f"{_a(one or '')} {shape} and {_a(other or '')} one",
            f"two {shape}s, {one} and {other}",
            f"two {shape}s, the first {one}, the second {other}",
            f"one {one} {shape} and another {shape} in {other}",
        )
    )
    text, demand = _dress(c, text, placed_anywhere(c, groups))
    return _finish(c, text, demand, order=tuple(groups))


def _bare_shape(c: Chooser, split: Split) -> Example:
    """A shape without a colour is red."""
    shape, number = c.pick(SHAPES), c.between(1, MAX_ITEMS)
    name = f"red {shape}"
    if number > 1 and not c.allows(("number", name, str(number))):
        raise DeadEndError
    text, demand = _dress(c, _counted(c, shape if number == 1 else f"{shape}s", number), placed_anywhere(c, {name: number}))
    return _finish(c, text, demand)


def _without(c: Chooser, split: Split) -> Example:
    """Something is asked for, and something else is not."""
    groups = c.groups(c.pick(((1,), (1,), (2,), (1, 1))))
    absent = next(iter(c.groups((1,), present=groups)))
    many = c.chance(0.5)
    text = _listed(c, [_group(c, name, number) for name, number in groups.items()])
    template = c.pick(_NOT)
    noun = _noun(c, absent, 2 if many else 1)
    noun = noun if many or template.find("no {0}") >= 0 or "the {0}" in template or "any" in template else _a(noun)
    return _finish(c, text + template.format(noun), placed_anywhere(c, groups), order=tuple(groups))


def _only_without(c: Chooser, split: Split) -> Example:
    """Nothing but what is not wanted."""
    name = next(iter(c.groups((1,))))
    text = c.pick(_ALONE_NOT).format(_noun(c, name, 1 + c.chance(0.6)))
    return replace(_finish(c, text, None, (text,)), prompt=text)


def _too_many(c: Chooser, split: Split) -> Example:
    """More than a picture holds: of one kind, or of two together."""
    if c.chance(0.7):
        name = next(iter(c.groups((1,))))
        said = f"{c.pick(MANY)} {_noun(c, name, 2)}"
        return _finish(c, said, None, (said,))
    groups = list(c.groups((1, 1)))
    sizes = c.pick(((3, 2), (2, 3), (4, 1), (3, 3), (4, 4), (4, 2), (2, 4), (3, 4)))
    said_parts = [f"{c.pick((NUMBERS[n], str(n)))} {_noun(c, name, n)}" for name, n in zip(groups, sizes, strict=True)]
    return _finish(c, " and ".join(said_parts), None, said_parts)


def _stranger(c: Chooser, split: Split) -> tuple[str, str]:
    """A thing that the world lacks: as it is asked for, and as it is named."""
    noun = c.pick(unknown_words("nouns", split))
    words = c.weighted(
        {noun: 8, f"{c.pick(unknown_words('adjectives', split))} {noun}": 1, f"{c.pick(unknown_words('nouns', split))} {noun}": 1}
    )
    if c.chance(0.06):
        known = c.pick(tuple(objects()))
        words = f"{known} {noun}"
    number = c.weighted({1: 8, 2: 1, 3: 0.5})
    if number > 1:
        words = plural_of(words)
        return f"{c.pick((NUMBERS[number], str(number), 'some'))} {words}", words
    return c.weighted({_a(words): 8, f"the {words}": 0.8, f"my {words}": 0.7, words: 1.2}), words


def _only_strangers(c: Chooser, split: Split) -> Example:
    """Things of which the world has none."""
    found = [_stranger(c, split) for _ in range(c.weighted({1: 7, 2: 2}))]
    text = _listed(c, [said for said, _ in found])
    if c.chance(0.2):
        noun = c.pick(unknown_words("nouns", split))
        text += c.pick(_WHERE).format(noun)
        found.append((noun, noun))
    return _finish(c, text, None, [name for _, name in found])


def _with_stranger(c: Chooser, split: Split) -> Example:
    """Something known beside something that is not."""
    groups = c.groups(c.pick(((1,), (1,), (1,), (2,), (1, 1))))
    said, name = _stranger(c, split)
    parts = [(_group(c, known, number), known) for known, number in groups.items()]
    words = [text for text, _ in parts]
    if c.chance(0.4) and len(words) == 1:
        text = f"{words[0]}{c.pick(_WHERE).format(name)}"
    else:
        words.insert(c.between(0, len(words)), said)
        text = _listed(c, words)
    return _finish(c, text, placed_anywhere(c, groups), (name,), order=tuple(groups))


def _odd_attribute(c: Chooser, split: Split) -> Example:
    """A known thing with a property that it cannot have here: the thing is drawn without it."""
    number = c.weighted({1: 5, 2: 1})
    groups = c.groups((number,))
    name = next(iter(groups))
    thing = objects()[name]
    plain = name if number == 1 else thing.plural
    colours = sorted({other.colour for other in objects().values() if other.colour} | {"pink", "gray", "golden", "silver"})
    kind = c.pick(("colour", "adjective", "noun", "verb", "doing"))
    if kind == "colour" and thing.category in SHAPES:
        kind = "adjective"
    if kind == "doing":
        deed = c.pick(unknown_words("verbs", split))
        text = _counted(c, plain, number) + c.pick(_DOING).format(deed)
        return _finish(c, text, placed_anywhere(c, groups), (deed,))
    word = {
        "colour": lambda: c.pick([colour for colour in colours if colour != thing.colour]),
        "adjective": lambda: c.pick(unknown_words("adjectives", split)),
        "noun": lambda: c.pick(unknown_words("nouns", split)),
        "verb": lambda: _doing(c.pick(unknown_words("verbs", split))),
    }[kind]()
    phrase = f"{word} {plain}"
    said = _counted(c, phrase, number)
    text, demand = _dress(c, said, placed_anywhere(c, groups))
    return _finish(c, text, demand, (phrase,))


def _doing(verb: str) -> str:
    return f"{verb[:-1] if verb.endswith('e') and not verb.endswith('ee') else verb}ing"


def _no_drawing(c: Chooser, split: Split) -> Example:
    """No request for a drawing at all."""
    text = c.pick((*NOT_DRAWINGS, *DEEDS)).format(
        noun=c.pick(unknown_words("nouns", split)),
        adj=c.pick(unknown_words("adjectives", split)),
        verb=c.pick(unknown_words("verbs", split)),
    )
    named = " ".join(text.split()[:5]).strip(",.?! ")
    return replace(_finish(c, text, None, (named.replace(",", ""),)), prompt=text)


def _odd_backdrop(c: Chooser, split: Split) -> Example:
    """A background that the world lacks."""
    groups = c.groups(c.pick(((1,), (2,), (1, 1))))
    colour = c.pick(
        [word for word in ("red", "black", "brown", "orange", "purple", "golden", "silver", "striped", "starry") if word not in BACKGROUNDS]
    )
    text = _listed(c, [_group(c, name, number) for name, number in groups.items()])
    return _finish(c, text + c.pick(_BACKGROUND).format(colour), placed_anywhere(c, groups), (f"{colour} background",), order=tuple(groups))


_MAKERS = {
    _plain: 6.0, _beside: 1.0, _related: 2.0, _in_places: 2.0, _one_each: 1.0, _bare_shape: 0.6, _without: 1.0, _only_without: 0.4, _too_many: 1.0,
    _only_strangers: 4.0, _with_stranger: 2.5, _odd_attribute: 2.0, _no_drawing: 0.8, _odd_backdrop: 0.4,
}  # fmt: skip
