"""Ordinary English about the world of emoji: what visitors type, and what the world cannot do.

drawing.py           `natural_draw`: requests -> a plan that names what is unknown, and the plain prompt of what is known
looking.py           `natural_look`: questions about pictures, and about what is not in them
problems.py          `natural_text`: word problems and sums to a hundred, as sums.py works them out; people.py  whom they are about
calculator.py        the arithmetic of thoughts, checked and worked out; figures.py  the numbers of prompts; signs.py  their sums in signs
talk.py              small talk, facts about the objects, and what the model does not know
lists.py, frames.py  other words for objects, words that the world lacks; what requests are wrapped in
voice.py             sentences that several writers wrote (voices/)
noise.py             spoils them as people in a hurry do
spelling.py          what a misspelled word is read as
around.py            what stands before a request
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from mmada.worlds.emoji.chooser import Chooser, DeadEndError
from mmada.worlds.emoji.example import Example
from mmada.worlds.emoji.natural.around import around
from mmada.worlds.emoji.natural.drawing import natural_drawing
from mmada.worlds.emoji.natural.looking import natural_question
from mmada.worlds.emoji.natural.noise import noisy
from mmada.worlds.emoji.natural.problems import natural_expression, natural_problem, natural_story, natural_sum
from mmada.worlds.emoji.natural.talk import natural_blind, natural_knowledge, natural_request, natural_stranger, natural_talk
from mmada.worlds.emoji.split import Split
from mmada.worlds.emoji.tasks import held_out_in

__all__ = ["NATURAL", "around", "natural_example"]

_Maker = Callable[[Chooser, Split], Example]
_TASKS: Mapping[str, Mapping[str, tuple[_Maker, float]]] = {
    "natural_draw": {"request": (natural_drawing, 1.0)},
    "natural_look": {"question": (natural_question, 1.0)},
    "natural_text": {
        "problem": (natural_problem, 8.0),
        "story": (natural_story, 2.0),
        "sum": (natural_sum, 3.0),
        "expression": (natural_expression, 1.0),
        "knowledge": (natural_knowledge, 2.0),
        "talk": (natural_talk, 6.5),
        "stranger": (natural_stranger, 0.8),
        "blind": (natural_blind, 0.4),
        "drawing": (natural_request, 0.6),
    },
}
NATURAL: Mapping[str, tuple[str, ...]] = {task: tuple(kinds) for task, kinds in _TASKS.items()}
"""Task -> its kinds."""


def natural_example(task: str, rng: np.random.Generator, split: Split = "train", kinds: Sequence[str] = ()) -> Example:
    """An example of a task. It holds no combination that is held out; words that the world lacks are of their side of the split.

    kinds  of the task, as NATURAL has them; empty: all
    """
    c = Chooser(rng)
    makers = {make: weight for kind, (make, weight) in _TASKS[task].items() if not kinds or kind in kinds}
    while True:
        make = c.weighted(makers)
        while True:
            try:
                example = make(c, split)
            except DeadEndError:
                continue
            if not held_out_in(example):
                return replace(example, prompt=noisy(c, example.prompt))
