"""The words that drawing prompts of the grammar consist of: what a checkpoint that was trained on it knows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from mmada.data.answers import NUMBER_WORDS
from mmada.generation.lexicon import Lexicon
from mmada.worlds.emoji.grammar import DRAW_FRAMES, PLACE_PHRASES
from mmada.worlds.emoji.natural.lists import OTHER_FORMS, SOFT, SYNONYMS, ordinary_words, plural_of
from mmada.worlds.emoji.objects import SHAPES, STYLES, objects
from mmada.worlds.emoji.reasoning import TABLES
from mmada.worlds.emoji.scenes import BACKGROUNDS

__all__ = ["lexicon"]

_KIN = ("kid", "kids", "child", "children", "son", "daughter", "niece", "nephew", "friend", "mother", "father")
"""Who wants a picture; without a possessive they are in it."""
_CIVIL = (
    "hello", "hi", "hey", "pls", "thanks", "thank", "i'd", "i'm", "let's", "just", "my", "your", "our", "us", "you", "some", "also", "any", "don't",
    "im", "ive", "dont", "thx", "ty", "plz", "hmm", "um", "oh", "anyway", "able", "mind", "lot", "bit", "else", "rather", "simply", "finally", "excuse me",
    "x", "left-hand", "right-hand", "emoji", "emojis", "nothing more", "nothing else", "real quick", "surprise me", "surprise us", "treat me",
    "drawing", "painting", "scene", "photo", "pictures", "images", "next", "by", "near", "beside", "it's", "its", "need", "would", "could", "will",
)  # fmt: skip
"""Words of ordinary requests that ask for nothing to be seen."""
_GRAMMAR = (
    "large", "big", "huge", "above", "over", "on", "top", "below", "under", "beneath", "left", "right", "side", "bottom", "center", "middle", "corner",
    "upper", "lower", "half", "another", "each", "one", "single", "pair", "couple", "style", "drawn", "background", "with", "against", "together",
    "more", "fewer", "less", "times", "twice", "three", "as", "than", "come", "comes", "added", "join", "joins", "them", "appear", "appears", "leave",
    "close", "along", "alongside", "underneath", "upon", "atop", "centered", "across", "around", "between", "corners", "edge", "behind it",
    "leaves", "taken", "away", "disappear", "disappears", "go", "goes", "the", "is", "are", "was", "first", "second", "without",
)  # fmt: skip


def lexicon(near: Mapping[str, tuple[str, ...]] | None = None) -> Lexicon:
    """Objects as things; words of templates, places, numbers, backgrounds and clues. near: unknown word -> objects that are like it."""
    things = dict.fromkeys(noun for thing in objects().values() for noun in (thing.name, thing.plural))
    return Lexicon(tuple(things), tuple(sorted(set(_words()) - set(things))), near or {})


def _words() -> Iterator[str]:
    for table in (DRAW_FRAMES, *TABLES):
        for template in table.options:
            yield from re.findall(r"[a-z]+(?:'[a-z]+)?", re.sub(r"\{.*?\}", " ", template.lower()))
    yield from (f"{whose} {kin}" for whose in ("my", "our", "the") for kin in _KIN)
    yield from (*ordinary_words(), *SOFT, *OTHER_FORMS, *_CIVIL, *_GRAMMAR, *NUMBER_WORDS, *STYLES)
    yield from (word for phrases in PLACE_PHRASES.values() for phrase in phrases for word in phrase.split())
    for background in BACKGROUNDS:
        yield from (
            f"{background} background",
            f"background is {background}",
            f"background {background}",
            f"{background} backdrop",
            "backdrop",
        )
    for thing in objects().values():
        if thing.clue:
            yield thing.clue.lower()
        if thing.category in SHAPES:
            yield from (f"{thing.category}{end} in {thing.colour}" for end in ("", "s"))
            yield f"one {thing.colour}"
        if thing.colour and thing.category not in SHAPES:
            words = (thing.name, *SYNONYMS.get(thing.name, ()))
            yield from (f"{thing.colour} {noun}" for word in words for noun in (word, plural_of(word)))
            yield f"{thing.colour} {thing.plural}"
        yield from (form for word in SYNONYMS.get(thing.name, ()) for form in (word, plural_of(word)))
    yield from (form for shape in SHAPES for form in (shape, f"{shape}s"))
