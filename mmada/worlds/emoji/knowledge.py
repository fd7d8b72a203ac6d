"""Questions about the objects that need no picture: what they are, what they are known for, what goes with what.

prompt   Which one does not belong: dog, violin, cat?
think    dog animal, violin musical instrument, cat animal; violin differs
answer   violin
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

from mmada.worlds.emoji.chooser import Chooser
from mmada.worlds.emoji.example import Example, Meta
from mmada.worlds.emoji.objects import CATEGORY_PLURALS, PARENT_CATEGORY, SHAPES, EmojiObject, article, objects
from mmada.worlds.emoji.split import Templates

__all__ = ["KNOWLEDGE", "TABLES", "recalled"]

_CATEGORY = Templates(
    "category",
    "What kind of thing is {a_thing}?",
    "What is {a_thing}?",
    "What sort of thing is {a_thing}?",
    "To which category does {a_thing} belong?",
    "In one or two words, what is {a_thing}?",
    "What do you call a thing like {a_thing}?",
    "Name the category of {a_thing}.",
    "Under which heading would you list {a_thing}?",
    "{a_thing} is an example of what?",
    "Classify {a_thing}.",
    "Classify {a_thing} for me, please.",
    added=(
        "What would you classify {a_thing} as?",
        "How would you classify {a_thing}?",
        "Say what kind of thing {a_thing} is.",
        "Which category fits {a_thing}?",
        "{a_thing}: what kind of thing is that?",
        "Give me the category of {a_thing}.",
    ),
)
_IS_A = Templates(
    "is a",
    "Is {a_thing} {a_category}?",
    "Would you call {a_thing} {a_category}?",
    "True or not: {a_thing} is {a_category}?",
    "Does {a_thing} count as {a_category}?",
    "Can one say that {a_thing} is {a_category}?",
    "Tell me: is {a_thing} {a_category}?",
    "Is it right that {a_thing} is {a_category}?",
    "Do you agree that {a_thing} is {a_category}?",
    added=(
        "Is it true that {a_thing} is {a_category}?",
        "Is it right to call {a_thing} {a_category}?",
        "Would it be right to say {a_thing} is {a_category}?",
        "{a_thing} is {a_category}, right?",
        "Yes or no: {a_thing} is {a_category}?",
        "Say whether {a_thing} is {a_category}.",
    ),
)
_ODD = Templates(
    "odd one out",
    "Which one does not belong: {things}?",
    "Which is the odd one out: {things}?",
    "Find the odd one out: {things}.",
    "One of these is not like the others: {things}. Which?",
    "Which of {things} is different in kind?",
    "Of {things}, which does not fit?",
    "Name the one that does not fit: {things}.",
    "{things}: which is the odd one?",
    "Of these, which is different: {things}?",
    added=(
        "Of {things}, which is the odd one?",
        "Of {things}, which one does not belong?",
        "Which of {things} does not fit?",
        "Among {things}, which is not like the others?",
        "Say which does not belong: {things}.",
        "{things}. Which one does not fit?",
    ),
)
_CLUE = Templates(
    "riddle",
    "What is {clue}?",
    "Name {clue}.",
    "Can you name {clue}?",
    "What do you call {clue}?",
    "I am thinking of {clue}. What is it?",
    "Riddle: it is {clue}. What is it?",
    "Tell me the name of {clue}.",
    "Guess: {clue}.",
    "{clue}: what is that?",
    added=(
        "What do you call that: {clue}?",
        "How do you call {clue}?",
        "It is {clue}. What do you call it?",
        "Say what {clue} is.",
        "What would you call {clue}?",
        "Here is a riddle: {clue}.",
    ),
)
_KEYWORD = Templates(
    "keyword",
    "Which goes with the word {word}: {things}?",
    "What fits the word {word} better: {things}?",
    "The word is {word}. Which one fits: {things}?",
    "Which of these goes with {word}: {things}?",
    "{things}: which has to do with {word}?",
    "Choose what belongs to {word}: {things}.",
    "Someone says {word}. Is it about {things}?",
    "Which is closer to {word}: {things}?",
    "Which goes better with {word}: {things}?",
    added=(
        "What goes better with the word {word}: {things}?",
        "Which fits better with the word {word}: {things}?",
        "What fits {word}: {things}?",
        "Which is better for the word {word}: {things}?",
        "To which belongs the word {word}: {things}?",
    ),
)
TABLES = (_CATEGORY, _IS_A, _ODD, _CLUE, _KEYWORD)


@cache
def _things() -> tuple[EmojiObject, ...]:
    """The objects that are more than a coloured shape."""
    return tuple(thing for thing in objects().values() if thing.category not in SHAPES)


@cache
def _classified() -> tuple[EmojiObject, ...]:
    return tuple(thing for thing in _things() if thing.category != "thing")


@cache
def _categories() -> tuple[str, ...]:
    return tuple(category for category in CATEGORY_PLURALS if category not in SHAPES)


def _a(noun: str) -> str:
    return f"{article(noun)} {noun}"


def _example(c: Chooser, kind: str, prompt: str, think: str, answer: str, *named: str) -> Example:
    meta = Meta(named=named, templates=tuple(c.templates))
    return Example(task="text", kind=kind, prompt=prompt[0].upper() + prompt[1:], think=think, answer=answer, meta=meta)


def _lineage(thing: EmojiObject) -> str:
    """What is to be recalled of an object: "banana is a fruit, a fruit is a food"."""
    parent = PARENT_CATEGORY.get(thing.category)
    return f"{thing.name} is {_a(thing.category)}" + (f", {_a(thing.category)} is {_a(parent)}" if parent else "")


def recalled(thing: EmojiObject) -> tuple[tuple[str, str], ...]:
    """What is known of an object, in the words of thoughts: what is given, and what follows, as in "banana is", " a fruit"."""
    facts = [(f"{thing.name} ->", f" {thing.colour}")] if thing.colour else []
    if thing.category not in (*SHAPES, "thing"):
        facts += [(f"{thing.name} is", f" {_a(thing.category)}"), (thing.name, f" {thing.kingdom}")]
        if thing.kingdom != thing.category:
            facts.append((f"{_a(thing.category)} is", f" {_a(thing.kingdom)}"))
    if thing.clue:
        facts += [(f"{thing.clue} is", f" {_a(thing.name)}")]
    return tuple(facts)


def _category(c: Chooser) -> Example:
    thing = c.pick(_classified())
    prompt = c.template(_CATEGORY).format(a_thing=_a(thing.name))
    return _example(c, "category", prompt, f"{thing.name} is {_a(thing.category)}", thing.category, thing.name)


def _is_a(c: Chooser) -> Example:
    thing, is_so = c.pick(_classified()), c.chance(0.5)
    category = c.pick([category for category in _categories() if thing.is_a(category) == is_so])
    prompt = c.template(_IS_A).format(a_thing=_a(thing.name), a_category=_a(category))
    conclusion = "yes" if is_so else "no"
    return _example(c, "is_a", prompt, f"{_lineage(thing)}; is it {_a(category)} -> {conclusion}", conclusion, thing.name)


def _odd_one_out(c: Chooser) -> Example:
    odd = next(iter(c.groups((1,), [thing.name for thing in _classified()])))
    kingdoms = sorted({thing.kingdom for thing in _classified()} - {objects()[odd].kingdom})
    kingdom = c.pick(kingdoms)
    alike = c.groups((1, 1), [thing.name for thing in _classified() if thing.kingdom == kingdom], present=[odd])
    names = c.shuffled([odd, *alike])
    think = ", ".join(f"{name} {objects()[name].kingdom}" for name in names) + f"; {odd} differs"
    return _example(c, "odd_one_out", c.template(_ODD).format(things=", ".join(names)), think, odd, *names)


def _riddle(c: Chooser) -> Example:
    thing = c.pick([thing for thing in _things() if thing.clue])
    clue = thing.clue or ""
    return _example(c, "clue", c.template(_CLUE).format(clue=clue), f"{clue} is {_a(thing.name)}", thing.name, thing.name)


def _keyword(c: Chooser) -> Example:
    name = next(iter(c.groups((1,), [thing.name for thing in _things() if thing.keywords])))
    word = c.pick(objects()[name].keywords)
    others = [thing.name for thing in _things() if thing.kingdom != objects()[name].kingdom and word not in thing.keywords]
    names = c.shuffled([name, *c.groups((1,), others, present=[name])])
    prompt = c.template(_KEYWORD).format(word=word, things=" or ".join(names))
    return _example(c, "keyword", prompt, f"{word} goes with {name}", name, *names)


KNOWLEDGE: Mapping[str, Callable[[Chooser], Example]] = {
    "category": _category,
    "is_a": _is_a,
    "odd_one_out": _odd_one_out,
    "clue": _riddle,
    "keyword": _keyword,
}
"""Kind -> what makes an example of it."""
