"""LLaDA-MoE on the backbone of Qwen: experts as transformers computes them, files with a tensor for each, and facts at load.

transformers' OLMoE normalizes queries and keys over their whole width. Its Qwen3-MoE has LLaDA-MoE's norms and, with norm_topk_prob=False, its router.
"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from mmada.canvas import Message
from mmada.errors import CheckpointError, InputError
from mmada.families import named
from mmada.families.llada_moe import published_llada_moe
from mmada.hub import networks
from mmada.hub.family import family_of
from mmada.model import Transformer, TransformerConfig
from mmada.model.quantized import QuantizedLinear, quantize
from mmada.model.qwen import Router
from mmada.pipeline import MMaDA
from mmada.scale.training_cost import matrices_of

from ..lazy import later
from .tiny import published, templated

transformers = later("transformers")

SIZES = {
    "hidden_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "num_hidden_layers": 2,
    "rms_norm_eps": 1e-5,
    "rope_theta": 5e4,
    "max_position_embeddings": 128,
    "num_experts": 6,
    "num_experts_per_tok": 3,
}


@pytest.fixture(scope="module")
def model() -> MMaDA:
    return templated(named("llada-moe"))


def test_files_of_transformers_are_read_and_logits_are_equal(tmp_path):
    torch.manual_seed(0)
    sizes = {**SIZES, "moe_intermediate_size": 20, "head_dim": 12, "intermediate_size": 80}
    config = transformers.Qwen3MoeConfig(vocab_size=96, norm_topk_prob=False, decoder_sparse_step=1, tie_word_embeddings=False, **sizes)
    theirs = transformers.Qwen3MoeForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    theirs.save_pretrained(tmp_path, max_shard_size="50KB")
    layout = {"vocab_size": 96, "image_offset": 90, "codebook_size": 0, "mask_id": 80, "eos_id": 81}
    values = {
        **named("llada-moe").config,
        **SIZES,
        "expert_intermediate_size": 20,
        "vocab_size": 96,
        "mask_token_id": 80,
        "vocab_layout": layout,
    }
    (tmp_path / "config.json").write_text(json.dumps({**values, "family": "llada-moe"}))
    ours, tokens = networks.load_transformer(tmp_path), torch.randint(96, (2, 15), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs(tokens, attention_mask=torch.zeros(2, 1, 15, 15)).logits
        assert (ours(tokens).logits - expected).abs().max() < 1e-4
    ours.train()
    ours(tokens).logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in ours.parameters())
    router = ours.blocks[0].mlp.gate.weight
    assert router.grad.abs().sum() > 0


def test_facts_at_load(tmp_path):
    family = named("llada-moe")
    good = {**SIZES, "expert_intermediate_size": 20, "qk_layernorm": True, "moe_layer_freq": [1, 1], "eos_token_id": 156892}
    layout = family_of(published(family, tmp_path / "LLaDA-MoE-7B-A1B-Base", **good)).layout
    assert (layout.mask_id, layout.eos_id, layout.bos_id) == (156895, 156892, None)
    wrong = {
        "qk_layernorm": (False, "qk_layernorm is False, not True"),
        "moe_router_score_function": ("sigmoid", "moe_router_score_function is 'sigmoid', not 'softmax'"),
        "shared_expert_intermediate_size": (512, "shared_expert_intermediate_size is 512, not None"),
        "partial_rotary_factor": (0.5, "partial_rotary_factor is 0.5, not 1"),
        "moe_layer_freq": ([0, 1], r"moe_layer_freq=\[0, 1\] leaves some blocks without experts"),
        "num_experts": (0, "config.json has no num_experts"),
    }
    for i, (name, (value, message)) in enumerate(wrong.items()):
        with pytest.raises(CheckpointError, match=message):
            family_of(published(family, tmp_path / str(i), **{**good, name: value}))


def test_experts_that_cannot_be(model):
    for changes, message in (
        ({"num_experts_per_tok": 0}, "num_experts=5 with num_experts_per_tok=0"),
        ({"num_experts_per_tok": 6}, "num_experts_per_tok=6"),
        ({"expert_hidden_size": None}, "expert_hidden_size=None"),
    ):
        with pytest.raises(InputError, match=message):
            replace(model.model.config, **changes)
    with pytest.raises(InputError, match="num_experts=4 with backbone='mmada', which has none"):
        Transformer(
            TransformerConfig(d_model=8, n_heads=2, n_layers=1, num_experts=4, num_experts_per_tok=1, expert_hidden_size=4, vocab_size=8)
        )
    with pytest.raises(InputError, match="num_experts=5: plans are for models with one feed-forward layer"):
        matrices_of(model.model.config)


def test_routers_are_not_quantized(model):
    packed = Transformer(model.model.config)
    packed.load_state_dict(model.model.state_dict())
    quantize(packed, "int8")
    kinds = [type(part) for part in packed.modules()]
    assert (kinds.count(Router), kinds.count(QuantizedLinear)) == (2, 2 * (4 + 3 * 5))
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        assert packed(tokens).logits.shape == model.model(tokens).logits.shape


def test_answers_and_the_card_sampler(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = MMaDA.from_pretrained(tmp_path, device="cpu")
    assert loaded.chat("Hello", seed=1) == model.chat("Hello", seed=1)
    assert loaded.fill("a [MASK:3] b", seed=1) == model.fill("a [MASK:3] b", seed=1)
    params = published_llada_moe(steps=8, block_length=4)
    assert (params.propose_any, params.stop_at_eos, params.steps_per_block(8)) == (True, False, 4)
    answer = model.fill("a [MASK:2] b", messages=[Message("user", "What?")])
    assert answer.text.startswith("a ")
