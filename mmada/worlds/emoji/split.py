"""Which combinations are held out for testing, fixed once by a stable hash.

    ("pair", "cat", "dog")            two kinds in one example, names sorted           10 % of all pairs
    ("number", "dog", "3")            so many of one kind, from two upwards            10 %
    ("place", "dog", "top left")      a kind in a cell, the large center cell aside    10 %
    ("backdrop", "dog", "pink")       a kind before a background                       10 %
    ("style", "dog", "twemoji")       a kind in the second art style                   10 % of the kinds
    ("expression", "14 - 9")          one step of arithmetic                           10 %
    ("template", "count", "...")      a way to say something                           10 % of each larger table

A training example contains no held-out combination in any role: neither in its picture nor in its prompt, thoughts or answer.
A test example contains at least one, all of one type, so that each type can be measured by itself. Every part of a held-out
combination is common in training: the dog, the top left cell, pairs with other animals. No object lacks more than one number, place,
background and style. (An object that lacks a place in the grid cannot be there four times, so four of it are not trained either.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, cached_property
from itertools import combinations
from typing import Literal, TypeAlias

from mmada.worlds.emoji.objects import STYLES, objects
from mmada.worlds.emoji.scenes import BACKGROUNDS, BOXES, MAX_ITEMS, Scene

__all__ = [
    "HELD_OUT_SHARE",
    "Combination",
    "HoldOut",
    "Split",
    "Templates",
    "held_out_numbers",
    "held_out_partners",
    "held_out_styles",
    "is_held_out",
    "pairs_among",
    "scene_combinations",
    "stable_hash",
]

Combination: TypeAlias = tuple[str, ...]
Split: TypeAlias = Literal["train", "test"]
HoldOut: TypeAlias = Literal["pair", "number", "place", "backdrop", "style", "expression", "template"]

HELD_OUT_SHARE = 0.1

_TINY = 4
"""Steps whose operands both reach at most this far are never held out: counting to four in pictures cannot do without them."""

_TABLE = 9
"""Larger factor of the multiplication table."""

_MIN_OPTIONS = 8


def stable_hash(*parts: str) -> float:
    """A number in [0, 1) that depends on the parts alone, the same on every machine and in every version of Python."""
    return int.from_bytes(hashlib.blake2b("\x1f".join(parts).encode(), digest_size=8).digest(), "big") / 2**64


@cache
def is_held_out(combination: Combination) -> bool:
    """Whether a combination belongs to the test; templates are asked of their own `Templates` table."""
    match combination:
        case ("pair", _, _):
            return stable_hash(*combination) < HELD_OUT_SHARE
        case ("number" | "place" | "backdrop" | "style" as kind, name, value):
            return value == _missing(kind, name)
        case ("expression", expression):
            return _is_expression_held_out(expression)
    raise AssertionError(f"unknown combination {combination}")


# A large object shows detail that its small pictures lack, so the center cell is always trained. The first style is the one that
# is drawn where none is stated, so every object keeps it.
_MAY_MISS: Mapping[str, tuple[str, ...]] = {
    "number": tuple(str(n) for n in range(2, MAX_ITEMS + 1)),
    "place": tuple(cell for cell in BOXES if cell != "center"),
    "backdrop": tuple(BACKGROUNDS),
    "style": STYLES[1:],
}


@cache
def _missing(kind: str, name: str) -> str | None:
    """The one value of a kind that an object lacks in training, or None: never two, so that no object goes without rows or numbers."""
    values = _MAY_MISS[kind]
    if stable_hash(kind, name) >= HELD_OUT_SHARE * len(values):
        return None
    return values[int(stable_hash("which", kind, name) * len(values))]


def _is_expression_held_out(expression: str) -> bool:
    left, operation, right = expression.split(" ")
    low, high = sorted((int(left), int(right)))
    if high <= _TINY:
        return False
    if operation == "*":
        # Products are facts to be known: of the multiplication table a product is held out in one order, and trained in the other.
        held_out_low_first = stable_hash("order", f"{low} * {high}") < 0.5
        is_table = low != high and high <= _TABLE
        return is_table and (int(left) == low) == held_out_low_first and stable_hash("times", f"{low} * {high}") < 2 * HELD_OUT_SHARE
    if operation == "+":
        return stable_hash("expression", f"{low} + {high}") < HELD_OUT_SHARE
    return stable_hash("expression", expression) < HELD_OUT_SHARE


class Templates:
    """A table of ways to say one thing. About a tenth is held out, but never the first, the plainest, which everyone will use.

    A table of fewer than eight is trained in full: none of its ways would be like another. Ways that were `added` once the held-out
    ones were fixed are always trained, so that what is measured stays the same.
    """

    def __init__(self, name: str, *options: str, added: tuple[str, ...] = ()) -> None:
        self.name = name
        self.options = options + added
        self.added = frozenset(added)

    @cached_property
    def held_out(self) -> tuple[str, ...]:
        """The options with the smallest hashes, so that every larger table has some."""
        options = [option for option in self.options if option not in self.added]
        number = round(HELD_OUT_SHARE * len(options)) if len(options) >= _MIN_OPTIONS else 0
        return tuple(sorted(options[1:], key=lambda option: stable_hash("template", self.name, option))[:number])

    @cached_property
    def trained(self) -> tuple[str, ...]:
        """The options that are not held out."""
        return tuple(option for option in self.options if option not in self.held_out)


def pairs_among(names: Iterable[str]) -> Iterator[Combination]:
    """The pair combinations among distinct names."""
    return (("pair", *pair) for pair in combinations(sorted(set(names)), 2))


def scene_combinations(scene: Scene) -> Iterator[Combination]:
    """Every combination in a picture."""
    counts: dict[str, int] = {}
    for item in scene.items:
        counts[item.name] = counts.get(item.name, 0) + 1
        yield "place", item.name, item.cell
        yield "style", item.name, item.style
    for name, number in counts.items():
        yield "number", name, str(number)
        yield "backdrop", name, scene.background
    yield from pairs_among(counts)


@cache
def held_out_partners() -> Mapping[str, tuple[str, ...]]:
    """Object -> the objects with which it forms held-out pairs."""
    names = tuple(objects())
    return {one: tuple(other for other in names if other != one and is_held_out(("pair", *sorted((one, other))))) for one in names}


@cache
def held_out_numbers() -> Mapping[int, tuple[str, ...]]:
    """Number -> the objects that are never trained so many times in a picture."""
    return {n: tuple(name for name in objects() if is_held_out(("number", name, str(n)))) for n in range(2, MAX_ITEMS + 1)}


@cache
def held_out_styles() -> Mapping[str, str]:
    """Object -> the style in which it is never trained."""
    return {name: style for name in objects() for style in STYLES if is_held_out(("style", name, style))}
