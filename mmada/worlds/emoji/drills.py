"""One skill at a time: texts with gaps, all of which are learnt at once. What fills a gap follows from the words before it.

    find      top left dog, top right cat. cat is | top right|, dog is | top left|, ...        where a name stands
    conclude  How many cats are there? top left dog | 0|, top right cat | 1|, ...              what thoughts conclude from what they list
    sums      14 - 9 = | 5|, 3 + 4 - 2 = | 5|, ...                                             what steps come to
    signs     Tom has 9 nuts. Tom gives 4 to Mia. Tom finds 6 more. 9, | Tom|: Tom | -| 4, | +|    which step an event is
    facts     bee is | an insect|, a fruit is | a food|, banana -> | yellow|, ...              what is to be known
    plans     My granny baked 14 rolls and gave 9 away. How many are left? | 14|, | -| | 9|     what a story in ordinary English computes

A thought has two or three such places in a row of a hundred tokens; a drill has one in every five.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from itertools import chain

import numpy as np

from mmada.errors import InputError, suggest
from mmada.worlds.emoji.arithmetic import Step, expression_of, long_story, steps_in_a_row
from mmada.worlds.emoji.chooser import Chooser, DeadEndError
from mmada.worlds.emoji.knowledge import recalled
from mmada.worlds.emoji.objects import objects
from mmada.worlds.emoji.sentences import EVENTS, GIFTS
from mmada.worlds.emoji.split import Split, is_held_out
from mmada.worlds.emoji.tasks import FEWEST_ITEMS, held_out_in, picture, sample

__all__ = ["DRILLS", "drill"]

Facts = list[tuple[str, str]]
"""What is given, and what follows from it."""

_COUNTS = r"(?<=[a-z]) \d(?=[ ,;]|$)"
_CONCLUSIONS: Mapping[str, tuple[float, re.Pattern[str]]] = {
    kind: (weight, re.compile(pattern))
    for kind, weight, pattern in (
        ("count", 4, _COUNTS),
        ("presence", 5, _COUNTS),
        ("count_category", 2, _COUNTS),
        ("total", 0.5, _COUNTS),
        ("compare", 3, _COUNTS + r"| \d [<>=] \d"),
        ("contents", 3, r"(?<=[;,]) [a-z -]+ \d(?=,|$)|" + _COUNTS),
        ("where", 2, _COUNTS + r"|(?<= is) [a-z ]+$"),
        ("what_at", 1, r"(?<= is) [a-z -]+$"),
        ("colour", 1, _COUNTS + r"|(?<= is) [a-z -]+(?= ->)|(?<=->) [a-z]+$"),
        ("relation", 3, _COUNTS + r"|(?<= is) [a-z]+(?=,| ->)|(?<=->) [a-z]+$"),
        ("is_a", 1, r"(?<=->) [a-z]+$"),
        ("odd_one_out", 1, r"(?<=;) [a-z -]+(?= differs)"),
    )
}
"""Kind of question -> how often it is asked, and what of its thought follows from the rest."""
_LEARNT_SHARE = 0.8
_NUM_SUMS = 10
_NUM_STEPS = {1: 0.4, 2: 0.4, 3: 0.2}
_NUM_FACTS = 8
_NUM_EVENTS = (4, 8)
_GIFT_SHARE = 0.5
"""Fewest and most steps of a story whose signs are asked for."""
_PROBLEM_SHARE = 0.75
_PLAN = re.compile(r"\d+(, [-+*/] \d+)+")
_PART = re.compile(r" \d+| [-+*/]")


def _find(c: Chooser, split: Split) -> Facts:
    """Different things and where they are; each is asked for twice."""
    cells = dict(c.shuffled(picture(c.rng, split).cells.items()))
    if len(set(cells.values())) < len(cells) or len(cells) < FEWEST_ITEMS:
        raise DeadEndError
    lead = ", ".join(f"{cell} {name}" for cell, name in cells.items())
    asked = c.shuffled([*cells.items(), *cells.items()])
    return [(f"{', ' if i else f'{lead}. '}{name} is", f" {cell}") for i, (cell, name) in enumerate(asked)]


def _conclude(c: Chooser, split: Split) -> Facts:
    """A question and its thought; of what follows from the rest, the most is learnt, and some is given for the others to follow from."""
    kind = c.weighted({kind: weight for kind, (weight, _) in _CONCLUSIONS.items()})
    example = sample(kind, c.rng, split)
    facts: Facts = []
    given = f"{example.prompt} "
    place = 0
    thought = example.think or ""
    for match in _CONCLUSIONS[kind][1].finditer(thought):
        given += thought[place : match.start()]
        place = match.end()
        if c.chance(_LEARNT_SHARE):
            facts.append((given, match.group()))
            given = ""
        else:
            given += match.group()
    if not facts:
        raise DeadEndError
    return facts


def _sums(c: Chooser, split: Split) -> Facts:
    """Expressions of one step to three, without what is between.

    With single steps alone an operand tells which results it never has: those of the steps that are held out.
    """
    rows = [steps_in_a_row(c, c.weighted(_NUM_STEPS)) for _ in range(_NUM_SUMS)]
    _keep_to(split, chain.from_iterable(rows))
    return [(f"{', ' if i else ''}{expression_of(steps)} =", f" {steps[-1].result}") for i, steps in enumerate(rows)]


def _signs(c: Chooser, split: Split) -> Facts:
    """What each event of a long story does to the number, told behind it, or behind the story as thoughts tell it.

    Of the people named half are given, so that a sign can be told from them, and they from the story.
    """
    (*clauses, question), events = long_story(c, c.between(*_NUM_EVENTS), GIFTS if c.chance(_GIFT_SHARE) else EVENTS)
    _keep_to(split, (event.step for event in events))
    num_given = len(clauses) - len(events)  # the opening, unless it is a step itself
    opening, told = clauses[:num_given], clauses[num_given:]
    is_beside = c.chance(0.5)
    given = " ".join(opening) if is_beside else " ".join([*clauses, question, str(events[0].step.left)])
    facts: Facts = []
    for event, clause in zip(events, told, strict=True):
        given += f"{' ' if given else ''}{clause}" if is_beside else ","
        if event.people:
            giver, own = event.people
            if c.chance(0.5):
                facts.append((given, f" {giver}"))
                given = ""
            else:
                given += f" {giver}"
            given += f": {own}"
        facts.append((given, f" {event.step.operation}"))
        given = "." if is_beside else f" {event.step.right}"
    return facts


def _keep_to(split: Split, steps: Iterable[Step]) -> None:
    """Raise DeadEndError if an example for the test holds no step that is held out."""
    if split == "test" and not any(is_held_out(step.combination) for step in steps):
        raise DeadEndError


@cache
def _recalled() -> tuple[tuple[str, str, str], ...]:
    """Name of a thing, and what is recalled of it: given words, words that follow."""
    return tuple((thing.name, *fact) for thing in objects().values() for fact in recalled(thing))


def _facts(c: Chooser, split: Split) -> Facts:
    """About things that may be named together; the same on either side of the split."""
    facts: list[tuple[str, str, str]] = []
    while len(facts) < _NUM_FACTS:
        fact = c.pick(_recalled())
        if c.allows_beside(fact[0], {name for name, *_ in facts} - {fact[0]}):
            facts.append(fact)
    return [(f"{', ' if i else ''}{given}", learnt) for i, (_, given, learnt) in enumerate(facts)]


def _plans(c: Chooser, split: Split) -> Facts:
    """A word problem and the plan of its thought: the signs, and of every second one the numbers, too."""
    from mmada.worlds.emoji.natural.noise import noisy  # which waits for torch, as the rest of natural/ does
    from mmada.worlds.emoji.natural.problems import natural_problem, natural_story

    example = (natural_problem if c.chance(_PROBLEM_SHARE) else natural_story)(c, split)
    plan = (example.think or "").partition(";")[0]
    if held_out_in(example) or not _PLAN.fullmatch(plan):
        raise DeadEndError
    learns_numbers = c.chance(0.5)
    facts: Facts = []
    given, place = noisy(c, example.prompt), 0
    for match in _PART.finditer(f" {plan}"):
        given += f" {plan}"[place : match.start()]
        place = match.end()
        if learns_numbers or not match.group()[1:].isdigit():
            facts.append((given, match.group()))
            given = ""
        else:
            given += match.group()
    return facts


DRILLS: Mapping[str, Callable[[Chooser, Split], Facts]] = {
    "find": _find,
    "conclude": _conclude,
    "sums": _sums,
    "signs": _signs,
    "facts": _facts,
    "plans": _plans,
}
"""Skill -> what makes an example of it."""


def drill(skill: str, rng: np.random.Generator, split: Split = "train") -> tuple[str, ...]:
    """One example of a skill: given and learnt pieces of a text in turn. Raises InputError if the skill is unknown."""
    if skill not in DRILLS:
        raise InputError(f"skill={skill!r} is unknown: {suggest(skill, DRILLS)}")
    while True:
        try:
            return tuple(chain.from_iterable(DRILLS[skill](Chooser(rng, "expression" if split == "test" else None), split)))
        except DeadEndError:
            continue
