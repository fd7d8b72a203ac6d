"""iLLaDA-8B-Base and -Instruct: text alone, with grouped keys, tied embeddings, a context of 8,192 tokens and a vocabulary of its own.

What its end tokens are, and how turns are laid out, is read from the files of a checkpoint: config.json and the chat template of its tokenizer.
So are the base of its rotary positions and the epsilon of its norms, which are published nowhere else.
Source: README of ML-GSAI/LLaDA and the hub's card of iLLaDA-8B-Base, June 2026. No number of it was recorded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from mmada.canvas import Message, Prompts, VocabLayout
from mmada.errors import CheckpointError, InputError
from mmada.families.chat_template import TemplateTokenizer, template_ids
from mmada.families.family import LLADA_SIZES, Facts, Family

__all__ = ["ILLADA", "IlladaPrompts"]


class IlladaPrompts(Prompts):
    """Conversations as the chat template of the tokenizer lays them out."""

    __slots__ = ()

    has_headers: ClassVar[bool] = False

    def dialogue(self, messages: Sequence[Message], *, thinking: str | None = None) -> list[int]:
        """As in `Prompts`, by the template of the tokenizer's files. Raises InputError if the tokenizer cannot have one."""
        if not messages or messages[-1].role != "user":
            raise InputError(f"the last of {len(messages)} messages must be the user's; add the question")
        if any(not message.content.strip() for message in messages):
            raise InputError("content='' of a message is empty; write a prompt")
        if not isinstance(self.tokenizer, TemplateTokenizer):
            raise InputError(f"prompts.tokenizer is a {type(self.tokenizer).__name__}, which has no chat template; give a TextTokenizer")
        asked = Message("user", (thinking or "") + messages[-1].content.strip())
        return template_ids(self.tokenizer, [*messages[:-1], asked])


def _settle(layout: VocabLayout, facts: Facts) -> VocabLayout:
    """Raises CheckpointError if config.json does not say which token ends a text."""
    if not facts.eos_ids:
        raise CheckpointError("config.json has no eos_token_id, which ends a text of iLLaDA; copy or download it again")
    num_text = layout.image_offset if facts.token_ids is None else 1 + max(facts.token_ids.values())
    eot = facts.eos_ids[1] if len(facts.eos_ids) > 1 else None
    bos = facts.bos_id if facts.bos_id not in facts.eos_ids else None
    return replace(layout, image_offset=num_text, eos_id=facts.eos_ids[0], eot_id=eot, bos_id=bos)


ILLADA = Family(
    name="illada",
    title="iLLaDA",
    # Which id ends a text is not published; the one here only stands until `_settle` has read the files.
    layout=VocabLayout(vocab_size=155136, image_offset=155136, codebook_size=0, mask_id=5, eos_id=2),
    classes=("LLaDAModelLM", "ILLaDAForCausalLM"),
    model_type="llada",
    hub_names=("GSAI-ML/iLLaDA-8B-Base", "GSAI-ML/iLLaDA-8B-Instruct"),
    license="Apache-2.0",
    abilities=frozenset({"chat", "fill"}),
    strings={"mask": "<[MASK]>"},
    settle=_settle,
    # Code of others that loads the published files has this class, and tensors as Llama names them. Which is right is seen at the first load.
    config_of={
        "ILLaDAForCausalLM": {"backbone": "qwen", "attention_layer_norm": False, "image_positions": 0, "short_conv": 0},
    },
    constants={"tie_word_embeddings": True, "rope_theta": None, "rms_norm_eps": None},
    sizes={**LLADA_SIZES, "n_kv_heads": 8, "mlp_hidden_size": 14336},
    context=8192,
    prompts=IlladaPrompts,
    defaults={"variable_length": True},
    layouts=frozenset({"chat", "infill"}),
)
