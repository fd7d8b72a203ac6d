"""The general suite of a world: its held-out samples are asked, and its own verifier judges.

for each kind (or task), with and without thinking:  test samples -> requests -> MMaDA.run -> world.verify
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from mmada.data.world import Measured, SampleKey, Suite, SuiteSettings, World, WorldSample
from mmada.errors import InputError, suggest
from mmada.eval.metrics import Share
from mmada.generation.requests import Answer, DrawRequest, EmptyAnswerError, Result
from mmada.pipeline import MMaDA
from mmada.train.world import request_of

__all__ = ["ExactSuite", "lines_of", "run_requests", "suites_of"]


def suites_of(world: World) -> dict[str, Suite]:
    """The world's own suites, and the general one under the world's name if it verifies and brings none."""
    general: dict[str, Suite] = {world.name: ExactSuite(world)} if world.verifies else {}
    return general | dict(world.suites())


@dataclass(frozen=True, slots=True)
class ExactSuite:
    """Accuracy by kind and mode, with 95 % intervals, forward passes and seconds."""

    world: World
    options: ClassVar[tuple[str, ...]] = (
        "model", "num", "kinds", "modes", "seed", "steps", "guidance_scale", "threshold", "image_threshold", "cache",
        "image_tokenizer", "batch", "device", "dtype",
    )  # fmt: skip
    needs_model: ClassVar[bool] = True

    def run(self, model: Any, settings: SuiteSettings, on_step: Callable[[float, str], None]) -> Measured:
        """Raises InputError for an unknown kind or mode."""
        plan = [(task, kind, mode) for task, kind in self._kinds(settings.kinds) for mode in settings.modes]
        for mode in settings.modes:
            if mode not in ("direct", "think"):
                raise InputError(f"mode={mode!r} must be direct or think")
        rows = []
        for i, (task, kind, mode) in enumerate(plan):
            on_step(i / len(plan), f"{kind or task} {mode}")
            rows.append({"kind": kind or task, "task": task, "mode": mode, **self._measure(model, settings, task, kind, mode == "think")})
        settled = {"num": settings.num, "modes": settings.modes, "seed": settings.seed}
        return Measured(values={"settings": settled, "model": settings.model, "outcomes": rows}, lines=lines_of(rows))

    def _kinds(self, wanted: Sequence[str]) -> list[tuple[str, str]]:
        """Pairs of task and kind; a task without kinds has the kind ''."""
        world = self.world
        known = [(t, k) for t in world.tasks if t not in world.gap_tasks for k in world.kinds.get(t, ("",))]
        names = {kind or task for task, kind in known}
        for name in wanted:
            if name not in names:
                raise InputError(f"kind={name!r} is unknown: {suggest(name, names)}")
        return [(task, kind) for task, kind in known if not wanted or (kind or task) in wanted]

    def _measure(self, model: MMaDA, settings: SuiteSettings, task: str, kind: str, thinks: bool) -> dict[str, Any]:
        right: list[bool] = []
        forwards: list[int] = []
        seconds = 0.0
        upscale = model.image_tokenizer.upscale if model.layout.codebook_size else 1
        for start in range(0, settings.num, settings.batch):
            indices = range(start, min(start + settings.batch, settings.num))
            samples = [self._sample(settings.seed, task, kind, index) for index in indices]
            requests = []
            for index, sample in zip(indices, samples, strict=True):
                request = request_of(sample, think=thinks, seed=settings.seed + index, upscale=upscale)
                if isinstance(request, DrawRequest):
                    request = replace(request, think=thinks, steps=settings.steps, guidance_scale=settings.guidance_scale)
                requests.append(request)
            begin = time.perf_counter()
            results = run_requests(model, requests)
            seconds += time.perf_counter() - begin
            right += [self._is_right(sample, result) for sample, result in zip(samples, results, strict=True)]
            forwards += [result.num_forwards for result in results]
        each = {"mean_forwards": round(float(np.mean(forwards)), 2), "seconds_each": round(seconds / len(right), 4)}
        return {**Share(sum(right), len(right)).to_dict(), **each}

    def _sample(self, seed: int, task: str, kind: str, index: int) -> WorldSample:
        kinds = (kind,) if kind else ()
        return self.world.sample(SampleKey(task=task, split="test", seed=seed, index=index, stream="suite", kinds=kinds))

    def _is_right(self, sample: WorldSample, result: Result) -> bool:
        answer = result.text if isinstance(result, Answer) else np.asarray(result.image.convert("RGB"))
        return self.world.verify(sample.origin, answer)


def run_requests(model: MMaDA, requests: Sequence[Any]) -> list[Result]:
    """Results, empty answers among them: in a measurement they count as wrong, and nothing else is lost."""
    try:
        return model.run(requests)
    except EmptyAnswerError as error:
        return error.results


def lines_of(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Rows with kind, mode, value, low, high, mean_forwards and seconds_each as lines of a table."""
    lines = [f"{'kind':<16} {'mode':<7} {'right':>7}   95 % interval   forwards   seconds"]
    for row in rows:
        interval = f"{row['low']:.3f} - {row['high']:.3f}"
        numbers = f"{row['mean_forwards']:>8.1f}  {row['seconds_each']:>8.3f}"
        lines.append(f"{row['kind']:<16} {row['mode']:<7} {row['value']:>7.3f}   {interval}   {numbers}")
    return lines
