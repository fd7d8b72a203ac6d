"""Is the confidence that the studio colors worth a color? Of answers with a least sure token of so much, how many are right?

    python scripts/measure_confidence.py -o docs/results/confidence.json

Held-out questions and problems of the emoji world, answered at temperature 0 with and without thinking.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image

from mmada import ChatRequest, MMaDA
from mmada.eval import report
from mmada.hub.checkpoint import DEFAULT_MODEL
from mmada.worlds.emoji.scenes import render
from mmada.worlds.emoji.tasks import sample_task
from mmada.worlds.emoji.verify import is_correct

EDGES = (0.0, 0.6, 0.9, 1.0001)
"""of the studio's two colors, and of no color"""
BATCH = 25


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--num", type=int, default=300, help="examples of each task")
    parser.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_args()
    model = MMaDA.from_pretrained(options.model, device="cpu")
    rng = np.random.default_rng(0)
    examples = [sample_task(task, rng, "test") for task in ("text", "understand") for _ in range(options.num)]
    right: dict[str, dict[str, list[bool]]] = {}
    for name, think in (("without thinking", False), ("thinking", True)):
        bins: dict[str, list[bool]] = defaultdict(list)
        for begin in range(0, len(examples), BATCH):
            batch = examples[begin : begin + BATCH]
            asked = [ChatRequest(e.prompt, [] if e.scene is None else [Image.fromarray(render(e.scene))], think) for e in batch]
            for example, answer in zip(batch, model.run(asked, trace=True), strict=True):
                lowest = min(score for step in answer.trace for score in step.confidences)
                low = max(edge for edge in EDGES if edge <= lowest)
                bins[f"from {low:g}"].append(is_correct(example, answer.text))
        right[name] = dict(sorted(bins.items()))
    record = {
        "suite": "confidence",
        "environment": report.environment("python scripts/measure_confidence.py -o docs/results/confidence.json", "cpu"),
        "model": options.model,
        "num": len(examples),
        "right": {name: {low: [sum(them), len(them)] for low, them in bins.items()} for name, bins in right.items()},
    }
    options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(record))


if __name__ == "__main__":
    main()
