"""The curriculum as values: which rows are seen, how they are noised, and what is scored.

    MixtureComponent    one kind of row: its layout, noise, weights and share of the batch
    Stage   components that share every forward pass, and how the weights move

    noise         what happens to a field of the canvas, drawn for each row
    independent   each position with probability p = (1 - eps) t + eps                       LLaDA, algorithm 1
    count         exactly k of n positions, k uniform in 1..n, p = k / n                     LLaDA, appendix A.2
    block         count in each block of block_length: the row holds the answer as it is and, behind it, its blocks noised. Each
                  sees what comes before it and itself, as in a sampler that fills block after block without looking ahead.
                  What lies behind the answer is filled later. Source: BD3-LM (Arriola et al. 2025)
    last_block    count in one block of block_length, each as likely. The row ends behind it and sees itself whole, as in a sampler that
                  adds one block after another (SamplingParams.variable_length). p is then k / n divided by the number of blocks
    cosine, ...   exactly round(n mask_ratio(t)) positions, at least one                     MaskGIT; any name of diffusion.schedule
    all           everything
    hidden        everything, and nothing is scored: a part that is filled later
    given         nothing: a part that was filled before

    weight        of a scored position: 1, 1/p, or 1/(p a) with a = maskable positions of the row, fill included
    normalizer    what a component's sum of weight * nll is divided by, summed over the whole global batch (train/step.py)

The published stages are here with their own odd choices (docs/parity.md); tests/train compares their losses with recorded numbers. Beside
them stand two for anybody's data: `tokenizer` and `finetune`. A world's stages are YAML files of its own (train/recipes.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch
from torch import Generator, Tensor

from mmada.canvas import Pads
from mmada.data.records import EDIT_TASKS
from mmada.diffusion import noise
from mmada.diffusion.schedule import schedule, text_mask_ratio
from mmada.errors import InputError
from mmada.train.optim import OptimizerConfig

__all__ = [
    "IN_BLOCKS",
    "OPTIONAL_TASKS",
    "STAGES",
    "UNSCORED",
    "ImageStage",
    "MixtureComponent",
    "PromptLayout",
    "Stage",
    "TaskName",
    "draw_mask",
    "exact_mask",
]

PromptLayout: TypeAlias = Literal[
    "chat", "plan", "interview", "infill", "draw", "reason_draw", "edit", "restyle", "parallel", "lm", "lm_chat", "mmu", "t2i", "r2i"
]
TaskName: TypeAlias = str
"""Name of a task that a source of samples declares: those of records (data/records.py), and any of a world."""
Weight: TypeAlias = Literal["1", "1/p", "1/(p a)"]
Normalizer: TypeAlias = Literal["scored", "rows", "positions", "maskable", "weight"]

UNSCORED = ("hidden", "given")
IN_BLOCKS = ("block", "last_block")
"""Noise types of an answer that is learned block by block."""
OPTIONAL_TASKS = EDIT_TASKS
"""Tasks without which a world or a mixture is whole: their components then take no part."""
NUM_FIELDS: Mapping[str, int] = {"reason_draw": 2, "parallel": 2, "r2i": 2}


def draw_mask(noise_type: str, n: int, t: float, generator: Generator) -> tuple[Tensor, float]:
    """Which of n maskable positions are masked, (n,) bool, and the probability or share p with which each of them was.

    noise_type  a name from the table above; t  a uniform number in [0, 1)
    """
    if noise_type == "all" or noise_type in UNSCORED:
        return torch.full((n,), noise_type != "given"), 1.0
    if noise_type == "independent":
        x0, maskable = torch.zeros(1, n, dtype=torch.long), torch.ones(1, n, dtype=torch.bool)
        ratio = text_mask_ratio(torch.tensor([t]))
        return noise.independent(x0, ratio, maskable, mask_id=-1, generator=generator).is_masked[0], float(ratio)
    return exact_mask(
        n, 1 + int(t * n) if noise_type == "count" else round(n * float(schedule(noise_type).mask_ratio(torch.tensor(t)))), generator
    )


def exact_mask(n: int, count: int, generator: Generator) -> tuple[Tensor, float]:
    """`count` of n positions, at least one, as `draw_mask` gives them."""
    count = max(1, count)
    x0, maskable = torch.zeros(1, n, dtype=torch.long), torch.ones(1, n, dtype=torch.bool)
    return noise.exact(x0, torch.tensor([count]), maskable, mask_id=-1, generator=generator).is_masked[0], count / n


@dataclass(frozen=True, kw_only=True, slots=True)
class MixtureComponent:
    """One kind of row. Raises InputError if its parts do not fit together."""

    name: str
    task: TaskName
    """which samples its rows are made of"""
    layout: PromptLayout
    """how a sample becomes a canvas: chat, draw, infill, reason_draw, edit, restyle and parallel as at inference, plan as a chat that is asked to
    think about a drawing. In interview every answer of a conversation is learned. The others are as published (canvas/prompts.py)"""
    noise: tuple[str, ...]
    """a noise type for each field of the canvas, in order: the answer, or the image, or both"""
    mixture_weight: float
    """rows of the batch, relative to the other components"""
    weight: Weight = "1"
    normalizer: Normalizer = "scored"
    """what the sum of weight * nll is divided by, counted over the global batch. `scored` positions: a plain mean. Their `weight`: a weighted
    mean. The `maskable` positions with their factors: an unbiased mean over the answer if the weight is 1/p. Or `rows`, or `positions` of the rows.
    Restored codes and markers count as scored and with their weight. They are not maskable"""
    coefficient: float = 1.0
    """of this component's loss in the sum"""
    think: float = 0.0
    """share of rows with thinking, of those that have any"""
    cond_dropout_prob: float = 0.0
    """share of rows whose condition is dropped, for guidance"""
    markers: bool = False
    """also score the visible begin and end of the image, as published"""
    head: Literal["slice", "full"] = "slice"
    """logits over text ids or image codes only, or over the whole vocabulary, as published"""
    complement: bool = False
    """each row twice, the second time with what the first left visible masked: every token is scored once"""
    answer_weight: float = 1.0
    """extra factor on the answer behind </think>, which is a small part of the tokens"""
    image_mask_ratio: float = 0.0
    """largest share of a seen image that is masked and scored as well; each row draws its own share. What an image shows is learned from
    looking, too, at no cost but the head's. Each code adds its nll to the sum with weight 1. The divisors maskable, rows and positions do not
    grow by it: (answer + codes) / answer tokens is not a mean, and `coefficient` makes up for it. normalizer=scored gives the mean of both"""
    eos_padding_weight: float = 1.0
    """extra factor on the end tokens behind the first, which pad an answer to its length"""

    def __post_init__(self) -> None:
        if len(self.noise) != NUM_FIELDS.get(self.layout, 1):
            raise InputError(
                f"component {self.name!r}: layout {self.layout!r} has {NUM_FIELDS.get(self.layout, 1)} fields, noise={self.noise} "
                "names another number of noise types; give one for each"
            )
        for noise_type in self.noise:
            if noise_type not in ("independent", "count", *IN_BLOCKS, "all", *UNSCORED):
                schedule(noise_type)
        first = next((n for n, noise_type in enumerate(self.noise) if noise_type in IN_BLOCKS), len(self.noise))
        if any(noise_type not in UNSCORED for noise_type in self.noise[first + 1 :]):
            raise InputError(
                f"component {self.name!r}: noise={self.noise} scores a part behind blocks, which is filled later; make it hidden"
            )
        if all(noise_type in UNSCORED for noise_type in self.noise):
            raise InputError(
                f"component {self.name!r}: noise={self.noise} scores nothing; give one field a noise type such as count or cosine"
            )
        for name in ("think", "cond_dropout_prob", "image_mask_ratio"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"component {self.name!r}: {name}={getattr(self, name)} is a share of rows and must lie in 0..1")
        for name in ("mixture_weight", "coefficient", "answer_weight", "eos_padding_weight"):
            if not getattr(self, name) >= 0:
                raise InputError(f"component {self.name!r}: {name}={getattr(self, name)} must not be negative; 0 turns it off")
        if self.markers and self.head == "slice":
            raise InputError(f"component {self.name!r}: markers are text ids behind an image; score them with head=full")
        if self.complement and self.image_mask_ratio:
            raise InputError(
                f"component {self.name!r}: complement=true masks each part in two rows, image_mask_ratio={self.image_mask_ratio} in one; use one of them"
            )
        if self.complement and ("independent" in self.noise or self.weight != "1"):
            raise InputError(
                f"component {self.name!r}: complement=true needs a noise type with an exact count and weight=1, not {self.noise}, {self.weight}"
            )

    @property
    def in_blocks(self) -> bool:
        """Whether its answers are learned block by block."""
        return any(noise_type in IN_BLOCKS for noise_type in self.noise)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """A stage of the transformer."""

    name: str
    components: tuple[MixtureComponent, ...]
    batch: int
    """rows of a global batch, all components, processes and micro-batches together"""
    optim: OptimizerConfig
    steps: int
    """optimizer steps"""
    trainable: tuple[str, ...] = ("*",)
    """patterns of parameter names (fnmatch); what matches none is frozen"""
    answer_lengths: tuple[int, ...] = (4, 8, 16, 32, 64, 96)
    """lengths to which an answer in chat and reason_draw is padded with end tokens"""
    block_length: int | None = None
    """positions of a block, for the noise types `block` and `last_block`; the answer's length is then the fewest blocks that hold it. None: as
    many as the checkpoint's defaults say, by which it is sampled"""
    prompt_in_blocks: bool = False
    """with the noise type `block`: blocks are counted from the beginning of the row. A run takes it from the checkpoint's defaults"""
    longer_answer_share: float = 0.3
    """share of rows whose length is any of those that fit, instead of the smallest: inference does not know the length"""
    stratified: bool = True
    """times t of a component's rows spread evenly (a golden-ratio sequence) instead of independently; each alone is uniform"""
    text_length: int | None = None
    """T of the published layouts"""
    pads: Pads = "hidden"
    """whether t2i's left padding is attended to"""
    mask_value: float | None = None
    """added to hidden pairs of the attention; the published code makes it -1, a soft mask (docs/parity.md); None hides them"""

    def __post_init__(self) -> None:
        names = [component.name for component in self.components]
        if not names or len(set(names)) != len(names) or not any(component.mixture_weight for component in self.components):
            raise InputError(f"stage {self.name!r} has the components {names}; give at least one with a share above 0, each name once")
        if min(self.batch, self.steps, 1 if self.block_length is None else self.block_length) < 1:
            raise InputError(
                f"stage {self.name!r}: batch={self.batch}, steps={self.steps} and block_length={self.block_length} must be at least 1"
            )
        if not self.answer_lengths or list(self.answer_lengths) != sorted(self.answer_lengths) or self.answer_lengths[0] < 2:
            raise InputError(f"stage {self.name!r}: answer_lengths={self.answer_lengths} must ascend, from at least 2 tokens")
        if not 0 <= self.longer_answer_share <= 1:
            raise InputError(f"stage {self.name!r}: longer_answer_share={self.longer_answer_share} is a share of rows and must lie in 0..1")
        if self.mask_value is not None and any(component.in_blocks for component in self.components):
            raise InputError(
                f"stage {self.name!r}: the noise types block and last_block hide tokens entirely; leave mask_value={self.mask_value} out"
            )
        if self.text_length is None and any(component.layout in ("lm", "lm_chat", "mmu", "t2i", "r2i") for component in self.components):
            raise InputError(f"stage {self.name!r}: published layouts need text_length; give one, such as 512")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageStage:
    """A stage of the image tokenizer: weights of its losses, which are means over the images of a batch.

    The loss of an image tokenizer with frozen parts is the same; `trainable` names what moves, such as [decoder.*, post_quant_conv.*].
    """

    name: str
    batch: int
    """images of a global batch"""
    optim: OptimizerConfig
    steps: int
    """optimizer steps"""
    kind: Literal["", "vqvae"] = ""
    """of tokenizers that it is for; empty: any whose losses it has"""
    l1: float = 1.0
    """mean absolute error of pixels in [-1, 1]"""
    l2: float = 2.0
    """mean squared error of pixels"""
    gradient: float = 0.5
    """mean absolute error of the Sobel gradients: edges"""
    quantizer: float = 1.0
    """distance of latents to their signs (quantizer.quantizer_loss). Of a VQ-VAE: of codebook vectors to latents, and 0.25 times of latents to vectors"""
    entropy: float = 1.0
    """each bit certain, all bits used (quantizer.entropy_loss); 0 for a VQ-VAE, whose codes have no bits"""
    trainable: tuple[str, ...] = ("*",)
    """patterns of parameter names (fnmatch); what matches none is frozen. With a frozen encoder and codebook codes stay as they are"""

    def __post_init__(self) -> None:
        if self.batch < 1 or self.steps < 1:
            raise InputError(f"stage {self.name!r}: batch={self.batch} and steps={self.steps} must be at least 1")
        for name in ("l1", "l2", "gradient", "quantizer", "entropy"):
            if not getattr(self, name) >= 0:
                raise InputError(f"stage {self.name!r}: {name}={getattr(self, name)} must not be negative; 0 turns it off")


