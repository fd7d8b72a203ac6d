import pytest

from mmada.canvas import PUBLISHED, VocabLayout
from mmada.errors import InputError
from mmada.model import PRESETS, TransformerConfig, preset

# reference/mmada.md, section 1.1, but for init_device (ours: where torch says) and num_vq_tokens (stored as 256, run with 1024).
PUBLISHED_FIELDS = {
    "d_model": 4096,
    "n_heads": 32,
    "n_kv_heads": 32,
    "multi_query_attention": None,
    "n_layers": 32,
    "mlp_hidden_size": 12288,
    "mlp_ratio": 4,
    "activation_type": "silu",
    "block_type": "llama",
    "block_group_size": 1,
    "alibi": False,
    "alibi_bias_max": 8.0,
    "rope": True,
    "rope_full_precision": True,
    "rope_theta": 500000.0,
    "flash_attention": False,
    "attention_dropout": 0.0,
    "residual_dropout": 0.0,
    "embedding_dropout": 0.0,
    "attention_layer_norm": False,
    "attention_layer_norm_with_affine": True,
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "rms_norm_eps": 1e-5,
    "bias_for_layer_norm": False,
    "include_bias": False,
    "include_qkv_bias": False,
    "scale_logits": False,
    "input_emb_norm": False,
    "max_sequence_length": 4096,
    "vocab_size": 134656,
    "embedding_size": 134656,
    "weight_tying": False,
    "tie_word_embeddings": False,
    "eos_token_id": 126081,
    "pad_token_id": 126081,
    "mask_token_id": 126336,
    "init_fn": "mitchell",
    "init_std": 0.02,
    "init_cutoff_factor": None,
    "precision": "amp_bf16",
    "llm_vocab_size": 126464,
    "new_vocab_size": 134656,
    "codebook_size": 8192,
}
LAYOUT = VocabLayout.compact(20, 16)


@pytest.mark.parametrize("name", PUBLISHED_FIELDS)
def test_the_defaults_are_the_published_values(name):
    for config in (TransformerConfig(), preset("8b"), TransformerConfig.from_dict({})):
        assert getattr(config, name) == PUBLISHED_FIELDS[name]
        assert config.to_dict()[name] == PUBLISHED_FIELDS[name]


def test_a_published_config_with_its_other_fields_is_read():
    extra = {"architectures": ["MMadaModelLM"], "use_cache": False, "w_clip_vit": False, "num_new_special_tokens": 0, "num_vq_tokens": 256}
    auto_map = {"AutoConfig": "configuration_llada.LLaDAConfig"}  # left over from the parent checkpoint
    config = TransformerConfig.from_dict({**PUBLISHED_FIELDS, **extra, "torch_dtype": "bfloat16", "auto_map": auto_map})
    assert config.num_vq_tokens == 256
    assert config.layout == PUBLISHED
    assert config.extra["use_cache"] is False
    assert TransformerConfig.from_dict(config.to_dict()) == config


def test_every_unsupported_value_is_named_in_one_error():
    with pytest.raises(InputError) as error:
        TransformerConfig(alibi=True, layer_norm_type="default", include_bias=True, residual_dropout=0.1)
    assert str(error.value) == (
        "unsupported backbone configuration: alibi=True (only False), residual_dropout=0.1 (only 0.0), layer_norm_type='default' (only 'rms'), "
        "include_bias=True (only False); no published checkpoint uses other values"
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("activation_type", "swiglu"),
        ("block_type", "sequential"),
        ("block_group_size", 2),
        ("rope", False),
        ("rope_full_precision", False),
        ("attention_dropout", 0.1),
        ("embedding_dropout", 0.1),
        ("layer_norm_with_affine", False),
        ("attention_layer_norm_with_affine", False),
        ("bias_for_layer_norm", True),
        ("include_qkv_bias", True),
        ("scale_logits", True),
        ("input_emb_norm", True),
    ],
)
def test_a_value_that_the_model_would_ignore_is_refused(name, value):
    with pytest.raises(InputError, match=f"unsupported backbone configuration: {name}={value!r}"):
        TransformerConfig(**{name: value})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"d_model": 60, "n_heads": 8}, "d_model=60 must be n_heads=8 times an even head width"),
        ({"d_model": 12, "n_heads": 4}, "d_model=12 must be n_heads=4 times an even head width"),
        ({"n_kv_heads": 3}, "n_heads=32 must be a multiple of n_kv_heads=3"),
        ({"n_heads": 0}, "n_heads=0, n_kv_heads=0 must be a whole number of at least 1"),
        ({"n_layers": 0, "d_model": -4}, "d_model=-4, n_layers=0 must be a whole number of at least 1"),
        ({"d_model": "64"}, "d_model='64' must be a whole number"),
        ({"hidden_size": 60, "num_attention_heads": 8}, "d_model=60 must be n_heads=8 times an even head width"),
        (
            {"vocab_layout": LAYOUT.to_dict(), "embedding_size": LAYOUT.vocab_size},
            f"mask_token_id=126336 is not vocab_layout's mask_id={LAYOUT.mask_id}; make them agree",
        ),
        ({"image_positions": -1}, "image_positions=-1 must be a whole number; 0 leaves places out, as published"),
        ({"short_conv": 4}, "short_conv=4 must be an odd number of taps; 0 leaves it out, as published"),
        ({"short_conv": -1}, "short_conv=-1 must be an odd number of taps"),
        ({"vocab_layout": LAYOUT.to_dict()}, f"vocab_layout has vocab_size={LAYOUT.vocab_size}, the model 134656 rows; make them agree"),
        ({"vocab_layout": {"mask": 3}}, "unknown vocabulary field 'mask'"),
    ],
)
def test_refused(values, message):
    with pytest.raises(InputError, match=message):
        TransformerConfig.from_dict(values)


