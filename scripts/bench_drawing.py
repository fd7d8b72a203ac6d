"""CPU seconds of a drawing: the old checkout, the new one, and the new one in bfloat16, in turn.

    git worktree add ../before COMMIT
    python scripts/bench_drawing.py --before ../before -o docs/results/drawing-cpu.json

Each variant is a process of its own that has loaded the model, and draws the same 16 prompts at once, in one thread. Variants take turns, so that a
busy machine is as busy for all of them. CPU seconds of the process are counted, not the clock: they are near to what the drawing takes
alone, but for caches that others use. The least and the median over the turns are reported, and the share of drawings with the same codes as before.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from mmada.eval import report
from mmada.hub.checkpoint import DEFAULT_MODEL

NUM_DRAWINGS = 16
WORKER = """
import json, sys, time, torch
torch.set_num_threads(1)
from mmada import MMaDA
from mmada.generation.requests import DrawRequest
model = MMaDA.from_pretrained(sys.argv[1], dtype=sys.argv[2], device="cpu")
prompts = ("two red hearts above a dog", "a blue star beside a cat", "three green apples", "a sun above a house")
requests = [DrawRequest(prompts[i % 4], think=False, seed=i) for i in range(int(sys.argv[3]))]
model.run(requests)
for line in sys.stdin:
    begin = time.process_time()
    drawings = model.run(requests)
    print(json.dumps([time.process_time() - begin, [drawing.codes.flatten().tolist() for drawing in drawings]]), flush=True)
"""


class Variant:
    """A process that draws when it is asked to."""

    def __init__(self, tree: Path, model: str, dtype: str) -> None:
        command = [sys.executable, "-c", WORKER, model, dtype, str(NUM_DRAWINGS)]
        environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tree, env=environment, text=True)
        self.seconds: list[float] = []
        self.codes: list[list[int]] = []

    def draw(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("draw\n")
        self._process.stdin.flush()
        seconds, self.codes = json.loads(self._process.stdout.readline())
        self.seconds.append(seconds / NUM_DRAWINGS)

    def end(self) -> None:
        self._process.communicate()


def commit_of(tree: Path) -> str:
    return subprocess.run(
        ["git", "-C", str(tree), "describe", "--always", "--dirty=+"], capture_output=True, text=True, check=True
    ).stdout.strip()


def summary(variants: dict[str, Variant]) -> dict[str, Any]:
    before = variants["before"]
    return {
        name: {
            "least_cpu_seconds": round(min(one.seconds), 4),
            "median_cpu_seconds": round(statistics.median(one.seconds), 4),
            "least_ratio": round(min(before.seconds) / min(one.seconds), 2),
            "median_ratio": round(statistics.median(a / b for a, b in zip(before.seconds, one.seconds, strict=True)), 2),
            "same_codes": sum(a == b for a, b in zip(before.codes, one.codes, strict=True)),
        }
        for name, one in variants.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="a checkout of the old commit")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/results/drawing-cpu.json"))
    arguments = parser.parse_args()
    before, after = arguments.before.resolve(), Path(__file__).resolve().parents[1]
    made = {
        "before": (before, "float32"),
        "float32": (after, "float32"),
        "before bfloat16": (before, "bfloat16"),
        "bfloat16": (after, "bfloat16"),
    }
    variants = {name: Variant(tree, arguments.model, dtype) for name, (tree, dtype) in made.items()}
    for _ in range(arguments.turns):
        for one in variants.values():
            one.draw()
        print({name: round(one.seconds[-1], 4) for name, one in variants.items()}, flush=True)
    for one in variants.values():
        one.end()
    settings = {"model": arguments.model, "turns": arguments.turns, "drawings": NUM_DRAWINGS, "before_commit": commit_of(before)}
    environment = report.environment(" ".join(["python", "scripts/bench_drawing.py", *sys.argv[1:]]))
    report.save(arguments.output, {"suite": "drawing", "environment": environment, "settings": settings, "variants": summary(variants)})


if __name__ == "__main__":
    main()
