"""A VQ-VAE's directory: read, written, and refused with the file, the field and what to do."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmada.errors import CheckpointError
from mmada.image import VQVAE, VQVAEConfig, find_vqvae, load_vqvae, save_vqvae

SMALL = VQVAEConfig(block_out_channels=(8, 8), layers_per_block=1, latent_channels=4, num_vq_embeddings=16, norm_num_groups=4)


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(1)
    save_vqvae(VQVAE(SMALL), tmp_path / "vqvae")
    return tmp_path


def test_found_as_a_folder_or_by_itself(checkpoint, tmp_path):
    assert find_vqvae(checkpoint) == checkpoint / "vqvae"
    assert find_vqvae(checkpoint / "vqvae") == checkpoint / "vqvae"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "llada"}')
    assert find_vqvae(tmp_path / "other") is None


def test_loaded_as_saved(checkpoint):
    images = load_vqvae(checkpoint)
    assert not images.training
    assert images.config == SMALL
    saved = load_file(checkpoint / "vqvae" / "diffusion_pytorch_model.safetensors")
    assert images.state_dict().keys() == saved.keys()
    assert all(torch.equal(tensor, saved[name]) for name, tensor in images.state_dict().items())
    assert load_vqvae(checkpoint / "vqvae", dtype=torch.float64).dtype == torch.float64


def test_all_that_does_not_fit_is_named_at_once(checkpoint):
    file = checkpoint / "vqvae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    del tensors["quant_conv.bias"]
    tensors["quantize.embedding.weight"] = torch.zeros(17, 4)
    tensors["extra"] = torch.zeros(1)
    save_file(tensors, file)
    with pytest.raises(CheckpointError) as caught:
        load_vqvae(checkpoint)
    for part in (str(file), "quant_conv.bias is missing", "extra is unexpected", "quantize.embedding.weight is (17, 4), not (16, 4)"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"_class_name": "AutoencoderKL"}, "_class_name='AutoencoderKL', not 'VQModel'"),
        ({"act_fn": "gelu"}, r"config.json: act_fn='gelu' is not supported"),
    ],
)
def test_another_config_is_refused(checkpoint, values, message):
    file = checkpoint / "vqvae" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
    with pytest.raises(CheckpointError, match=message):
        load_vqvae(checkpoint)


def test_missing_and_damaged_files(checkpoint, tmp_path):
    with pytest.raises(CheckpointError, match=r"empty.config.json is missing"):
        load_vqvae(tmp_path / "empty")
    weights = checkpoint / "vqvae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        load_vqvae(checkpoint)
    weights.unlink()
    with pytest.raises(CheckpointError, match="safetensors is missing"):
        load_vqvae(checkpoint)
    (checkpoint / "vqvae" / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config.json cannot be read"):
        load_vqvae(checkpoint)
