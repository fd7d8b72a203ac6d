"""What is maximised: rewarded answers become likelier, with steps that are limited and a reference that is stayed near.

    objective    masks (views.py)   ratio of                 source
    unigrpo      structured         tokens, or the sequence  MMaDA (Yang et al. 2025), eq. 3-5 and algorithm 1
    diffu_grpo   all_masked         tokens                   d1 (Zhao et al. 2025)
    coupled      complementary      tokens                   DiffuCoder (Gong et al. 2025), each token scored once
    trace        recorded           tokens                   TraceRL (Wang et al. 2025)
    espo         complementary      the sequence             ESPO (Ou et al. 2025): exp((bound_new - bound_old) / tokens)
    spg          stratified         none                     SPG (Wang et al. 2025): lower bound of good answers, upper bound of bad ones

    token     -sum_i w_i min(r_i A, clip(r_i, 1 - low, 1 + high) A)      r_i = exp(new_i - old_i)
    sequence  -min(r A, clip(r) A)                                       r = exp(sum_i w_i (new_i - old_i))
    kl        sum_i w_i (exp(d_i) - d_i - 1)                             d_i = ref_i - new_i    (k3, Schulman 2020)

The sums run over the scored tokens of a rollout, w_i are the weights of the views and sum to 1. new, old and reference come from the same
views, so at the first update every ratio is exactly 1, and next to an unchanged reference the divergence is exactly 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Generator, Tensor

from mmada.errors import InputError, suggest
from mmada.rl.records import Part
from mmada.rl.views import Law, Plan, Reading, all_masked, complementary, recorded, stratified, structured

__all__ = ["OBJECTIVES", "Evidence", "Objective", "Settings", "Terms", "sandwich", "sequence_clip", "token_clip"]

Name: TypeAlias = Literal["unigrpo", "diffu_grpo", "coupled", "trace", "espo", "spg"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """An objective with its numbers. Raises InputError for values that do not go together."""

    name: Name = "unigrpo"
    updates: int = 2
    """mu: optimizer steps that a batch of rollouts is used for"""
    level: Literal["auto", "token", "sequence"] = "auto"
    """what the ratio is of; auto: as in the table"""
    reading: Reading = "spacing"
    """of UniGRPO's algorithm (views.times)"""
    law: Literal["auto", "whole", "block"] = "auto"
    """masks of texts: over the whole answer, as published, or in one block after the other; auto: what the model was taught, whole if it
    sees the room behind its active block (Defaults.sees_ahead), block if not. block is also worth trying where both are possible"""
    max_blocks: int = 0
    """blocks, or groups of steps, of a rollout that one update looks at; 0: all of them"""
    clip_low: float = 0.2
    clip_high: float = 0.2
    kl_weight: float = 0.04
    """beta, of the divergence from the frozen reference; 0: no reference is kept"""
    prompt_ratio: float = 0.15
    """diffu_grpo: probability with which a given position is masked"""
    ratio_low: float = 0.2
    ratio_high: float = 0.8
    """coupled, espo: share that the first of two masks hides"""
    shrink: int = 4
    """trace: steps of the sampler that share a forward row; 1 is exact, and dear"""
    draws: int = 2
    """spg: masks of each block"""
    upper: float = 0.5
    """spg: omega, share of the upper bound in what is pushed down"""
    power: float = 1.5
    """spg: beta of the upper bound, at least 1"""

    def __post_init__(self) -> None:
        if self.name not in OBJECTIVES:
            raise InputError(f"objective.name={self.name!r} is unknown: {suggest(self.name, OBJECTIVES)}")
        for name in ("updates", "shrink", "draws", "power"):
            if not getattr(self, name) >= 1:
                raise InputError(f"objective.{name}={getattr(self, name)} must be at least 1")
        for name in ("max_blocks", "kl_weight", "clip_high"):
            if not getattr(self, name) >= 0:
                raise InputError(f"objective.{name}={getattr(self, name)} must not be negative; 0 turns it off")
        for name in ("clip_low", "prompt_ratio", "upper"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"objective.{name}={getattr(self, name)} must lie between 0 and 1")
        if not 0 < self.ratio_low <= self.ratio_high < 1:
            raise InputError(
                f"objective.ratio_low={self.ratio_low} and ratio_high={self.ratio_high} must be ordered and lie between 0 and 1"
            )
        if self.name == "spg" and self.max_blocks:
            raise InputError(f"objective.max_blocks={self.max_blocks} would bias the upper bound of spg, a logarithm; set it to 0")
        if self.max_blocks and self.loss is sequence_clip:
            raise InputError(
                f"objective.max_blocks={self.max_blocks} leaves blocks out, and the ratio of a sequence needs all of them; set it to 0, or level=token"
            )

    def law_of(self, part: Part) -> Law:
        if self.law != "auto":
            return self.law
        return "whole" if part.sees_ahead else "block"

    @property
    def objective(self) -> Objective:
        return OBJECTIVES[self.name]

    @property
    def loss(self) -> Loss:
        levels: Mapping[str, Loss] = {"token": token_clip, "sequence": sequence_clip}
        return self.objective.loss if self.level == "auto" or not self.objective.has_ratio else levels[self.level]

    def plan(self, part: Part, generator: Generator) -> Plan:
        """The views of all updates."""
        return self.objective.draw(part, self, generator)


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """Log-probabilities in nats of the S scored tokens of R sequences, on the same views.

    new        (S,) with its gradient; old (S,); ref (S,) or None, if no reference is kept
    weight     (S,) of the views
    sequence   (S,) int64 in 0..R-1
    token      (S,) int64: equal numbers are looks at the same token
    advantage  (R,); length (R,) tokens of each sequence
    """

    new: Tensor
    old: Tensor
    ref: Tensor | None
    weight: Tensor
    sequence: Tensor
    token: Tensor
    advantage: Tensor
    length: Tensor

    def sum(self, values: Tensor) -> Tensor:
        """(S,) -> (R,)"""
        return values.new_zeros(len(self.advantage)).index_add(0, self.sequence, values)


