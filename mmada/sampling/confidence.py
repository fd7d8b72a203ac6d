"""How sure a proposal is; the surest positions are committed first.

Each function takes logits (..., V), the proposed indices (...) and one uniform number a position, and returns (...) floats,
larger = surer. Probabilities are those of the untempered softmax over the allowed ids.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mmada.diffusion.loss import widest

__all__ = ["CONFIDENCES", "Confidence", "margin", "negative_entropy", "narrow_probability", "probability", "random_order"]

Confidence = Callable[[Tensor, Tensor, Tensor], Tensor]


def probability(logits: Tensor, proposal: Tensor, uniform: Tensor) -> Tensor:
    """Probability of the proposed token: the published "low confidence remasking", which keeps the highest.

    The sum is float64 where there is that, as published: in float32 everything above 1 - 1e-6 is alike, and a trained model is that sure of many tokens.
    """
    weight = (logits - logits.amax(-1, keepdim=True)).exp_()
    return weight.gather(-1, proposal[..., None])[..., 0] / weight.sum(-1, dtype=widest(weight.device))


def narrow_probability(logits: Tensor, proposal: Tensor, uniform: Tensor) -> Tensor:
    """`probability` in the logits' own precision, as LLaDA computes it; above 1 - 1e-6 all are alike in float32."""
    return logits.softmax(-1).gather(-1, proposal[..., None])[..., 0]


def margin(logits: Tensor, proposal: Tensor, uniform: Tensor) -> Tensor:
    """Probability of the likeliest token minus that of the second."""
    if logits.shape[-1] < 2:
        return torch.ones_like(uniform)
    top = logits.topk(2, dim=-1).values
    first, second = (top - logits.logsumexp(-1, keepdim=True)).exp().unbind(-1)
    return first - second


def negative_entropy(logits: Tensor, proposal: Tensor, uniform: Tensor) -> Tensor:
    """Sum of p log p in nats; 0 is certain."""
    logp = logits.log_softmax(-1)
    return (logp.exp() * logp).nan_to_num(0.0).sum(-1)


def random_order(logits: Tensor, proposal: Tensor, uniform: Tensor) -> Tensor:
    """A random order (LLaDA's "random remasking")."""
    return uniform


CONFIDENCES: dict[str, Confidence] = {
    "probability": probability,
    "margin": margin,
    "entropy": negative_entropy,
    "random": random_order,
}
