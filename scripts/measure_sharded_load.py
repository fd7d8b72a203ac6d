"""Host memory of processes that share a checkpoint (FSDP2: shards; tensor parallelism: parts), against reading it whole in each: a random
network of 1.07 B, on the CPU.

    python scripts/measure_sharded_load.py -o docs/results/sharded-load.json

Peaks are those of the operating system (VmHWM of /proc/self/status), less what the process held before it opened the checkpoint.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from mmada.canvas import PUBLISHED
from mmada.hub import networks, weights
from mmada.model import TransformerConfig

SIZES = {"d_model": 2048, "n_layers": 10, "n_heads": 16, "mlp_hidden_size": 5632, "weight_tying": False}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/results/sharded-load.json"))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rank", choices=["shards", "parts", "whole"], help="for the processes that this script starts")
    parser.add_argument("--checkpoint", type=Path)
    options = parser.parse_args()
    if options.rank:
        print(json.dumps(measured(options.checkpoint, how=options.rank)))
        return
    with tempfile.TemporaryDirectory() as folder:
        num_weights, largest = write(Path(folder))
        found = {how: run(how, Path(folder), options.processes) for how in ("shards", "parts", "whole")}
    share = 4 * num_weights / options.processes
    result = {
        "num_weights": num_weights,
        "processes": options.processes,
        "share_bytes": share,
        "largest_tensor_bytes": largest,
        "limit_bytes": 1.3 * share + largest,
        **found,
    }
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def write(directory: Path) -> tuple[int, int]:
    """A checkpoint in bfloat16. Returns its number of weights, and the bytes of the largest one."""
    config = TransformerConfig(
        vocab_size=PUBLISHED.vocab_size, embedding_size=PUBLISHED.vocab_size, codebook_size=PUBLISHED.codebook_size, **SIZES
    )
    shapes = networks.shapes(config)
    some = torch.randn(2**20, generator=torch.Generator().manual_seed(0)).mul_(0.02).bfloat16()
    sizes = {name: torch.Size(shape).numel() for name, shape in shapes.items()}
    tensors = {name: some.repeat(-(-size // len(some)))[:size].view(shapes[name]) for name, size in sizes.items()}
    networks.save_transformer_config(config, directory, dtype="bfloat16")
    weights.write(directory, tensors)
    return sum(sizes.values()), 2 * max(sizes.values())


def run(how: str, checkpoint: Path, processes: int) -> list[dict[str, float]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true", "ACCELERATE_USE_FSDP": "true"}
    shared |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--rank", how, "--checkpoint", str(checkpoint)]
    started = [
        subprocess.Popen(command, env={**shared, "RANK": str(i), "LOCAL_RANK": str(i)}, stdout=subprocess.PIPE, text=True)
        for i in range(processes)
    ]
    return [json.loads(process.communicate()[0].splitlines()[-1]) for process in started]


def measured(checkpoint: Path, *, how: str) -> dict[str, float]:
    """Of this process: bytes at most while it loads, and afterwards; what it held before is left out."""
    from mmada.train.plan import begin
    from mmada.train.sharding import shard
    from mmada.train.step import DiffusionLoss

    device = begin().device
    torch.distributed.barrier()
    before, clock = peak(), time.monotonic()
    model = networks.load_transformer(checkpoint, dtype=torch.bfloat16, deferred=how != "whole").train()
    groups = torch.distributed.get_world_size() if how == "parts" else 1
    shard(DiffusionLoss(model), device=device, precision="bf16", tensor_parallel=groups)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    return {"before_bytes": before, "peak_bytes": peak() - before, "seconds": round(time.monotonic() - clock, 1)}


def peak() -> int:
    """Bytes. Not getrusage, whose peak a process has from the one that started it."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


if __name__ == "__main__":
    main()
