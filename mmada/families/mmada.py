"""MMaDA-8B-Base and -MixCoT, and every checkpoint that this package trains: the vocabulary and prompts of `canvas/`."""

from mmada.canvas import PUBLISHED, SPECIAL_STRINGS
from mmada.families.family import LLADA_CONSTANTS, LLADA_SIZES, Family

__all__ = ["MMADA"]

_NAMED = ("bos", "eos", "mask", "start_header", "end_header", "eot")
"""What the published tokenizer knows by name; the other special tokens are reserved entries to it."""

MMADA = Family(
    name="mmada",
    title="MMaDA",
    layout=PUBLISHED,
    classes=("MMadaModelLM",),
    model_type="mmada",
    hub_names=("Gen-Verse/MMaDA-8B-Base", "Gen-Verse/MMaDA-8B-MixCoT"),
    license="MIT",
    abilities=frozenset({"chat", "look", "draw", "fill", "inpaint"}),
    strings={name: SPECIAL_STRINGS[name] for name in _NAMED},
    constants=LLADA_CONSTANTS,
    sizes=LLADA_SIZES,
    image_tokenizer="magvit-v2",
    layouts=frozenset({"chat", "plan", "interview", "infill", "draw", "reason_draw", "lm", "lm_chat", "mmu", "t2i", "r2i"}),
    text_noise="block",
)