# Published. One optimizer for all stages; the floor of the cosine is 0, because the published min_lr_scale has no effect.


def _published(
    name: str,
    *,
    text_length: int,
    rows: tuple[float, float, float],
    batch: int,
    coefficients: tuple[float, float, float],
    lr: float,
    steps: int,
) -> Stage:
    """Flows t2i, lm, mmu with plain text; rows and coefficients in this order. The batch is that of 64 GPUs with accumulation."""
    t2i = MixtureComponent(
        name="t2i", task="draw", layout="t2i", noise=("cosine",), cond_dropout_prob=0.1, markers=True, head="full",
        mixture_weight=rows[0], coefficient=coefficients[0],
    )  # fmt: skip
    lm = MixtureComponent(
        name="lm", task="text", layout="lm", noise=("independent",), weight="1/p", normalizer="positions", head="full",
        mixture_weight=rows[1], coefficient=coefficients[1],
    )  # fmt: skip
    mmu = MixtureComponent(
        name="mmu", task="understand", layout="mmu", noise=("independent",), weight="1/(p a)", normalizer="rows", head="full",
        mixture_weight=rows[2], coefficient=coefficients[2],
    )  # fmt: skip
    optim = OptimizerConfig(lr=lr, betas=(0.9, 0.999), weight_decay=0.01, decay_everything=True, clip=1.0, schedule="cosine", warmup=5000)
    return Stage(
        name=name,
        components=(t2i, lm, mmu),
        batch=batch,
        optim=optim,
        steps=steps,
        text_length=text_length,
        mask_value=-1.0,
        stratified=False,
    )


