"""Image tokenizers and their directories, read by us and by transformers: one set of rules for both."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmada.errors import CheckpointError
from mmada.hub.networks import load_image_tokenizer, save_image_tokenizer
from mmada.image import VQVAE, ImageTokenizer, ImageTokenizerConfig, VQVAEConfig

from ..lazy import later

pretrained = later("mmada.hub.pretrained")

WEIGHTS = "model.safetensors"


@pytest.fixture
def tokenizer():
    """Encoder and decoder of different widths and depths, factor 4, 6 bits."""
    torch.manual_seed(0)
    config = ImageTokenizerConfig(
        ch=8,
        encoder_ch_mult=(1, 1, 2),
        encoder_num_res_blocks=(1, 1, 1),
        decoder_ch_mult=(1, 2, 4),
        decoder_num_res_blocks=(1, 2, 1),
        z_channels=6,
    )
    return ImageTokenizer(config).eval()


@pytest.fixture
def saved(tokenizer, tmp_path):
    save_image_tokenizer(tokenizer, tmp_path)
    return tmp_path


@pytest.fixture(params=["ours", "transformers"])
def load(request):
    """The function that reads a directory."""
    return load_image_tokenizer if request.param == "ours" else pretrained.ImageTokenizer.from_pretrained


def random_pixels(*shape, seed=1):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_reload_is_bit_equal(load, tokenizer, saved):
    again = load(saved)
    assert not again.training
    assert again.config.encoder_shape == tokenizer.config.encoder_shape
    assert again.config.decoder_shape == tokenizer.config.decoder_shape
    state = again.state_dict()
    assert {name for name, tensor in tokenizer.state_dict().items() if torch.equal(tensor, state[name])} == set(state)
    pixels = random_pixels(2, 3, 8, 12)
    assert torch.equal(again.latent(pixels), tokenizer.latent(pixels))
    codes = tokenizer.encode(pixels)
    assert torch.equal(again.decode(codes), tokenizer.decode(codes))


def test_names_on_disk_are_the_published_ones(load, tokenizer, saved):
    assert set(load_file(saved / WEIGHTS)) == set(tokenizer.state_dict())
    assert {"quantize.embedding", "quantize.power_vals"} < set(load_file(saved / WEIGHTS))


@pytest.mark.parametrize("tables", [True, False])
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_published_layout(load, tokenizer, tmp_path, kind, tables):
    state = {name: tensor for name, tensor in tokenizer.state_dict().items() if tables or not name.startswith("quantize.")}
    if kind == "bin":
        torch.save(state, tmp_path / "pytorch_model.bin")
    else:
        save_file(state, tmp_path / WEIGHTS, metadata={"format": "pt"})
    (tmp_path / "config.json").write_text("{}")
    again = load(tmp_path, config=tokenizer.config)
    codes = torch.arange(64).reshape(1, 8, 8)
    assert torch.equal(again.decode(codes), tokenizer.decode(codes))
    assert torch.equal(again.encode(random_pixels(1, 3, 8, 8)), tokenizer.encode(random_pixels(1, 3, 8, 8)))


@pytest.mark.parametrize("text", ["", "{}", '{"_class_name": "MAGVITv2"}', None])
def test_a_configuration_without_model_type_means_the_published_sizes(load, saved, text):
    (saved / "config.json").unlink()
    if text is not None:
        (saved / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match="of 382 tensors"):
        load(saved)


def test_every_difference_is_listed_at_once(load, tokenizer, saved):
    state = load_file(saved / WEIGHTS)
    del state["encoder.conv_in.bias"]
    state["encoder.extra"] = torch.zeros(3)
    state["decoder.conv_out.bias"] = torch.zeros(5)
    save_file(state, saved / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="3 of") as failure:
        load(saved)
    (saved / WEIGHTS).unlink()
    torch.save(state, saved / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="3 of") as pickled:
        load(saved)
    for message in (str(failure.value), str(pickled.value)):
        assert "missing     encoder.conv_in.bias (8,)" in message
        assert "unexpected  encoder.extra (3,)" in message
        assert "wrong shape decoder.conv_out.bias (5,)" in message


def test_half_written_files(load, tokenizer, saved):
    whole = (saved / WEIGHTS).read_bytes()
    (saved / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="only in part"):
        load(saved)
    (saved / WEIGHTS).unlink()
    torch.save(tokenizer.state_dict(), saved / "pytorch_model.bin")
    whole = (saved / "pytorch_model.bin").read_bytes()
    for kept in (len(whole) // 2, 0):
        (saved / "pytorch_model.bin").write_bytes(whole[:kept])
        with pytest.raises(CheckpointError, match="truncated"):
            load(saved)
    torch.save([1, 2], saved / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="not a state dict"):
        load(saved)


def test_pickles_that_run_code_are_refused(load, saved):
    (saved / WEIGHTS).unlink()
    torch.save({"encoder.conv_in.bias": print}, saved / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="not a state dict"):
        load(saved)


def test_unusable_configuration(load, saved):
    config = saved / "config.json"
    config.write_text(config.read_text()[:30])
    with pytest.raises(CheckpointError, match="not valid JSON"):
        load(saved)
    config.write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(CheckpointError, match="model_type='llama'"):
        load(saved)
    with pytest.raises(CheckpointError, match="no directory"):
        load(saved / "nowhere")


def test_half_precision(load, tokenizer, saved):
    half = load(saved, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    codes = half.encode(random_pixels(1, 3, 8, 8))
    assert codes.dtype == torch.int64
    assert half.decode(codes).dtype == torch.bfloat16
    assert len(half.decode_images(codes)) == 1


def test_what_transformers_writes_is_the_same_checkpoint(tokenizer, saved, tmp_path_factory):
    again = tmp_path_factory.mktemp("again")
    pretrained.ImageTokenizer.from_pretrained(saved).save_pretrained(again)
    loaded = load_image_tokenizer(again)
    assert loaded.config == tokenizer.config
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in tokenizer.state_dict().items())


def test_a_new_one_has_the_same_weights_in_both_classes(tokenizer):
    torch.manual_seed(0)
    other = pretrained.ImageTokenizer(tokenizer.config)
    assert isinstance(other, ImageTokenizer)
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in tokenizer.state_dict().items())


def test_a_vqvae_is_loaded_by_its_files(tmp_path):
    """What Lumina-DiMOO and MMaDA-Parallel-A keep in `vqvae`; saved under another name it is still one."""
    torch.manual_seed(0)
    sizes = VQVAEConfig(block_out_channels=(8, 8), layers_per_block=1, latent_channels=4, num_vq_embeddings=16, norm_num_groups=4)
    images = VQVAE(sizes).eval()
    save_image_tokenizer(images, tmp_path / "vqvae")
    loaded = load_image_tokenizer(tmp_path / "vqvae", dtype="float64")
    assert isinstance(loaded, VQVAE)
    assert loaded.dtype == torch.float64
    save_image_tokenizer(loaded.float(), tmp_path / "image_tokenizer")
    again = load_image_tokenizer(tmp_path / "image_tokenizer")
    pixels = torch.rand(1, 3, 8, 8)
    assert torch.equal(again.encode(pixels), images.encode(pixels))
    # codes depend on these and on nothing else
    assert {name.split(".")[0] for name in loaded.encoding_tensors()} == {"encoder", "quant_conv", "quantize"}
