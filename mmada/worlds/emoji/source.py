"""The emoji world behind the engine's protocol (data/world.py): examples become samples, and everything else has its name here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from mmada.canvas import Message, join_thinking
from mmada.data.seeds import generator
from mmada.data.world import Pixels, SampleKey, Showpiece, Split, Suite, World, WorldReward, WorldSample
from mmada.errors import InputError
from mmada.worlds.emoji.chooser import Chooser
from mmada.worlds.emoji.drills import DRILLS, drill
from mmada.worlds.emoji.example import Example
from mmada.worlds.emoji.natural import NATURAL, around, natural_example
from mmada.worlds.emoji.scenes import SCENE_SIZE, Scene, render
from mmada.worlds.emoji.showcase import LIMITS, showcase
from mmada.worlds.emoji.spec import satisfies
from mmada.worlds.emoji.tasks import KINDS, description, interview, lookup, picture, sample
from mmada.worlds.emoji.verify import is_correct

if TYPE_CHECKING:
    from mmada.worlds.emoji.rewards import Verifier

__all__ = ["NUM_QUESTIONS", "EmojiWorld"]

NUM_QUESTIONS = 5
"""about one scene, at most, in the tasks interview and described; in the test one"""


@dataclass(frozen=True)
class EmojiWorld(World):
    """Pictures of one to four emoji, and everything that can be asked about them or drawn of them.

    text, understand, draw, reason_draw    the kinds of tasks.KINDS
    interview    several questions about one scene
    described    the same, of a scene that is told instead of seen
    natural_draw requests in ordinary English, and what of them cannot be drawn (natural/)
    natural_look, natural_text   questions about pictures, and word problems, facts and talk, in ordinary English
    lookup       everything that can be looked up in a list
    find, ...    one skill at a time: texts with gaps (drills.py)
    """

    varied: float = 0.0
    """share of the pictures that are asked about in training whose artwork is varied (variation.py); drawings never are"""
    verifier: str = "artwork"
    """who looks at drawings for the rewards drawn and objects: artwork (artwork.py), or a file of weights of measure/judge.py, which
    scripts/emoji/train_judge.py writes"""

    name: ClassVar[str] = "emoji"
    tasks: ClassVar[tuple[str, ...]] = ("text", "understand", "draw", "reason_draw", "interview", "described", "lookup", *NATURAL, *DRILLS)
    gap_tasks: ClassVar[tuple[str, ...]] = tuple(DRILLS)
    image_size: ClassVar[int] = SCENE_SIZE
    limits: ClassVar[str] = LIMITS

    def __post_init__(self) -> None:
        if not 0 <= self.varied <= 1:
            raise InputError(f"data.options.varied={self.varied} is a share of pictures and must lie in 0..1")

    def sample(self, key: SampleKey) -> WorldSample:
        if key.task in DRILLS:
            return WorldSample(pieces=drill(key.task, key.rng(), key.split))
        *before, example = _examples(key)
        turns = [Message(role, text) for e in before for role, text in (("user", e.prompt), ("assistant", e.answer))]
        if key.task in ("natural_look", "natural_text"):
            turns = around(Chooser(key.rng("around")), natural_example("natural_text", key.rng("earlier"), key.split))
        first = (*before, example)[0]
        # Of a request in ordinary English the plan is learned, not the picture.
        shown = None if first.scene is None or key.task == "natural_draw" else self._picture(key, first.scene)
        is_seen = example.task == "understand"
        return WorldSample(
            (*turns, Message("user", example.prompt)),
            think=example.think,
            answer=example.answer,
            seen=(shown,) if is_seen and shown is not None else (),
            drawn=None if is_seen else shown,
            origin=example,
        )

    def _picture(self, key: SampleKey, scene: Scene) -> Pixels:
        may_vary = key.split == "train" and key.task in ("understand", "interview", "natural_look")
        return render(scene, key.rng("variation") if may_vary and key.uniform("is varied") < self.varied else None)

    def picture(self, rng: np.random.Generator, split: Split) -> Pixels:
        return render(picture(rng, split))

    def large_picture(self, rng: np.random.Generator, split: Split, *, scale: int) -> Pixels:
        return render(picture(rng, split), scale=scale)

    @property
    def kinds(self) -> Mapping[str, tuple[str, ...]]:
        drawn = ("text", "understand", "draw", "reason_draw")
        return {task: tuple(kind for kind, entry in KINDS.items() if entry.task == task) for task in drawn} | dict(NATURAL)

    def verify(self, origin: Any, answer: str | Pixels) -> bool:
        if isinstance(answer, str):
            return is_correct(origin, answer)
        (seen,) = self._verifier()(answer[None])
        return origin.spec is not None and satisfies(origin.spec, seen.cells, background=seen.background)

    def check_plan(self, prompt: str, plan: str | None) -> str | None:
        from mmada.worlds.emoji.plans import problem_of

        return problem_of(prompt, plan)

    def asked(self, prompt: str) -> str:
        from mmada.worlds.emoji.asking import asked

        return asked(prompt)

    def is_asked_for(self, prompt: str, phrase: str) -> bool:
        from mmada.worlds.emoji.asking import is_asked_for

        return is_asked_for(prompt, phrase)

    def restated(self, prompt: str) -> str | None:
        from mmada.worlds.emoji.reading import restated

        return restated(prompt)

    def completed(self, turns: Sequence[str], thought: str, is_closed: bool) -> tuple[str, str | None] | None:
        from mmada.worlds.emoji.natural.calculator import completed

        *earlier, prompt = turns
        return completed(prompt, thought, is_closed, earlier=" ".join(earlier))

    def doubt_of(self, prompt: str, thought: str) -> str | None:
        from mmada.worlds.emoji.natural.calculator import doubt_of

        return doubt_of(prompt, thought)

    def with_commas(self, text: str) -> str:
        from mmada.worlds.emoji.reading import with_commas

        return with_commas(text)

    def showcase(self) -> Sequence[Showpiece]:
        return showcase()

    def is_plain(self, prompt: str) -> bool:
        from mmada.worlds.emoji.plans import is_plain

        return is_plain(prompt)

    def rewards(self) -> Mapping[str, WorldReward]:
        from mmada.worlds.emoji import artwork, rewards

        verifier = self._verifier()
        return {
            "correct": rewards.correct,
            "caption": rewards.caption,
            "drawn": partial(rewards.drawn, verifier=verifier),
            "objects": partial(rewards.objects_in_common, verifier=verifier),
            "likeness": artwork.likeness,
        }

    def _verifier(self) -> Verifier:
        if self.verifier == "artwork":
            from mmada.worlds.emoji.artwork import match

            return match
        if not Path(self.verifier).is_file():
            raise InputError(f"data.options.verifier={self.verifier!r} is no file of weights; use artwork, or a file of train_judge.py")
        from mmada.worlds.emoji.measure.judge import Judge

        return Judge.load(Path(self.verifier)).look

    def suites(self) -> Mapping[str, Suite]:
        from mmada.worlds.emoji.measure.suites import SUITES

        return SUITES

    @property
    def recipes(self) -> Path:
        return Path(__file__).parent / "recipes"

    def corpus(self, num: int) -> Iterator[str]:
        """Examples of every kind alike."""
        for kind in KINDS:
            for i in range(num // len(KINDS)):
                example = sample(kind, generator("corpus", kind, i))
                yield example.prompt
                yield example.answer
                yield join_thinking(example.think, example.answer) if example.think else ""


def _examples(key: SampleKey) -> tuple[Example, ...]:
    """One example, or several about one scene."""
    rng = key.rng()
    if key.task in NATURAL:
        return (natural_example(key.task, rng, key.split, key.kinds),)
    if key.task == "interview":
        return _interview(rng, key.split)
    if key.task == "described":
        while not (told := description(_interview(rng, key.split), rng)):
            pass
        return told
    if key.task == "lookup":
        return (lookup(rng, key.split),)
    weights = {k: entry.weight for k, entry in KINDS.items() if entry.task == key.task and (not key.kinds or k in key.kinds)}
    return (sample(Chooser(rng).weighted(weights), rng, key.split),)


def _interview(rng: np.random.Generator, split: Split) -> tuple[Example, ...]:
    weights = {kind: entry.weight for kind, entry in KINDS.items() if entry.task == "understand"}
    first = sample(Chooser(rng).weighted(weights), rng, split)
    if split == "test" or first.scene is None:
        return (first,)
    others = (e for e in interview(first.scene, rng, NUM_QUESTIONS) if e.kind != first.kind)
    return (first, *others)[:NUM_QUESTIONS]