def test_derived_sizes():
    config = TransformerConfig(d_model=64, n_heads=4, mlp_hidden_size=None, mlp_ratio=3, vocab_size=100)
    assert (config.n_kv_heads, config.mlp_hidden_size, config.embedding_size, config.head_dim) == (4, 192, 100, 16)
    assert TransformerConfig(multi_query_attention=True).n_kv_heads == 1
    assert TransformerConfig(vocab_size=100, embedding_size=128).embedding_size == 128


STANDARD_NAMES = {
    "hidden_size": "d_model",
    "num_attention_heads": "n_heads",
    "num_key_value_heads": "n_kv_heads",
    "num_hidden_layers": "n_layers",
    "intermediate_size": "mlp_hidden_size",
    "max_position_embeddings": "max_sequence_length",
}


@pytest.mark.parametrize("name", STANDARD_NAMES)
def test_the_names_that_transformers_uses_are_the_same_fields(name):
    value = 64 if name == "hidden_size" else 8
    config = TransformerConfig.from_dict({"n_heads": 8, "n_kv_heads": 4, name: value})
    assert getattr(config, STANDARD_NAMES[name]) == value
    assert getattr(preset("8b", **{"n_heads": 8, "n_kv_heads": 4, name: value}), STANDARD_NAMES[name]) == value
    assert name not in config.to_dict()


def test_sizes_are_derived_from_the_standard_names_too():
    config = TransformerConfig.from_dict({"hidden_size": 64, "num_attention_heads": 4})
    assert (config.n_kv_heads, config.head_dim) == (4, 16)


# The vocabulary layout.


def test_a_published_config_means_the_published_layout():
    assert TransformerConfig().layout == PUBLISHED


@pytest.mark.parametrize("values", [{"vocab_size": 126464}, {"codebook_size": 4096}])
def test_a_config_of_another_size_must_say_its_layout(values):
    with pytest.raises(InputError, match=r"config.json has no vocab_layout, and its embedding_size=\d+ is not the published"):
        _ = TransformerConfig(**values).layout


def test_a_stored_layout_is_used():
    config = preset("debug", layout=LAYOUT)
    assert config.layout == LAYOUT
    assert (config.vocab_size, config.embedding_size) == (LAYOUT.vocab_size, LAYOUT.vocab_size)
    assert (config.mask_token_id, config.eos_token_id, config.pad_token_id) == (LAYOUT.mask_id, LAYOUT.eos_id, LAYOUT.eos_id)


# Presets and files.


@pytest.mark.parametrize("name", PRESETS)
def test_presets(name):
    config = preset(name, layout=LAYOUT)
    for field, value in PRESETS[name].items():
        assert getattr(config, field) == value
    assert preset(name, layout=LAYOUT, n_layers=5).n_layers == 5


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: preset("debugg"), r"preset='debugg' is unknown: did you mean 'debug'\?"),
        (lambda: preset("huge"), "preset='huge' is unknown: known names are 30m, 3m, 40m, 6m, 8b, 8m, debug"),
        (lambda: preset("debug", n_layer=3), r"unknown configuration field 'n_layer': did you mean 'n_layers'\?"),
    ],
)
def test_a_misspelt_name_is_refused(build, message):
    with pytest.raises(InputError, match=message):
        build()
