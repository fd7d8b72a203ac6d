"""Word lists of natural language: names, things that are counted, other words for objects, and words that the world lacks.

Each list has a held-out part, chosen by a stable hash: one name and one counted thing in ten, and half of the words that the world lacks.
`words.txt` holds common English nouns, adjectives and verbs, chosen with WordNet and the frequencies of wordfreq (see ATTRIBUTION.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Literal

from mmada.worlds.emoji.split import Split, stable_hash

__all__ = [
    "COUNTED",
    "DEEDS",
    "FEMALE",
    "MALE",
    "MANY",
    "NUMBERS",
    "RELATIVES",
    "SOFT",
    "SYNONYMS",
    "counted_things",
    "names",
    "number_word",
    "plural_of",
    "unknown_words",
]

FEMALE = (
    "Anna Sara Maria Emma Olivia Sophie Laura Julia Nina Clara Ella Grace Alice Lucy Ruth Nora Helen Jane Kate Amy Rachel Susan Linda "
    "Karen Nancy Betty Sandra Ashley Emily Donna Carol Amanda Melissa Deborah Stephanie Rebecca Sharon Cynthia Kathleen Angela Brenda "
    "Pamela Nicole Samantha Katherine Christine Debra Janet Catherine Heather Diane Joyce Victoria Kelly Christina Joan Evelyn Lauren "
    "Judith Megan Cheryl Andrea Hannah Martha Jacqueline Frances Gloria Teresa Ann Sara Kathryn Janice Jean Abigail Judy Sophia Doris "
    "Denise Amber Marilyn Danielle Beverly Isabella Theresa Diana Natalie Brittany Charlotte Marie Kayla Alexis Lori Priya Aisha Fatima "
    "Leila Yuki Mei Ingrid Freya Chloe Zara Layla Amina Elena Lena Greta Heidi Petra Paula Carla Bella Daisy Poppy Ivy Violet Hazel Ada "
    "Molly Polly Sally Jenny Penny Peggy Wendy Tina Gina Dina Rita Lisa Mona Tara Vera Olga Irina Anya Katya Salma Noor Jasmine Lucia"
).split()
MALE = (
    "Peter James John Robert Michael William David Richard Joseph Thomas Charles Daniel Matthew Anthony Mark Donald Steven Andrew Joshua "
    "Kenneth Kevin Brian George Timothy Ronald Jason Edward Jeffrey Ryan Jacob Gary Nicholas Eric Jonathan Stephen Larry Justin Scott "
    "Brandon Benjamin Samuel Gregory Alexander Patrick Frank Raymond Jack Dennis Jerry Tyler Aaron Jose Adam Nathan Henry Zachary Douglas "
    "Peter Kyle Ethan Walter Jeremy Christian Keith Roger Terry Austin Sean Gerald Carl Harold Dylan Arthur Lawrence Jordan Jesse Bryan "
    "Billy Bruce Gabriel Joe Logan Alan Juan Albert Willie Elijah Wayne Randy Vincent Mason Roy Ralph Bobby Russell Bradley Philip Eugene "
    "Ravi Amir Ali Hassan Ahmed Kofi Kwame Hiro Kenji Wei Chen Lars Sven Olaf Erik Nils Hans Fritz Karl Otto Felix Hugo Oscar Theo Finn "
    "Liam Lucas Mateo Diego Carlos Luis Pedro Pablo Marco Luca Dario Ivan Boris Igor Dmitri Yusuf Idris Tariq Jamal Malik Rory Angus Ian"
).split()
RELATIVES = (
    "mother", "father", "mom", "dad", "sister", "brother", "friend", "uncle", "aunt", "grandmother", "grandfather", "grandma", "grandpa",
    "cousin", "neighbor", "teacher", "boss", "wife", "husband", "son", "daughter",
)  # fmt: skip
COUNTED = (
    "coin apple orange book pencil pen marble sticker card shell stone nut ticket candy sweet cookie cake egg toy car doll ball balloon "
    "flower rose tree fish bird cat dog cow sheep hen duck rabbit horse pig banana pear plum peach cherry grape lemon melon carrot potato "
    "onion tomato pepper mushroom sandwich pizza burger muffin cupcake donut chocolate bottle glass cup plate bowl spoon fork knife chair "
    "table lamp candle box bag basket bucket key button bead ribbon shirt sock hat glove shoe scarf coat ring necklace watch clock phone "
    "magazine newspaper letter stamp postcard photo picture poster crayon marker brush notebook page map dollar euro penny point goal "
    "game puzzle block brick nail screw bolt battery bulb seed leaf feather bone rock pebble crystal gem badge medal trophy star bike "
    "truck train boat kite drum guitar song video file message email minute hour seat room window door guest student player"
).split()
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
    "padlock": (),
}
"""Object -> other words for it; their plurals end in s or as `plural_of` makes them."""
NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty"
).split()
_TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety".split()
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


@cache
def names(split: Split, options: Sequence[str] = (*FEMALE, *MALE)) -> tuple[str, ...]:
    return tuple(name for name in dict.fromkeys(options) if (stable_hash("name", name) < 0.1) == (split == "test"))


@cache
def counted_things(split: Split) -> tuple[str, ...]:
    return tuple(thing for thing in COUNTED if (stable_hash("counted", thing) < 0.1) == (split == "test"))


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


def number_word(number: int) -> str:
    """A number below a hundred in words: "forty-two"."""
    if number < len(NUMBERS):
        return NUMBERS[number]
    tens, ones = divmod(number, 10)
    return _TENS[tens] + (f"-{NUMBERS[ones]}" if ones else "")
