"""Host memory and seconds that it takes to load a checkpoint of several files, of every family.

    python scripts/bench_loading.py -o docs/results/loading.json

A checkpoint of a billion random numbers in bfloat16, half as wide as the published one, is written to a temporary directory, in files of 500 MB.
Each way to load it runs in a process of its own, when the files have just been read once. `peak` is the most memory that the process held while it
loaded, less what it held before, in units of the weights. Pages of mapped files count, as the kernel counts them. `tensor` is the largest tensor in
the same unit. A number of every page is read, since two of the ways map files that are only read where they are used. `cpu_seconds` count this
process alone, on a machine that others use, too.
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
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mmada.families import FAMILIES, Family, named
from mmada.hub import networks, weights
from mmada.model import TransformerConfig, preset

PAGE = 4096
PARAMETERS = 10**9
WAYS = ("load_file", "load_transformer", "MMadaModelLM")


def config(family: Family) -> TransformerConfig:
    """The family's vocabulary, and half its width, on as many blocks as it takes."""
    sizes = {name: value // 2 for name, value in family.sizes.items()} | {"weight_tying": bool(family.constants.get("tie_word_embeddings"))}
    made = replace(preset("8b", layout=family.layout, **{**sizes, "n_layers": 1}), extra={"family": family.name})
    while _parameters(made) < PARAMETERS:
        made = replace(made, n_layers=made.n_layers + 1)
    return made


def _parameters(config: TransformerConfig) -> int:
    return sum(_count(shape) for shape in networks.shapes(config).values())


def write(directory: Path, config: TransformerConfig) -> None:
    shapes = networks.shapes(config)
    noise = torch.randn(2**20, generator=torch.Generator().manual_seed(0)).mul(0.02).bfloat16()
    tensors = {name: noise.repeat(-(-_count(shape) // len(noise)))[: _count(shape)].view(shape) for name, shape in shapes.items()}
    networks.save_transformer_config(config, directory, dtype="bfloat16")
    weights.write(directory, tensors, max_shard_size="500MB")


def read(files: Sequence[Path]) -> None:
    """Once, so that no way is the first to read them from the disk."""
    for file in files:
        with file.open("rb") as stream:
            while stream.read(2**24):
                pass


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
    parser.add_argument("--family", nargs="*", choices=FAMILIES, help="these alone")
    options = parser.parse_args()
    if options.way:
        print(json.dumps(load(options.way, options.directory)))
        return
    names = options.family or list(FAMILIES)
    about = {
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, torch {torch.__version__}",
        "families": {name: measure(named(name)) for name in names},
    }
    text = json.dumps(about, indent=2) + "\n"
    print(text)
    if options.out is not None:
        options.out.write_text(text, encoding="utf-8")


def measure(family: Family) -> dict[str, Any]:
    made = config(family)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        write(directory, made)
        files = sorted(directory.glob("*.safetensors"))
        size = sum(file.stat().st_size for file in files)
        results = {}
        for way in WAYS:
            read(files)
            command = [sys.executable, __file__, "--way", way, "--directory", name]
            found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
            results[way] = {
                "peak": round(found["peak"] / size, 3),
                "after": round(found["after"] / size, 3),
                "seconds": round(found["seconds"], 1),
                "cpu_seconds": round(found["cpu_seconds"], 1),
            }
    shapes = [_count(shape) for shape in networks.shapes(made).values()]
    about = {"parameters": sum(shapes), "files": len(files), "bytes": size, "tensor": round(max(shapes) / sum(shapes), 3)}
    return {**about, "load": round(os.getloadavg()[0], 2), "ways": results}


if __name__ == "__main__":
    main()
