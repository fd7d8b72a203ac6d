"""The recorded image tokenizer (MMADA_GOLDEN names another directory of the same format) and a small one of our own."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mmada.image import ImageTokenizer, ImageTokenizerConfig

DATA = Path(__file__).parents[1] / "golden_data"


@pytest.fixture(scope="session")
def golden_dir():
    return Path(os.environ.get("MMADA_GOLDEN", DATA / "dev"))


@pytest.fixture(scope="session")
def published_manifest():
    """Name -> shape of the tensors of showlab/magvitv2."""
    return json.loads((DATA / "manifest_magvitv2.json").read_text())


@pytest.fixture(scope="session")
def golden(golden_dir):
    return load_file(golden_dir / "image_tokenizer_golden.safetensors")


@pytest.fixture(scope="session")
def golden_tokenizer(golden_dir):
    config = json.loads((golden_dir / "image_tokenizer_config.json").read_text())
    tokenizer = ImageTokenizer(ImageTokenizerConfig.symmetric(**config))
    missing, unexpected = tokenizer.load_state_dict(load_file(golden_dir / "image_tokenizer.safetensors"), strict=False)
    assert set(missing) <= {"quantize.embedding", "quantize.power_vals"}
    assert not unexpected
    return tokenizer.eval()


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
