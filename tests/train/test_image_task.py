"""The image tokenizer's stage: losses by their formula, learning, evaluation."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from mmada.errors import InputError
from mmada.hub.networks import load_image_tokenizer, save_image_tokenizer
from mmada.image import VQVAE, ImageTokenizer, ImageTokenizerConfig
from mmada.image.quantizer import entropy_loss, quantizer_loss
from mmada.train import loop
from mmada.train.config import ImageTokenizerSettings, load
from mmada.train.export import export_save
from mmada.train.image_task import LOSSES, ImageBatch, ImageTask, PixelObjective, in_range_of, sobel, spread_codebook
from mmada.train.networks import freeze, new_image_tokenizer
from mmada.train.optim import OptimizerConfig
from mmada.train.setup import build_task, run
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


# The VQ-VAE.

SMALL = ImageTokenizerSettings(kind="vqvae", ch=8, encoder_ch_mult=(1, 1, 1), encoder_num_res_blocks=(1, 1, 1), z_channels=4, num_codes=32)
VQ_STAGE = replace(STAGES["vqvae"], batch=4, steps=10, optim=OptimizerConfig(lr=1e-2, weight_decay=0.0, warmup=2, schedule="constant"))


def vqvae_task(stage=VQ_STAGE):
    network = new_image_tokenizer(SMALL, seed=0, size=32)
    spread_codebook(network, pictures(), seed=0)
    return ImageTask(stage, PixelObjective(network), pictures(), pictures("test"), num_held_out=2)


def test_losses_of_a_vqvae_are_those_of_its_paper():
    """Reconstruction in [-1, 1]; vectors to latents, a quarter of latents to vectors; gradients of pixels pass the codebook."""
    job = vqvae_task()
    (batch,) = job.batches(0, rank=0, world=1, accumulate=1)
    tokenizer = job.module.tokenizer
    losses = dict(zip(job.names, job.module(batch.pixels) / len(batch.pixels), strict=True))
    shown = (batch.pixels + 1) / 2
    z = tokenizer.latent(shown)
    vectors = tokenizer.quantize.vectors(tokenizer.codes_of(z))
    error = (tokenizer.decoder(tokenizer.post_quant_conv(vectors)) * 2 - 1) - batch.pixels
    torch.testing.assert_close(losses["l1"], error.abs().mean())
    torch.testing.assert_close(losses["l2"], error.square().mean())
    torch.testing.assert_close(losses["gradient"], sobel(error).abs().mean())
    torch.testing.assert_close(losses["quantizer"], 1.25 * (vectors - z).square().mean())
    assert float(losses["entropy"].detach()) == 0
    losses["l2"].backward(retain_graph=True)
    assert float(tokenizer.encoder.conv_in.weight.grad.abs().sum()) > 0
    assert tokenizer.quantize.embedding.weight.grad is None or not tokenizer.quantize.embedding.weight.grad.any()
    losses["quantizer"].backward()
    assert float(tokenizer.quantize.embedding.weight.grad.abs().sum()) > 0


def test_a_new_codebook_lies_where_latents_are():
    job, bare = vqvae_task(), new_image_tokenizer(SMALL, seed=0, size=32)
    pixels = in_range_of(bare, ImageBatch.of([pictures()[i] for i in range(8)], factor=4).pixels)
    used = [len(tokenizer.encode(pixels).unique()) for tokenizer in (bare, job.module.tokenizer)]
    assert used[0] < used[1] > 16
    again = new_image_tokenizer(SMALL, seed=0, size=32)
    spread_codebook(again, pictures(), seed=0)
    assert torch.equal(again.quantize.embedding.weight, job.module.tokenizer.quantize.embedding.weight)


def test_a_vqvae_learns(tmp_path):
    job, reports = vqvae_task(), []
    loop.train(job, VQ_STAGE.optim, replace(tiny.QUIET, eval_every=10), steps=10, out=tmp_path, on_step=reports.append)
    assert reports[-1].values["loss/l2"] < 0.5 * reports[0].values["loss/l2"]
    assert reports[-1].values["eval/psnr"] > 10
    assert 1 <= reports[-1].values["eval/codes"] <= 32


def test_a_decoder_learns_behind_frozen_codes(tmp_path):
    """What codes depend on stays bit for bit, so that a transformer's data stays true."""
    stage = replace(VQ_STAGE, trainable=("decoder.*", "post_quant_conv.*"), steps=6)
    job, reports = vqvae_task(stage), []
    freeze(job.module, stage.trainable)
    tokenizer = job.module.tokenizer
    before = {name: tensor.clone() for name, tensor in tokenizer.state_dict().items()}
    loop.train(job, stage.optim, tiny.QUIET, steps=6, out=tmp_path, on_step=reports.append)
    assert reports[-1].values["loss/l1"] < 0.7 * reports[0].values["loss/l1"]
    changed = {name for name, tensor in tokenizer.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed
    assert not changed & tokenizer.encoding_tensors().keys()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["stage=tokenizer"], r"stage\.entropy=1\.0 is of bits, which codes of a VQ-VAE have not; set stage\.entropy=0, or stage=vqvae"),
        (["net.kind=magvit-v2"], r"stage 'vqvae' trains a VQ-VAE, and net\.kind=magvit-v2 is MAGVIT-v2"),
        (["net.upscale=4"], r"net\.upscale=4 is a setting of MAGVIT-v2 alone; leave it out beside net\.kind=vqvae"),
        (["net.decoder_ch_mult=[1, 4]"], r"net\.decoder_ch_mult=\(1, 4\) is a setting of MAGVIT-v2 alone"),
        (["net.encoder_num_res_blocks=[1, 2]"], r"net\.encoder_num_res_blocks=\(1, 2\) must be one number for each"),
        (["net.num_codes=-1"], r"net\.num_codes=-1 must be positive"),
        (["net.kind=''", "stage=tokenizer", "net.num_codes=64"], r"MAGVIT-v2 has 2\^z_channels codes: set net\.z_channels"),
        (["net.encoder_ch_mult=[1,1,1,1,1,1,1]", "net.encoder_num_res_blocks=[1,1,1,1,1,1,1]"], "makes squares of 64 pixels"),
        (["data.world=", "data.path=my.jsonl"], "trains on pictures of a world"),
        (["net.kind=vq"], "net.kind='vq'"),
    ],
)
def test_what_does_not_fit_a_vqvae_is_one_sentence(tmp_path, settings, message):
    (tmp_path / "run.yaml").write_text("stage: vqvae\nnet: {kind: vqvae}\ndata: {world: shapes}\n")
    with pytest.raises(InputError, match=message):
        build_task(load(tmp_path / "run.yaml", [f"out={tmp_path}", *settings]))


