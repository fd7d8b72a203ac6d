"""Measure the large pictures of the built-in image tokenizer: how near they are to the true artwork, and how long one takes.

    python scripts/emoji/measure_crisp.py -o docs/results/crisp.json

held-out scenes hold an unseen art style or place; those of the training split hold none. dB are means over the scenes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from PIL import Image

from mmada.data.find_world import find_world
from mmada.eval import report
from mmada.hub.networks import load_image_tokenizer
from mmada.image import psnr
from mmada.train.world import WorldPictures

NUM, SEED, TURNS = 200, 77, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, required=True)
    out = parser.parse_args().out
    torch.set_num_threads(1)
    tokenizer, world = load_image_tokenizer("mmada-emoji-tokenizer"), find_world("emoji", {})
    result: dict[str, object] = {
        "suite": "crisp",
        "environment": report.environment(f"python scripts/emoji/measure_crisp.py -o {out}"),
        "num": NUM,
    }
    for name, split in (("held_out", "test"), ("training", "train")):
        small, large = (
            [Image.fromarray(pictures[i]) for i in range(NUM)]
            for pictures in (WorldPictures(world, seed=SEED, split=split, scale=scale) for scale in (1, 4))
        )
        codes = tokenizer.encode_images(small)
        crisp, restored = tokenizer.decode_images(codes), tokenizer.restore_images(codes)
        size = large[0].size
        compared = {
            "crisp": (crisp, large),
            "small_enlarged": ([picture.resize(size, Image.Resampling.BICUBIC) for picture in restored], large),
            "small_artwork_enlarged": ([picture.resize(size, Image.Resampling.BICUBIC) for picture in small], large),
            "crisp_reduced": ([picture.reduce(4) for picture in crisp], small),
            "small": (restored, small),
        }
        result[name] = {
            kind: round(statistics.mean(float(psnr(*pair)) for pair in zip(*pictures, strict=True)), 2)
            for kind, pictures in compared.items()
        }
    seconds = []
    for _ in range(TURNS):
        begin = time.perf_counter()
        tokenizer.decode(codes[:1])
        seconds.append(time.perf_counter() - begin)
    result["decode_milliseconds"] = round(1000 * statistics.median(seconds), 1)
    report.save(out, result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
