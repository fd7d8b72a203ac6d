"""SDAR and TraDo: text alone, on the backbone of Qwen3, written in blocks that see what comes before them.

    q q q q | q q a a | a a a a | a a a a      blocks of 4, counted from the beginning of the prompt; none sees the blocks behind it

So keys and values of finished blocks are exact (`prompt_in_blocks`, sampling/params.py). Holes in a text are not filled: what stands behind a hole is
not seen there. Source: JetAstra/SDAR, generate.py and modeling_sdar.py. No number of the published weights was seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mmada.canvas import VocabLayout
from mmada.families.chatml import ChatMLPrompts
from mmada.families.family import QWEN3_BLOCKS, Facts, Family
from mmada.sampling import CacheConfig, SamplingParams
from mmada.sampling.confidence import narrow_probability

__all__ = ["SDAR", "published_sdar"]


def published_sdar(
    *,
    block_length: int = 4,
    threshold: float = 0.85,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    cache: CacheConfig | None = None,
) -> SamplingParams:
    """SDAR's `block_diffusion_generate` with as many steps as a block has tokens, by the confidence of what is drawn from ("dynamic").

    threshold  1.0 commits one token a step ("static")
    Theirs fills whole blocks to the end; ask for as many new tokens as end one. A [MASK] is never proposed.
    """
    return SamplingParams(
        block_length=block_length,
        threshold=threshold,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        confidence=narrow_probability,
        confidence_narrowed=True,
        full_attention=False,
        prompt_in_blocks=True,
        cache=cache,
        stop_at_eos=False,
    )


def _settle(layout: VocabLayout, facts: Facts) -> VocabLayout:
    """As many text ids as the tokenizer has."""
    layout = replace(layout, vocab_size=facts.rows or layout.vocab_size)
    return layout if facts.token_ids is None else replace(layout, image_offset=1 + max(facts.token_ids.values()))


def _read(facts: Facts) -> Mapping[str, Any]:
    """The block that a checkpoint was trained with: some have 8 to 64 tokens."""
    size = facts.config.get("block_size")
    return {"block_length": size} if isinstance(size, int) else {}


SDAR = Family(
    name="sdar",
    title="SDAR",
    layout=VocabLayout(
        vocab_size=151936,
        image_offset=151670,
        codebook_size=0,
        mask_id=151669,
        eos_id=151643,
        start_header_id=151644,
        eot_id=151645,
    ),
    classes=("SDARForCausalLM",),
    model_type="sdar",
    hub_names=(
        "JetLM/SDAR-8B-Chat",
        "JetLM/SDAR-4B-Chat",
        "JetLM/SDAR-1.7B-Chat",
        "Gen-Verse/TraDo-8B-Instruct",
        "Gen-Verse/TraDo-4B-Instruct",
        "Gen-Verse/TraDo-8B-Thinking",
    ),
    license="Apache-2.0 (SDAR's cards; its repository has the MIT license), MIT (TraDo)",
    abilities=frozenset({"chat"}),
    strings={"eos": "<|endoftext|>", "mask": "<|MASK|>", "start_header": "<|im_start|>", "eot": "<|im_end|>"},
    settle=_settle,
    read=_read,
    config=QWEN3_BLOCKS,
    only={"hidden_act": ("silu",), "attention_bias": (False, None), "use_sliding_window": (False, None)},
    prompts=ChatMLPrompts,
    layouts=frozenset({"chat"}),
    text_noise="block",
    defaults={"full_attention": False, "prompt_in_blocks": True, "block_length": 4, "cache": "dual"},
)
