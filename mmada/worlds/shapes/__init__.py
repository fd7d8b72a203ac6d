"""The smallest world: one colored shape on a canvas of 32 pixels. Its answers are exact. Read it from top to bottom before you write
a world of your own; docs/worlds.md explains it step by step.

    text          "2 + 3 ="                        ->  5
    understand    picture, "what color is it?"     ->  red
    interview     picture, all questions in turn   ->  red, circle, top left
    draw          "a red circle at the top left"   ->  picture
    reason_draw   "the shape with 3 corners, ..."  ->  thinking, a plain prompt, picture
    sums          "2 + 3 = | 5|, 1 + 4 = | 5|"     ->  every second piece
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mmada.canvas import Message
from mmada.data.answers import normalize_answer
from mmada.data.world import Pixels, SampleKey, Split, World, WorldReward, WorldSample

__all__ = ["Scene", "Shapes", "render", "see", "world"]

SIZE = 32
COLORS = {"red": (220, 40, 40), "green": (40, 170, 70), "blue": (50, 90, 220), "yellow": (240, 200, 40)}
CORNERS = {"circle": "0", "triangle": "3", "square": "4"}
PLACES = {"top left": (8, 8), "top right": (8, 23), "bottom left": (23, 8), "bottom right": (23, 23)}
"""Place -> row and column of the shape's center."""


@dataclass(frozen=True)
class Scene:
    """What a picture shows."""

    color: str
    shape: str
    place: str

    @property
    def prompt(self) -> str:
        """The words that ask for it."""
        return f"a {self.color} {self.shape} at the {self.place}"

    @property
    def is_held_out(self) -> bool:
        """One scene in six is kept for the test; each color, shape and place is common in training."""
        return (list(COLORS).index(self.color) + 2 * list(CORNERS).index(self.shape) + 3 * list(PLACES).index(self.place)) % 6 == 0


SCENES = tuple(Scene(color, shape, place) for color in COLORS for shape in CORNERS for place in PLACES)


@cache
def render(scene: Scene) -> Pixels:
    """The picture of a scene: (32, 32, 3) uint8."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    y, x = rows - PLACES[scene.place][0], columns - PLACES[scene.place][1]
    box = (abs(y) <= 6) & (abs(x) <= 6)
    inside = {"circle": x**2 + y**2 <= 40, "triangle": box & (2 * abs(x) <= y + 6), "square": box}[scene.shape]
    return np.where(inside[..., None], COLORS[scene.color], 255).astype(np.uint8)


def see(picture: Pixels) -> tuple[Scene, float]:
    """The scene that a picture is nearest to, and how near: 1 is equal, 0 no nearer than an empty canvas."""
    known = np.stack([render(scene) for scene in SCENES]).astype(float)  # (48, 32, 32, 3)
    errors = np.square(picture - known).mean((1, 2, 3))
    best = int(errors.argmin())
    return SCENES[best], max(0.0, 1 - float(errors[best] / np.square(255 - known[best]).mean()))


class Shapes(World):
    """The world. The engine needs `name`, `tasks` and `sample`; each further method adds a skill."""

    name: ClassVar[str] = "shapes"
    tasks: ClassVar[tuple[str, ...]] = ("text", "understand", "interview", "draw", "reason_draw", "sums")
    gap_tasks: ClassVar[tuple[str, ...]] = ("sums",)
    image_size: ClassVar[int] = SIZE

    def sample(self, key: SampleKey) -> WorldSample:
        rng = key.rng()
        if key.task == "text":
            return _sum(rng, key.split)
        if key.task == "sums":
            sums = [_sum(rng, key.split) for _ in range(6)]
            return WorldSample(pieces=tuple(piece for s in sums for piece in (f"{s.messages}", f" {s.answer}, ")))
        scene = _scene(rng, key.split)
        pixels = render(scene)
        if key.task == "draw":
            return WorldSample(scene.prompt, drawn=pixels, origin=scene)
        if key.task == "reason_draw":
            asked = f"the shape with {CORNERS[scene.shape]} corners, {scene.color}, {scene.place}"
            return WorldSample(
                asked, think=f"{CORNERS[scene.shape]} corners: {scene.shape}", answer=scene.prompt, drawn=pixels, origin=scene
            )
        questions = {"color": scene.color, "shape": scene.shape, "place": scene.place}
        if key.task == "understand":
            kind = str(rng.choice(key.kinds or list(questions)))
            return WorldSample(f"what {kind} is it?", think=scene.prompt, answer=questions[kind], seen=(pixels,), origin=questions[kind])
        *before, (last, answer) = questions.items()
        turns = [m for q, a in before for m in (Message("user", f"what {q} is it?"), Message("assistant", a))]
        return WorldSample((*turns, Message("user", f"what {last} is it?")), answer=answer, seen=(pixels,), origin=answer)

    def picture(self, rng: np.random.Generator, split: Split) -> Pixels:
        return render(_scene(rng, split))

    @property
    def kinds(self) -> Mapping[str, tuple[str, ...]]:
        return {"understand": ("color", "shape", "place")}

    def verify(self, origin: Any, answer: str | Pixels) -> bool:
        if isinstance(answer, str):
            return normalize_answer(answer) == (origin.prompt.removeprefix("a ") if isinstance(origin, Scene) else origin)
        seen, nearness = see(answer)
        return seen == origin and nearness > 0.8

    def rewards(self) -> Mapping[str, WorldReward]:
        return {"nearness": nearness}

    @property
    def recipes(self) -> Path:
        return Path(__file__).parent / "recipes"


def nearness(samples: Sequence[Any]) -> list[float | None]:
    """How near a drawing is to the scene that was asked for, by `see`; 0 if it shows another one."""
    shown = [None if s.image is None else see(np.asarray(s.image.convert("RGB"))) for s in samples]
    return [None if one is None else one[1] * (one[0] == s.prompt.origin) for s, one in zip(samples, shown, strict=True)]


def _sum(rng: np.random.Generator, split: Split) -> WorldSample:
    while True:
        a, b = (int(n) for n in rng.integers(10, size=2))
        if ((a + 3 * b) % 7 == 0) == (split == "test"):
            return WorldSample(f"{a} + {b} =", think=f"{a} and {b} make {a + b}", answer=str(a + b), origin=str(a + b))


def _scene(rng: np.random.Generator, split: Split) -> Scene:
    scenes = [scene for scene in SCENES if scene.is_held_out == (split == "test")]
    return scenes[rng.integers(len(scenes))]


world = Shapes
