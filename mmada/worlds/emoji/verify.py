"""Exact verifiers: is a text answer right, and does a picture show what was asked for?

    reading = read_answer("<think> top left dog 1</think> 1")     state "thought", think and answer apart
    is_correct(example, reading.answer)                                     by value for numbers, by meaning for captions
    spec.satisfies(example.spec, {"top left": "dog"})                       by what a classifier saw in the cells

Answers are compared after `normalise_answer`; descriptions and refined drawing prompts are parsed, and must mean what is demanded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeAlias

from mmada.worlds.emoji.example import Example
from mmada.worlds.emoji.grammar import NUMBER_WORDS, PLACE_PHRASES, parse
from mmada.worlds.emoji.objects import noun_index
from mmada.worlds.emoji.spec import implies, satisfies

__all__ = ["Reading", "State", "is_correct", "normalise_answer", "read_answer"]

State: TypeAlias = Literal["direct", "thought", "unclosed", "empty", "malformed"]


@dataclass(frozen=True, slots=True)
class Reading:
    """A model's text, taken apart."""

    state: State
    """direct: an answer without thoughts; thought: thoughts, then an answer; unclosed: <think> without end; empty: no answer is left;
    malformed: tags repeated or out of order"""
    think: str | None
    answer: str
    """what stands outside the thoughts; empty unless the state is "direct" or "thought" """


def read_answer(text: str) -> Reading:
    """Take thoughts and answer apart. The opening tag may be missing, as it is when the prompt already gave it."""
    opened, closed = text.count("<think>"), text.count("</think>")
    if opened > 1 or closed > 1:
        return Reading("malformed", None, "")
    if not opened and not closed:
        answer = text.strip()
        return Reading("direct" if answer else "empty", None, answer)
    before, _, after = text.rpartition("<think>")
    if before.strip() or "</think>" in before:
        return Reading("malformed", None, "")
    think, _, answer = (part.strip() for part in after.partition("</think>"))
    if not closed:
        return Reading("unclosed", think, "")
    return Reading("thought" if answer else "empty", think, answer)


def is_correct(example: Example, answer: str) -> bool:
    """Whether an answer (without thoughts) is right.

    A caption must say all that is demanded and nothing that is untrue; a refined drawing prompt must imply what is meant. A plain
    drawing has no text answer: it is right only if nothing is said.
    """
    if example.spec is not None and example.answer:
        said = parse(answer)
        if said is None or not implies(said, example.spec):
            return False
        scene = example.scene if example.task == "understand" else None
        return scene is None or satisfies(said, scene.cells, background=scene.background, style=scene.style)
    return normalise_answer(answer) == normalise_answer(example.answer)


def normalise_answer(text: str) -> str:
    """An answer in its plainest form: lower case, no article or final punctuation, digits for number words, bare names of cells and objects."""
    plain = re.sub(r"\s+", " ", text.lower()).strip(" \"'").rstrip(" .,!?;:\"'")  # a point in front belongs to a number
    plain = _plain_forms().get(plain, plain)
    for word in ("a ", "an ", "the "):
        plain = plain.removeprefix(word)
    return _plain_forms().get(plain, plain)


@cache
def _plain_forms() -> dict[str, str]:
    """Other way to say it -> plain form, for numbers below a hundred, cells and objects."""
    forms = {word: str(number) for number, word in enumerate(NUMBER_WORDS)}
    forms |= {word.replace("-", " "): number for word, number in forms.items()}
    forms |= {phrase: cell for cell, phrases in PLACE_PHRASES.items() for phrase in phrases}
    forms |= {noun: name for noun, (name, _, _) in noun_index().items()}
    return forms | {"centre": "center", "middle": "center", "grey": "gray", "the same": "same", "equal": "same"}
