"""The configuration as transformers knows it: the fields and checks of `TransformerConfig`, its own files and names."""

import json

import pytest

from mmada.canvas import VocabLayout
from mmada.errors import InputError
from mmada.hub import networks
from mmada.model import TransformerConfig, preset
from mmada.model.config import ALIASES

from ..lazy import later

configs = later("mmada.hub.configs")

LAYOUT = VocabLayout.compact(20, 16)


def test_the_defaults_are_those_of_the_plain_configuration():
    plain = TransformerConfig().to_dict()
    for config in (
        configs.MMaDAConfig(),
        configs.MMaDAConfig.from_dict({"model_type": "mmada"}),
        configs.MMaDAConfig.of(preset("8b", layout=TransformerConfig().layout)),
    ):
        for name in plain.keys() - {"vocab_layout"}:
            assert getattr(config, name) == config.to_dict()[name] == plain[name]
        assert config.layout == TransformerConfig().layout
    assert configs.MMaDAConfig.model_type == "mmada"


@pytest.mark.parametrize("name", ALIASES)
def test_the_names_that_transformers_uses_are_the_same_fields(name):
    value = 64 if name == "hidden_size" else 8
    config = configs.MMaDAConfig(**{"n_heads": 8, "n_kv_heads": 4, name: value})
    assert getattr(config, name) == getattr(config, ALIASES[name]) == value
    setattr(config, name, 2 * value)
    assert getattr(config, ALIASES[name]) == 2 * value
    assert name not in config.to_dict()


def test_values_are_checked():
    with pytest.raises(InputError, match="unsupported backbone configuration: alibi=True"):
        configs.MMaDAConfig(alibi=True)
    with pytest.raises(InputError, match="d_model=60 must be n_heads=8 times an even head width"):
        configs.MMaDAConfig(hidden_size=60, num_attention_heads=8)


def test_what_is_derived_can_be_changed_as_transformers_does():
    config = configs.MMaDAConfig.of(preset("3m", layout=LAYOUT))
    assert (config.head_dim, config.num_kept_values) == (32, 2 * 6 * 192)
    config.vocab_layout, config.mask_token_id = None, 3
    config.vocab_size = config.embedding_size = 56  # resize_token_embeddings
    assert config.transformer.embedding_size == 56


@pytest.mark.parametrize(
    "build",
    [lambda: configs.MMaDAConfig(), lambda: configs.MMaDAConfig.of(preset("3m", layout=LAYOUT, n_kv_heads=2, weight_tying=True))],
    ids=["published", "own"],
)
def test_config_json_round_trip(tmp_path, build):
    config = build()
    config.save_pretrained(tmp_path)
    loaded = configs.MMaDAConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert loaded.layout == config.layout
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["model_type"] == "mmada"
    assert written["n_heads"] == config.n_heads
    assert networks.transformer_config(tmp_path) == config.transformer
