"""What is wrong with a drawing prompt, or with the plan that a model made of it. Only what is certain is said.

problem_of("a horse", None)                   "nothing in it is known to me"
problem_of("six dogs", None)                  "it asks for six dogs, and a picture holds four things"
problem_of("no dogs", None)                   "it names only what is not wanted"
problem_of("a dog", "a large cat")            "the plan has a cat, which nobody asked for"
problem_of("a dog above a cat", "a large dog")  "the plan is not what was asked for"
"""

from __future__ import annotations

import re

from mmada.data.answers import NUMBER_WORDS
from mmada.worlds.emoji.grammar import parse
from mmada.worlds.emoji.objects import SHAPES, objects
from mmada.worlds.emoji.reading import NOT_WANTED, known_nouns, noun_pattern, restated, spelled
from mmada.worlds.emoji.scenes import MAX_ITEMS
from mmada.worlds.emoji.spec import implies

__all__ = ["is_plain", "needs_thought", "problem_of"]

_REASONED = re.compile(
    r"\b(?:more|fewer|less|than|times|twice|many|rest|others?|swap\w*|exchang\w+|trade|guess|colou?r\w*|then|comes?|leaves?|appears?|"
    r"disappears?|added|joins?|taken|away|goes?|that|whose|things?|objects?|which|what)\b|\d\s*[-+*]\s*\d|\bthe .* (?:of|with|for|to|by|in)\b|"
    r"\bnot\b.*\b(?:left|right|top|bottom)\b|\b(?:left|right|top|bottom)\b.*\bnot\b"
)
"""Words of prompts whose meaning follows from thought, which no rule reads."""


def problem_of(prompt: str, plan: str | None) -> str | None:
    """Why a prompt, or the plain prompt that thinking made of it (None: none yet), cannot be drawn; None if nothing speaks against it."""
    said = spelled(prompt)
    named = _named(said)
    if not named:
        return "nothing in it is known to me"
    if (too_many := _too_many(said)) is not None:
        return f"it asks for {too_many}, and a picture holds {NUMBER_WORDS[MAX_ITEMS]} things"
    unwanted = _unwanted(said)
    if named <= unwanted:
        return "it names only what is not wanted"
    return None if plan is None else _problem_of_plan(prompt, plan, named, unwanted)


def is_plain(prompt: str) -> bool:
    """Whether a prompt in ordinary English asks for nothing that takes thought, and can be said in the grammar's words."""
    return parse(prompt) is None and not needs_thought(spelled(prompt)) and restated(prompt) is not None


def _problem_of_plan(prompt: str, plan: str, named: set[str], unwanted: set[str]) -> str | None:
    spec = parse(plan)
    if spec is None:
        return "no plan of it can be read"
    for name in dict(spec.counts):
        if name not in named:
            return f"the plan has {name}, which nobody asked for"
        if name in unwanted:
            return f"the plan has {name}, which is not wanted"
    demanded = parse(prompt) or (None if needs_thought(spelled(prompt)) else parse(restated(prompt) or ""))
    if demanded is not None and not implies(spec, demanded):
        return "the plan is not what was asked for"
    return None


def needs_thought(said: str) -> bool:
    """Whether the meaning of a prompt in small letters may follow from thought alone."""
    return bool(_REASONED.search(said)) or any(thing.clue and thing.clue.lower() in said for thing in objects().values())


def _named(said: str) -> set[str]:
    """Objects that a prompt may mean: named, described by their clue, or of a shape that is named in any color."""
    found = {known_nouns()[match.group()][0] for match in noun_pattern().finditer(said)}
    for thing in objects().values():
        if thing.clue and thing.clue.lower() in said:
            found.add(thing.name)
    for shape in SHAPES:
        if re.search(rf"\b{shape}s?\b", said):
            found |= {thing.name for thing in objects().values() if thing.category == shape}
    return found


def _too_many(said: str) -> str | None:
    """A number above what a picture holds, with the noun behind it: "six dogs"."""
    for match in noun_pattern().finditer(said):
        before = said[: match.start()].rstrip()
        word = re.search(r"([\w]+)$", before)
        if word is None or re.search(r"[-+*]\s*\w+$", before):  # of a sum, only the result counts
            continue
        number = int(word[1]) if word[1].isdecimal() else NUMBER_WORDS.index(word[1]) if word[1] in NUMBER_WORDS else 0
        if number > MAX_ITEMS:
            return f"{word[1]} {match.group()}"
    return None


def _unwanted(said: str) -> set[str]:
    """Objects that are named once, and only to be left out."""
    nouns = [(known_nouns()[match.group()][0], said[: match.start()].rstrip()) for match in noun_pattern().finditer(said)]
    return {name for name, before in nouns if NOT_WANTED.search(before) and sum(other == name for other, _ in nouns) == 1}
