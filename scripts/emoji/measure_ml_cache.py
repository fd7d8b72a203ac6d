"""What ML-Cache saves and changes for drawings of a built-in model: positions evaluated, seconds, and how many the verifier accepts.

    python scripts/emoji/measure_ml_cache.py -o docs/results/ml-cache.json

Seconds are those of the processor, which a busy machine does not stretch. Prompts and seeds are the same with each cache.
Drawings start from words alone, as `mmada draw --no-think` does.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from mmada import MMaDA
from mmada.data.world import SampleKey
from mmada.eval import report
from mmada.eval.metrics import Share
from mmada.generation.requests import DrawRequest
from mmada.sampling import MaxLogitCacheConfig
from mmada.train.world import request_of
from mmada.worlds.emoji.source import EmojiWorld

WORLD = EmojiWorld()

CACHES = {
    "none": None,
    "max-logit": MaxLogitCacheConfig(),
    "max-logit, ratio 0.5": MaxLogitCacheConfig(cache_ratio=0.5),
}


def measure(
    model: MMaDA, steps: int, cache: MaxLogitCacheConfig | None, *, num: int, batch: int, seed: int
) -> tuple[dict[str, Any], list[Any]]:
    kinds = WORLD.kinds["draw"]
    keys = [SampleKey(task="draw", split="test", seed=seed, index=i, stream="suite", kinds=(kinds[i % len(kinds)],)) for i in range(num)]
    samples = [WORLD.sample(key) for key in keys]
    params = model.family.image_params(steps=steps, guidance_scale=model.defaults.guidance_scale).with_(cache=cache)
    requests = []
    for i, sample in enumerate(samples):
        request = request_of(sample, think=False, seed=seed + i, upscale=model.image_tokenizer.upscale)
        assert isinstance(request, DrawRequest)
        requests.append(DrawRequest(request.prompt, think=False, seed=seed + i, params=params))
    denoiser = model.denoiser
    before, begin = denoiser.num_tokens, time.process_time()
    drawings = [d for start in range(0, num, batch) for d in model.run(requests[start : start + batch])]
    seconds = time.process_time() - begin
    right = [WORLD.verify(s.origin, np.asarray(d.image.convert("RGB"))) for s, d in zip(samples, drawings, strict=True)]
    found = {
        "accepted": Share(sum(right), num).to_dict(),
        "forwards": float(np.mean([d.num_forwards for d in drawings])),
        "positions_evaluated": (denoiser.num_tokens - before) / num,
        "cpu_seconds_each": round(seconds / num, 4),
    }
    return found, drawings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mmada-emoji-max")
    parser.add_argument("--num", type=int, default=105)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, nargs="+", default=[24])
    parser.add_argument("-o", "--out", type=Path, required=True)
    asked = parser.parse_args()
    model = MMaDA.from_pretrained(asked.model)
    model.draw("a dog", think=False)  # loads what is loaded at first use
    cases: dict[str, Any] = {}
    for steps in asked.steps:
        whole: list[Any] = []
        for name, cache in CACHES.items():
            found, drawings = measure(model, steps, cache, num=asked.num, batch=asked.batch, seed=asked.seed)
            whole = whole or drawings
            same = [np.mean(np.asarray(a.codes) == np.asarray(b.codes)) for a, b in zip(drawings, whole, strict=True)]
            cases[f"{steps} steps, {name}"] = {**found, "codes_as_without": round(float(np.mean(same)), 4)}
            print(steps, name, cases[f"{steps} steps, {name}"], file=sys.stderr)
    result = {
        "suite": "ml-cache",
        "environment": report.environment(" ".join(["python", *sys.argv]), None),
        "model": asked.model,
        "num": asked.num,
        "cases": cases,
    }
    asked.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
