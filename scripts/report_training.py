"""Report the cost of training the built-in models: minutes, tokens per second, share of the machine's matrix rate.

    python scripts/report_training.py -o docs/results/training.json      # after the runs of configs/emoji, on the same machine
    python scripts/report_training.py mixcot --after runs/emoji/first runs/emoji/second -o docs/results/training.json

A run keeps its old entry, with its machine, if it is not named or has no metrics.jsonl in its directory.
--after names earlier runs of the same stage that this one continued. Steps, tokens and minutes are then those of all together.
--gpu names another machine and the runs on it (scripts/gpu/train.sh). They have their own line, and their minutes are counted apart.

Rate of a run: floating-point operations of the loss and its gradient, per second of training. The time includes batches and optimizer,
but not evaluation, samples and saves. Operations of a transformer token: 6 for each weight of the blocks, 12 width length for the
attention of each layer, 6 width ids for each scored position of the head.
Rate of the machine: the fastest of several matrix products as large as a batch, in the run's precision.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml

from mmada.eval import report
from mmada.model import Packing
from mmada.train.config import TrainConfig, load
from mmada.train.setup import build_task
from mmada.train.stages import ImageStage
from mmada.train.task import DiffusionTask

CONFIGS = ("tokenizer", "decoder", "words", "base", "mixcot")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@cache
def matrix_rate(precision: str) -> float:
    """Operations per second of (4096, k) @ (k, n), the best of four shapes, half a second each."""
    best = 0.0
    for k, n in ((224, 224), (224, 608), (608, 224), (1024, 1024)):
        a, b = torch.randn(4096, k, dtype=DTYPES[precision]), torch.randn(k, n, dtype=DTYPES[precision])
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
        assert isinstance(batch.mask, Packing)
        total += sum(12.0 * config.n_layers * config.d_model * length * length for length in batch.mask.lengths)
        total += sum(6.0 * config.d_model * (part.vocab[1] - part.vocab[0]) * len(part.positions) for part in batch.scored if part.vocab)
    return total / tokens


def read(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def together(directories: Sequence[Path]) -> dict[str, Any]:
    """Steps, tokens and minutes of runs that continue each other."""
    pieces = [[line for line in read(directory) if "seconds" in line][-1] for directory in directories]
    steps, tokens, seconds = (sum(piece[key] for piece in pieces) for key in ("step", "tokens", "seconds"))
    return {
        "steps": steps,
        "pieces": [piece["step"] for piece in pieces],
        "tokens": tokens,
        "minutes": round(seconds / 60, 1),
        "tokens_per_second": round(tokens / seconds, 1),
    }


def run(name: str, config: TrainConfig, earlier: Sequence[Path], environment: dict[str, Any]) -> dict[str, Any]:
    with (Path(config.out) / "config.yaml").open(encoding="utf-8") as stream:
        precision = yaml.safe_load(stream)["loop"]["precision"]
    lines = read(Path(config.out))
    found = {
        "command": f"mmada train configs/emoji/{name}.yaml" + (" loop.precision=bf16" if precision == "bf16" else ""),
        **together((*earlier, Path(config.out))),
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
        found["matrix_gflops"] = round(matrix_rate(precision) / 1e9, 1)
        found["share_of_matrix_rate"] = round(operations * found["tokens_per_second"] / matrix_rate(precision), 3)
    return found | {"environment": environment}


def gpu_runs(directories: Sequence[Path], machine: str) -> dict[str, Any]:
    """Runs of scripts/gpu/train.sh on another machine."""
    return {"command": "scripts/gpu/train.sh", **together(directories), "environment": {"machine": machine}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="runs to report, all by default")
    parser.add_argument("--after", nargs="+", type=Path, default=[], help="directories of runs that the named one went on from")
    parser.add_argument(
        "--gpu", nargs="+", metavar=("MACHINE", "DIRECTORY"), help="another machine, and runs there that are part of the named one"
    )
    parser.add_argument("--out", "-o", type=Path, required=True)
    args = parser.parse_args()
    if unknown := set(args.names) - set(CONFIGS):
        parser.error(f"unknown runs {sorted(unknown)}; known are {', '.join(CONFIGS)}")
    if (args.after or args.gpu) and len(args.names) != 1:
        parser.error("--after and --gpu belong to one run; name it")
    before = json.loads(args.out.read_text(encoding="utf-8")) if args.out.exists() else {}
    environment, runs = report.environment(" ".join(["python", *sys.argv])), {}
    configs = {name: load(Path("configs/emoji") / f"{name}.yaml") for name in CONFIGS}
    present = [name for name in args.names or CONFIGS if (Path(configs[name].out) / "metrics.jsonl").exists()]
    for name, config in configs.items():
        if name in present:
            runs[name] = run(name, config, args.after, environment)
        elif name in before.get("runs", {}):
            runs[name] = {"environment": before["environment"]} | before["runs"][name]
    total = round(sum(found["minutes"] for found in runs.values()), 1)
    others = before.get("gpu", {})
    if args.gpu:
        machine, *directories = args.gpu
        others |= {f"{args.names[0]}, on an {machine}": gpu_runs([Path(directory) for directory in directories], machine)}
    report.save(args.out, {"suite": "training", "environment": environment, "total_minutes": total, "runs": runs, "gpu": others})


if __name__ == "__main__":
    main()
