"""Larger pictures of the same codes: what stays, what is added, and what is written."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from mmada.errors import InputError
from mmada.hub import networks
from mmada.image import ImageTokenizer, ImageTokenizerConfig
from mmada.image.upscaler import squares
from mmada.train.config import ImageTokenizerSettings
from mmada.train.image_task import ImageBatch, PixelObjective
from mmada.train.networks import new_image_tokenizer

SIZES = {
    "patch": 8,
    "ch": 4,
    "encoder_kernel": 1,
    "encoder_ch_mult": (1,),
    "encoder_num_res_blocks": (1,),
    "decoder_ch_mult": (2,),
    "decoder_num_res_blocks": (1,),
    "z_channels": 4,
    "resolution": 16,
    "attn_resolutions": (),
}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The directory of a tokenizer without an upscaler."""
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("small")
    networks.save_image_tokenizer(ImageTokenizer(ImageTokenizerConfig(**SIZES)), directory)
    return directory


@pytest.fixture(scope="module")
def large(small):
    return new_image_tokenizer(ImageTokenizerSettings(start=str(small), upscale=4, upscaler_ch=16), seed=1).eval()


def pictures(count, side):
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(count)]


def test_codes_and_small_pictures_are_those_of_the_start(small, large):
    before = networks.load_image_tokenizer(small)
    codes = large.encode_images(pictures(3, 16))
    assert torch.equal(codes, before.encode_images(pictures(3, 16)))
    assert torch.equal(large.restore(codes), before.decode(codes))
    assert large.encoding_tensors().keys() == before.encoding_tensors().keys()


def test_pictures_are_larger_than_what_was_encoded(large):
    codes = large.encode_images(pictures(2, 16))
    assert [image.size for image in large.decode_images(codes)] == [(64, 64)] * 2
    assert [image.size for image in large.restore_images(codes)] == [(16, 16)] * 2
    assert (large.factor, large.upscale, large.decode_factor) == (8, 4, 32)


def test_the_same_is_read_as_was_written(large, tmp_path):
    networks.save_image_tokenizer(large, tmp_path)
    again = networks.load_image_tokenizer(tmp_path)
    codes = large.encode_images(pictures(1, 16))
    assert torch.equal(again.decode(codes), large.decode(codes))
    assert again.config == large.config


def test_a_tokenizer_without_one_is_written_as_before(small):
    assert not [name for name in json.loads((small / "config.json").read_text(encoding="utf-8")) if "upscale" in name]


def test_squares_are_in_raster_order():
    x = torch.randn(2, 3, 8, 12)
    assert squares(x, 4).shape == (12, 3, 4, 4)
    assert torch.equal(squares(x, 4)[4], x[0, :, 4:8, 4:8])
    assert torch.equal(squares(x, 4)[6], x[1, :, :4, :4])


def test_squares_are_learned_as_the_whole_picture_draws_them(large):
    """The loss of pictures without a flat square is the error of `decode`."""
    seen, wanted = [np.asarray(p) for p in pictures(2, 16)], [np.asarray(p) for p in pictures(2, 64)]
    batch = ImageBatch.of(seen, factor=8, large=wanted)
    with torch.no_grad():
        sums = PixelObjective(large, has_gradient=False)(batch.pixels, batch.large)
        error = large.decode(large.encode(batch.pixels)) - (batch.large.movedim(-1, 1).float() / 127.5 - 1)
    assert torch.allclose(sums[:3], 2 * torch.stack([error.abs().mean(), error.square().mean(), torch.zeros(())]), atol=1e-5)


def test_of_flat_squares_few_are_learned(large):
    """A picture of one color has 4 squares, of which the first of every 17 counts."""
    flat = np.full((16, 16, 3), 200, np.uint8)
    batch = ImageBatch.of([flat], factor=8, large=[np.full((64, 64, 3), 200, np.uint8)])
    with torch.no_grad():
        loss = PixelObjective(large, has_gradient=False)(batch.pixels, batch.large)[0]
        error = large.decode(large.encode(batch.pixels)) - (200 / 127.5 - 1)
    assert torch.allclose(loss, error[:, :, :32, :32].abs().mean(), atol=1e-5)


def test_what_cannot_be_built_is_refused(small, large, tmp_path):
    with pytest.raises(InputError, match="decoder_ch_mult"):
        ImageTokenizerConfig(
            ch=4, encoder_ch_mult=(1, 1), decoder_ch_mult=(1, 1), encoder_num_res_blocks=(1, 1), decoder_num_res_blocks=(1, 1), upscale=2
        )
    with pytest.raises(InputError, match="upscaler_ch=6"):
        ImageTokenizer(ImageTokenizerConfig(**SIZES, upscale=4, upscaler_ch=6))
    networks.save_image_tokenizer(large, tmp_path)
    with pytest.raises(InputError, match=r"upscale=4, net\.upscale=2"):
        new_image_tokenizer(ImageTokenizerSettings(start=str(tmp_path), upscale=2), seed=0)
