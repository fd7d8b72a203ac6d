import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmada.sampling.confidence import probability
from mmada.sampling.token_sampling import inverse_cumulative, keep_top_k, keep_top_p, sample_tokens, sample_with_probability

few = settings(derandomize=True, deadline=None)
below_one = st.floats(0, 1, exclude_max=True, width=32)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def is_drawn_from(draws, p):
    """Chi-square of draws (N,) against p (V,) over the ids of p > 0: a false alarm for one seed in a million."""
    counts = torch.bincount(draws, minlength=len(p)).double()
    kept = p > 0
    if counts[~kept].any():
        return False
    if kept.sum() == 1:
        return True
    expected = len(draws) * p[kept].double()
    statistic = ((counts[kept] - expected) ** 2 / expected).sum()
    return torch.special.gammaincc(torch.tensor((int(kept.sum()) - 1) / 2).double(), statistic / 2) > 1e-6


LOGITS = torch.tensor([0.5, 2.0, -1.0, 1.0, -torch.inf, 0.0])
SETTINGS = [(1.0, None, None), (0.6, None, None), (2.0, 3, None), (1.0, None, 0.7), (1.5, 4, 0.8), (0.5, 1, None)]


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), SETTINGS)
def test_draws_follow_the_tempered_and_cut_softmax(temperature, top_k, top_p):
    p = (LOGITS.double() / temperature).softmax(-1)
    order = p.argsort(descending=True).tolist()
    if top_k is not None:
        p[order[top_k:]] = 0
        p /= p.sum()
    if top_p is not None:
        kept = next(n for n in range(1, 7) if p[order[:n]].sum() >= top_p)
        p[order[kept:]] = 0
        p /= p.sum()
    uniform = torch.rand(5000, generator=seeded())
    draws = sample_tokens(LOGITS.expand(5000, -1), uniform, temperature=temperature, top_k=top_k, top_p=top_p)
    assert is_drawn_from(draws, p)


def test_the_check_of_frequencies_would_notice():
    uniform = torch.rand(5000, generator=seeded())
    draws = sample_tokens(LOGITS.expand(5000, -1), uniform, temperature=1.0)
    assert not is_drawn_from(draws, (LOGITS.double() / 1.2).softmax(-1))


@few
@given(st.integers(0, 10**6), st.floats(0.1, 3))
def test_a_draw_is_the_inverse_of_the_cumulative_distribution(seed, temperature):
    logits, uniform = torch.randn(2, 3, 5, generator=seeded(seed)), torch.rand(2, 3, generator=seeded(seed + 1))
    drawn = sample_tokens(logits, uniform, temperature=temperature)
    assert drawn.shape == (2, 3)
    for b in range(2):
        for i in range(3):
            weights = [math.exp(value / temperature) for value in logits[b, i].double().tolist()]
            reached = [sum(weights[: n + 1]) / sum(weights) for n in range(5)]
            naive = next(n for n in range(5) if reached[n] > uniform[b, i] - 1e-7)
            at_an_edge = next((n for n in range(5) if reached[n] > uniform[b, i] + 1e-7), 4)
            assert drawn[b, i].item() in {naive, at_an_edge}


@few
@given(st.integers(0, 10**6), st.lists(st.booleans(), min_size=8, max_size=8).filter(any), below_one, st.sampled_from(SETTINGS))
def test_an_id_that_is_not_allowed_is_never_drawn(seed, allowed, uniform, setting):
    temperature, top_k, top_p = setting
    logits = torch.randn(8, generator=seeded(seed)).masked_fill(~torch.tensor(allowed), -torch.inf)
    assert allowed[int(sample_tokens(logits, torch.tensor(uniform), temperature=temperature, top_k=top_k, top_p=top_p))]
    assert allowed[int(sample_tokens(logits, torch.tensor(uniform), temperature=0))]


def test_the_ends_of_the_unit_interval():
    logits = torch.tensor([-torch.inf, 0.0, 0.0, -torch.inf])
    assert sample_tokens(logits, torch.tensor(0.0), temperature=1.0) == 1
    assert sample_tokens(logits, torch.tensor(1 - 2**-24), temperature=1.0) == 2


def test_temperature_zero_is_the_arg_max_whatever_the_numbers():
    logits = torch.randn(4, 9, generator=seeded())
    for seed in range(3):
        assert torch.equal(sample_tokens(logits, torch.rand(4, generator=seeded(seed)), temperature=0), logits.argmax(-1))


@pytest.mark.parametrize(("top_k", "top_p"), [(1, None), (None, 1e-6), (1, 1.0)])
def test_one_candidate_is_the_arg_max(top_k, top_p):
    logits = torch.randn(50, 9, generator=seeded())
    drawn = sample_tokens(logits, torch.rand(50, generator=seeded(1)), temperature=3.0, top_k=top_k, top_p=top_p)
    assert torch.equal(drawn, logits.argmax(-1))


