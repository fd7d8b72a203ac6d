"""Noised looks at a rollout: which of its tokens are masked, which are scored, with which weight. The question stays as it is.

    part       question  t t t t | t t t t | t t e . .        8 slots in blocks of 4, then t t and the end; two slots of fill
    whole      question  t M t M | M t t M | M t t M M        any slots; the fill is masked and never scored (the published models)
    block      question  t t t t | M t M t                    a clean beginning, one noised block, and the rest cut off
               question  t t t t | M t M t | M M M M M        ... or masked, if the model sees it (SamplingParams.full_attention)

A plan is drawn once for a rollout, a tuple of views for each update, and stored: new, old and reference policy are compared on the same
masks. That is worth a factor of twenty in the noise of the ratio.

    drawn by       views of an update                                                     an update's weighted log p estimates
    structured     one a block; k masked, by times spread over the updates                likelihood bound / tokens, in expectation
    all_masked     one a block, everything masked, and a part of the question             mean-field likelihood / tokens
    complementary  two a block, what the first masks the second shows: each token once    likelihood bound / tokens, k in a band
    recorded       one for `steps_per_mask` steps of the sampler, as it saw them                  mean over steps of its own log p
    stratified     `num_mc_samples` a block with evenly spread k                                   likelihood bound / tokens

The weights of an update add up to 1 (stratified, and blocks of unequal length with `max_blocks`: in expectation), so ratios and clipping mean
the same everywhere.

Of an image, k follows the cosine schedule in all of them, as in its training. So t of a text is cos(pi/2 (1 - t)) of an image, a band of
[0.2, 0.8] there [0.31, 0.95]. What is estimated is then the loss that images are trained with, not the bound of their likelihood.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import torch
from torch import Generator, Tensor

from mmada.diffusion.schedule import cosine
from mmada.errors import InputError
from mmada.rl.records import Segment
from mmada.rl.settings import Masking, ObjectiveConfig, TimestepSampling

__all__ = [
    "PLANS",
    "BlockSpan",
    "MaskPlan",
    "MaskSample",
    "all_masked",
    "blocks_of",
    "complementary",
    "draw_mask_samples",
    "recorded",
    "stratified",
    "structured",
    "times",
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class MaskSample:
    """One forward row.

    is_masked  (N,) bool    slots that hold the mask
    weight     (N,) float64 of scored slots, which are masked; 0 elsewhere
    num_kept   leading slots that are in the row; the rest is cut off
    given      (L,) bool    given positions that are masked too, or None
    """

    is_masked: Tensor
    weight: Tensor
    num_kept: int
    given: Tensor | None = None


MaskPlan: TypeAlias = "tuple[tuple[MaskSample, ...], ...]"
"""For each update, the mask samples of one part."""


@dataclass(frozen=True, slots=True)
class BlockSpan:
    """Slots [start, stop) that are noised together in a row of `num_kept` slots; slots from `stop` on are masked or cut off."""

    start: int
    stop: int
    num_kept: int


def blocks_of(part: Segment, masking: Masking) -> tuple[BlockSpan, ...]:
    """The blocks of what counts. An image is one block.

    Raises InputError if the whole answer is to be noised for a model that never sees past its active block.
    """
    n, answer_length = part.num_tokens, len(part.field.positions)
    if part.is_image or (masking == "whole" and part.looks_ahead):
        return (BlockSpan(0, n, answer_length),)
    if masking == "whole":
        raise InputError(
            "masking='whole' shows what lies behind the active block, and models of full_attention=False or variable_length=True never see it; "
            "use masking='block'"
        )
    width, begun = part.block_length or answer_length, part.num_begun
    spans = [(max(0, s), s + width) for s in range(-begun, n, width)]
    return tuple(BlockSpan(a, min(b, n), answer_length if part.looks_ahead else min(b, answer_length)) for a, b in spans)


def times(timestep_sampling: TimestepSampling, start: float, updates: int) -> tuple[float, ...]:
    """Times in [0, 1] of the updates 1..mu, from a start in [0, 1): what share is masked. Source: MMaDA, algorithm 1 and section 5.2.

    spacing    t_1 + (n - 1) / mu, wrapped: the paper's example (100, 300, 500, 700, 900 of 1000). Each time alone is uniform
    algorithm  floor((n - 1) / (mu - 1) (T - t_1) + t_1) with T = 1000, to the letter: the last is 1, and high ratios come more often
    """
    if timestep_sampling == "spacing":
        return tuple((start + n / updates) % 1.0 for n in range(updates))
    first = int(start * 1000)
    return tuple(((n * (1000 - first)) // max(updates - 1, 1) + first) / 1000 for n in range(updates))


# The plans. Each: (part, settings, generator) -> views for each update.


def structured(part: Segment, settings: ObjectiveConfig, generator: Generator) -> MaskPlan:
    """UniGRPO: exactly k of a block's n slots, k by `times` from a random start; images take k from the cosine schedule."""
    blocks = blocks_of(part, settings.masking_of(part))
    starts = torch.rand(len(blocks), generator=generator, dtype=torch.float64).tolist()
    at = [times(settings.timestep_sampling, start, settings.updates) for start in starts]
    drawn = []
    for n, (some, factor) in enumerate(_some(range(len(blocks)), settings, generator)):
        drawn.append(tuple(_masking(part, blocks[b], _count(part, blocks[b], at[b][n]), factor, generator)[0] for b in some))
    return tuple(drawn)