@dataclass(frozen=True, slots=True, eq=False)
class Terms:
    """policy (R,), what is minimised; kl (R,), before its weight; ratio (K,) and is_clipped (K,) of tokens or sequences, for the log.

    sequence  (K,) int64: whose ratio it is
    """

    policy: Tensor
    kl: Tensor
    ratio: Tensor
    is_clipped: Tensor
    sequence: Tensor


def token_clip(e: Evidence, s: Settings) -> Terms:
    """Each token's ratio clipped by itself (Shao et al. 2024, eq. 3)."""
    ratio = (e.new - e.old).exp()  # (S,)
    gain, is_clipped = _clipped(ratio, e.advantage[e.sequence], s)
    return Terms(-e.sum(e.weight * gain), _kl(e), ratio.detach(), is_clipped, e.sequence)


def sequence_clip(e: Evidence, s: Settings) -> Terms:
    """One ratio a sequence, of the weighted mean of its tokens' log-probabilities (Zheng et al. 2025, GSPO; ESPO)."""
    ratio = e.sum(e.weight * (e.new - e.old)).exp()  # (R,)
    gain, is_clipped = _clipped(ratio, e.advantage, s)
    return Terms(-gain, _kl(e), ratio.detach(), is_clipped, torch.arange(len(ratio), device=ratio.device))


def sandwich(e: Evidence, s: Settings) -> Terms:
    """Maximise A * bound, from below where A >= 0, and a mixture with the bound from above where A < 0. No ratio, no clipping.

    lower = sum_i w_i log p_i
    upper = 1 / (power L) sum over tokens of log(L sum over its views of w p^power), over tokens that were masked at least once
    Source: Wang et al. 2025 (SPG), section 3; both are per token here.
    """
    lower = e.sum(e.weight * e.new)
    names, index = torch.unique(e.token, return_inverse=True)
    owner = torch.zeros(len(names), dtype=torch.long, device=e.token.device).scatter(0, index, e.sequence)
    length = e.length.to(lower)
    looks = length[e.sequence] * e.weight * (s.power * e.new).exp()  # (S,)
    inner = looks.new_zeros(len(names)).index_add(0, index, looks).clamp_min(torch.finfo(looks.dtype).tiny)  # of each token
    upper = torch.zeros_like(lower).index_add(0, owner, inner.log()) / (s.power * length)
    bound = torch.where(e.advantage >= 0, lower, s.upper * upper + (1 - s.upper) * lower)
    none = e.new.detach().new_zeros(0)
    return Terms(-e.advantage * bound, _kl(e), none, none.bool(), none.long())


def _clipped(ratio: Tensor, advantage: Tensor, s: Settings) -> tuple[Tensor, Tensor]:
    """min(r A, clip(r) A), and where the clip was the smaller."""
    plain, limited = ratio * advantage, ratio.clamp(1 - s.clip_low, 1 + s.clip_high) * advantage
    return torch.minimum(plain, limited), (limited < plain).detach()


def _kl(e: Evidence) -> Tensor:
    """(R,) k3 estimate of KL(new || reference), never negative; 0 without a reference."""
    if e.ref is None:
        return torch.zeros_like(e.advantage, dtype=e.new.dtype)
    difference = e.ref - e.new
    return e.sum(e.weight * (difference.exp() - difference - 1))


Loss: TypeAlias = Callable[[Evidence, Settings], Terms]


@dataclass(frozen=True, slots=True)
class Objective:
    """How masks are drawn, and what is made of the log-probabilities.

    has_ratio  needs the log-probabilities of the policy that sampled
    needs_steps  needs the sampler's steps
    """

    draw: Callable[[Part, Settings, Generator], Plan]
    loss: Loss
    has_ratio: bool = True
    needs_steps: bool = False


OBJECTIVES: Mapping[str, Objective] = {
    "unigrpo": Objective(structured, token_clip),
    "diffu_grpo": Objective(all_masked, token_clip),
    "coupled": Objective(complementary, token_clip),
    "trace": Objective(recorded, token_clip, needs_steps=True),
    "espo": Objective(complementary, sequence_clip),
    "spg": Objective(stratified, sandwich, has_ratio=False),
}
"""Every objective by name."""
