"""One and two processes on this machine, weak and strong, beside what `mmada plan` predicts: steps of the 8m network on rows of 256 tokens.

    python scripts/measure_scaling.py -o docs/results/scaling.json

The plan's machine is measured first: multiplications of matrices in one process, alone and beside a second one; copies of memory; sums over gloo.
Which share of the multiplications' rate a step reaches is taken from the step of one process, so that line is no prediction. The others are.
A machine on which anything else runs is refused: two processes on two cores leave nothing for a third.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.distributed as dist

from mmada.canvas import Prompts, Style, VocabLayout
from mmada.eval import report
from mmada.hub import networks, tokenizer
from mmada.model import Transformer, preset
from mmada.scale.hardware import Accelerator
from mmada.scale.plan import LINK_EFFICIENCY, plan
from mmada.scale.training_cost import ModelShape, TrainingStep
from mmada.train.loop import LoopConfig, train
from mmada.train.optim import OptimizerConfig
from mmada.train.plan import begin
from mmada.train.recipes import named_stage
from mmada.train.source import ComponentRows, TrainingExample
from mmada.train.step import DiffusionLoss
from mmada.train.task import BatchPlan, DiffusionTask

LENGTH, ROWS, STEPS, SKIPPED = 256, 8, 8, 3
"""Tokens of a row, rows of one process, steps, and those of them that warm up."""
LAYOUT = VocabLayout.compact(256, 64)
CASES = (
    ("ddp", 1, ROWS, ""),
    ("ddp", 2, 2 * ROWS, "weak"),
    ("ddp", 2, ROWS, "strong"),
    ("fsdp2", 2, 2 * ROWS, "weak"),
    ("fsdp2", 2, ROWS, "strong"),
)
"""Strategy, processes, rows of a step over all of them, and what grows with the processes: weak, the rows; strong, nothing."""
BUSY = 0.3
"""Load of the last minute above which the machine is refused."""


@dataclass(frozen=True)
class Texts:
    """Texts of one length in bytes."""

    length: int

    def take(self, indices: list[int]) -> list[TrainingExample]:
        return [TrainingExample(answer="".join(random.Random(index).choices("abcdefgh ", k=self.length))) for index in indices]


def task(batch: int) -> DiffusionTask:
    stage = named_stage("base", "shapes")
    text = replace(
        next(component for component in stage.components if component.task == "text"), mixture_weight=1.0, layout="chat", noise=("count",)
    )
    stage = replace(stage, components=(text,), batch=batch, steps=STEPS)
    prompts = Prompts(LAYOUT, tokenizer.byte_level(), Style())
    samples = Texts(LENGTH - len(prompts.begin) - 1)
    rows = {text.name: ComponentRows(text, stage, samples, prompts, seed=0, num_image_tokens=16)}
    torch.manual_seed(0)
    network = Transformer(preset("8m", layout=LAYOUT, max_sequence_length=LENGTH))
    return DiffusionTask(plan=BatchPlan(stage=stage, sources=rows, layout=LAYOUT, seed=0), module=DiffusionLoss(network), held_out={})


def steps_of(batch: int) -> dict[str, float]:
    """Median step of one process of a run, and tokens of a step of all."""
    begin()
    seconds: list[float] = []
    tokens: list[float] = []
    settings = LoopConfig(prefetch=0, log_every=1, eval_every=0, sample_every=0, save_every=0)

    def on_step(report) -> None:
        tokens.append(report.values["tokens"])
        seconds.append((tokens[-1] - sum(tokens[-2:-1])) / report.tokens_per_second)

    with tempfile.TemporaryDirectory() as folder:
        shared = Path(os.environ.get("SCALING_OUT", folder))
        train(task(batch), OptimizerConfig(), settings, steps=STEPS, out=shared, on_step=on_step)
    return {"seconds": statistics.median(seconds[SKIPPED:]), "tokens": tokens[-1] / STEPS}


def rate() -> dict[str, float]:
    """Operations and bytes a second of this process, each the best of many."""
    size = 768
    one, other, big = torch.randn(size, size), torch.randn(size, size), torch.zeros(2**25)
    products, copies = [], []
    end = time.monotonic() + 4.0
    while time.monotonic() < end:
        clock = time.perf_counter()
        for _ in range(8):
            one @ other
        products.append((time.perf_counter() - clock) / 8)
        clock = time.perf_counter()
        big.clone()
        copies.append(time.perf_counter() - clock)
    return {"flops": 2 * size**3 / statistics.median(products), "bytes": 2 * 4 * len(big) / statistics.median(copies)}


def link() -> dict[str, float]:
    """Bytes a second that a process of two sends in sums."""
    dist.init_process_group("gloo")
    some, found = torch.zeros(2**23), []
    for _ in range(8):
        clock = time.perf_counter()
        dist.all_reduce(some)
        found.append(time.perf_counter() - clock)
    dist.destroy_process_group()
    return {"bytes": 4 * len(some) / statistics.median(found[2:])}


def started(what: str, processes: int, *, batch: int = 0, sharded: bool = False) -> list[dict[str, float]]:
    """What each process of a run found."""
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
        free.close()
        shared = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "SCALING_OUT": folder}
        if processes > 1:
            shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
        if sharded:
            shared["ACCELERATE_USE_FSDP"] = "true"
        command = [sys.executable, __file__, "--do", what, "--batch", str(batch)]
        ranks = [{"RANK": str(i), "LOCAL_RANK": str(i)} if processes > 1 else {} for i in range(processes)]
        running = [subprocess.Popen(command, env={**shared, **rank}, stdout=subprocess.PIPE, text=True) for rank in ranks]
        return [json.loads(process.communicate()[0].splitlines()[-1]) for process in running]


def machine(flops: float, num_bytes: float, sent: float) -> Accelerator:
    return Accelerator(
        name="a core",
        bf16_flops=flops,
        fp32_flops=flops,
        memory_bytes=1e10,
        memory_bandwidth=num_bytes,
        link_bandwidth=sent / LINK_EFFICIENCY,
        network_bandwidth=sent,
        gpus_per_node=2,
        source="measured by scripts/measure_scaling.py",
    )


def measured() -> dict[str, object]:
    config = preset("8m", layout=LAYOUT, max_sequence_length=LENGTH)
    shape = ModelShape(config, networks.shapes(config))
    (alone,), beside, (sums, _) = started("rate", 1), started("rate", 2), started("link", 2)
    busy = {name: statistics.mean(one[name] for one in beside) for name in alone}
    cases: list[dict[str, object]] = []
    efficiency = 0.0
    for strategy, processes, batch, grows in CASES:
        found = started("steps", processes, batch=batch, sharded=strategy == "fsdp2")
        seconds = max(one["seconds"] for one in found)
        step = TrainingStep(rows=batch // processes, length=LENGTH, precision="fp32")
        core = alone if processes == 1 else busy
        gpu = machine(core["flops"], core["bytes"], sums["bytes"])
        if processes == 1:
            update = (
                plan(shape, step, gpu, num_gpus=1, strategy="ddp", efficiency=1.0).compute_seconds
                - step.hardware_flops(shape) / core["flops"]
            )
            efficiency = step.hardware_flops(shape) / (seconds - update) / core["flops"]
        said = plan(shape, step, gpu, num_gpus=processes, strategy=strategy, efficiency=efficiency)
        cases.append(
            {
                "strategy": "one process" if processes == 1 else strategy,
                "processes": processes,
                "rows": batch,
                "grows": grows,
                "seconds": round(seconds, 4),
                "predicted_seconds": round(said.step_seconds, 4),
                "tokens_per_second": round(found[0]["tokens"] / seconds, 1),
                "predicted_tokens_per_second": round(said.tokens_per_second, 1),
            }
        )
    rates = {"alone": alone, "beside_another": busy, "link_bytes": sums["bytes"], "efficiency": round(efficiency, 3)}
    return {"length": LENGTH, "preset": "8m", "num_weights": shape.num_parameters, "machine": rates, "cases": cases}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/results/scaling.json"))
    parser.add_argument("--anyway", action="store_true", help="measure on a busy machine, too, and say so")
    parser.add_argument("--do", choices=["steps", "rate", "link"], help="for the processes that this script starts")
    parser.add_argument("--batch", type=int, default=0)
    options = parser.parse_args()
    if options.do:
        print(json.dumps(steps_of(options.batch) if options.do == "steps" else rate() if options.do == "rate" else link()))
        return 0
    load = os.getloadavg()[0]
    if load > BUSY and not options.anyway:
        print(f"the machine is busy: its load is {load:.2f}; wait until it is below {BUSY}, or give --anyway")
        return 1
    command = f"python scripts/measure_scaling.py -o {options.output}"
    found = {"suite": "scaling", "environment": report.environment(command, "cpu"), "load_before": round(load, 2), **measured()}
    report.save(options.output, found)
    print(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
