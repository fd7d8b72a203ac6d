"""Ordinary English about the world of emoji: requests as visitors type them, and what the world cannot do.

natural_draw   drawing requests -> a plan that names what is unknown, and the plain prompt of what is known
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mmada.canvas import Message
from mmada.data.world import WorldSample
from mmada.worlds.emoji.chooser import Chooser, DeadEndError
from mmada.worlds.emoji.example import Example
from mmada.worlds.emoji.natural.drawing import natural_drawing
from mmada.worlds.emoji.natural.noise import noisy
from mmada.worlds.emoji.split import Split
from mmada.worlds.emoji.tasks import held_out_in

__all__ = ["NATURAL", "natural", "natural_example"]

NATURAL = ("natural_draw",)


def natural_example(rng: np.random.Generator, split: Split = "train") -> Example:
    """A request with its plan. It holds no combination that is held out; words that the world lacks are of their side of the split."""
    while True:
        c = Chooser(rng)
        try:
            example = natural_drawing(c, split)
        except DeadEndError:
            continue
        if not held_out_in(example):
            return replace(example, prompt=noisy(c, example.prompt))


def natural(task: str, rng: np.random.Generator, split: Split) -> WorldSample:
    """A sample of a natural task: words alone, since its answer is drawn like any other prompt."""
    example = natural_example(rng, split)
    return WorldSample((Message("user", example.prompt),), think=example.think, answer=example.answer, origin=example)
