"""Clipped policy gradients with a KL penalty: rewarded answers become likelier.

    objective    masks (mask_samples.py)   ratio of                 source
    unigrpo      structured         tokens, or the sequence  MMaDA (Yang et al. 2025), eq. 3-5 and algorithm 1
    diffu_grpo   all_masked         tokens                   d1 (Zhao et al. 2025)
    coupled      complementary      tokens                   DiffuCoder (Gong et al. 2025), each token scored once
    trace        recorded           tokens                   TraceRL (Wang et al. 2025)
    espo         complementary      the sequence             ESPO (Ou et al. 2025): exp((bound_new - bound_old) / tokens)
    spg          stratified         none                     SPG (Wang et al. 2025): lower bound of good answers, upper bound of bad ones

    token     -sum_i w_i min(r_i A, clip(r_i, 1 - low, 1 + high) A)      r_i = exp(new_i - old_i)
    sequence  -min(r A, clip(r) A)                                       r = exp(sum_i w_i (new_i - old_i))
    kl        sum_i w_i (exp(d_i) - d_i - 1)                             d_i = ref_i - new_i    (k3, Schulman 2020)

The sums run over the scored tokens of a rollout. The weights w_i of the mask samples sum to 1. new, old and reference come from the
same views. So at the first update every ratio is exactly 1, and next to an unchanged reference the divergence is exactly 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mmada.rl.settings import ObjectiveConfig, Ratio

__all__ = ["LOSSES", "LogprobBatch", "LossTerms", "ObjectiveConfig", "sequence_clip", "spg_loss", "token_clip"]


@dataclass(frozen=True, slots=True, eq=False)
class LogprobBatch:
    """Log-probabilities in nats of the S scored tokens of R sequences, on the same masks.

    new        (S,) with its gradient; old (S,); ref (S,) or None, if no reference is kept
    weight     (S,) of the mask samples
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
class LossTerms:
    """policy (R,), what is minimized; kl (R,), before its weight; ratio (K,) and is_clipped (K,) of tokens or sequences, for the log.

    sequence  (K,) int64: whose ratio it is
    """

    policy: Tensor
    kl: Tensor
    ratio: Tensor
    is_clipped: Tensor
    sequence: Tensor


def token_clip(e: LogprobBatch, s: ObjectiveConfig) -> LossTerms:
    """Each token's ratio clipped by itself (Shao et al. 2024, eq. 3)."""
    ratio = (e.new - e.old).exp()  # (S,)
    gain, is_clipped = _clipped(ratio, e.advantage[e.sequence], s)
    return LossTerms(-e.sum(e.weight * gain), _kl(e), ratio.detach(), is_clipped, e.sequence)


def sequence_clip(e: LogprobBatch, s: ObjectiveConfig) -> LossTerms:
    """One ratio a sequence, of the weighted mean of its tokens' log-probabilities (Zheng et al. 2025, GSPO; ESPO)."""
    ratio = e.sum(e.weight * (e.new - e.old)).exp()  # (R,)
    gain, is_clipped = _clipped(ratio, e.advantage, s)
    return LossTerms(-gain, _kl(e), ratio.detach(), is_clipped, torch.arange(len(ratio), device=ratio.device))


def spg_loss(e: LogprobBatch, s: ObjectiveConfig) -> LossTerms:
    """Maximize A * bound, from below where A >= 0, and a mixture with the bound from above where A < 0. No ratio, no clipping.

    lower = sum_i w_i log p_i
    upper = 1 / (power L) sum over tokens of log(L sum over its views of w p^power), over tokens that were masked at least once.
    Source: Wang et al. 2025 (SPG), section 3; both are per token here.
    """
    lower = e.sum(e.weight * e.new)
    names, index = torch.unique(e.token, return_inverse=True)
    owner = torch.zeros(len(names), dtype=torch.long, device=e.token.device).scatter(0, index, e.sequence)
    length = e.length.to(lower)
    looks = length[e.sequence] * e.weight * (s.upper_bound_beta * e.new).exp()  # (S,)
    # p^power of a very unlikely token underflows to 0, and log 0 is infinite.
    inner = looks.new_zeros(len(names)).index_add(0, index, looks).clamp_min(torch.finfo(looks.dtype).tiny)  # of each token
    upper = torch.zeros_like(lower).index_add(0, owner, inner.log()) / (s.upper_bound_beta * length)
    bound = torch.where(e.advantage >= 0, lower, s.upper_bound_weight * upper + (1 - s.upper_bound_weight) * lower)
    none = e.new.detach().new_zeros(0)
    return LossTerms(-e.advantage * bound, _kl(e), none, none.bool(), none.long())


def _clipped(ratio: Tensor, advantage: Tensor, s: ObjectiveConfig) -> tuple[Tensor, Tensor]:
    """min(r A, clip(r) A), and where the clip was the smaller."""
    plain, limited = ratio * advantage, ratio.clamp(1 - s.clip_low, 1 + s.clip_high) * advantage
    return torch.minimum(plain, limited), (limited < plain).detach()


def _kl(e: LogprobBatch) -> Tensor:
    """(R,) k3 estimate of KL(new || reference), never negative; 0 without a reference."""
    if e.ref is None:
        return torch.zeros_like(e.advantage, dtype=e.new.dtype)
    # k3 is unbiased and never negative, where -d alone has the sign of the draw (Schulman 2020).
    difference = e.ref - e.new
    return e.sum(e.weight * (difference.exp() - difference - 1))


LOSSES: Mapping[Ratio, Callable[[LogprobBatch, ObjectiveConfig], LossTerms]] = {
    "token": token_clip,
    "sequence": sequence_clip,
    "none": spg_loss,
}
"""By what the ratio is of."""
