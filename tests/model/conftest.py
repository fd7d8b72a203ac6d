"""A tiny backbone with weights large enough that attention and every layer matter."""

import pytest
import torch

from mmada.canvas import VocabLayout
from mmada.model import Transformer, preset

LAYOUT = VocabLayout.compact(20, 16, multiple_of=8)  # 48 rows: text 0..19, special 20..31, codes 32..47


def build(*, seed=0, **changes):
    config = preset("debug", layout=LAYOUT, **{"d_model": 32, "n_heads": 4, "n_layers": 2, "mlp_hidden_size": 48, **changes})
    model = Transformer(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.2 * noise if parameter.dim() == 1 else 0.3 * noise)
    return model


@pytest.fixture(scope="session")
def build_model():
    """The function that builds one: `build_model(n_kv_heads=2)`."""
    return build


@pytest.fixture(scope="session")
def shared_model():
    return build(n_kv_heads=2, attention_layer_norm=True)


@pytest.fixture
def model(shared_model):
    """Grouped heads and normalized queries and keys, both of which the golden model lacks. Do not change its weights."""
    yield shared_model
    shared_model.zero_grad()
    shared_model.eval()


@pytest.fixture
def tokens():
    return torch.randint(48, (3, 10), generator=torch.Generator().manual_seed(1))