def all_masked(part: Segment, settings: ObjectiveConfig, generator: Generator) -> MaskPlan:
    """diffu-GRPO: every slot of a block masked, and each given position with probability `prompt_mask_prob`, drawn anew for each update."""
    blocks = blocks_of(part, settings.masking_of(part))
    can_hide = part.canvas.attend & ~part.canvas.is_open
    drawn = []
    for some, factor in _some(blocks, settings, generator):
        draw = torch.rand(len(can_hide), generator=generator, dtype=torch.float64)
        given = can_hide & (draw < settings.prompt_mask_prob)
        mask_samples = []
        for block in some:
            slots = torch.arange(block.start, block.stop)
            mask_samples.append(_mask_sample(part, block, slots, factor / part.num_tokens, given if bool(given.any()) else None))
        drawn.append(tuple(mask_samples))
    return tuple(drawn)


def complementary(part: Segment, settings: ObjectiveConfig, generator: Generator) -> MaskPlan:
    """Coupled masks: a mask of a share in [ratio_low, ratio_high] and its complement, so that each token is scored once."""
    low, high = settings.ratio_low, settings.ratio_high
    drawn = []
    for some, factor in _some(blocks_of(part, settings.masking_of(part)), settings, generator):
        mask_samples: list[MaskSample] = []
        for block in some:
            t = low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))
            # One slot at least is left for the complement, if there are two.
            count = min(_count(part, block, t), max(1, block.stop - block.start - 1))
            mask_samples += _masking(part, block, count, factor, generator, both=True)
        drawn.append(tuple(mask_samples))
    return tuple(drawn)


def stratified(part: Segment, settings: ObjectiveConfig, generator: Generator) -> MaskPlan:
    """SPG: `num_mc_samples` views of each block with evenly spread counts. Every token may be masked in several of them, or in none."""
    num_mc_samples = settings.num_mc_samples
    drawn = []
    for some, factor in _some(blocks_of(part, settings.masking_of(part)), settings, generator):
        mask_samples: list[MaskSample] = []
        for block in some:
            for t in times("spacing", float(torch.rand((), generator=generator, dtype=torch.float64)), num_mc_samples):
                mask_samples += _masking(part, block, _count(part, block, t), factor / num_mc_samples, generator)
        drawn.append(tuple(mask_samples))
    return tuple(drawn)


