"""Named ways of filling a canvas: a few numbers and three small functions.

    params            commits each step                   order                 temperature   blocks
    published_text    an even share of the steps          probability           0 or more     n
    published_image   what the cosine schedule asks for   log p + T_k * Gumbel  1             1
    fast_text         all above a confidence, at least 1  probability           0 or more     n
    fast_image        the schedule, linear annealing      log p + T_k * Gumbel  any           1
    infill            all above a confidence, at least 1  probability           0 or more     1

`propose_any` and `compounding` are behavior of the published code that only parity needs; docs/parity.md says why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from mmada.diffusion.loss import widest
from mmada.diffusion.schedule import Schedule, cosine
from mmada.diffusion.transfer import even_at, remaining
from mmada.errors import InputError, suggest
from mmada.sampling.confidence import Confidence, negative_entropy, probability, random_order
from mmada.sampling.draws import ChoiceNoise, TokenNoise, gumbel
from mmada.sampling.guidance import Guidance, classifier_free

__all__ = [
    "CACHES",
    "IMAGE_CACHES",
    "Anneal",
    "CacheConfig",
    "MaxLogitCacheConfig",
    "SamplingParams",
    "TransferSchedule",
    "TransferShare",
    "TransferState",
    "compounding",
    "constant",
    "even",
    "fast_image",
    "fast_text",
    "follow_open",
    "follow_schedule",
    "infill",
    "keep_one",
    "linear_anneal",
    "linear_target",
    "named_cache",
    "named_image_cache",
    "share_of_open",
    "time_share",
]


@dataclass(frozen=True, slots=True, eq=False)
class TransferState:
    """What a quota may look at, all (A,) int64: positions still open in the block, at its start, and in the whole region.

    Also the step within the block, and the steps that it has."""

    num_open: Tensor
    num_start: Tensor
    num_total: Tensor
    step: Tensor
    steps: Tensor


TransferSchedule = Callable[[TransferState], Tensor]
TransferShare = Callable[[TransferState], Tensor]
"""A number in 0..1 for each row, (A,) float32."""
Anneal = Callable[[int, int], float]


def even(count: TransferState) -> Tensor:
    """Split what was open at the block's start evenly over its steps."""
    return even_at(count.num_start, count.step, count.steps)


@cache
def follow_schedule(schedule: Schedule) -> TransferSchedule:
    """Leave as many open as the schedule says; the last step commits everything (MaskGIT, section 3.2).

    One function object a schedule, so that parameters of equal settings are equal.
    """

    def transfer_schedule(count: TransferState) -> Tensor:
        progress = (count.step + 1).float() / count.steps
        keep = remaining(count.num_open, count.num_total, progress, schedule)
        return (count.num_open - keep).where(count.step + 1 < count.steps, count.num_open)

    return transfer_schedule


@cache
def follow_open(schedule: Schedule) -> TransferSchedule:
    """`follow_schedule` over what was open at the start instead of the whole region; a last open position is not kept waiting (Lumina-DiMOO)."""

    def transfer_schedule(count: TransferState) -> Tensor:
        progress = (count.step + 1).float() / count.steps
        keep = remaining(count.num_open, count.num_start, progress, schedule)
        return (count.num_open - keep).where((count.step + 1 < count.steps) & (count.num_open > 1), count.num_open)

    return transfer_schedule


@cache
def keep_one(schedule: Schedule) -> TransferSchedule:
    """Parity only: `follow_schedule` whose last step, too, leaves one position open (MMaDA-Parallel-A)."""

    def transfer_schedule(count: TransferState) -> Tensor:
        progress = (count.step + 1).float() / count.steps
        return count.num_open - remaining(count.num_open, count.num_total, progress, schedule)

    return transfer_schedule


def linear_target(count: TransferState) -> Tensor:
    """Commit down to floor(n (1 - (step + 1) / steps)) open positions: uneven where n and steps do not divide (MMaDA-Parallel-A)."""
    before, after = (1 - (count.step + i).double() / count.steps for i in (0, 1))
    return (count.num_start * before).floor().long() - (count.num_start * after).floor().long()


