"""The VQ-VAE: its interface, its codebook, and what config.json may say."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from mmada.errors import ImageError, InputError
from mmada.image import VQVAE, BaseImageTokenizer, ImageTokenizer, VQVAEConfig, to_pixels

SMALL = VQVAEConfig(
    block_out_channels=(8, 8, 16), layers_per_block=1, latent_channels=4, num_vq_embeddings=32, vq_embed_dim=6, norm_num_groups=4
)


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return VQVAE(SMALL).eval()


@torch.no_grad()
def test_any_multiple_of_the_factor(small):
    for height, width in ((4, 4), (8, 20), (12, 4)):
        codes = small.encode(torch.rand(2, 3, height, width))
        assert codes.shape == (2, height // 4, width // 4)
        assert codes.dtype == torch.int64
        assert small.decode(codes).shape == (2, 3, height, width)


def test_code_is_the_nearest_vector_as_defined(small):
    latent = torch.randn(2, 6, 3, 5, dtype=torch.float64)
    small = VQVAE(SMALL).double()
    distance = (latent[:, None] - small.quantize.embedding.weight[None, :, :, None, None]).square().sum(2)  # (B, V, h, w)
    assert torch.equal(small.codes_of(latent), distance.argmin(1))


def test_tie_goes_to_the_lowest_code():
    images = VQVAE(SMALL)
    with torch.no_grad():
        images.quantize.embedding.weight[5:9] = images.quantize.embedding.weight[5]
    assert images.codes_of(images.quantize.embedding.weight[7].detach()[None, :, None, None]).item() == 5


def test_an_image_has_its_codes_in_any_batch(small):
    pixels = torch.rand(3, 3, 16, 16)
    assert torch.equal(small.encode(pixels)[1:2], small.encode(pixels[1:2]))


def test_pixels_lie_between_0_and_1(small, checkered):
    assert small.pixel_range == (0.0, 1.0)
    assert torch.equal(to_pixels([checkered], value_range=small.pixel_range).unique(), torch.tensor([0.0, 1.0]))
    assert torch.equal(small.encode_images([checkered]), small.encode(to_pixels([checkered], value_range=(0.0, 1.0))))


@pytest.fixture
def checkered():
    from PIL import Image

    image = Image.new("RGB", (8, 8))
    image.paste((255, 255, 255), (0, 0, 4, 4))
    return image


def test_levels_are_rounded(small, checkered, monkeypatch):
    monkeypatch.setattr(small, "decode_codes", lambda codes: torch.full((1, 3, 8, 8), 0.999 * 200 / 255))
    (image,) = small.decode_images(torch.zeros(1, 2, 2, dtype=torch.int64))
    assert image.getpixel((0, 0)) == (200, 200, 200)


def test_the_codebook_learns(small):
    images = VQVAE(SMALL)
    made = images(torch.rand(1, 3, 8, 8))
    (made.pixels.square().mean() + made.quantizer_loss).backward()
    assert images.encoder.conv_in.weight.grad.abs().sum() > 0  # through the vectors
    assert images.quantize.embedding.weight.grad.abs().sum() > 0
    assert made.entropy_loss == 0


def test_errors_name_the_argument(small):
    with pytest.raises(ImageError, match=r"10x8 .* factor=4"):
        small.encode(torch.rand(1, 3, 10, 8))
    with pytest.raises(InputError, match=r"in \[0, 1\]"):
        small.encode(torch.rand(3, 8, 8))
    with pytest.raises(InputError, match="from 0 to 32, the codebook from 0 to 31"):
        small.decode(torch.tensor([[[0, 32]]]))


def test_two_tokenizers_have_one_interface(small, tokenizer):
    for images in (small, tokenizer):
        assert isinstance(images, BaseImageTokenizer)
        codes = images.encode(torch.zeros(1, 3, 8, 8))
        assert 0 <= int(codes.min()) <= int(codes.max()) < images.codebook_size
        assert images.decode(codes).shape[2:] == (2 * images.factor, 2 * images.factor)
    assert isinstance(tokenizer, ImageTokenizer)


def test_published_sizes():
    config = VQVAEConfig()
    assert (config.factor, config.num_vq_embeddings, config.embedding_size) == (16, 8192, 64)
    with torch.device("meta"):
        names = VQVAE(config).state_dict()
    assert names["quantize.embedding.weight"].shape == (8192, 64)
    assert names["decoder.up_blocks.0.resnets.2.conv1.weight"].shape == (768, 768, 3, 3)
    assert "decoder.up_blocks.4.upsamplers.0.conv.weight" not in names
    assert "encoder.mid_block.resnets.1.norm2.weight" in names
    assert not [name for name in names if "attentions" in name]


def test_config_goes_through_a_file():
    values = SMALL.to_dict()
    assert values["_class_name"] == "VQModel"
    assert VQVAEConfig.from_dict(values) == SMALL


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("act_fn", "gelu", "act_fn='gelu' .* act_fn='silu'"),
        ("norm_type", "spatial", "norm_type='spatial'"),
        ("mid_block_add_attention", True, "mid_block_add_attention=True"),
        ("lookup_from_codebook", False, "lookup_from_codebook=False"),
        ("up_block_types", ["UpDecoderBlock2D", "AttnUpDecoderBlock2D", "UpDecoderBlock2D"], "AttnUpDecoderBlock2D"),
        ("down_block_types", ["DownEncoderBlock2D"], "1 levels"),
        ("norm_num_groups", 3, "multiples of norm_num_groups=3"),
        ("latent_channels", 0, "latent_channels=0"),
        ("in_channels", 4, "in_channels=4"),
    ],
)
def test_config_refuses_what_is_not_built(name, value, message):
    with pytest.raises(InputError, match=message):
        VQVAEConfig.from_dict({**SMALL.to_dict(), name: value})


@pytest.mark.parametrize("name", ["mid_block_add_attention", "lookup_from_codebook"])
def test_absent_option_has_the_default_of_diffusers(name):
    values = {k: v for k, v in SMALL.to_dict().items() if k != name}
    with pytest.raises(InputError, match=name):
        VQVAEConfig.from_dict(values)


def test_sizes_are_not_guessed():
    values = {k: v for k, v in SMALL.to_dict().items() if k != "num_vq_embeddings"}
    with pytest.raises(InputError, match="num_vq_embeddings must be given"):
        VQVAEConfig.from_dict(values)


def test_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        SMALL.latent_channels = 3
