"""Guidance rules against their formulas, and which of them are one rule in another order of operations."""

from __future__ import annotations

import pytest
import torch

from mmada.errors import InputError
from mmada.sampling import Denoising, SamplingParams
from mmada.sampling.guidance import classifier_free, extrapolated, inverted, two_scales

from .toy_denoiser import MASK, canvas, run

C, U, V = torch.randn(3, 2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_formulas():
    for g in (0.0, 1.5, 4.0):
        torch.testing.assert_close(classifier_free(C, [U], [g]), C + g * (C - U))
        torch.testing.assert_close(extrapolated(C, [U], [g]), C + g * (C - U))
        torch.testing.assert_close(inverted(C, [U], [g]), C - g * (C - U))
        torch.testing.assert_close(two_scales(C, [U, V], [g, 2.5]), C + g * (C - U) + 2.5 * (C - V))
    torch.testing.assert_close(two_scales(C, [U, C], [2.0, 7.0]), classifier_free(C, [U], [2.0]))


def test_the_inverted_sign_ignores_the_prompt_at_1():
    torch.testing.assert_close(inverted(C, [U], [1.0]), U)


def test_a_second_unconditional_row_counts():
    """The rows of a canvas: conditional, without words, without images."""
    row, rows = canvas([1, MASK, MASK]), [canvas([2, MASK, MASK]), canvas([3, MASK, MASK])]

    def logits(tokens):
        return torch.arange(24).float().eq(4 + int(tokens[0])).float().expand(3, 24)

    found = []
    for scales in ((0.0, 0.0), (-0.9, 0.0), (0.0, -0.9)):
        params = SamplingParams(
            steps=2, guidance=lambda c, u, s, scales=scales: two_scales(c, u, scales), guidance_scale=1, image_guidance_scale=1
        )
        found.append(run(Denoising([row], params, mask_id=MASK, negatives=rows), logits).token_ids(0).tolist())
    assert found == [[5, 5], [6, 6], [7, 7]]


def test_one_unconditional_row_is_needed_for_each_scale():
    params = SamplingParams(steps=2, guidance=two_scales, guidance_scale=1, image_guidance_scale=1)
    row = canvas([1, MASK])
    with pytest.raises(InputError, match="1 negative canvases for 1 canvases"):
        Denoising([row], params, mask_id=MASK, negatives=[row])
    assert Denoising([row], params, mask_id=MASK, negatives=[row, row]).num_tokens(0) == 6
    unguided = params.with_(guidance_scale=0, image_guidance_scale=0)
    assert Denoising([row], unguided, mask_id=MASK).num_tokens(0) == 2
