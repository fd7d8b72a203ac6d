"""Noise on every logit chooses tokens as one uniform number a position does; other settings that parity needs."""

from __future__ import annotations

import pytest
import torch

from mmada.diffusion.schedule import cosine
from mmada.sampling import Denoising, SamplingParams
from mmada.sampling.confidence import narrow_probability, probability
from mmada.sampling.draws import SeededDraws, gumbel_added, gumbel_divided, gumbel_power, normal
from mmada.sampling.params import TransferState, follow_open, follow_schedule, keep_one

from .toy_denoiser import ANY, CODES, EOS, MASK, canvas, run


@pytest.mark.parametrize("noise", [gumbel_power, gumbel_divided, gumbel_added])
def test_noise_on_every_logit_draws_from_the_tempered_softmax(noise):
    """20,000 draws of four ids; a deviation above 0.02 has a chance below 1e-7 for any id."""
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0])
    uniform = torch.rand(20_000, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    chosen = noise(logits.expand(20_000, 4), uniform, 0.7).argmax(-1)
    share = chosen.bincount(minlength=4) / 20_000
    torch.testing.assert_close(share, (logits / 0.7).softmax(-1), atol=0.02, rtol=0)


def test_normal_noise_is_the_inverse_of_its_distribution():
    z = torch.tensor([-2.0, 0.0, 1.5], dtype=torch.float64)
    torch.testing.assert_close(normal(torch.special.ndtr(z)), z)


def test_seeded_draws_are_those_of_a_generator():
    tokens, order = SeededDraws(3).numbers(range(4, 9), None)
    assert torch.equal(torch.stack([tokens, order]), torch.rand(2, 5, generator=torch.Generator().manual_seed(3)))
    tokens, order = SeededDraws(3).numbers(range(4, 9), 7)
    assert (tokens.shape, order.shape) == ((5, 7), (5,))
    assert SeededDraws(3).integers(100, 5).max() < 5


def test_suppressed_ids_are_never_proposed_and_late_ones_come_last():
    row = canvas([1] + [MASK] * 6)

    def mostly_ends(tokens):
        logits = torch.zeros(7, 24)
        logits[:, EOS] = torch.tensor([0, 5, 5, 0.5, 5, 5, 5])
        logits[3, 4] = 0.6
        return logits

    params = SamplingParams(steps=6, stop_at_eos=False)
    assert EOS not in run(Denoising([row], params.with_(suppress_tokens=(EOS,)), mask_id=MASK), mostly_ends).token_ids(0)
    for late, first in (((), 0), ((EOS,), 2)):
        denoising = run(Denoising([row], params.with_(late_tokens=late), mask_id=MASK, record=True), mostly_ends)
        assert denoising.trace[0].slots == (first,)
        assert denoising.token_ids(0).tolist() == [EOS, EOS, 4, EOS, EOS, EOS]


def test_ties_are_committed_together_if_that_is_asked():
    row = canvas([MASK] * 5, CODES)
    params = SamplingParams(steps=5, confidence=narrow_probability)
    alike = lambda tokens: torch.arange(24).eq(18).float().expand(5, 24)  # noqa: E731
    assert run(Denoising([row], params, mask_id=MASK), alike).num_forwards == [5]
    assert run(Denoising([row], params.with_(commit_ties=True), mask_id=MASK), alike).num_forwards == [1]


def test_what_is_left_open_becomes_a_random_code():
    row = canvas([MASK] * 6, CODES)
    params = SamplingParams(steps=3, transfer_schedule=keep_one(cosine))
    left = run(Denoising([row], params, mask_id=MASK, seeds=[5])).token_ids(0)
    assert int((left == MASK).sum()) == 1
    filled = run(Denoising([row], params.with_(random_leftover=True), mask_id=MASK, seeds=[5])).token_ids(0)
    assert filled[left != MASK].tolist() == left[left != MASK].tolist()
    assert all(i in CODES for i in filled.tolist())


def test_float32_confidence():
    logits = torch.tensor([[1.0, 20.0, 0.0], [3.0, 1.0, 2.0]])
    at = logits.argmax(-1)
    torch.testing.assert_close(narrow_probability(logits, at, at), probability(logits, at, at).float())
    assert narrow_probability(logits, at, at).dtype == torch.float32


def test_masks_counted_at_the_start_and_in_the_whole_region():
    """10 of 16 positions open, 6 steps: the recorded sequence of an inpainting, and that of a schedule over the whole image."""
    for schedule, expected in ((follow_open(cosine), [10, 9, 8, 7, 4, 2]), (follow_schedule(cosine), [10, 9, 8, 7, 6, 4])):
        left, seen = 10, []
        for step in range(6):
            seen.append(left)
            one = [torch.tensor([n]) for n in (left, 10, 16, step, 6)]
            left -= int(schedule(TransferState(*one)))
        assert (seen, left) == (expected, 0)


def test_every_row_of_the_head_may_be_proposed_with_noise():
    row = canvas([1] + [MASK] * 4, ANY)
    params = SamplingParams(steps=4, propose_any=True, stop_at_eos=False, temperature=5.0, token_noise=gumbel_power)
    found = {i for seed in range(30) for i in run(Denoising([row], params, mask_id=MASK, seeds=[seed])).token_ids(0).tolist()}
    assert {MASK, *range(13, 16)} <= found
