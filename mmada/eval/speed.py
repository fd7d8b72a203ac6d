"""What an answer and an image cost: seconds of a whole command (cold) and of a call on a loaded model (warm).

run(name, asked)   {"cases": {case: {"cold_seconds", "warm_seconds", "forwards"}}, "load_seconds"}
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from mmada.data.world import Pixels
from mmada.errors import MMaDAError
from mmada.generation.requests import Answer, Drawing
from mmada.pipeline import MMaDA

__all__ = ["CASES", "Asked", "run"]

CASES = ("draw", "draw, thinking", "ask", "ask, thinking", "word problem", "word problem, thinking")


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What the model is asked in the six cases."""

    prompt: str
    """of the drawings"""
    question: str
    """about the picture"""
    picture: Callable[[], Pixels]
    problem: str
    """of the texts"""


Case = tuple[list[str], Callable[[MMaDA, int], Answer | Drawing]]


def _cases(asked: Asked, picture: Path) -> Mapping[str, Case]:
    """Name -> the command, and the same call on a loaded model with a seed."""
    drawn, prompt, question, problem = picture.with_name("out.png"), asked.prompt, asked.question, asked.problem
    made: tuple[Case, ...] = (
        (["draw", prompt, "--no-think", "-o", str(drawn)], lambda m, seed: m.draw(prompt, think=False, seed=seed)),
        (["draw", prompt, "--think", "-o", str(drawn)], lambda m, seed: m.draw(prompt, think=True, seed=seed)),
        (["ask", str(picture), question, "--no-think"], lambda m, seed: m.ask(picture, question, think=False, seed=seed)),
        (["ask", str(picture), question, "--think"], lambda m, seed: m.ask(picture, question, think=True, seed=seed)),
        (["chat", problem, "--no-think"], lambda m, seed: m.chat(problem, think=False, seed=seed)),
        (["chat", problem, "--think"], lambda m, seed: m.chat(problem, think=True, seed=seed)),
    )
    return dict(zip(CASES, made, strict=True))


def run(
    name: str,
    asked: Asked,
    *,
    device: str | None = None,
    dtype: str = "auto",
    cache: str | None = None,
    repeats: int = 5,
    num_cold: int = 3,
    on_step: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Medians of `repeats` warm calls, after one that is not counted, and of `num_cold` whole commands; without any, None.

    cache  of texts; None: the checkpoint's
    Raises MMaDAError if a command fails.
    """
    settings = ["--model", name, "--dtype", dtype, *(["--device", device] if device else [])]
    begin = time.perf_counter()
    model = MMaDA.from_pretrained(name, device=device, dtype=dtype)
    if cache is not None:
        model = model.use(cache=cache)
    model.image_tokenizer  # noqa: B018  loaded at first use
    found: dict[str, Any] = {"model": name, "load_seconds": round(time.perf_counter() - begin, 3), "cases": {}}
    with tempfile.TemporaryDirectory() as scratch:
        picture = Path(scratch) / "seen.png"
        Image.fromarray(asked.picture()).save(picture)
        for case, (command, call) in _cases(asked, picture).items():
            if on_step is not None:
                on_step(case)
            call(model, 0)
            seconds, forwards = [], []
            for seed in range(1, repeats + 1):
                begin = time.perf_counter()
                forwards.append(call(model, seed).num_forwards)
                seconds.append(time.perf_counter() - begin)
            cold = [
                _command([*command, *settings, *(["--cache", cache] if cache and command[0] != "draw" else [])]) for _ in range(num_cold)
            ]
            found["cases"][case] = {
                "cold_seconds": round(statistics.median(cold), 3) if cold else None,
                "warm_seconds": round(statistics.median(seconds), 4),
                "forwards": statistics.mean(forwards),
            }
    return found


def _command(arguments: list[str]) -> float:
    """Seconds of `mmada ARGUMENTS` from start to exit."""
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", "from mmada.cli import main; main()", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, 1):  # 1 is an empty answer, which takes as long as any
        raise MMaDAError(f"mmada {' '.join(arguments)} failed: {done.stderr.strip()}")
    return time.perf_counter() - begin
