"""Words of training with their numbers, and the English words that are near them: what a misspelled word is read as, and what is none.

`english.txt` is made by `scripts/emoji/build_spelling.py` from a dictionary for spelling checkers (see ATTRIBUTION.md).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

from mmada.data.answers import NUMBER_WORDS
from mmada.worlds.emoji.natural.lists import KINDS_OF_WORDS, SYNONYMS, ordinary_words, plural_of, unknown_words
from mmada.worlds.emoji.natural.people import THINGS, names
from mmada.worlds.emoji.natural.voice import TAUGHT, sections
from mmada.worlds.emoji.objects import objects
from mmada.worlds.emoji.scenes import BACKGROUNDS
from mmada.worlds.emoji.split import Split

__all__ = ["LEAST_LETTERS", "english_words", "listed_words", "taught_words"]

LEAST_LETTERS = 3
_SPLITS: tuple[Split, ...] = ("train", "test")
_FILLED_IN, _NUMBER, _ORDINARY = 30, 150, 5
"""How often a name of an object or a color, a number and another word of a list count: fields of templates hold them, so lines of voices lack them."""
_MISSPELLED = ("frend", "meny", "ooops", "wats", "wher", "wich", "yoo")
"""What some voices write instead of words that the others spell."""


@cache
def taught_words() -> Mapping[str, int]:
    """Word of the voices that chat was taught, of an object or of a list -> about how often training had it. Names of people are left out."""
    taught = sections(TAUGHT).items()
    said = (re.sub(r"\{.*?\}", " ", line.lower()) for section, lines in taught if section != "talk nonsense" for line in lines)
    found = Counter(word for line in said for word in re.findall(r"(?<!['\w])[a-z]+(?!['\w])", line))
    for thing in objects().values():
        nouns = (thing.name, thing.plural, *(form for word in SYNONYMS.get(thing.name, ()) for form in (word, plural_of(word))))
        found.update({word: _FILLED_IN for noun in nouns for word in re.findall("[a-z]+", noun)})
    colours = {word for colour in (*BACKGROUNDS, *(thing.colour or "" for thing in objects().values())) for word in colour.split()}
    found.update(dict.fromkeys(colours, _FILLED_IN))
    found.update({word: _NUMBER for word in NUMBER_WORDS if word.isalpha()})
    found.update({word: _ORDINARY for word in (*THINGS, *ordinary_words()) if word.isalpha()})
    people = {name.lower() for split in _SPLITS for name in names(split)}
    kept = {word: number for word, number in found.items() if len(word) >= LEAST_LETTERS and word not in people}
    return {word: kept[word] for word in sorted(kept) if word not in _MISSPELLED}


@cache
def english_words() -> tuple[str, ...]:
    """Words and names of English that were not taught and are near those that were."""
    return tuple(files(__package__).joinpath("english.txt").read_text(encoding="utf-8").split())


def listed_words() -> frozenset[str]:
    """Words that the world lacks, with their plurals, and names of people: none of them is misspelled, whatever a dictionary has."""
    lacking = {word for kind in KINDS_OF_WORDS for split in _SPLITS for word in unknown_words(kind, split)}
    return frozenset(lacking | {plural_of(word) for word in lacking} | {name.lower() for split in _SPLITS for name in names(split)})
