"""Speed of the published size (8B, random weights) on a GPU: what an answer and an image cost, recipe by recipe.

    python scripts/gpu/bench_8b.py -o docs/results/gpu-8b.json             # one CUDA GPU with 40 GB or more, a few minutes
    python scripts/gpu/bench_8b.py --preset debug --device cpu --repeats 1  # the same on a CPU in seconds, to see that it runs
    python scripts/gpu/bench_8b.py --preset 40m --device cpu --repeats 1 --only '(none|prefix|dual)$'  # an 8B's lengths
    python scripts/gpu/bench_8b.py --quantize int8 int4 --only '(a step|padding)$' -o out.json    # the same with matrices of few bits, and memory

Random weights decide nothing about quality, and with them a confidence threshold is hardly ever reached: threshold recipes are
timed as so many tokens a step (`steps`), which is what a threshold amounts to. Each figure is the median of `--repeats` runs
after one run to warm up, with passes as CUDA graphs, as the package runs them, and without (`eager_seconds`). Cases: one token a forward, as
published, several, batches; answers behind an image with each cache of keys and values; images with guidance, whole rows as published and
packed without padding.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mmada.canvas import PUBLISHED, Canvas, Field, IdRange, VocabLayout
from mmada.eval import report
from mmada.model import Transformer, TransformerDenoiser, preset
from mmada.model.quantized import QUANTIZATIONS, quantize
from mmada.sampling import CACHES, Denoising, SamplingParams, denoise, fast_image, named_cache

QUESTION, ANSWER, BLOCK = 128, 256, 32
CAPTION, CODES = 64, 1024


def build(name: str, device: torch.device) -> Transformer:
    """Random weights made on the device, in bfloat16 on a GPU."""
    layout = PUBLISHED if name == "8b" else VocabLayout.compact(256, 64)
    with torch.device("meta"):
        model = Transformer(preset(name, layout=layout))
    model = model.to(torch.bfloat16 if device.type == "cuda" else torch.float32).to_empty(device=device).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02) if parameter.dim() > 1 else torch.nn.init.ones_(parameter)
    return model


def canvas(layout: VocabLayout, given: int, num_open: int, ids: IdRange, device: torch.device) -> Canvas:
    """`given` random text tokens, then `num_open` masks."""
    tokens = torch.cat([torch.randint(200, (given,)), torch.full((num_open,), layout.mask_id)])
    return Canvas(tokens, torch.ones_like(tokens, dtype=torch.bool), (Field(torch.arange(given, given + num_open), ids, num_open),)).to(
        device
    )


def text(
    model: Transformer, rows: int, tokens_a_step: int, *, small: bool, question: int = QUESTION, cache: str = "none"
) -> Callable[[], Denoising]:
    layout, device = model.config.layout, model.device
    length = ANSWER // 8 if small else ANSWER
    params = SamplingParams(steps=length // tokens_a_step, block_length=BLOCK, stop_at_eos=False, cache=named_cache(cache))
    return lambda: Denoising(
        [canvas(layout, question, length, layout.text_ids, device) for _ in range(rows)], params, mask_id=layout.mask_id
    )


def image(model: Transformer, rows: int, steps: int, *, padding: int, small: bool) -> Callable[[], Denoising]:
    """Guided drawings. padding: further given tokens, as the published rows of 512 text tokens have them."""
    layout, device = model.config.layout, model.device
    codes = 64 if small else CODES

    def start() -> Denoising:
        rows_, negatives = (
            [canvas(layout, given + padding, codes, layout.image_ids, device) for _ in range(rows)]
            for given in (CAPTION, 4 + CAPTION * bool(padding))
        )
        return Denoising(rows_, fast_image(steps=steps, guidance_scale=3.5), mask_id=layout.mask_id, negatives=negatives)

    return start


def measure(model: Transformer, start: Callable[[], Denoising], repeats: int) -> dict[str, float]:
    """With CUDA graphs, as the package does it, and without them; on a CPU, where there are none, both are one measurement."""
    taken, forwards, tokens = run(model, start, repeats, graphs=True)
    eager = run(model, start, repeats, graphs=False)[0] if model.device.type == "cuda" else taken
    return {
        "seconds": round(taken, 4),
        "eager_seconds": round(eager, 4),
        "forwards": forwards,
        "tokens_per_second": round(tokens / taken, 1),
    }


def run(model: Transformer, start: Callable[[], Denoising], repeats: int, *, graphs: bool) -> tuple[float, int, int]:
    """Median seconds, forwards of a row, and tokens."""
    denoiser, seconds = TransformerDenoiser(model, graphs=graphs), []
    for _ in range(repeats + 1):
        denoising = start()
        _wait(model.device)
        begin = time.perf_counter()
        for _ in denoise([denoising], denoiser):
            pass
        _wait(model.device)
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds[1:]), max(denoising.num_forwards), sum(denoising.counts)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_all(args: argparse.Namespace, kind: str | None, results: dict[str, Any]) -> None:
    """The cases with floats (kind None) or with matrices of few bits, whose names say so, and the GPU memory that they took at most."""
    device = torch.device(args.device)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    model = build(args.preset, device)
    if kind is not None:
        quantize(model, kind)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for name, start in cases_of(model, small=args.preset == "debug").items():
        if re.search(args.only, name):
            shown = name if kind is None else f"{name}, {kind}"
            results["cases"][shown] = measure(model, start, args.repeats)
            print(f"{shown:<44} {results['cases'][shown]}", flush=True)
    if device.type == "cuda":
        results["peak_memory_gib" if kind is None else f"peak_memory_gib_{kind}"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)


def cases_of(model: Transformer, *, small: bool) -> dict[str, Callable[[], Denoising]]:
    return {
        "text, 1 token a step": text(model, 1, 1, small=small),
        "text, 4 tokens a step": text(model, 1, 4, small=small),
        "text, 4 tokens a step, batch 16": text(model, 16, 4, small=small),
        **{
            f"text behind an image, 4 tokens a step, {cache}{f', batch {rows}' if rows > 1 else ''}": text(
                model, rows, 4, small=small, question=QUESTION + (64 if small else CODES), cache=cache
            )
            for rows in (1, 16)
            for cache in CACHES
        },
        "image, 15 steps, rows padded as published": image(model, 1, 15, padding=0 if small else 448, small=small),
        "image, 15 steps, no padding": image(model, 1, 15, padding=0, small=small),
        "image, 15 steps, no padding, batch 8": image(model, 8, 15, padding=0, small=small),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="8b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="", help="cases whose name matches this regular expression")
    parser.add_argument("--quantize", nargs="*", choices=QUANTIZATIONS, default=[], help="measure these, too")
    parser.add_argument("--out", "-o", type=Path)
    args = parser.parse_args()
    results: dict[str, Any] = {
        "suite": "gpu-8b",
        "environment": report.environment(" ".join(["python", *sys.argv]), args.device),
        "preset": args.preset,
    }
    results["cases"] = {}
    for kind in (None, *args.quantize):
        measure_all(args, kind, results)
    if args.out:
        report.save(args.out, results)


if __name__ == "__main__":
    main()
