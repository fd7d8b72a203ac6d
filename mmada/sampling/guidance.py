"""Guidance: logits of a condition c, moved away from what the model says without it.

    rule              logits                                    who                          rows
    classifier_free   u + (1 + g) (c - u)                       LLaDA, MMaDA                 c, u
    extrapolated      (1 + g) c - g u                           Lumina-DiMOO, Parallel-M     c, u
    two_scales        c + g_t (c - u_text) + g_i (c - u_image)  editing                      c, u_text, u_image
    inverted          c + g (u - c)                             Parallel-M's text            c, u

A row is named by what it drops: u drops the whole prompt, u_text the words, u_image the source image. The first two are equal but for rounding; each
is written in its published order of operations. `inverted` moves towards u, which is a mistake of the published code and for parity only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

__all__ = ["Guidance", "classifier_free", "extrapolated", "inverted", "two_scales"]

Guidance = Callable[[Tensor, Sequence[Tensor], Sequence[float]], Tensor]
"""(conditional logits, those of the unconditional rows, a scale for each of these rows) -> logits."""


def classifier_free(conditional: Tensor, negatives: Sequence[Tensor], scales: Sequence[float]) -> Tensor:
    """u + (1 + g)(c - u): 0 is no guidance."""
    (unconditional,), (scale,) = negatives, scales
    return unconditional + (1 + scale) * (conditional - unconditional)


def extrapolated(conditional: Tensor, negatives: Sequence[Tensor], scales: Sequence[float]) -> Tensor:
    """(1 + g) c - g u: `classifier_free` in another order of operations."""
    (unconditional,), (scale,) = negatives, scales
    return (1 + scale) * conditional - scale * unconditional


def two_scales(conditional: Tensor, negatives: Sequence[Tensor], scales: Sequence[float]) -> Tensor:
    """c + g_t (c - u_text) + g_i (c - u_image): how strongly the words and the source image count."""
    (without_text, without_image), (text_scale, image_scale) = negatives, scales
    return conditional + text_scale * (conditional - without_text) + image_scale * (conditional - without_image)


def inverted(conditional: Tensor, negatives: Sequence[Tensor], scales: Sequence[float]) -> Tensor:
    """c + g (u - c), parity only: at g = 1 the prompt is ignored, beyond that it is avoided."""
    (unconditional,), (scale,) = negatives, scales
    return conditional + scale * (unconditional - conditional)