def recorded(part: Segment, settings: ObjectiveConfig, generator: Generator) -> MaskPlan:
    """TraceRL: the states that the sampler went through. A view masks what was open at its first step, and scores what was committed in
    it or the `steps_per_mask` - 1 steps that follow. Each mask sample weighs the same, and so does each token in it.

    Raises InputError if the rollout was not recorded.
    """
    if part.steps is None:
        raise InputError("the trace objective needs rollouts with their steps; sample with record=True")
    counts = torch.arange(len(part.steps)) < part.num_tokens
    width, begun = None if part.is_image or part.looks_ahead else part.block_length, part.num_begun
    groups: list[list[int]] = []
    block = -1
    for step in sorted(set(part.steps[counts & (part.steps >= 0)].tolist())):
        own = 0 if width is None else (int((part.steps == step).nonzero()[0]) + begun) // width
        # Steps share a view only within a block: the next block needs the tokens of this one as they are, and its own cut.
        if own != block or len(groups[-1]) == settings.steps_per_mask:
            groups.append([])
        block = own
        groups[-1].append(step)
    drawn = []
    for some, factor in _some(groups, settings, generator):
        mask_samples = []
        for steps in some:
            is_scored = counts & torch.isin(part.steps, torch.tensor(steps))
            # What the sampler filled without a step, after the end, was open all along.
            is_masked = (part.steps < 0) | (part.steps >= steps[0])
            answer_length = len(part.steps)
            kept = answer_length
            if width is not None:
                kept = min(((int(is_scored.nonzero()[0]) + begun) // width + 1) * width - begun, answer_length)
            weight = is_scored.double() * factor / (int(is_scored.sum()) * len(groups))
            mask_samples.append(MaskSample(is_masked, weight, kept))
        drawn.append(tuple(mask_samples))
    return tuple(drawn)


PLANS: Mapping[str, Callable[[Segment, ObjectiveConfig, Generator], MaskPlan]] = {
    "unigrpo": structured,
    "diffu_grpo": all_masked,
    "coupled": complementary,
    "trace": recorded,
    "espo": complementary,
    "spg": stratified,
}
"""How each objective draws its masks."""


def draw_mask_samples(part: Segment, settings: ObjectiveConfig, generator: Generator) -> MaskPlan:
    """The mask samples of all updates, by the objective of the settings."""
    return PLANS[settings.name](part, settings, generator)


# Parts of plans.


def _some(items: Iterable[T], settings: ObjectiveConfig, generator: Generator) -> list[tuple[list[T], float]]:
    """For each update, which items take part, and the factor that makes up for the others; with `max_blocks`, updates take turns."""
    items = list(items)
    size = min(settings.max_blocks or len(items), len(items))
    if size == len(items):
        return [(items, 1.0)] * settings.updates
    order = torch.randperm(len(items), generator=generator).tolist()
    picks = [sorted(order[(n * size + j) % len(items)] for j in range(size)) for n in range(settings.updates)]
    return [([items[i] for i in chosen], len(items) / size) for chosen in picks]


def _count(part: Segment, block: BlockSpan, t: float) -> int:
    """How many of a block's slots are masked at time t in [0, 1]: uniform in 1..n for text; by the cosine schedule for images."""
    size = block.stop - block.start
    # Images are trained by the cosine schedule; another share of masks would be a state that the model hardly knows.
    if part.is_image:
        return min(size, max(1, round(size * float(cosine.mask_ratio(torch.tensor(1 - t, dtype=torch.float64))))))
    return min(size, 1 + int(t * size))


def _masking(part: Segment, block: BlockSpan, count: int, factor: float, generator: Generator, *, both: bool = False) -> list[MaskSample]:
    """A view with `count` of a block's slots masked, and, with both, that of the others, each token with the weight 1 / tokens."""
    size = block.stop - block.start
    order = block.start + torch.randperm(size, generator=generator)
    # Alone, the masked tokens stand for all of the block (size / count); a pair scores each token once.
    if not both:
        return [_mask_sample(part, block, order[:count], factor * size / (count * part.num_tokens))]
    halves = [half for half in (order[:count], order[count:]) if len(half)]
    return [_mask_sample(part, block, half, factor / part.num_tokens) for half in halves]


def _mask_sample(part: Segment, block: BlockSpan, slots: Tensor, weight: float, given: Tensor | None = None) -> MaskSample:
    answer_length = len(part.field.positions)
    is_masked = torch.arange(answer_length) >= block.stop
    is_masked[slots] = True
    weights = torch.zeros(answer_length, dtype=torch.float64)
    weights[slots] = weight
    return MaskSample(is_masked, weights, block.num_kept, given)
