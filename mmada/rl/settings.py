"""An objective with its numbers: what mask_samples.py draws masks by, and objective.py makes losses of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from mmada.errors import InputError, suggest
from mmada.rl.records import Segment

__all__ = ["OBJECTIVES", "Masking", "ObjectiveConfig", "Ratio", "TimestepSampling"]

Name: TypeAlias = Literal["unigrpo", "diffu_grpo", "coupled", "trace", "espo", "spg"]
Masking: TypeAlias = Literal["whole", "block"]
TimestepSampling: TypeAlias = Literal["spacing", "algorithm"]
Ratio: TypeAlias = Literal["token", "sequence", "none"]

OBJECTIVES: Mapping[str, Ratio] = {
    "unigrpo": "token",
    "diffu_grpo": "token",
    "coupled": "token",
    "trace": "token",
    "espo": "sequence",
    "spg": "none",
}
"""Every objective by name, and what its ratio is of."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectiveConfig:
    """An objective with its numbers. Raises InputError for values that do not go together."""

    name: Name = "unigrpo"
    updates: int = 2
    """mu: optimizer steps that a batch of rollouts is used for"""
    importance_sampling_level: Literal["auto", "token", "sequence"] = "auto"
    """what the ratio is of; auto: as in the table"""
    timestep_sampling: TimestepSampling = "spacing"
    """of UniGRPO's algorithm (views.times)"""
    masking: Literal["auto", "whole", "block"] = "auto"
    """masks of texts: over the whole answer, as published, or in one block after the other. `auto`: what the model was taught, whole if it
    sees the open positions after its active block, block if not (GenerationConfig.full_attention is false, or variable_length true). block is
    also worth trying where both are possible"""
    max_blocks: int = 0
    """blocks, or groups of steps, of a rollout that one update looks at; 0: all of them"""
    clip_low: float = 0.2
    clip_high: float = 0.2
    kl_weight: float = 0.04
    """beta, of the divergence from the frozen reference; 0: no reference is kept"""
    prompt_mask_prob: float = 0.15
    """diffu_grpo: probability with which a given position is masked"""
    ratio_low: float = 0.2
    ratio_high: float = 0.8
    """coupled, espo: share that the first of two masks hides"""
    steps_per_mask: int = 4
    """trace: steps of the sampler that share a forward row; 1 is exact and expensive"""
    num_mc_samples: int = 2
    """spg: masks of each block"""
    upper_bound_weight: float = 0.5
    """spg: omega, share of the upper bound in what is pushed down"""
    upper_bound_beta: float = 1.5
    """spg: beta of the upper bound, at least 1"""

    def __post_init__(self) -> None:
        if self.name not in OBJECTIVES:
            raise InputError(f"objective.name={self.name!r} is unknown: {suggest(self.name, OBJECTIVES)}")
        for name in ("updates", "steps_per_mask", "num_mc_samples", "upper_bound_beta"):
            if not getattr(self, name) >= 1:
                raise InputError(f"objective.{name}={getattr(self, name)} must be at least 1")
        for name in ("max_blocks", "kl_weight", "clip_high"):
            if not getattr(self, name) >= 0:
                raise InputError(f"objective.{name}={getattr(self, name)} must not be negative; 0 turns it off")
        for name in ("clip_low", "prompt_mask_prob", "upper_bound_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"objective.{name}={getattr(self, name)} must lie between 0 and 1")
        if not 0 < self.ratio_low <= self.ratio_high < 1:
            raise InputError(
                f"objective.ratio_low={self.ratio_low} and ratio_high={self.ratio_high} must be ordered and lie between 0 and 1"
            )
        if self.name == "spg" and self.max_blocks:
            raise InputError(f"objective.max_blocks={self.max_blocks} would bias the upper bound of spg, a logarithm; set it to 0")
        if self.max_blocks and self.ratio == "sequence":
            raise InputError(
                f"objective.max_blocks={self.max_blocks} leaves blocks out, but a sequence ratio needs all; set it to 0, or importance_sampling_level=token"
            )

    def masking_of(self, part: Segment) -> Masking:
        """How a part of a rollout is masked: as set, or for "auto" whole where positions see ahead, and by blocks elsewhere."""
        if self.masking != "auto":
            return self.masking
        return "whole" if part.looks_ahead else "block"

    @property
    def ratio(self) -> Ratio:
        """What the ratio is of, `auto` resolved."""
        usual = OBJECTIVES[self.name]
        return usual if self.importance_sampling_level == "auto" or usual == "none" else self.importance_sampling_level

    @property
    def has_ratio(self) -> bool:
        """Whether the log-probabilities of the policy that sampled are needed."""
        return self.ratio != "none"

    @property
    def needs_steps(self) -> bool:
        """Whether rollouts must record the sampler's steps."""
        return self.name == "trace"
