"""The suites of the emoji world, as `mmada eval` runs them.

emoji    held-out examples of every kind, drawings judged by measure/judge.py
natural  drawing requests in ordinary English, what is unknown, and surface noise (measure/natural.py)
strangers  whatever a stranger types, who saw neither training nor rules (measure/strangers.py)
judge    the judge itself; no model
speed    seconds of a whole command and of a call
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import numpy as np

from mmada.data.world import Measured, Suite, SuiteSettings
from mmada.eval import speed
from mmada.eval.exact import lines_of
from mmada.worlds.emoji.measure.benchmark import Settings, check_judge, contact_sheet, distance_of_drawings, run
from mmada.worlds.emoji.measure.judge import the_judge
from mmada.worlds.emoji.measure.natural import Natural
from mmada.worlds.emoji.measure.strangers import Strangers
from mmada.worlds.emoji.scenes import render
from mmada.worlds.emoji.tasks import sample

__all__ = ["SPEED_CASES", "SUITES"]


def _settled(settings: SuiteSettings) -> dict[str, Any]:
    names = ("num", "modes", "steps", "guidance_scale", "seed", "batch", "best_of", "threshold", "image_threshold", "cache")
    return {name: getattr(settings, name) for name in names}


class _Benchmark:
    options: ClassVar[tuple[str, ...]] = (
        "model", "num", "kinds", "modes", "sheets", "seed", "steps", "guidance_scale", "best_of", "threshold", "image_threshold", "cache",
        "image_tokenizer", "batch", "device", "dtype",
    )  # fmt: skip
    needs_model: ClassVar[bool] = True

    def run(self, model: Any, settings: SuiteSettings, on_step: Callable[[float, str], None]) -> Measured:
        judge = the_judge()
        own = Settings(
            **({"kinds": settings.kinds} if settings.kinds else {}),
            num=settings.num,
            modes=settings.modes,
            image_steps=settings.steps,
            guidance_scale=settings.guidance_scale,
            best_of=settings.best_of,
            seed=settings.seed,
            batch=settings.batch,
        )
        outcomes = run(model, judge, own, on_step=on_step)
        rows = [outcome.to_dict() for outcome in outcomes]
        values: dict[str, Any] = {"settings": _settled(settings), "model": settings.model}
        if settings.detailed:
            values["judge"] = check_judge(judge, model, num=max(settings.num, 400))
            values["distance_drawn"] = distance_of_drawings(judge, outcomes)
        sheets = {
            f"{outcome.kind}-{outcome.mode}": partial(contact_sheet, outcome.samples)
            for outcome in outcomes
            if outcome.kind.startswith(("draw_", "reason_"))
        }
        return Measured(values={**values, "outcomes": rows}, lines=lines_of(rows), sheets=sheets)


class _Judge:
    options: ClassVar[tuple[str, ...]] = ("num", "seed")
    needs_model: ClassVar[bool] = False

    def run(self, model: Any, settings: SuiteSettings, on_step: Callable[[float, str], None]) -> Measured:
        on_step(0, "judge")
        found = check_judge(the_judge(), None, num=max(settings.num, 2), seed=settings.seed)
        return Measured(values={"settings": _settled(settings), "judge": found}, lines=[json.dumps(found, indent=1)])


class _Speed:
    options: ClassVar[tuple[str, ...]] = ("model", "cache", "device", "dtype")
    needs_model: ClassVar[bool] = False

    def run(self, model: Any, settings: SuiteSettings, on_step: Callable[[float, str], None]) -> Measured:
        def step(case: str) -> None:
            on_step(speed.CASES.index(case) / len(speed.CASES), case)

        s = settings
        found = speed.run(s.model, SPEED_CASES, device=s.device, dtype=s.dtype, cache=s.cache, on_step=step)
        return Measured(values=found, lines=[json.dumps(found, indent=1)])


def _picture() -> np.ndarray[Any, np.dtype[np.uint8]]:
    example = sample("count", np.random.default_rng(0))
    assert example.scene is not None
    return render(example.scene)


SPEED_CASES = speed.Asked(
    prompt="two red hearts above a dog",
    question="how many cats?",
    problem="Tom has 3 apples and buys 4. How many has he?",
    picture=_picture,
)
SUITES: Mapping[str, Suite] = {"emoji": _Benchmark(), "natural": Natural(), "strangers": Strangers(), "judge": _Judge(), "speed": _Speed()}
