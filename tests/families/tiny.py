"""Tiny checkpoints of every family, with random weights: 256 bytes, the family's special tokens, 64 image codes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch

from mmada.canvas import VocabLayout
from mmada.families import Family
from mmada.generation.planner import Planner
from mmada.generation.programs import program_of
from mmada.generation.requests import GenerationConfig, Request
from mmada.generation.steps import Fill, Work
from mmada.hub import tokenizer
from mmada.image import VQVAE, BaseImageTokenizer, ImageTokenizer, ImageTokenizerConfig, VQVAEConfig
from mmada.model import Transformer, preset
from mmada.pipeline import MMaDA

SMALL = {
    "max_new_tokens": 16,
    "max_thinking_tokens": 16,
    "block_length": 8,
    "image_height": 16,
    "image_width": 16,
    "image_crops": False,
    "one_image_size": False,
    "image_steps": 4,
}


TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""A chat template such as iLLaDA's files may hold."""


def compact(family: Family) -> tuple[VocabLayout, list[str]]:
    """A layout with the family's special tokens behind 256 bytes, and their strings in order."""
    names = list(family.layout.special_ids)
    strings = [family.strings.get(name, f"<|{name}|>") for name in names]
    strings += [tag for tag in family.tags if tag not in strings]
    offset, codes = 256 + len(strings), 64 if family.layout.codebook_size else 0
    special = {f"{name}_id": 256 + i for i, name in enumerate(names)}
    layout = VocabLayout(vocab_size=-(-(offset + codes) // 64) * 64, image_offset=offset, codebook_size=codes, **special)
    return layout, strings


def tiny(family: Family, **sizes: int) -> MMaDA:
    layout, strings = compact(family)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = preset("debug", layout=layout, max_sequence_length=1024, init_std=0.2, **sizes)
        model = Transformer(replace(config, extra={"family": family.name}))
        images = image_tokenizer(family) if codes_of(layout) else None
    defaults = GenerationConfig(**{**family.defaults, **SMALL})
    own = replace(family, layout=layout)
    return MMaDA(model, own.prompts(layout, tokenizer.byte_level(special=strings), defaults.style), images, defaults=defaults, family=own)


def image_tokenizer(family: Family) -> BaseImageTokenizer:
    """Of the family's kind, with 64 codes of 2 x 2 pixels."""
    if family.image_tokenizer == "vqvae":
        sizes = VQVAEConfig(block_out_channels=(8, 8), layers_per_block=1, latent_channels=4, num_vq_embeddings=64, norm_num_groups=4)
        return VQVAE(sizes).eval()
    small = ImageTokenizerConfig(
        ch=16,
        encoder_ch_mult=(1, 1),
        encoder_num_res_blocks=(1, 1),
        decoder_ch_mult=(1, 1),
        decoder_num_res_blocks=(1, 1),
        z_channels=6,
    )
    return ImageTokenizer(small).eval()


def planned(request: Request, planner: Planner) -> Fill:
    """The first row that a request asks for."""
    program = program_of(request, planner)
    asked = next(program)
    while isinstance(asked, Work):
        asked = program.send(asked.function())
    assert isinstance(asked, Fill)
    return asked


def codes_of(layout: VocabLayout) -> int:
    return layout.codebook_size


def published(family: Family, directory: Path, /, **changes: object) -> Path:
    """What the files of a published checkpoint say that a family is told by; no weights."""
    directory.mkdir(parents=True, exist_ok=True)
    layout = family.layout
    config = {
        "architectures": [family.classes[0]],
        "model_type": family.model_type,
        "vocab_size": layout.vocab_size,
        "embedding_size": layout.vocab_size,
        "mask_token_id": layout.mask_id,
        "eos_token_id": layout.eos_id,
    }
    unknown = {"rope_theta": 500000.0, "rms_norm_eps": 1e-5}
    config |= {name: unknown[name] for name, value in family.constants.items() if value is None}
    (directory / "config.json").write_text(json.dumps({**config, **changes}))
    strings = {string: layout.special(name) for name, string in family.strings.items()}
    free = iter(range(layout.image_offset))
    strings |= {tag: next(i for i in free if i not in strings.values()) for tag in family.tags if tag not in strings}
    added = [{"content": string, "id": i} for string, i in strings.items()]
    (directory / "tokenizer.json").write_text(
        json.dumps({"model": {"vocab": {"the last": layout.image_offset - 1}}, "added_tokens": added})
    )
    return directory