@cache
def time_share(eps: float) -> TransferShare:
    """1 - s / t, where time falls from 1 to eps in equal steps, from t to s in this one; 1 in the last (Dream, LLaDA appendix A)."""

    def share(count: TransferState) -> Tensor:
        t, s = (_time(count.step + i, count.steps, eps) for i in (0, 1))
        return torch.where(count.step + 1 < count.steps, 1 - s / t, 1.0)

    return share


def _time(step: Tensor, steps: Tensor, eps: float) -> Tensor:
    """Element `step` of torch.linspace(1, eps, steps + 1) in float32, which multiplies and adds with one rounding."""
    end = torch.tensor(eps, device=steps.device)
    size, end = ((end - 1) / steps).to(widest(steps.device)), end.to(widest(steps.device))
    return torch.where(step < (steps + 1) // 2, 1 + size * step, end - size * (steps - step)).float()


@cache
def share_of_open(share: TransferShare) -> TransferSchedule:
    """Commit the whole part of a share of what is open now; a step may commit nothing (Dream)."""

    def transfer_schedule(count: TransferState) -> Tensor:
        return (count.num_open * share(count)).long()

    return transfer_schedule


def constant(step: int, steps: int) -> float:
    """No annealing (Lumina-DiMOO, Dream)."""
    return 1.0


def compounding(step: int, steps: int) -> float:
    """Product of (1 - (j+1)/steps) for j <= step: the published code overwrites its temperature each step."""
    factor = 1.0
    for j in range(step + 1):
        factor *= 1.0 - (j + 1) / steps
    return factor


def linear_anneal(step: int, steps: int) -> float:
    """1 - (step+1)/steps, as MaskGIT means it."""
    return 1.0 - (step + 1) / steps


def _at_least(name: str, value: float | None, least: float) -> None:
    if isinstance(value, str):
        raise InputError(f"{name}={value!r} must be a number")
    if value is not None and not (math.isfinite(value) and value >= least):
        raise InputError(f"{name}={value} must be at least {least}, and finite")


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheConfig:
    """Evaluate a window around the active block, and let it attend to keys and values of the rest as an earlier step left them.

    An approximation: in a bidirectional model every committed token changes all keys a little. A block's first step evaluates everything,
    and a block that takes one step loses nothing. With refresh=1 nothing is approximated. Source: Wu et al. 2025, "Fast-dLLM".
    Exact without full attention: what came before sees no later token, and a block's first step evaluates it and the one before it.
    Raises InputError for a value that cannot be used.
    """

    before: int = 0
    """positions before the block that are evaluated with it"""
    after: int | None = 0
    """positions behind the block that are evaluated with it; None: all of them"""
    refresh: int | None = None
    """evaluate everything again after so many steps of a block; None: only at its first"""

    def __post_init__(self) -> None:
        _at_least("before", self.before, 0)
        _at_least("after", self.after, 0)
        _at_least("refresh", self.refresh, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class MaxLogitCacheConfig:
    """Between full passes, evaluate only the positions whose largest logit is low (sampling/logit_cache.py). For fields in one block, such as images.

    Exact with cache_ratio=0, or refresh_interval=1. Source: Lumina-DiMOO, whose defaults these are.
    Raises InputError for a value that cannot be used.
    """

    cache_ratio: float = 0.9
    """share of a row's positions that are not evaluated"""
    warmup_ratio: float = 0.3
    """share of the steps, the first ones, that evaluate everything"""
    refresh_interval: int = 5
    """steps from one full pass to the next"""

    def __post_init__(self) -> None:
        for name in ("cache_ratio", "warmup_ratio"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name}={getattr(self, name)} must lie between 0 and 1")
        _at_least("refresh_interval", self.refresh_interval, 1)

    def is_full(self, step: int, steps: int) -> bool:
        """Whether a step evaluates everything."""
        since = step - int(self.warmup_ratio * steps)
        return since <= 0 or since % self.refresh_interval == 0


CACHES: Mapping[str, CacheConfig | None] = {"none": None, "prefix": CacheConfig(after=None), "dual": CacheConfig()}
"""By the names that Fast-dLLM gave them: keep what lies before the block, or what lies on both sides."""


IMAGE_CACHES: Mapping[str, MaxLogitCacheConfig | None] = {"none": None, "max-logit": MaxLogitCacheConfig()}
"""Of drawings."""


def named_cache(name: str) -> CacheConfig | None:
    """The cache of a name in CACHES. Raises InputError."""
    if name not in CACHES:
        raise InputError(f"cache={name!r} is unknown: {suggest(name, CACHES)}")
    return CACHES[name]


def named_image_cache(name: str) -> MaxLogitCacheConfig | None:
    """The cache of a name in IMAGE_CACHES. Raises InputError."""
    if name not in IMAGE_CACHES:
        raise InputError(f"image_cache={name!r} is unknown: {suggest(name, IMAGE_CACHES)}")
    return IMAGE_CACHES[name]


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How one request is decoded. Raises InputError for a value that cannot be used."""

    steps: int | None = None
    """forward passes for the whole field, split evenly over its blocks; None: as many as the threshold needs"""
    block_length: int | None = None
    """open positions in a block; blocks are finished from left to right; None: one block"""
    transfer_schedule: TransferSchedule = even
    """how many to commit when `steps` is given"""
    confidence: Confidence = probability
    """which to commit first"""
    threshold: float | None = None
    """also commit every proposal whose score reaches this, a probability (0 or less for `negative_entropy`); at least one each step.
    The score must be a confidence, which `random_order` is not"""
    temperature: float = 0.0
    """of the proposals; 0 is the arg max"""
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    """propose no id that is less likely than this share of the likeliest"""
    frequency_penalty: float = 0.0
    """taken from an id's logit for each time that it is committed (sampling/penalties.py)"""
    presence_penalty: float = 0.0
    """taken from it once it is committed"""
    repetition_penalty: float = 1.0
    """by which it is divided once it is committed, or if it stands in the prompt"""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """ids, each with what is added to its logit"""
    choice_temperature: float = 0.0
    """Gumbel noise on the logarithm of the score, annealed; 0 is none"""
    anneal: Anneal = linear_anneal
    guidance_scale: float = 0.0
    """g of u + (1 + g)(c - u); 0 is no guidance, 3.5 the published image setting (4.5 in the usual convention)"""
    image_guidance_scale: float | None = None
    """of a source image, beside `guidance_scale` of the words: two unconditional rows; None: one"""
    guidance: Guidance = classifier_free
    """how the logits of the rows are combined (sampling/guidance.py)"""
    suppress_tokens: tuple[int, ...] = ()
    """ids that are never proposed, beside those that the canvas does not allow"""
    late_tokens: tuple[int, ...] = ()
    """ids whose confidence is 0, so that they are committed when nothing else is left; end tokens, for models that end too early"""
    stop_at_eos: bool = True
    """end a text as soon as everything before its first end token is committed; the rest is filled with end tokens"""
    full_attention: bool = True
    """evaluate the open positions after the active block too, as published. False leaves them out, and no token sees a block after its own,
    for models that were taught so (the noise type `block` of train/stages.py). Rows are shorter, and an answer does not depend on the length
    that it is given. Keys and values stay true, so every cache is exact"""
    prompt_in_blocks: bool = False
    """without full attention: blocks are counted from the beginning of the row, and no token of the prompt sees a block after its own, either.
    The first block of open positions is what the prompt's last one leaves. For models that were taught so (SDAR)"""
    variable_length: bool = False
    """add the open positions of a block when the one before it is finished, so that rows are as long as what is written. Unlike without
    `full_attention`, everything that is there sees everything. For models that were taught so (iLLaDA)"""
    cache: CacheConfig | MaxLogitCacheConfig | None = None
    """what is not evaluated at every step; None evaluates everything"""
    propose_any: bool = False
    """parity only: propose any row of the head, `[MASK]` included, which then stays open"""
    token_noise: TokenNoise | None = None
    """parity only: how noise on every logit chooses a token at a temperature above 0; None: one uniform number a position"""
    choice_noise: ChoiceNoise = gumbel
    """what `choice_temperature` scales"""
    commit_ties: bool = False
    """parity only: what is exactly as sure as the last committed position is committed, too"""
    noise_on_score: bool = False
    """parity only: `choice_temperature` scales noise on the score, not on its logarithm"""
    confidence_narrowed: bool = False
    """parity only: the score is that of the distribution after temperature, top-k and top-p"""
    commit_share: TransferShare | None = None
    """parity only: commit each open position by itself, with this probability; None: as many as `transfer_schedule` says"""
    random_leftover: bool = False
    """parity only: what the steps leave open becomes a random allowed id"""

    def __post_init__(self) -> None:
        if self.steps is None and self.threshold is None:
            raise InputError("steps=None needs a threshold; give steps=N, threshold=0.9, or both")
        if self.steps is None and self.propose_any:
            raise InputError("steps=None with propose_any=True may never end, because a proposed [MASK] stays open; give steps=N")
        _at_least("steps", self.steps, 1)
        _at_least("block_length", self.block_length, 1)
        _at_least("top_k", self.top_k, 1)
        _at_least("temperature", self.temperature, 0)
        _at_least("choice_temperature", self.choice_temperature, 0)
        _at_least("guidance_scale", self.guidance_scale, 0)
        _at_least("image_guidance_scale", self.image_guidance_scale, 0)
        if not self.full_attention and (self.block_length is None or self.propose_any):
            raise InputError(
                "full_attention=False needs a block_length, and propose_any=False; the blocks behind the active one are left out"
            )
        if self.prompt_in_blocks and self.full_attention:
            raise InputError("prompt_in_blocks=True needs full_attention=False and a block_length; blocks that see ahead are no blocks")
        if self.variable_length and (self.block_length is None or self.propose_any or not self.full_attention):
            raise InputError(
                "variable_length=True needs a block_length, full_attention=True and propose_any=False; it adds one block after another"
            )
        if isinstance(self.cache, MaxLogitCacheConfig) and (self.steps is None or self.block_length is not None or not self.full_attention):
            raise InputError(
                f"cache={self.cache} counts the steps of one block with full attention; give steps=N, block_length=None and "
                "full_attention=True, or another cache"
            )
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise InputError(f"min_p={self.min_p} must lie in [0, 1]; try 0.05")
        if not (math.isfinite(self.repetition_penalty) and self.repetition_penalty > 0):
            raise InputError(f"repetition_penalty={self.repetition_penalty} must be above 0, and finite; 1 is none")
        if not all(math.isfinite(value) for value in (self.frequency_penalty, self.presence_penalty, *(v for _, v in self.logit_bias))):
            raise InputError("frequency_penalty, presence_penalty and the values of logit_bias must be finite")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise InputError(f"top_p={self.top_p} must lie in (0, 1]; try 0.9")
        if self.threshold is not None and self.confidence is random_order:
            raise InputError(
                f"threshold={self.threshold} says how sure a proposal must be, and score=random_order does not know: it is a random number; "
                "use score=probability, or give steps=N and threshold=None"
            )
        highest, likely = (0.0, -0.1) if self.confidence is negative_entropy else (1.0, 0.9)
        if self.threshold is not None and not (math.isfinite(self.threshold) and self.threshold <= highest):
            raise InputError(f"threshold={self.threshold} is never reached by the score, which is at most {highest:g}; try {likely}")
        if self.steps is None and self.choice_temperature:
            raise InputError(f"choice_temperature={self.choice_temperature} is annealed over the steps; give steps=N, or set it to 0")
        if self.confidence is negative_entropy and self.choice_temperature and not self.noise_on_score:
            raise InputError(
                f"choice_temperature={self.choice_temperature} needs a positive score; use it with probability or margin, or set 0"
            )

    def steps_per_block(self, num_open: int, num_given: int = 0) -> int | None:
        """Steps spent on each block of a field of `num_open` positions behind a prompt. Raises InputError if they do not divide."""
        if self.steps is None:
            return None
        num_blocks = self.num_blocks(num_open, num_given)
        if self.steps % num_blocks:
            near = max(num_blocks, self.steps - self.steps % num_blocks)
            raise InputError(
                f"steps={self.steps} must be a multiple of the {num_blocks} blocks that {num_open} open positions make "
                f"at block_length={self.block_length}; try steps={near}"
            )
        return self.steps // num_blocks

    @property
    def scales(self) -> tuple[float, ...]:
        """One for each unconditional row."""
        return (self.guidance_scale,) if self.image_guidance_scale is None else (self.guidance_scale, self.image_guidance_scale)

    @property
    def is_guided(self) -> bool:
        return any(self.scales)

    @property
    def draws(self) -> bool:
        """Whether the result depends on the seed."""
        return bool(self.temperature or self.choice_temperature or self.confidence is random_order or self.commit_share)

    @property
    def is_plain_softmax(self) -> bool:
        """Whether proposals are drawn from the softmax itself, and their probability is the score."""
        is_cut = self.top_k is not None or self.top_p is not None or bool(self.min_p)
        return self.temperature == 1 and not is_cut and self.token_noise is None and self.confidence is probability

    @property
    def has_penalties(self) -> bool:
        """Whether logits depend on what is written already."""
        return (self.frequency_penalty, self.presence_penalty, self.repetition_penalty) != (0, 0, 1)

    @property
    def looks_ahead(self) -> bool:
        """Whether the open positions behind the active block are in the row."""
        return self.full_attention and not self.variable_length

    def num_begun(self, num_given: int) -> int:
        """Positions of the first block that the prompt holds already."""
        return num_given % self.block_length if self.prompt_in_blocks and self.block_length is not None else 0

    def num_blocks(self, num_open: int, num_given: int = 0) -> int:
        """Blocks of `num_open` positions behind a prompt of `num_given`."""
        return 1 if self.block_length is None else -(-(num_open + self.num_begun(num_given)) // self.block_length)

    def with_(self, **changes: object) -> SamplingParams:
        """A copy with some settings changed."""
        return replace(self, **changes)  # type: ignore[arg-type]


def published_text(
    *,
    steps: int = 256,
    block_length: int = 128,
    temperature: float = 0.0,
    guidance_scale: float = 0.0,
    confidence: Confidence = probability,
) -> SamplingParams:
    """Semi-autoregressive low-confidence remasking exactly as published: any id may be proposed, no early stop."""
    return SamplingParams(
        steps=steps,
        block_length=block_length,
        temperature=temperature,
        guidance_scale=guidance_scale,
        confidence=confidence,
        stop_at_eos=False,
        propose_any=True,
    )


def published_image(
    *, steps: int = 15, guidance_scale: float = 3.5, temperature: float = 1.0, choice_temperature: float = 1.0, schedule: Schedule = cosine
) -> SamplingParams:
    """MaskGIT decoding exactly as published, with its compounding temperature. temperature 0 takes the arg max codes."""
    return SamplingParams(
        steps=steps,
        transfer_schedule=follow_schedule(schedule),
        temperature=temperature,
        choice_temperature=choice_temperature,
        anneal=compounding,
        guidance_scale=guidance_scale,
    )


def fast_text(
    *,
    threshold: float = 0.9,
    block_length: int = 32,
    temperature: float = 0.0,
    steps: int | None = None,
    full_attention: bool = True,
    cache: CacheConfig | None = None,
) -> SamplingParams:
    """Commit every token that is sure enough, stop at the end token (Fast-dLLM's confidence-aware decoding)."""
    return SamplingParams(
        threshold=threshold, block_length=block_length, temperature=temperature, steps=steps, full_attention=full_attention, cache=cache
    )


def fast_image(
    *, steps: int = 12, guidance_scale: float = 2.0, temperature: float = 1.0, choice_temperature: float = 1.0, schedule: Schedule = cosine
) -> SamplingParams:
    """`published_image` with the annealing that MaskGIT describes."""
    return published_image(
        steps=steps, guidance_scale=guidance_scale, temperature=temperature, choice_temperature=choice_temperature, schedule=schedule
    ).with_(anneal=linear_anneal)


def infill(*, threshold: float = 0.9, temperature: float = 0.0, steps: int | None = None) -> SamplingParams:
    """Fill any open positions of a text, in any order, in one block; an end token does not end it."""
    return SamplingParams(threshold=threshold, temperature=temperature, steps=steps, stop_at_eos=False)
