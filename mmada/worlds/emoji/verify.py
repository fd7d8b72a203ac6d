"""Exact verifiers: is a text answer right, and does a picture show what was asked for?

    is_correct(example, read_answer(text).answer)           by value for numbers, by meaning for captions
    spec.satisfies(example.spec, {"top left": "dog"})       by what a classifier saw in the cells

Answers are compared after `normalise_answer`; descriptions and refined drawing prompts are parsed, and must mean what is demanded.
"""

from __future__ import annotations

from functools import cache

from mmada.data.answers import NUMBER_FORMS
from mmada.data.answers import normalise_answer as plain_answer
from mmada.worlds.emoji.example import Example
from mmada.worlds.emoji.grammar import PLACE_PHRASES, parse
from mmada.worlds.emoji.objects import noun_index
from mmada.worlds.emoji.spec import implies, satisfies

__all__ = ["is_correct", "normalise_answer"]


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
    """An answer in its plainest form, as data/answers.py has it, with bare names of cells and objects."""
    return plain_answer(text, _plain_forms())


@cache
def _plain_forms() -> dict[str, str]:
    """Other way to say it -> plain form, for numbers below a hundred, cells and objects."""
    forms = dict(NUMBER_FORMS)
    forms |= {phrase: cell for cell, phrases in PLACE_PHRASES.items() for phrase in phrases}
    forms |= {noun: name for noun, (name, _, _) in noun_index().items()}
    return forms | {"centre": "center", "middle": "center", "grey": "gray", "the same": "same", "equal": "same"}
