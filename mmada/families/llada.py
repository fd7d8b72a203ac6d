"""LLaDA-8B-Base, -Instruct, LLaDA-1.5 and what was fine-tuned from them: text alone.

    <|startoftext|> <header>user</header> \\n\\n TEXT <|eot_id|> <header>assistant</header> \\n\\n | answer

Source of the sampler: ML-GSAI/LLaDA, generate.py.
"""

from __future__ import annotations

from typing import ClassVar

from mmada.canvas import SPECIAL_STRINGS, Prompts, VocabLayout
from mmada.families.family import LLADA_CONSTANTS, LLADA_SIZES, Family
from mmada.sampling import SamplingParams
from mmada.sampling.confidence import narrow_probability, random_order
from mmada.sampling.draws import gumbel_power

__all__ = ["LLADA", "LladaPrompts", "published_llada"]


class LladaPrompts(Prompts):
    """Conversations with an empty line behind each header."""

    __slots__ = ()

    after_header: ClassVar[str] = "\n\n"


def published_llada(
    layout: VocabLayout,
    *,
    steps: int = 128,
    block_length: int = 128,
    temperature: float = 0.0,
    guidance_scale: float = 0.0,
    random_remasking: bool = False,
    logits_eos_inf: bool = False,
    confidence_eos_eot_inf: bool = False,
) -> SamplingParams:
    """LLaDA's sampler exactly as published.

    logits_eos_inf          the end of text is never proposed
    confidence_eos_eot_inf  end of text and end of turn are committed last; with a temperature, the published code forgets the end of text
    """
    ends = (layout.special("eos"), layout.special("eot"))
    late = ends if temperature == 0 else ends[1:]
    return SamplingParams(
        steps=steps,
        block_length=block_length,
        temperature=temperature,
        guidance_scale=guidance_scale,
        confidence=random_order if random_remasking else narrow_probability,
        stop_at_eos=False,
        propose_any=True,
        token_noise=gumbel_power,
        suppress_tokens=ends[:1] if logits_eos_inf else (),
        late_tokens=late if confidence_eos_eot_inf else (),
    )


_NAMED = ("bos", "eos", "mask", "start_header", "end_header", "eot")

LLADA = Family(
    name="llada",
    title="LLaDA",
    layout=VocabLayout(
        vocab_size=126464,
        image_offset=126349,
        codebook_size=0,
        mask_id=126336,
        bos_id=126080,
        eos_id=126081,
        start_header_id=126346,
        end_header_id=126347,
        eot_id=126348,
    ),
    classes=("LLaDAModelLM",),
    model_type="llada",
    hub_names=("GSAI-ML/LLaDA-8B-Base", "GSAI-ML/LLaDA-8B-Instruct", "GSAI-ML/LLaDA-1.5"),
    license="MIT (hub cards; the repository has no license file)",
    abilities=frozenset({"chat", "fill"}),
    strings={name: SPECIAL_STRINGS[name] for name in _NAMED},
    constants=LLADA_CONSTANTS,
    sizes=LLADA_SIZES,
    prompts=LladaPrompts,
    has_known_chat=True,
    layouts=frozenset({"chat", "interview", "infill"}),
)
