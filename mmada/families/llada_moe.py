"""LLaDA-MoE-7B-A1B-Base and -Instruct: text alone, with 64 experts a block of which each token uses 8.

Turns are laid out by the chat template of the files, and what begins and ends a text is read from them. Source: inclusionAI's
modeling_lladamoe.py, as ZHZisZZ/dllm-trainer copied it at 1d4fff38, and what others wrote of its config.json, which could not be seen.
"""

from __future__ import annotations

from dataclasses import replace

from mmada.canvas import VocabLayout
from mmada.errors import CheckpointError
from mmada.families.family import QWEN3_BLOCKS, Facts, Family
from mmada.families.illada import IlladaPrompts
from mmada.sampling import SamplingParams
from mmada.sampling.confidence import narrow_probability
from mmada.sampling.draws import gumbel_power
from mmada.sampling.params import published_text

__all__ = ["LLADA_MOE", "published_llada_moe"]


def published_llada_moe(
    *, steps: int = 128, block_length: int = 128, temperature: float = 0.0, guidance_scale: float = 0.0
) -> SamplingParams:
    """The sampler of its model card, which is LLaDA's without switches for end tokens."""
    params = published_text(steps=steps, block_length=block_length, temperature=temperature, guidance_scale=guidance_scale)
    return params.with_(confidence=narrow_probability, token_noise=gumbel_power)


def _settle(layout: VocabLayout, facts: Facts) -> VocabLayout:
    """Raises CheckpointError for a model of another kind of experts."""
    if not facts.config.get("num_experts"):
        raise CheckpointError("config.json has no num_experts, and LLaDA-MoE has 64; copy or download it again")
    frequency = facts.config.get("moe_layer_freq")
    if isinstance(frequency, list) and not all(frequency):
        raise CheckpointError(
            f"moe_layer_freq={frequency} leaves some blocks without experts, which LLaDA-MoE has in all; use its own files"
        )
    layout = replace(layout, vocab_size=facts.rows or layout.vocab_size, eos_id=facts.eos_ids[0] if facts.eos_ids else layout.eos_id)
    if facts.token_ids is None:
        return layout
    bos_id, eot_id = (facts.token_ids.get(string) for string in ("<|startoftext|>", "<|role_end|>"))
    return replace(layout, image_offset=1 + max(facts.token_ids.values()), bos_id=bos_id, eot_id=eot_id)


LLADA_MOE = Family(
    name="llada-moe",
    title="LLaDA-MoE",
    layout=VocabLayout(vocab_size=157184, image_offset=157184, codebook_size=0, mask_id=156895, eos_id=156892),
    classes=("LLaDAMoEModelLM", "LLaDAMoEModel"),
    model_type="llada",
    hub_names=("inclusionAI/LLaDA-MoE-7B-A1B-Base", "inclusionAI/LLaDA-MoE-7B-A1B-Instruct"),
    license="Apache-2.0 (as others wrote)",
    abilities=frozenset({"chat", "fill"}),
    strings={"mask": "<|mask|>"},
    settle=_settle,
    config=QWEN3_BLOCKS,
    only={
        "hidden_act": ("silu",),
        "attention_bias": (False, None),
        "clip_qkv": (None,),
        "qk_layernorm": (True,),
        "moe_router_score_function": ("softmax", None),
        "moe_router_enable_expert_bias": (False, None),
        "shared_expert_intermediate_size": (None,),
        "partial_rotary_factor": (1, None),
        "routed_scaling_factor": (1, None),
    },
    prompts=IlladaPrompts,
    layouts=frozenset({"chat", "infill"}),
)
