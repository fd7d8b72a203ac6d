"""Does the score by which `--best-of` chooses say which drawings are right? A table of scores against the judge's verdicts.

    python scripts/emoji/measure_calibration.py --num 48 -o docs/results/calibration.json

Held-out prompts are drawn several times each, with and without thinking. The score is the mean log p of a drawing's codes given the others
(sampling/rank.py); right is what the independent judge finds as it was asked for. Groups of equal size are made by score, over all prompts.
Within a prompt, the likeliest drawing is compared with the first and with the best that there is.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from mmada import MMaDA
from mmada.eval import report
from mmada.eval.exact import run_requests
from mmada.eval.metrics import Share
from mmada.generation.requests import Drawing, DrawRequest
from mmada.hub.checkpoint import DEFAULT_MODEL
from mmada.sampling import Ranking
from mmada.worlds.emoji.example import Example
from mmada.worlds.emoji.measure.judge import the_judge
from mmada.worlds.emoji.spec import satisfies
from mmada.worlds.emoji.tasks import sample_task

DRAWN, GROUPS, BATCH = 4, 5, 24


@dataclass(frozen=True, slots=True)
class _Judged:
    """Of one prompt: each drawing's score in nats, and whether it is right."""

    scores: tuple[float, ...]
    right: tuple[bool, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--num", type=int, default=60, help="prompts of each mode")
    parser.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = MMaDA.from_pretrained(options.model, device="cpu")
    rng = np.random.default_rng(26)
    examples = [sample_task("draw", rng, "test") for _ in range(options.num)]
    modes = {}
    for name, think in (("without thinking", False), ("thinking", True)):
        judged = [found for begin in range(0, len(examples), BATCH) for found in _judged(model, examples[begin : begin + BATCH], think)]
        modes[name] = _summary(judged)
        print(name, json.dumps(modes[name]), flush=True)
    command = f"python scripts/emoji/measure_calibration.py --num {options.num} -o {options.out}"
    record = {
        "suite": "calibration",
        "environment": report.environment(command, "cpu"),
        "model": options.model,
        "drawn": DRAWN,
        "modes": modes,
    }
    options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _judged(model: MMaDA, examples: list[Example], think: bool) -> list[_Judged]:
    requests = [DrawRequest(e.prompt, think=think, seed=1000 * i + k) for i, e in enumerate(examples) for k in range(DRAWN)]
    drawings = [result for result in run_requests(model, requests) if isinstance(result, Drawing)]
    seen = the_judge().look(np.stack([np.asarray(drawing.image) for drawing in drawings]))
    found = []
    for i, example in enumerate(examples):
        own = slice(i * DRAWN, (i + 1) * DRAWN)
        assert example.spec is not None
        right = tuple(
            not drawing.problem and satisfies(example.spec, look.cells, background=look.background)
            for drawing, look in zip(drawings[own], seen[own], strict=True)
        )
        found.append(_Judged(tuple(_score(model, drawing) for drawing in drawings[own]), right))
    return found


def _score(model: MMaDA, drawing: Drawing) -> float:
    """Of a drawing behind the prompt that it was drawn from, as `best_of` scores it."""
    prompts, layout = model.prompts, model.layout
    canvas = prompts.draw(drawing.prompt, drawing.codes.flatten(), is_open=torch.ones(drawing.codes.numel(), dtype=torch.bool))
    tokens = canvas.tokens.clone()
    tokens[canvas.fields[0].positions] = drawing.codes.flatten() + layout.image_offset
    ranking = Ranking([replace(canvas, tokens=tokens)], mask_id=layout.mask_id)
    while not ranking.done:
        (logits,) = model.denoiser([ranking.inputs()])
        ranking.advance(logits)
    return ranking.scores[0]


def _summary(judged: list[_Judged]) -> dict[str, object]:
    pairs = sorted((score, right) for found in judged for score, right in zip(found.scores, found.right, strict=True))
    groups = []
    for group in np.array_split(np.arange(len(pairs)), GROUPS):
        own = [pairs[i] for i in group]
        share = Share(sum(right for _, right in own), len(own)).to_dict()
        groups.append({"from": round(own[0][0], 3), "to": round(own[-1][0], 3), **share})
    likeliest = [found.right[int(np.argmax(found.scores))] for found in judged]
    return {
        "groups": groups,
        "area_under_curve": _area(pairs),
        "area_within_a_prompt": _area_within(judged),
        "one": Share(sum(found.right[0] for found in judged), len(judged)).to_dict(),
        "likeliest": Share(sum(likeliest), len(judged)).to_dict(),
        "any": Share(sum(any(found.right) for found in judged), len(judged)).to_dict(),
    }


def _area(pairs: list[tuple[float, bool]]) -> float | None:
    """Of a right and a wrong drawing, how often the right one has the higher score; None without either."""
    right, wrong = [s for s, is_right in pairs if is_right], [s for s, is_right in pairs if not is_right]
    if not right or not wrong:
        return None
    return round(statistics.mean((r > w) + (r == w) / 2 for r in right for w in wrong), 3)


def _area_within(judged: list[_Judged]) -> float | None:
    """The same, of two drawings of one prompt."""
    areas = [_area(list(zip(found.scores, found.right, strict=True))) for found in judged]
    known = [area for area in areas if area is not None]
    return round(statistics.mean(known), 3) if known else None


if __name__ == "__main__":
    main()