def _with_chat(stage: Stage, *, think: float = 0.0) -> Stage:
    """The same with dialogues as text. A sample without messages is plain text: all of it is maskable, and a is the whole row."""
    t2i, lm, mmu = stage.components
    chat = replace(lm, name="lm_chat", layout="lm_chat", weight="1/(p a)", normalizer="rows", think=think)
    return replace(stage, components=(t2i, chat, replace(mmu, think=think)))


_11 = _published("1.1", text_length=128, rows=(7, 2, 6), batch=1920, coefficients=(1.0, 0.1, 1.0), lr=1e-4, steps=500_000)
_12 = _published("1.2", text_length=256, rows=(7, 2, 3), batch=1536, coefficients=(1.0, 0.1, 0.5), lr=5e-5, steps=1_000_000)
_13 = _published("1.3", text_length=512, rows=(4, 1, 1), batch=1536, coefficients=(1.0, 0.4, 0.5), lr=5e-5, steps=1_000_000)
_21 = _published("2.1", text_length=512, rows=(1, 2, 1), batch=1024, coefficients=(1.0, 0.5, 0.5), lr=5e-5, steps=1_000_000)
_22 = _published("2.2", text_length=512, rows=(1, 2, 1), batch=1024, coefficients=(0.05, 0.6, 0.4), lr=5e-5, steps=1_000_000)

