import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmada.sampling.confidence import CONFIDENCES, margin, negative_entropy, probability, random_order
from mmada.sampling.draws import gumbel

few = settings(derandomize=True, deadline=None)


def softmax(values):
    weights = [math.exp(value) for value in values]
    return [weight / sum(weights) for weight in weights]


NAIVE = {
    "probability": lambda p, i, u: p[i],
    "margin": lambda p, i, u: sorted(p)[-1] - sorted(p)[-2],
    "entropy": lambda p, i, u: sum(x * math.log(x) for x in p if x),
    "random": lambda p, i, u: u,
}


@few
@given(st.integers(0, 10**6), st.booleans())
def test_every_score_equals_its_definition(seed, some_are_not_allowed):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, 3, 6, generator=generator)
    if some_are_not_allowed:
        logits[..., [0, 4]] = -torch.inf
    proposal, uniform = torch.randint(1, 4, (2, 3), generator=generator), torch.rand(2, 3, generator=generator)
    for name, confidence in CONFIDENCES.items():
        values = confidence(logits, proposal, uniform)
        assert values.shape == (2, 3)
        for b in range(2):
            for i in range(3):
                p = softmax(logits[b, i].tolist())
                expected = NAIVE[name](p, int(proposal[b, i]), float(uniform[b, i]))
                assert values[b, i].item() == pytest.approx(expected, abs=1e-6), name


def test_by_hand():
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log()
    proposal, uniform = torch.tensor([1]), torch.tensor([0.7])
    assert probability(logits, proposal, uniform).item() == pytest.approx(0.3)
    assert margin(logits, proposal, uniform).item() == pytest.approx(0.2)
    assert negative_entropy(logits, proposal, uniform).item() == pytest.approx(-1.0296530)
    assert random_order(logits, proposal, uniform).item() == pytest.approx(0.7)


def test_almost_certain_tokens_keep_their_order():
    # 1 - p is 1e-9 and 1e-11: both are 1 in float32, and the published sampler commits the second first.
    logits = torch.tensor([[20 + math.log(1e9), 20.0], [20 + math.log(1e11), 20.0]])
    a, b = probability(logits, torch.tensor([0, 0]), torch.zeros(2)).tolist()
    assert a < b < 1


def test_larger_is_surer():
    sure, unsure = torch.tensor([5.0, 0.0, 0.0]), torch.tensor([0.1, 0.0, 0.0])
    for confidence in (probability, margin, negative_entropy):
        a, b = (confidence(logits, torch.tensor(0), torch.tensor(0.5)) for logits in (sure, unsure))
        assert a > b


@pytest.mark.parametrize("confidence", [probability, margin, negative_entropy])
def test_one_allowed_id_is_certain(confidence):
    logits = torch.tensor([[-torch.inf, 0.3, -torch.inf]])
    certain = 0.0 if confidence is negative_entropy else 1.0
    assert confidence(logits, torch.tensor([1]), torch.tensor([0.5])).item() == certain
    assert confidence(logits[:, 1:2], torch.tensor([0]), torch.tensor([0.5])).item() == certain  # a range of one id


@pytest.mark.parametrize("u", [0.001, 0.2, math.exp(-1), 0.7, 0.9999])
def test_gumbel_inverts_its_distribution(u):
    value = gumbel(torch.tensor(u, dtype=torch.float64)).item()
    assert math.exp(-math.exp(-value)) == pytest.approx(u, rel=1e-12)


def test_gumbel_is_finite_at_the_ends():
    values = gumbel(torch.tensor([0.0, 1 - 2**-24]))
    assert values[0] == pytest.approx(-math.log(-math.log(torch.finfo(torch.float32).tiny)), rel=1e-6)
    assert values[1] == pytest.approx(24 * math.log(2), rel=1e-3)
