import pytest
import torch

from mmada.errors import InputError
from mmada.image import ImageTokenizer, ImageTokenizerConfig
from mmada.image.magvit2 import Decoder, Encoder, NetworkShape

SHAPE = {"ch": 8, "ch_mult": (1, 2), "num_res_blocks": (1, 2), "z_channels": 4, "attn_resolutions": (), "resolution": 16}


def attention_of(network):
    return sorted(name.removesuffix(".q.weight") for name in network.state_dict() if name.endswith(".q.weight"))


def test_default_configuration_has_the_published_tensors(published_manifest):
    with torch.device("meta"):
        state = ImageTokenizer(ImageTokenizerConfig()).state_dict()
    assert {name: list(tensor.shape) for name, tensor in state.items()} == published_manifest


def test_attention_appears_in_the_levels_whose_nominal_side_is_listed():
    shape = NetworkShape(**{**SHAPE, "attn_resolutions": (8,)})
    assert attention_of(Encoder(shape)) == ["down.1.attn.0", "down.1.attn.1", "mid.attn_1"]
    assert attention_of(Decoder(shape)) == ["mid.attn_1", "up.1.attn.0", "up.1.attn.1"]
    assert attention_of(Encoder(NetworkShape(**SHAPE))) == ["mid.attn_1"]


def test_any_image_size_passes_whatever_the_nominal_resolution():
    shape = NetworkShape(**{**SHAPE, "attn_resolutions": (8,)})
    latent = Encoder(shape)(torch.randn(1, 3, 6, 10))
    assert latent.shape == (1, 4, 3, 5)
    assert Decoder(shape)(latent).shape == (1, 3, 6, 10)


def test_attention_equals_the_naive_formula():
    torch.manual_seed(0)
    attention = Encoder(NetworkShape(**SHAPE)).mid.attn_1.double()
    x = torch.randn(2, 16, 3, 5, dtype=torch.float64)
    h = attention.norm(x)
    q, k, v = (getattr(attention, name)(h).flatten(2) for name in "qkv")  # (B, D, h w)
    weight = (torch.einsum("bdi,bdj->bij", q, k) / 16**0.5).softmax(dim=-1)
    mixed = torch.einsum("bij,bdj->bdi", weight, v).reshape(x.shape)
    torch.testing.assert_close(attention(x), x + attention.proj_out(mixed))


def test_an_encoder_of_kernel_1_encodes_each_square_by_itself():
    torch.manual_seed(0)
    encoder = Encoder(
        NetworkShape(ch=8, ch_mult=(2,), num_res_blocks=(1,), z_channels=4, attn_resolutions=(), resolution=8, patch=4, kernel=1)
    )
    pixels = torch.randn(1, 3, 8, 12)
    whole = encoder(pixels)
    for y in range(2):
        for x in range(3):
            square = pixels[:, :, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4]
            torch.testing.assert_close(encoder(square)[0, :, 0, 0], whole[0, :, y, x])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"num_res_blocks": (1,)}, "one number for each level"),
        ({"ch_mult": (), "num_res_blocks": ()}, "at least one"),
        ({"ch": 0}, "positive"),
        ({"kernel": 1}, "kernel=1 must be 3, or 1 with one level"),
        ({"kernel": 2}, "kernel=2 must be 3"),
        ({"ch": 48}, r"\[48, 48, 96\]|\[48, 48\]"),
    ],
)
def test_impossible_shapes_are_refused(change, named):
    with pytest.raises(InputError, match=named):
        NetworkShape(**{**SHAPE, **change})
