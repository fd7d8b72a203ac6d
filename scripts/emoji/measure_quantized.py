"""What eight and four bits change: logits, answers, seconds of a pass and size on disk, for a built-in model and a random one of 97 million parameters.

    python scripts/emoji/measure_quantized.py -o docs/results/quantized.json

Logits are those of the open positions of questions that nothing has been answered of yet, over the ids of texts; for the random model, of random rows.
`kl` is the mean of the Kullback-Leibler divergence from the floats' distribution, in nats. Answers and drawings have the same prompts and seeds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmada import MMaDA
from mmada.canvas import Message, VocabLayout
from mmada.data.world import SampleKey
from mmada.eval import report
from mmada.generation.requests import ChatRequest, DrawRequest
from mmada.hub import networks
from mmada.model import Transformer, preset
from mmada.model.quantized import QUANTIZATIONS, quantize
from mmada.train.world import request_of
from mmada.worlds.emoji.source import EmojiWorld

WORLD = EmojiWorld()
SIZES = {"d_model": 768, "n_layers": 12, "n_heads": 12, "mlp_hidden_size": 2048}
OPEN = 32


def random_model() -> Transformer:
    torch.manual_seed(0)
    return Transformer(preset("debug", layout=VocabLayout.compact(8000, 64), **SIZES)).eval()


def samples(task: str, num: int) -> list[Any]:
    kinds = WORLD.kinds[task]
    return [
        WORLD.sample(SampleKey(task=task, split="test", seed=0, index=i, stream="suite", kinds=(kinds[i % len(kinds)],)))
        for i in range(num)
    ]


def requests(asked: list[Any]) -> list[Any]:
    return [request_of(sample, think=False, seed=i, upscale=4) for i, sample in enumerate(asked)]


def logits(model: Transformer, rows: list[Tensor]) -> Tensor:
    """(rows, open, ids of texts) in float32, of the last positions of each row."""
    ids = model.config.layout.text_ids
    with torch.no_grad():
        return torch.stack([model(row[None]).logits[0, -OPEN:, ids.start : ids.stop].float() for row in rows])


def seconds(model: Transformer, row: Tensor) -> float:
    """Of the processor, which a busy machine does not stretch: the median of five passes after one to warm up."""
    spent = []
    with torch.no_grad():
        for _ in range(6):
            begin = time.process_time()
            model(row[None])
            spent.append(time.process_time() - begin)
    return statistics.median(spent[1:])


def megabytes(model: Transformer) -> float:
    with tempfile.TemporaryDirectory() as directory:
        networks.save_transformer(model, directory)
        return sum(file.stat().st_size for file in Path(directory).glob("*.safetensors")) / 1e6


def changes(model: Transformer, rows: list[Tensor], whole: Tensor) -> dict[str, Any]:
    found = logits(model, rows)
    exact, given = whole.log_softmax(-1), found.log_softmax(-1)
    return {
        "mean_change": round(float((found - whole).abs().mean()), 4),
        "max_change": round(float((found - whole).abs().max()), 3),
        "spread": round(float(whole.std(-1).mean()), 3),
        "kl": round(float((exact.exp() * (exact - given)).sum(-1).mean()), 5),
        "same_best": round(float((found.argmax(-1) == whole.argmax(-1)).float().mean()), 4),
        "seconds_a_pass": round(seconds(model, torch.cat(rows)[:256]), 4),
        "megabytes": round(megabytes(model), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mmada-emoji-chat")
    parser.add_argument("--num", type=int, default=120, help="questions, and half as many drawings")
    parser.add_argument("-o", "--out", type=Path, required=True)
    asked = parser.parse_args()
    scenes = samples("draw", asked.num // 2)
    chats, draws = requests(samples("text", asked.num)), requests(scenes)
    cases: dict[str, Any] = {}
    for name in (asked.model, "random, 97 M"):
        whole, answers = torch.empty(0), []
        for kind in ("float32", *QUANTIZATIONS):
            model = MMaDA.from_pretrained(asked.model, device="cpu", dtype="float32") if name == asked.model else None
            network = random_model() if model is None else model.model
            if kind in QUANTIZATIONS:
                quantize(network, kind)
            if model is None:
                rows = list(torch.randint(8000, (4, 128), generator=torch.Generator().manual_seed(1)))
            else:
                rows = [model.prompts.chat([Message("user", str(one.messages))], OPEN).tokens for one in chats[:40]]
            whole = whole if len(whole) else logits(network, rows)
            found = changes(network, rows, whole)
            if model is not None:
                results = model.run([*chats, *draws])
                answers = answers or results
                pairs = list(zip(results, answers, strict=True))
                found["same_answers"] = sum(a.text == b.text for a, b in pairs[: len(chats)])
                found["same_codes"] = round(
                    float(np.mean([np.mean(np.asarray(a.codes) == np.asarray(b.codes)) for a, b in pairs[len(chats) :]])), 4
                )
                pictures = [np.asarray(one.image.convert("RGB")) for one in results[len(chats) :]]
                found["accepted"] = sum(WORLD.verify(scene.origin, picture) for scene, picture in zip(scenes, pictures, strict=True))
                found |= {"answers": len(chats), "drawings": len(draws)}
            cases[f"{name}, {kind}"] = found
            print(name, kind, found, file=sys.stderr)
    assert all(isinstance(one, ChatRequest) for one in chats)
    assert all(isinstance(one, DrawRequest) for one in draws)
    report.save(
        asked.out, {"suite": "quantized", "environment": report.environment(" ".join(["python", *sys.argv]), "cpu"), "cases": cases}
    )


if __name__ == "__main__":
    main()