def test_a_large_vocabulary_keeps_its_rare_ids():
    # Two likely ids and 130,000 of 4e-10 each, which a cumulative sum in float32 would merge by the hundred.
    logits, uniform = torch.full((130_002,), -21.0), torch.tensor(0.99998)
    logits[:2] = 0
    rare = math.exp(-21)
    mass = 2 + 130_000 * rare
    expected = 2 + int((uniform.double().item() * mass - 2) / rare)
    assert 70_000 < expected < 110_000
    assert abs(int(sample_tokens(logits, uniform, temperature=1.0)) - expected) <= 1


@few
@given(st.integers(0, 10**6), st.integers(1, 12))
def test_keep_top_k_keeps_the_k_largest(seed, k):
    logits = torch.randn(2, 9, generator=seeded(seed))
    kept = keep_top_k(logits, k)
    for row, before in zip(kept, logits, strict=True):
        expected = set(before.argsort(descending=True)[:k].tolist())
        assert {i for i in range(9) if row[i] == before[i]} == expected
        assert all(row[i] == -torch.inf for i in range(9) if i not in expected)


@few
@given(st.integers(0, 10**6), st.floats(0.05, 1))
def test_keep_top_p_keeps_the_smallest_set_that_reaches_p(seed, p):
    logits = torch.randn(2, 9, generator=seeded(seed)).double()
    kept = keep_top_p(logits, p)
    for row, before in zip(kept, logits, strict=True):
        probability, order = before.softmax(-1), before.argsort(descending=True).tolist()
        size = next((n for n in range(1, 9) if probability[order[:n]].sum() >= p), 9)
        assert {i for i in range(9) if row[i] == before[i]} == set(order[:size])
        assert all(row[i] == -torch.inf for i in order[size:])


def test_cutting_leaves_the_logits_as_they_were():
    logits = torch.randn(3, 9, generator=seeded())
    before = logits.clone()
    sample_tokens(logits, torch.rand(3, generator=seeded()), temperature=0.5, top_k=2, top_p=0.5)
    assert torch.equal(logits, before)


@pytest.mark.parametrize("size", [1, 5, 128, 129, 1000, 126_464])
def test_the_index_of_a_running_sum(size):
    generator = torch.Generator().manual_seed(size)
    weight = torch.rand(40, size, generator=generator) ** 8
    weight[:, torch.rand(size, generator=generator) < 0.3] = 0.0
    weight[:, size // 2] = 1e-6
    uniform = torch.rand(40, generator=generator)
    cumulative = weight.double().cumsum(-1)
    expected = (cumulative <= uniform.double()[:, None] * cumulative[:, -1:]).sum(-1)
    assert torch.equal(inverse_cumulative(weight, uniform), expected)


def test_an_index_without_weight_is_never_drawn():
    generator = torch.Generator().manual_seed(0)
    weight = torch.zeros(300, 700)
    for row, index in enumerate(torch.randint(700, (300, 3), generator=generator)):
        weight[row, index] = 10 ** (20 * torch.rand(3, generator=generator) - 10)
    for uniform in (0.0, 0.5, 1 - 2**-24):  # 0 and the largest number below 1 that torch.rand gives
        drawn = inverse_cumulative(weight, torch.full((300,), uniform))
        assert bool((weight.gather(1, drawn[:, None]) > 0).all())


@pytest.mark.parametrize("temperature", [1e-40, 1e-5])
def test_a_temperature_near_zero_is_the_arg_max(temperature):
    uniform = torch.rand(50, generator=seeded())
    assert sample_tokens(LOGITS.expand(50, -1), uniform, temperature=temperature).unique().tolist() == [1]


def test_what_is_not_a_number_gives_no_index_outside():
    """On a GPU one such index would end the process, and all other requests with it."""
    for size in (6, 128, 300):
        assert int(inverse_cumulative(torch.full((3, size), math.nan), torch.tensor([0.0, 0.5, 0.999])).max()) < size


@few
@given(st.integers(0, 10**6), st.sampled_from([1, 5, 128, 300]), st.sampled_from([0.1, 3.0, 40.0]))
def test_a_draw_and_its_probability_are_those_of_two_calls_to_the_bit(seed, num_ids, scale):
    logits, uniform = scale * torch.randn(3, 7, num_ids, generator=seeded(seed)), torch.rand(3, 7, generator=seeded(seed + 1))
    logits[..., : num_ids // 3] = -torch.inf
    index, score = sample_with_probability(logits, uniform)
    assert torch.equal(index, sample_tokens(logits, uniform, temperature=1.0))
    expected = probability(logits, index, uniform)
    assert score.dtype == expected.dtype
    assert torch.equal(score, expected)
