"""Bias and penalties of single ids, against their definitions, and what a denoising makes of them."""

from __future__ import annotations

import pytest
import torch

from mmada.errors import InputError
from mmada.sampling import SamplingParams
from mmada.sampling.penalties import biased, counted, penalized
from mmada.sampling.token_sampling import sample_tokens


def test_counts_leave_out_ends_and_what_lies_outside():
    ids = torch.tensor([[5, 6, 6, 9, 99], [7, 7, 7, 9, 1]])
    assert counted(ids, 5, first=5, ends=torch.tensor([9])).tolist() == [[1, 2, 0, 0, 0], [0, 0, 3, 0, 0]]


@pytest.mark.parametrize(("frequency", "presence", "repetition"), [(0.5, 0, 1), (0, -1.5, 1), (0, 0, 1.3), (0.2, 0.7, 0.8)])
def test_penalties_are_their_definitions(frequency, presence, repetition):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 6, generator=generator, dtype=torch.float64)
    written = torch.randint(0, 3, (2, 6), generator=generator).double()
    present = written + torch.randint(0, 2, (2, 6), generator=generator)
    found = penalized(logits, written, present, frequency=frequency, presence=presence, repetition=repetition)
    for a in range(2):
        for q in range(3):
            for v in range(6):
                value = float(logits[a, q, v])
                if present[a, v]:
                    value = value / repetition if value > 0 else value * repetition
                value -= frequency * float(written[a, v]) + presence * bool(written[a, v])
                assert float(found[a, q, v]) == pytest.approx(value)


def test_a_bias_is_added_to_its_id_alone():
    logits = torch.zeros(2, 3, 4)
    logits[..., 1] = -torch.inf  # which nothing brings back
    found = biased(logits, ((10, 2.0), (11, 5.0), (99, 1.0)), first=10)
    assert found[1, 2].tolist() == [2.0, -torch.inf, 0.0, 0.0]
    assert biased(logits, ((99, 1.0),), first=10) is logits


def test_min_p_is_a_share_of_the_likeliest():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    uniform = torch.linspace(0, 0.999, 200)
    for min_p, kept in ((0.2, {0, 1, 2}), (0.5, {0, 1}), (1.0, {0}), (0.0, {0, 1, 2, 3})):
        assert set(sample_tokens(logits.expand(200, -1), uniform, temperature=1, min_p=min_p).tolist()) == kept


@pytest.mark.parametrize(
    "values", [{"min_p": 2}, {"repetition_penalty": 0}, {"frequency_penalty": float("nan")}, {"logit_bias": ((1, float("inf")),)}]
)
def test_values_that_cannot_be_used(values):
    with pytest.raises(InputError, match=next(iter(values))):
        SamplingParams(steps=4, **values)


def test_a_text_keeps_to_them(debug):
    """A bias forbids a token; a penalty makes a text of more different ones; ends fill what is behind a text all the same."""
    params = debug.planner.text_params()
    (plain,) = [debug.chat("hello", params=params.with_(stop_at_eos=False))]
    often = max(set(plain.token_ids), key=plain.token_ids.count)
    assert often not in debug.chat("hello", params=params.with_(stop_at_eos=False, logit_bias=((often, -100.0),))).token_ids
    varied = debug.chat("hello", params=params.with_(stop_at_eos=False, frequency_penalty=2.0, presence_penalty=2.0))
    assert len(set(varied.token_ids)) > len(set(plain.token_ids))
    repeated = debug.chat("hello", params=params.with_(stop_at_eos=False, repetition_penalty=1.5))
    assert repeated.token_ids != plain.token_ids