def test_a_vqvae_is_exported_with_its_averaged_weights_and_gone_on_from(tmp_path):
    (tmp_path / "run.yaml").write_text("stage: vqvae\ndata: {world: shapes}\ndebug: true\n")
    config = load(tmp_path / "run.yaml", [f"out={tmp_path / 'one'}", "loop.prefetch=0"])
    run(config)
    made = load_image_tokenizer(tmp_path / "one" / "model")
    assert isinstance(made, VQVAE)
    assert made.codebook_size == 64
    (save,) = sorted((tmp_path / "one" / "state").glob("step-*"))[-1:]
    export_save(save, tmp_path / "again")
    again = load_image_tokenizer(tmp_path / "again").state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in made.state_dict().items())
    start = [f"net.start={tmp_path / 'one' / 'model'}", f"out={tmp_path / 'two'}"]
    job = build_task(load(tmp_path / "run.yaml", start))
    assert all(torch.equal(tensor, again[name]) for name, tensor in job.module.tokenizer.state_dict().items())
    with pytest.raises(InputError, match=r"is a vqvae tokenizer, and net\.kind=magvit-v2; leave one of them out"):
        build_task(load(tmp_path / "run.yaml", [*start, "net.kind=magvit-v2"]))
    with pytest.raises(InputError, match=r"net\.upscale=2 adds an upscaler to a MAGVIT-v2 tokenizer"):
        build_task(load(tmp_path / "run.yaml", [*start, "net.upscale=2"]))


@pytest.mark.parametrize("kind", ["magvit-v2", "vqvae"])
def test_sizes_beside_a_start_are_its_own(tmp_path, kind):
    (tmp_path / "run.yaml").write_text(f"stage: {'vqvae' if kind == 'vqvae' else 'tokenizer'}\ndata: {{world: shapes}}\ndebug: true\n")
    save_image_tokenizer(new_image_tokenizer(load(tmp_path / "run.yaml").net, seed=0, size=32), tmp_path / "start")
    start = [f"net.start={tmp_path / 'start'}", f"out={tmp_path / 'run'}", "debug=false"]

    def built(*settings):
        return build_task(load(tmp_path / "run.yaml", [*start, *settings]))

    built("net.ch=8", "net.encoder_ch_mult=[1, 2]", "net.z_channels=6", "net.num_codes=64")
    with pytest.raises(InputError, match=r"net\.start='.*start' has ch=8, z_channels=6, and net\.ch=32, net\.z_channels=4 says otherwise"):
        built("net.ch=32", "net.z_channels=4")
    with pytest.raises(InputError, match=r"net\.upscaler_ch=16 is that of an upscaler, and net\.upscale=1 makes none"):
        built("net.upscaler_ch=16")
    if kind == "vqvae":
        with pytest.raises(InputError, match=r"has no patch, and net\.patch=2 says otherwise"):
            built("net.patch=2")


def test_a_run_of_an_earlier_version_from_a_start_goes_on(tmp_path):
    """It wrote the usual sizes beside the start, whatever its sizes were."""
    (tmp_path / "run.yaml").write_text("stage: tokenizer\ndata: {world: shapes}\ndebug: true\n")
    save_image_tokenizer(new_image_tokenizer(load(tmp_path / "run.yaml").net, seed=0, size=32), tmp_path / "start")
    start = [f"net.start={tmp_path / 'start'}", f"out={tmp_path / 'run'}", "loop.prefetch=0"]
    run(load(tmp_path / "run.yaml", start))
    file = tmp_path / "run" / "config.yaml"
    written = yaml.safe_load(file.read_text())
    assert written["net"]["ch"] == 0
    written["net"] |= {"ch": 32, "encoder_ch_mult": [1, 2], "z_channels": 12, "patch": 1}
    file.write_text(yaml.safe_dump(written))
    (save,) = sorted((tmp_path / "run" / "state").glob("step-*"))[-1:]
    export_save(save, tmp_path / "again")
    assert load_image_tokenizer(tmp_path / "again").config.ch == 8
    run(load(tmp_path / "run.yaml", start))
