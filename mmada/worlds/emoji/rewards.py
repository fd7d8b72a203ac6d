"""Exact rewards in the emoji world. Each bears on prompts that come from there.

correct    1: the answer is right, by value for numbers, by meaning for captions and refined drawing prompts (worlds/emoji/verify.py)
caption    1: says all that is demanded and nothing untrue; 0.5: says nothing untrue of the picture; 0: anything else
drawn      1: what the verifier sees in the picture satisfies what was asked for
objects    the share of objects that picture and request have in common: less is asked than by `drawn`, and more is said

A verifier is any function from pictures to what they show. It must not be the judge that measures the finished model: whatever is
rewarded is learnt to be pleased, faults included. `artwork.match` is one; `measure.judge` is kept for measuring.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from mmada.rl.records import Completion
from mmada.worlds.emoji.example import Example
from mmada.worlds.emoji.grammar import parse
from mmada.worlds.emoji.spec import implies, satisfies
from mmada.worlds.emoji.verify import is_correct

__all__ = ["Seen", "Verifier", "caption", "correct", "drawn", "looked_at", "objects_in_common"]


class Seen(Protocol):
    """What a verifier saw in a picture: cell -> object, or any other word where it recognised nothing; and the background."""

    @property
    def cells(self) -> Mapping[str, str]: ...
    @property
    def background(self) -> str: ...


_S = TypeVar("_S")

Verifier: TypeAlias = "Callable[[NDArray[np.uint8]], Sequence[Seen]]"
"""(B, 64, 64, 3) uint8 -> what each of the B pictures shows."""


def correct(samples: Sequence[Completion]) -> list[float | None]:
    """1 for a right text, 0 for a wrong or empty one; None if the prompt has no answer or is of another source."""

    def value(sample: Completion, example: Example) -> float | None:
        return float(is_correct(example, sample.answer)) if example.answer and sample.text else None if not example.answer else 0.0

    return _each(samples, value)


def caption(samples: Sequence[Completion]) -> list[float | None]:
    """1, 0.5 or 0 as at the top; None if the prompt asks for no caption."""

    def value(sample: Completion, example: Example) -> float | None:
        if example.spec is None or example.scene is None or example.task != "understand":
            return None
        said = parse(sample.answer)
        scene = example.scene
        if said is None or not satisfies(said, scene.cells, background=scene.background, style=scene.style):
            return 0.0
        return 1.0 if implies(said, example.spec) else 0.5

    return _each(samples, value)


def drawn(samples: Sequence[Completion], *, verifier: Verifier) -> list[float | None]:
    """1 if what the verifier sees satisfies the request, 0 otherwise; None for texts."""

    def value(example: Example, seen: Seen) -> float:
        assert example.spec is not None
        return float(satisfies(example.spec, seen.cells, background=seen.background))

    return looked_at(samples, verifier, value)


def objects_in_common(samples: Sequence[Completion], *, verifier: Verifier) -> list[float | None]:
    """|asked and seen| / |asked or seen|, as multisets of objects."""

    def value(example: Example, seen: Seen) -> float:
        assert example.spec is not None
        asked, found = Counter(dict(example.spec.counts)), Counter(seen.cells.values())
        return (asked & found).total() / (asked | found).total()

    return looked_at(samples, verifier, value)


def _each(samples: Sequence[Completion], value: Callable[[Completion, Example], float | None]) -> list[float | None]:
    origins = [(sample, sample.prompt.origin) for sample in samples]
    return [value(sample, origin) if isinstance(origin, Example) else None for sample, origin in origins]


def looked_at(
    samples: Sequence[Completion], verifier: Callable[[NDArray[np.uint8]], Sequence[_S]], value: Callable[[Example, _S], float]
) -> list[float | None]:
    """Values of the samples that are pictures with a demand on them, None for the others.

    verifier  all the pictures (B, H, W, 3) uint8 -> what each shows; value  what is asked for, what is shown -> reward
    """
    values: list[float | None] = [None] * len(samples)
    asked = [(i, sample.prompt.origin, sample.image) for i, sample in enumerate(samples)]
    shown = [(i, origin, image) for i, origin, image in asked if isinstance(origin, Example) and origin.spec and image]
    if shown:
        seen = verifier(np.stack([np.asarray(image.convert("RGB")) for _, _, image in shown]))
        for (i, example, _), found in zip(shown, seen, strict=True):
            values[i] = value(example, found)
    return values
