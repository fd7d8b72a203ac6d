"""What the training of the built-in models took: minutes, tokens per second, and the share of the machine's matrix rate.

    python scripts/report_training.py -o docs/results/training.json      # after the three runs of configs/emoji, on the same machine

Rate of a run: floating-point operations that the loss and its gradient need, over the seconds of training (batches and optimizer
included; evaluation, samples and saves not). Operations of a transformer token: 6 for each weight of the blocks, 12 width length for the attention of
each layer, 6 width ids for each scored position of the head. Rate of the machine: the fastest of some float32 matrix products as large as
a batch.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from mmada.eval import report
from mmada.train.config import load
from mmada.train.setup import build_task
from mmada.train.stages import ImageStage
from mmada.train.task import DiffusionTask

CONFIGS = ("tokenizer", "base", "mixcot")


def matrix_rate() -> float:
    """Operations per second of (4096, k) @ (k, n), the best of four shapes, half a second each."""
    best = 0.0
    for k, n in ((224, 224), (224, 608), (608, 224), (1024, 1024)):
        a, b = torch.randn(4096, k), torch.randn(k, n)
        count, begin = 0, time.perf_counter()
        while time.perf_counter() - begin < 0.5:
            a @ b
            count += 1
        best = max(best, 2 * 4096 * k * n * count / (time.perf_counter() - begin))
    return best


def operations_per_token(task: DiffusionTask) -> float:
    """Mean over the first steps' batches."""
    config, total, tokens = task.module.model.config, 0.0, 0
    blocks = sum(p.numel() for name, p in task.module.model.named_parameters() if ".blocks." in name and p.dim() > 1)
    for step in range(8):
        (batch,) = task.batches(step, rank=0, world=1, accumulate=1)
        tokens += batch.num_tokens
        total += 6.0 * blocks * batch.num_tokens
        total += sum(12.0 * config.n_layers * config.d_model * length * length * rows for rows, length in batch.mask.runs)
        total += sum(6.0 * config.d_model * (part.vocab[1] - part.vocab[0]) * len(part.positions) for part in batch.scored if part.vocab)
    return total / tokens


def run(name: str, rate: float) -> dict[str, Any]:
    path = Path("configs/emoji") / f"{name}.yaml"
    config = load(path)
    lines = [json.loads(line) for line in (Path(config.out) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    last = [line for line in lines if "seconds" in line][-1]
    found = {
        "command": f"mmada train {path}",
        "steps": last["step"],
        "tokens": last["tokens"],
        "minutes": round(last["seconds"] / 60, 1),
        "tokens_per_second": round(last["tokens"] / last["seconds"], 1),
        "evaluations": [
            {k: round(v, 4) for k, v in line.items() if k == "step" or (k.startswith("eval/") and "@" not in k)}
            for line in lines
            if any(k.startswith("eval/") for k in line)
        ],
    }
    if not isinstance(config.stage, ImageStage):
        task = build_task(config)
        assert isinstance(task, DiffusionTask)
        operations = operations_per_token(task)
        found["operations_per_token"] = round(operations)
        found["share_of_matrix_rate"] = round(operations * last["tokens"] / last["seconds"] / rate, 3)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", "-o", type=Path, required=True)
    args = parser.parse_args()
    rate = matrix_rate()
    runs = {name: run(name, rate) for name in CONFIGS}
    total = round(sum(found["minutes"] for found in runs.values()), 1)
    about = {"suite": "training", "environment": report.environment(" ".join(["python", *sys.argv]))}
    report.save(args.out, {**about, "matrix_gflops": round(rate / 1e9, 1), "total_minutes": total, "runs": runs})


if __name__ == "__main__":
    main()
