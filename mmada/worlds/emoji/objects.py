"""The objects of the emoji world: what they are called, what they are, and how they look.

    objects()["dog"]         EmojiObject(name="dog", plural="dogs", category="animal", clue="the animal that barks", ...)
    sprite("dog", "noto")    64 x 64 RGBA picture, its longer side 64 px

Names and facts are in objects.json, the pictures of all objects in both styles on one sheet, sprites.png:

    object 0 noto | object 0 twemoji | object 1 noto | ...      SHEET_COLUMNS sprites a row

The same pictures at three times the size, for pictures of 256 pixels, are on sprites_large.webp, their colours rounded to multiples of 8.

The files are made by scripts/emoji/build_sprites.py; artists and licences are in ATTRIBUTION.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from PIL import Image

from mmada.errors import InputError, suggest

__all__ = [
    "CATEGORY_PLURALS",
    "LARGE_SPRITE_SIZE",
    "PARENT_CATEGORY",
    "SHAPES",
    "SHEET_COLUMNS",
    "SPRITE_SIZE",
    "STYLES",
    "EmojiObject",
    "article",
    "noun_index",
    "objects",
    "sprite",
]

STYLES = ("noto", "twemoji")
"""Art styles; the first one is used where a drawing prompt states none."""

SPRITE_SIZE = 64
LARGE_SPRITE_SIZE = 192
"""of an object alone in a picture of 256 pixels"""
SHEET_COLUMNS = 20

SHAPES = ("circle", "square", "heart")
"""Categories whose objects differ only in colour."""

PARENT_CATEGORY: Mapping[str, str] = {
    "bird": "animal",
    "insect": "animal",
    "fruit": "food",
    "vegetable": "food",
    "dessert": "food",
    "flower": "plant",
}
"""A banana is a fruit, and so also a food."""

CATEGORY_PLURALS: Mapping[str, str] = {
    "animal": "animals",
    "bird": "birds",
    "insect": "insects",
    "fruit": "fruits",
    "vegetable": "vegetables",
    "dessert": "desserts",
    "food": "foods",
    "drink": "drinks",
    "vehicle": "vehicles",
    "musical instrument": "musical instruments",
    "tool": "tools",
    "ball": "balls",
    "piece of clothing": "pieces of clothing",
    "piece of furniture": "pieces of furniture",
    "building": "buildings",
    "electronic device": "electronic devices",
    "flower": "flowers",
    "plant": "plants",
    "circle": "circles",
    "square": "squares",
    "heart": "hearts",
}
"""Every category that is asked about. The remaining objects are of category "thing", which means no category."""

_VOWEL_LETTER_BUT_A = {"unicorn"}
_CONSONANT_LETTER_BUT_AN = {"hourglass"}


@dataclass(frozen=True, slots=True)
class EmojiObject:
    """One object: its names, and the facts that questions may ask for."""

    name: str
    """lower-case English noun phrase, such as "dog" or "red heart" """
    plural: str
    category: str
    colour: str | None
    """the colour that a person would name in both styles; None where people would not agree"""
    clue: str | None
    """a noun phrase that fits this object alone, such as "the animal that barks"; None for shapes"""
    keywords: tuple[str, ...]
    """words that emojibase attaches to the emoji, without those of the name"""
    faint_on: tuple[str, ...]
    """backgrounds on which its outline is hard to see"""

    def is_a(self, category: str) -> bool:
        """Whether a category is its own or the parent of that."""
        return category in (self.category, PARENT_CATEGORY.get(self.category))

    @property
    def kingdom(self) -> str:
        """The widest category that holds the object."""
        return PARENT_CATEGORY.get(self.category, self.category)


def article(noun: str) -> str:
    """The indefinite article that goes before a noun phrase: "a" or "an"."""
    word = noun.split(" ", 1)[0]
    starts_with_vowel = word[0] in "aeiou"
    if word in _VOWEL_LETTER_BUT_A or word in _CONSONANT_LETTER_BUT_AN:
        starts_with_vowel = not starts_with_vowel
    return "an" if starts_with_vowel else "a"


@cache
def objects() -> Mapping[str, EmojiObject]:
    """Every object by name, in the order of the sprite sheet."""
    records = json.loads(files(__package__).joinpath("objects.json").read_text(encoding="utf-8"))
    things = (EmojiObject(**record | {"keywords": tuple(record["keywords"]), "faint_on": tuple(record["faint_on"])}) for record in records)
    return {thing.name: thing for thing in things}


@cache
def noun_index() -> Mapping[str, tuple[str, bool, bool]]:
    """Singular or plural noun phrase -> (object name, may be one, may be several)."""
    index = {thing.name: (thing.name, True, thing.plural == thing.name) for thing in objects().values()}
    return index | {thing.plural: (thing.name, thing.plural == thing.name, True) for thing in objects().values()}


@cache
def _sheet(name: str) -> Image.Image:
    with files(__package__).joinpath(name).open("rb") as file:
        return Image.open(file).convert("RGBA")


@cache
def _positions() -> Mapping[tuple[str, str], int]:
    return {(name, style): i for i, (name, style) in enumerate((name, style) for name in objects() for style in STYLES)}


def sprite(name: str, style: str, *, is_large: bool = False) -> Image.Image:
    """The 64 x 64 RGBA picture of an object in a style; is_large: 192 x 192. Raises InputError if the world has no such object or style."""
    if name not in objects():
        raise InputError(f"object {name!r} is not in the emoji world: {suggest(name, objects())}")
    if style not in STYLES:
        raise InputError(f"style={style!r} is not drawn here: {suggest(style, STYLES)}")
    sheet, size = (_sheet("sprites_large.webp"), LARGE_SPRITE_SIZE) if is_large else (_sheet("sprites.png"), SPRITE_SIZE)
    row, column = divmod(_positions()[name, style], SHEET_COLUMNS)
    left, top = column * size, row * size
    return sheet.crop((left, top, left + size, top + size))