# General. An image is masked by a uniform share: MaskGIT's cosine spends most of its rows on images that are all but empty, where nothing can be learned
# of what objects look like. Text counts k of a block of n with weight n / k, the low-variance form of LLaDA's objective.

_TEXT = MixtureComponent(
    name="text", task="text", layout="chat", noise=("block",), weight="1/p", normalizer="maskable", mixture_weight=0.2, eos_padding_weight=0.1
)  # fmt: skip
# Both fields have lost as much at a time t, since the sampler fills them in the same passes.
_PARALLEL = MixtureComponent(
    name="parallel", task="parallel", layout="parallel", noise=("linear", "linear"), normalizer="weight", mixture_weight=0.4, think=1.0,
    cond_dropout_prob=0.1, eos_padding_weight=0.1,
)  # fmt: skip
_DRAW = MixtureComponent(name="draw", task="draw", layout="draw", noise=("linear",), mixture_weight=0.5, cond_dropout_prob=0.1)

STAGES: Mapping[str, Stage | ImageStage] = {
    stage.name: stage
    for stage in (
        ImageStage(
            name="tokenizer",
            batch=32,
            steps=3000,
            optim=OptimizerConfig(name="muon", lr=2e-3, matrix_lr=0.02, betas=(0.9, 0.99), weight_decay=0.0, ema=0.995),
        ),
        # Latents follow their vectors and vectors their latents, so that both move by one optimizer at one rate.
        ImageStage(
            name="vqvae",
            kind="vqvae",
            batch=32,
            steps=3000,
            entropy=0.0,
            optim=OptimizerConfig(lr=1e-3, betas=(0.9, 0.99), weight_decay=0.0, ema=0.995),
        ),
        Stage(
            name="finetune",
            components=(
                replace(_TEXT, name="look", task="understand", mixture_weight=0.35, think=1.0),
                replace(_TEXT, mixture_weight=0.25, think=1.0),
                replace(_DRAW, mixture_weight=0.4),
                replace(_TEXT, name="plan", task="reason_draw", mixture_weight=0.08, think=1.0),  # thinking that ends in a plain prompt
                replace(_DRAW, name="make", task="reason_draw", mixture_weight=0.05),  # the same instructions drawn at once
                replace(_DRAW, name="edit", task="edit", layout="edit", mixture_weight=0.4),
                replace(_DRAW, name="restyle", task="restyle", layout="restyle", mixture_weight=0.4),
                _PARALLEL,
            ),
            batch=16,
            steps=150,
            optim=OptimizerConfig(lr=5e-4, schedule="cosine", warmup=10),
            answer_lengths=(8, 16, 32, 64, 96, 128, 256),
        ),
        _11,
        _12,
        _with_chat(_13),
        _with_chat(_21, think=1.0),
        _with_chat(_22, think=1.0),
    )
}
"""The general stages and the published ones, by name. A world brings its own as recipes (train/recipes.py)."""
