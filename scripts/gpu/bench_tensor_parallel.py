"""One GPU against several that hold a model together: seconds of answers and drawings, memory, and whether the tokens are the same.

    python scripts/gpu/bench_tensor_parallel.py --model Gen-Verse/MMaDA-8B-MixCoT --sizes 1,2 -o docs/results/gpu-tensor-parallel.json
    python scripts/gpu/bench_tensor_parallel.py --model debug --device cpu --repeats 1       # the same on CPUs in seconds, to see that it runs

It has not run on several GPUs yet. Each size runs in a process of its own. Times are medians after one run to warm up; memory is that
of the first GPU. Tokens are compared with those of the first size: bfloat16 adds up otherwise over two halves, so a few may differ.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from mmada.eval import report
from mmada.generation.requests import ChatRequest, Drawing, DrawRequest, Request
from mmada.pipeline import MMaDA

CASES: dict[str, list[Request[Any]]] = {
    "one answer": [ChatRequest("Tell me about the sea.")],
    "16 answers": [ChatRequest(f"Tell me about the number {i}.", seed=i) for i in range(16)],
    "one drawing": [DrawRequest("two red hearts above a dog", seed=1)],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="Gen-Verse/MMaDA-8B-MixCoT")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--sizes", default="1,2", help="numbers of processes")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--size", type=int, help="for the processes that this script starts")
    parser.add_argument("--out", "-o", type=Path)
    args = parser.parse_args()
    if args.size:
        print(json.dumps(measured(args)))
        return
    sizes = args.sizes.split(",")
    found = {size: started(size) for size in sizes}
    for name in CASES:
        tokens = [found[size][name].pop("tokens") for size in sizes]
        for size, own in zip(sizes, tokens, strict=True):
            same = [one == other for first, second in zip(tokens[0], own, strict=True) for one, other in zip(first, second, strict=False)]
            found[size][name]["same_tokens"] = round(sum(same) / len(same), 4)
    results = {
        "suite": "gpu-tensor-parallel",
        "environment": report.environment(" ".join(["python", *sys.argv]), args.device),
        "model": args.model,
        "sizes": found,
    }
    print(json.dumps(results["sizes"], indent=2))
    if args.out:
        report.save(args.out, results)


def started(size: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, *sys.argv, "--size", size], stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measured(args: argparse.Namespace) -> dict[str, Any]:
    model = MMaDA.from_pretrained(args.model, device=args.device, dtype=args.dtype, tensor_parallel=args.size)
    facts: dict[str, Any] = {"weights_gb": round(sum(w.numel() * w.element_size() for w in model.model.parameters()) / 1e9, 6)}
    for name, requests in CASES.items():
        seconds = []
        for _ in range(args.repeats + 1):
            begin = time.perf_counter()
            results = model.run(requests)
            if args.device == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - begin)
        tokens = [one.codes.flatten().tolist() if isinstance(one, Drawing) else list(one.token_ids) for one in results]
        facts[name] = {"seconds": round(statistics.median(seconds[1:]), 4), "tokens": tokens}
    if args.device == "cuda":
        facts["peak_memory_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    model.close()
    return facts


if __name__ == "__main__":
    main()
