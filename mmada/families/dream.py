"""Dream-7B and Dream-Coder, Base and Instruct, and Apple's DiffuCoder: text alone, on the backbone of Qwen2.5-7B.

They were next-token predictors, and their logits kept that place: the hidden state before a token predicts it (`shifted_logits`).
DiffuCoder's tokenizer has one token more, <|dlm_pad|>, which fills the room behind an answer.

Source: DreamLM/Dream, README and generation_utils.py; DiffuCoder's model cards. No number of the published weights was seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mmada.canvas import VocabLayout
from mmada.errors import InputError, suggest
from mmada.families.chatml import ChatMLPrompts
from mmada.families.family import Facts, Family
from mmada.sampling import SamplingParams
from mmada.sampling.confidence import Confidence, margin, narrow_probability, negative_entropy, random_order
from mmada.sampling.params import constant, share_of_open, time_share

__all__ = ["DREAM", "ORDERS", "published_dream"]

ORDERS: Mapping[str, Confidence] = {
    "origin": random_order,
    "maskgit_plus": narrow_probability,
    "topk_margin": margin,
    "entropy": negative_entropy,
}
"""`alg` of the published sampler -> what is committed first."""


def published_dream(
    *,
    steps: int = 512,
    alg: str = "origin",
    alg_temp: float = 0.0,
    temperature: float = 0.0,
    top_p: float | None = None,
    top_k: int | None = None,
    eps: float = 1e-3,
) -> SamplingParams:
    """Dream's `diffusion_generate` for a row alone, with its defaults. The README asks for alg="entropy", temperature=0.2, top_p=0.95.

    alg       which positions are committed: any, each by itself (origin), or the surest ones. "Sure" is said of what is drawn from, after
              temperature, top-p and top-k
    alg_temp  noise on that
    eps       where time ends; it sets how many tokens each step commits
    Raises InputError for an unknown alg. With both top_p and top_k ours keeps the likeliest k first, theirs the share.
    """
    if alg not in ORDERS:
        raise InputError(f"alg={alg!r} is unknown: {suggest(alg, ORDERS)}")
    share = time_share(eps)
    return SamplingParams(
        steps=steps,
        confidence=ORDERS[alg],
        transfer_schedule=share_of_open(share),
        commit_share=share if alg == "origin" else None,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        choice_temperature=0.0 if alg == "origin" else alg_temp,
        anneal=constant,
        noise_on_score=True,
        confidence_narrowed=True,
        stop_at_eos=False,
        propose_any=True,
    )


def _settle(layout: VocabLayout, facts: Facts) -> VocabLayout:
    """As many text ids as the tokenizer has, and what fills the room behind an answer, if it has a token for that."""
    layout = replace(layout, vocab_size=facts.rows or layout.vocab_size)
    if facts.token_ids is None:
        return layout
    return replace(layout, image_offset=1 + max(facts.token_ids.values()), fill_id=facts.token_ids.get("<|dlm_pad|>"))


DREAM = Family(
    name="dream",
    title="Dream",
    layout=VocabLayout(
        vocab_size=152064,
        image_offset=151667,
        codebook_size=0,
        mask_id=151666,
        bos_id=151665,
        eos_id=151643,
        start_header_id=151644,
        eot_id=151645,
    ),
    classes=("DreamModel",),
    model_type="Dream",
    hub_names=(
        "Dream-org/Dream-v0-Base-7B",
        "Dream-org/Dream-v0-Instruct-7B",
        "Dream-org/Dream-Coder-v0-Base-7B",
        "Dream-org/Dream-Coder-v0-Instruct-7B",
        "apple/DiffuCoder-7B-Base",
        "apple/DiffuCoder-7B-Instruct",
        "apple/DiffuCoder-7B-cpGRPO",
    ),
    license="Apache-2.0; DiffuCoder: see its cards",
    abilities=frozenset({"chat", "fill"}),
    strings={
        "bos": "<|beginoftext|>",
        "eos": "<|endoftext|>",
        "mask": "<|mask|>",
        "start_header": "<|im_start|>",
        "eot": "<|im_end|>",
    },
    settle=_settle,
    config={
        "backbone": "qwen",
        "include_qkv_bias": True,
        "shifted_logits": True,
        "attention_layer_norm": False,
        "image_positions": 0,
        "short_conv": 0,
    },
    only={"hidden_act": ("silu",), "use_sliding_window": (False, None), "use_mrope": (False, None)},
    prompts=ChatMLPrompts,
    layouts=frozenset({"chat", "infill"}),
)
