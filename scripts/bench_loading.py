"""Host memory and seconds that it takes to load a checkpoint of several files.

    python scripts/bench_loading.py -o docs/results/loading.json

A checkpoint of about a billion random numbers in bfloat16 is written to a temporary directory, in files of 500 MB. Each way to load it runs in
a process of its own. `peak` is the most memory that the process held while it loaded, less what it held before, in units of the weights.
Pages of mapped files count, as the kernel counts them. `tensor` is the largest tensor in the same unit. A number of every page is read, since
two of the ways map files that are only read where they are used. `cpu_seconds` count this process alone, on a machine that others use, too.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from mmada.families import named
from mmada.hub import networks, weights
from mmada.model import TransformerConfig, preset

PAGE = 4096
WAYS = ("load_file", "load_transformer", "MMadaModelLM")


def config() -> TransformerConfig:
    """LLaDA's vocabulary on ten narrower blocks."""
    family = named("llada")
    sizes = {"d_model": 2048, "n_layers": 10, "n_heads": 16, "mlp_hidden_size": 5632}
    return replace(preset("8b", layout=family.layout, **sizes), extra={"family": family.name})


def write(directory: Path) -> None:
    shapes = networks.shapes(config())
    noise = torch.randn(2**20, generator=torch.Generator().manual_seed(0)).mul(0.02).bfloat16()
    tensors = {name: noise.repeat(-(-_count(shape) // len(noise)))[: _count(shape)].view(shape) for name, shape in shapes.items()}
    networks.save_transformer_config(config(), directory, dtype="bfloat16")
    weights.write(directory, tensors, max_shard_size="500MB")


def _count(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()


def held(field: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def load(way: str, directory: Path) -> dict[str, float]:
    """Load once, in this process."""
    if way == "MMadaModelLM":
        from mmada.hub.pretrained import MMadaModelLM
    from safetensors.torch import load_file

    files = sorted(directory.glob("*.safetensors"))
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the most begins anew
    before, begin, begin_cpu = held("VmRSS"), time.perf_counter(), time.process_time()
    if way == "load_file":
        kept = [tensor for file in files for tensor in load_file(file).values()]
    elif way == "load_transformer":
        kept = list(networks.load_transformer(directory).state_dict().values())
    else:
        kept = list(MMadaModelLM.from_pretrained(directory, dtype="auto").state_dict().values())
    for tensor in kept:
        tensor.flatten().view(torch.int16)[:: PAGE // 2].sum()
    spent = {"seconds": time.perf_counter() - begin, "cpu_seconds": time.process_time() - begin_cpu}
    return {"peak": held("VmHWM") - before, "after": held("VmRSS") - before, **spent}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--out", type=Path, help="JSON file to write")
    parser.add_argument("--way", choices=WAYS, help="load --directory in this process, and print what it took")
    parser.add_argument("--directory", type=Path)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(load(options.way, options.directory)))
        return
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        write(directory)
        files = sorted(directory.glob("*.safetensors"))
        size = sum(file.stat().st_size for file in files)
        results = {}
        for way in WAYS:
            command = [sys.executable, __file__, "--way", way, "--directory", name]
            found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
            results[way] = {
                "peak": round(found["peak"] / size, 3),
                "after": round(found["after"] / size, 3),
                "seconds": round(found["seconds"], 1),
                "cpu_seconds": round(found["cpu_seconds"], 1),
            }
    shapes = [_count(shape) for shape in networks.shapes(config()).values()]
    about = {
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, torch {torch.__version__}",
        "load": round(os.getloadavg()[0], 2),
        "parameters": sum(shapes),
        "files": len(files),
        "bytes": size,
        "tensor": round(max(shapes) / sum(shapes), 3),
        "ways": results,
    }
    text = json.dumps(about, indent=2) + "\n"
    print(text)
    if options.out is not None:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
