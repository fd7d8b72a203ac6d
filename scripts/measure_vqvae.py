"""How many codes of a new VQ-VAE are used, and how well it restores pictures: with a codebook that begins on latents, and as `VQVAE` draws it.

    python scripts/measure_vqvae.py -o docs/results/vqvae.json

Each is trained on the world of shapes for the same steps, from the same weights, with the settings of stage `vqvae` at another learning rate.
PSNR and codes are those of 64 held-out pictures. Then the decoder of the first is trained further, behind frozen codes.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch

from mmada.train.config import ImageTokenizerSettings
from mmada.train.image_task import ImageTask, PixelObjective, spread_codebook
from mmada.train.loop import LoopConfig, train
from mmada.train.networks import freeze, new_image_tokenizer
from mmada.train.optim import OptimizerConfig
from mmada.train.stages import STAGES, ImageStage
from mmada.train.world import WorldPictures
from mmada.worlds.shapes import Shapes

NET = ImageTokenizerSettings(
    kind="vqvae", ch=16, encoder_ch_mult=(1, 1, 1), encoder_num_res_blocks=(1, 1, 1), z_channels=16, num_codes=1024
)
OPTIM = OptimizerConfig(lr=3e-3, betas=(0.9, 0.99), weight_decay=0.0, warmup=10)


def trained(job: ImageTask, steps: int) -> dict[str, float]:
    """PSNR in dB, codes used and seconds at the end."""
    freeze(job.module, job.stage.trainable)
    reports, begin = [], time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        quiet = LoopConfig(prefetch=0, log_every=1, eval_every=steps, sample_every=0, save_every=0)
        train(job, job.stage.optim, quiet, steps=steps, out=Path(out), on_step=reports.append)
    last = reports[-1].values
    seconds = round(time.perf_counter() - begin, 1)
    return {"psnr": round(last["eval/psnr"], 2), "codes": last["eval/codes"], "l1": round(last["loss/l1"], 4), "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=150)
    arguments = parser.parse_args()
    stage = STAGES["vqvae"]
    assert isinstance(stage, ImageStage)
    stage, pictures = replace(stage, batch=8, optim=OPTIM, steps=arguments.steps), WorldPictures(Shapes(), seed=0)
    found: dict[str, dict[str, float]] = {}
    for name in ("on latents", "around 0"):
        network = new_image_tokenizer(NET, seed=0, size=32)
        if name == "on latents":
            spread_codebook(network, pictures, seed=0)
        job = ImageTask(stage, PixelObjective(network), pictures, WorldPictures(Shapes(), seed=0, split="test"))
        found[name] = trained(job, arguments.steps)
        if name == "on latents":
            decoder = replace(stage, trainable=("decoder.*", "post_quant_conv.*"))
            found["decoder alone, further"] = trained(replace(job, stage=decoder), arguments.steps)
    machine = f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}"
    values = {"machine": machine, "steps": arguments.steps, "net": asdict(NET), "found": found}
    arguments.output.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
