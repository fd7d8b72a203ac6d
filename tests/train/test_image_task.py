"""The image tokenizer's stage: losses by their formula, learning, evaluation."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from mmada.errors import InputError
from mmada.image import ImageTokenizer, ImageTokenizerConfig
from mmada.image.quantizer import entropy_loss, quantizer_loss
from mmada.train import loop
from mmada.train.image_task import LOSSES, ImageBatch, ImageTask, PixelObjective, sobel
from mmada.train.optim import OptimizerConfig
from mmada.train.stages import STAGES
from mmada.train.world import WorldPictures
from mmada.worlds.shapes import Shapes

from . import tiny

STAGE = replace(STAGES["tokenizer"], batch=8, optim=OptimizerConfig(name="muon", lr=5e-3, matrix_lr=0.05, warmup=3), steps=25)


def tokenizer(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sizes = {"encoder_ch_mult": (1, 1), "encoder_num_res_blocks": (1, 1), "decoder_ch_mult": (1, 1), "decoder_num_res_blocks": (1, 1)}
        return ImageTokenizer(ImageTokenizerConfig(ch=16, z_channels=6, patch=4, resolution=32, **sizes))


def pictures(split="train"):
    return WorldPictures(Shapes(), seed=0, split=split)


def task(stage=STAGE):
    return ImageTask(stage, PixelObjective(tokenizer()), pictures(), pictures("test"), num_held_out=4)


def test_losses_are_their_formulas_times_the_number_of_images():
    job = task()
    (batch,) = job.batches(0, rank=0, world=1, accumulate=1)
    with torch.no_grad():
        losses = job.module(batch.pixels) / batch.normalizers
        z = job.module.tokenizer.latent(batch.pixels)
        error = job.module.tokenizer(batch.pixels).pixels - batch.pixels
    expected = [error.abs().mean(), error.square().mean(), sobel(error).abs().mean(), quantizer_loss(z), entropy_loss(z)]
    torch.testing.assert_close(losses, torch.stack(expected))
    assert batch.pixels.shape == (8, 3, 32, 32)
    assert -1 <= float(batch.pixels.min()) < float(batch.pixels.max()) <= 1
    assert batch.num_tokens == 8 * 16


def test_sobel_is_the_gradient_of_a_ramp():
    x = torch.arange(8.0).expand(1, 1, 8, 8)
    assert sobel(x)[:, 0].unique().tolist() == [1.0]
    assert sobel(x)[:, 1].unique().tolist() == [0.0]
    assert sobel(x.mT)[:, 1].unique().tolist() == [1.0]


def test_pixels_survive_the_way_to_tensors_and_back():
    picture = pictures()[3]
    pixels = ImageBatch.of([picture], factor=8).pixels
    assert np.array_equal(((pixels[0].movedim(0, -1) + 1) * 127.5).round().to(torch.uint8).numpy(), picture)


@pytest.mark.slow
def test_the_tokenizer_learns(tmp_path):
    job, reports = task(), []
    loop.train(job, STAGE.optim, replace(tiny.QUIET, eval_every=25), steps=25, out=tmp_path, on_step=reports.append)
    assert reports[-1].values["loss/l1"] < 0.6 * reports[0].values["loss/l1"]
    assert reports[-1].values["eval/psnr"] > 11
    assert 1 <= reports[-1].values["eval/codes"] <= 64
    assert {f"loss/{name}" for name in LOSSES} <= set(reports[-1].values)


def test_processes_and_micro_batches_share_a_batch():
    job = task()
    (whole,) = job.batches(2, rank=0, world=1, accumulate=1)
    parts = [batch for rank in range(2) for batch in job.batches(2, rank=rank, world=2, accumulate=2)]
    assert sorted(p.sum().item() for b in parts for p in b.pixels) == sorted(p.sum().item() for p in whole.pixels)
    with pytest.raises(InputError, match="cannot be split"):
        job.batches(0, rank=0, world=3, accumulate=3)


def test_samples_are_originals_above_reconstructions(tmp_path):
    task().sample(tmp_path)
    assert Image.open(tmp_path / "reconstructions.png").size == (12 * 32, 2 * 32)
