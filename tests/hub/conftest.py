"""A tiny backbone as transformers knows it, with weights large enough that attention and every layer matter."""

import pytest
import torch

from mmada.canvas import VocabLayout
from mmada.model import preset
from mmada.pipeline import MMaDA

from ..lazy import later

pretrained = later("mmada.hub.pretrained")

LAYOUT = VocabLayout.compact(20, 16, multiple_of=8)  # 48 rows: text 0..19, special 20..31, codes 32..47


def build(**changes):
    sizes = {"d_model": 32, "n_heads": 4, "n_layers": 2, "mlp_hidden_size": 48, **changes}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = pretrained.MMadaModelLM(preset("debug", layout=LAYOUT, init_std=0.3, **sizes)).eval()
        for name, parameter in model.named_parameters():
            if "norm" in name or "ln_f" in name:
                torch.nn.init.normal_(parameter, 1.0, 0.2)
    return model


@pytest.fixture(scope="session")
def build_model():
    """The function that builds one: `build_model(n_kv_heads=2)`."""
    return build


@pytest.fixture(scope="session")
def shared_model():
    """Grouped heads and normalized queries and keys. Do not change its weights."""
    return build(n_kv_heads=2, attention_layer_norm=True)


@pytest.fixture(scope="session")
def saved_debug(tmp_path_factory):
    """A directory with the debug model. Do not change it."""
    path = tmp_path_factory.mktemp("debug")
    MMaDA.debug().save_pretrained(path)
    return path


@pytest.fixture
def tokens():
    return torch.randint(48, (3, 10), generator=torch.Generator().manual_seed(1))
