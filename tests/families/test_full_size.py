"""The 8B shape of every family, without weights: names and shapes as published, and what it takes in memory, as docs/families.md says."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from mmada.families import FAMILIES
from mmada.hub import networks

from .tiny import published

MANIFEST = Path(__file__).parents[1] / "golden_data" / "manifest_mmada_8b.json"
PAGE = (Path(__file__).parents[2] / "docs" / "families.md").read_text(encoding="utf-8")
SIZES = {
    # As in the config.json that Omni-Diffusion, which was made of Dream, publishes, but for the rows.
    "dream": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_attention_heads": 28,
        "num_hidden_layers": 28,
        "num_key_value_heads": 4,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
    },
    "llada-moe": {
        "hidden_size": 2048,
        "num_attention_heads": 16,
        "num_hidden_layers": 16,
        "num_experts": 64,
        "num_experts_per_tok": 8,
        "expert_intermediate_size": 1024,
        "dense_intermediate_size": 8192,
        "moe_layer_freq": [1] * 16,
        "qk_layernorm": True,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 50000,
    },
    # Qwen3-8B's, of which SDAR-8B-Chat was made.
    "sdar": {
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_attention_heads": 32,
        "num_hidden_layers": 36,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 40960,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
    },
}
PARAMETERS = {
    "mmada": 8.08,
    "mmada-parallel-m": 8.08,
    "llada": 8.02,
    "lumina-dimoo": 8.08,
    "mmada-parallel-a": 8.08,
    "illada": 7.62,
    "dream": 7.62,
    "sdar": 8.19,
    "llada-moe": 7.36,
}


def of_transformers(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the model that a family was made of, by transformers' own class."""
    import transformers

    if name == "llada-moe":  # transformers keeps experts in one tensor, and files in one each
        sizes = {**SIZES["sdar"], **SIZES[name], "head_dim": 128, "num_key_value_heads": 16, "num_experts": 1, "intermediate_size": 1024}
        config = transformers.Qwen3Config(**{key: sizes[key] for key in SIZES["sdar"]}, vocab_size=157184)
        with torch.device("meta"):
            found = {key: tuple(tensor.shape) for key, tensor in transformers.Qwen3ForCausalLM(config).state_dict().items()}
        dense = {key: found.pop(key) for key in list(found) if ".mlp." in key}
        experts = {key.replace(".mlp.", f".mlp.experts.{i}."): shape for key, shape in dense.items() for i in range(64)}
        return found | experts | {f"model.layers.{i}.mlp.gate.weight": (64, 2048) for i in range(16)}
    with torch.device("meta"):
        made = {
            "dream": lambda: transformers.Qwen2ForCausalLM(transformers.Qwen2Config(vocab_size=152064, **SIZES["dream"])),
            "sdar": lambda: transformers.Qwen3ForCausalLM(transformers.Qwen3Config(vocab_size=151936, **SIZES["sdar"])),
        }[name]()
    return {name: tuple(tensor.shape) for name, tensor in made.state_dict().items()}


@pytest.mark.parametrize(
    "family", [pytest.param(f, id=f.name, marks=[pytest.mark.slow] if f.name == "llada-moe" else []) for f in FAMILIES.values()]
)
def test_full_size(tmp_path, family):
    directory = published(family, tmp_path / family.hub_names[0].split("/")[1], **SIZES.get(family.name, {}))
    config = networks.transformer_config(directory)
    assert config.layout.image_offset == family.layout.image_offset
    shapes = networks.shapes(config)
    if config.backbone == "qwen":
        assert shapes == of_transformers(family.name)
    else:
        manifest = {name: tuple(shape) for name, shape in json.loads(MANIFEST.read_text()).items()}
        tied = {"model.transformer.ff_out.weight"} if config.weight_tying else set()
        assert set(shapes) == set(manifest) - tied
        rows = {name for name in shapes if name.endswith((".wte.weight", "transformer.ff_out.weight"))}
        assert {shapes[name] for name in rows} == {(family.layout.vocab_size, 4096)}
        if not family.name.startswith("illada"):
            assert {name: shape for name, shape in shapes.items() if name not in rows} == {
                n: s for n, s in manifest.items() if n not in rows
            }
    assert round(sum(map(math.prod, shapes.values())) / 1e9, 2) == PARAMETERS[family.name]
    sizes = [2 * sum(map(math.prod, shapes.values()))]
    for quantization in ("int8", "int4"):
        packed = networks.shapes(config, quantization=quantization)
        sizes.append(sum(math.prod(shape) * (1 if name.endswith(".codes") else 2) for name, shape in packed.items()))
    row = next(line for line in PAGE.splitlines() if f"`{family.name}`" in line and "GB" in line)
    assert row.endswith(" B | " + " | ".join(f"{size / 1e9:.1f} GB" for size in sizes) + " |")
