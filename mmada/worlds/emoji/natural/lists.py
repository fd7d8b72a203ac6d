"""Word lists of natural language: other words for objects, and words that the world lacks, half of which, by hash, are never trained.

`words.txt` holds common English nouns, adjectives and verbs, chosen with WordNet and the frequencies of wordfreq (see ATTRIBUTION.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Literal

from mmada.worlds.emoji.split import Split, stable_hash

__all__ = ["DEEDS", "KINDS_OF_WORDS", "MANY", "NUMBERS", "OTHER_FORMS", "SOFT", "SYNONYMS", "ordinary_words", "plural_of", "unknown_words"]

SOFT = ("cute", "nice", "little", "lovely", "pretty", "beautiful", "sweet", "simple", "good", "small")
"""Adjectives that ask for nothing that a picture could lack."""
SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "dog": ("puppy", "doggy"),
    "cat": ("kitten", "kitty"),
    "rabbit": ("bunny",),
    "bear": ("teddy bear",),
    "pig": ("piglet",),
    "mouse": ("mousie",),
    "bunch of grapes": ("grape bunch",),
    "piece of cheese": ("cheese slice", "slice of cheese"),
    "hamburger": ("burger", "cheeseburger"),
    "donut": ("doughnut",),
    "cookie": ("biscuit",),
    "cup of coffee": ("coffee", "coffee cup", "hot coffee"),
    "mug of beer": ("beer", "glass of beer", "beer mug"),
    "car": ("automobile",),
    "taxi": ("cab",),
    "truck": ("lorry",),
    "airplane": ("plane", "aeroplane"),
    "rocket": ("spaceship", "rocket ship"),
    "soccer ball": ("football ball",),
    "t-shirt": ("shirt", "tshirt", "tee shirt"),
    "pair of jeans": ("jean", "pair of trousers"),
    "house": ("home",),
    "television": ("tv", "television set"),
    "telephone": ("phone",),
    "laptop": ("laptop computer", "notebook computer"),
    "gift": ("present", "gift box"),
    "chili pepper": ("chili", "hot pepper"),
    "snowman": ("snow man",),
    "palm tree": ("palm",),
    "violin": ("fiddle",),
    "chick": ("baby chicken",),
    "whale": ("big whale",),
    "top hat": ("tall hat",),
}
"""Object -> other words for it; their plurals end in s or as `plural_of` makes them."""
_UNTRAINED_SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "football": ("american football",), "chick": ("baby chick", "chickie"), "dog": ("puppy dog", "doggie"), "cat": ("kitty cat", "pussycat"),
    "rabbit": ("bunny rabbit",), "panda": ("panda bear",), "koala": ("koala bear",), "bee": ("honey bee", "honeybee"), "cow": ("milk cow", "dairy cow"),
    "taxi": ("taxi cab", "taxicab", "yellow cab"), "saw": ("hand saw", "handsaw"), "rocket": ("space rocket",), "hourglass": ("sand timer", "sand clock"),
    "chili pepper": ("chile pepper",), "mushroom": ("toadstool",), "pizza": ("slice of pizza", "pizza slice"),
    "cup of coffee": ("mug of coffee", "coffee mug"), "pair of jeans": ("pair of blue jeans",), "lock": ("padlock",), "gift": ("wrapped gift",),
}  # fmt: skip
"""Object -> more words for it, as in SYNONYMS, but such as were never trained: among them the adjectives that say what it is anyway."""
NUMBERS = ("zero", "one", "two", "three", "four")
MANY = (
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "twelve",
    "5",
    "6",
    "7",
    "8",
    "10",
    "12",
    "20",
    "a hundred",
    "100",
    "lots of",
    "many",
)
"""Numbers of things that no picture holds."""
DEEDS = (
    "write a poem", "write a poem about {noun}", "tell me a joke", "tell me a story", "sing a song", "translate {noun} into french",
    "write an essay about {noun}", "write code", "write a python program", "book a flight", "order a {noun}", "play music",
    "open the {noun}", "call my {noun}", "send an email", "explain {noun}", "summarize this article", "fix my {noun}", "find a {noun} for me",
    "search the web", "cook dinner", "help me with my {noun}", "remind me to {verb}", "give me advice", "teach me to {verb}",
    "make a list of {adj} {noun}s", "recommend a book", "predict the future", "tell me about {noun}", "tell me about the {noun}",
    "give me a recipe", "write a letter to my {noun}", "prove it", "play chess", "turn on the {noun}", "{verb} the {noun}",
)  # fmt: skip
"""What a chat may be asked to do and this world cannot."""

Kind = Literal["nouns", "adjectives", "verbs"]
KINDS_OF_WORDS: tuple[Kind, ...] = ("nouns", "adjectives", "verbs")


@cache
def _words() -> Mapping[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    kind = ""
    for line in files(__package__).joinpath("words.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            kind = line.strip("[]")
        else:
            found.setdefault(kind, []).extend(line.split())
    return {name: tuple(words) for name, words in found.items()}


@cache
def unknown_words(kind: Kind, split: Split) -> tuple[str, ...]:
    """Words that the world has nothing for; half of them, by hash, are never trained."""
    return tuple(word for word in _words()[kind] if (stable_hash("unknown", word) < 0.5) == (split == "test"))


def ordinary_words() -> tuple[str, ...]:
    """Function words, and what people say around a request: they ask for nothing to be seen."""
    return _words()["ordinary"]


_IRREGULAR = {
    "sheep": "sheep", "fish": "fish", "leaf": "leaves", "knife": "knives", "shelf": "shelves", "wolf": "wolves", "man": "men", "woman": "women",
    "child": "children", "penny": "pennies", "person": "people", "tooth": "teeth", "foot": "feet", "photo": "photos", "mouse": "mice",
    "snow man": "snow men", "piece of toast": "pieces of toast", "candy": "candies", "video": "videos",
}  # fmt: skip


def plural_of(noun: str) -> str:
    """The plural of an English noun phrase, by rule; "glass of beer" is counted at its first word."""
    head, of, rest = noun.partition(" of ")
    if of:
        return f"{plural_of(head)} of {rest}"
    if noun in _IRREGULAR:
        return _IRREGULAR[noun]
    if noun.endswith(("s", "x", "z", "ch", "sh")) or noun in ("potato", "tomato"):
        return f"{noun}es"
    return f"{noun[:-1]}ies" if noun.endswith("y") and noun[-2:-1] not in "aeiou" else f"{noun}s"


OTHER_FORMS: Mapping[str, tuple[str, bool]] = {
    "grapes": ("bunch of grapes", False), "cheese": ("piece of cheese", False), "cheeses": ("piece of cheese", True), "cacti": ("cactus", True),
    "trousers": ("pair of jeans", False), "blue jeans": ("pair of jeans", False),
} | {
    form: (name, is_several)
    for name, words in _UNTRAINED_SYNONYMS.items() for word in words for form, is_several in ((word, False), (plural_of(word), True))
}  # fmt: skip
"""Words for objects that are read, and were never trained: the object, and whether the word means several."""
