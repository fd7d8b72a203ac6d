import itertools

import pytest
import torch

from mmada.diffusion.likelihood import confident_log_likelihood, log_likelihood, stratified_counts
from mmada.errors import InputError

MASK = 3
STATES = torch.tensor(list(itertools.product(range(3), repeat=3)))  # (27, 3) all answers of 3 tokens of 3 kinds
JOINT = torch.rand(27, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) ** 3
JOINT /= JOINT.sum()


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def exact_conditionals(xt, is_masked):
    """A perfect model of JOINT: log p(token | visible tokens) behind one prompt token. (B, 4) -> (M, 4)."""
    visible = xt[:, None, 1:]  # (B, 1, 3)
    agrees = ((visible == STATES) | (visible == MASK)).all(-1) * JOINT  # (B, 27)
    logits = torch.full((len(xt), 4, 4), -torch.inf, dtype=torch.float64)
    for i, token in itertools.product(range(3), range(3)):
        logits[:, 1 + i, token] = (agrees * (STATES[:, i] == token)).sum(1).log()
    return logits[is_masked]


def test_the_estimate_is_unbiased_for_a_perfect_model():
    # The mean of 60 independent estimates, within 5 of its standard errors: a false alarm for one seed in 180,000 (Student, 59).
    answer = 14
    tokens = torch.cat([torch.tensor([0]), STATES[answer]])
    is_answer = torch.tensor([False, True, True, True])
    runs = torch.tensor(
        [log_likelihood(exact_conditionals, tokens, is_answer, mask_id=MASK, num_draws=8, generator=seeded(seed)) for seed in range(60)]
    )
    error = runs.std() / 60**0.5
    assert 0 < error < 0.2
    assert abs(runs.mean() - JOINT[answer].log()) < 5 * error


@pytest.mark.parametrize("num_draws", [1, 2, 7, 33])
@pytest.mark.parametrize("batch_size", [1, 5, 16])
def test_the_estimate_is_exact_where_all_positions_are_alike_and_independent(num_draws, batch_size):
    logits = torch.tensor([0.3, -1.0, 2.0, 0.5])
    tokens, is_answer = torch.tensor([0, 1, 2, 2, 2, 2]), torch.tensor([0, 0, 1, 1, 1, 1]).bool()
    estimate = log_likelihood(
        lambda xt, is_masked: logits.expand(*xt.shape, 4)[is_masked],
        tokens,
        is_answer,
        mask_id=MASK,
        num_draws=num_draws,
        batch_size=batch_size,
        generator=seeded(),
    )
    assert estimate == pytest.approx(4 * logits.log_softmax(-1)[2].item(), rel=1e-6)


def test_one_draw_is_exact_for_an_answer_of_one_token():
    tokens, is_answer = torch.tensor([0, 1, 0, 2]), torch.tensor([False, False, True, False])
    estimate = log_likelihood(exact_conditionals, tokens, is_answer, mask_id=MASK, num_draws=1, generator=seeded())
    agrees = (STATES[:, 0] == 1) & (STATES[:, 2] == 2)
    expected = JOINT[agrees & (STATES[:, 1] == 0)].sum() / JOINT[agrees].sum()
    assert estimate == pytest.approx(expected.log().item(), rel=1e-6)


def test_the_prompt_is_never_masked_and_the_answer_always_in_part():
    tokens, is_answer = torch.tensor([0, 1, 2, 0, 1]), torch.tensor([False, True, True, True, False])
    seen = []

    def logits_of(xt, is_masked):
        assert torch.equal(is_masked, xt == MASK)
        seen.append(xt)
        return torch.zeros(int(is_masked.sum()), 4)

    log_likelihood(logits_of, tokens, is_answer, mask_id=MASK, num_draws=20, batch_size=8, generator=seeded())
    rows = torch.cat(seen)
    assert [len(xt) for xt in seen] == [8, 8, 4]
    assert torch.equal(rows[:, [0, 4]], tokens[[0, 4]].expand(20, -1))
    masked = rows == MASK
    assert set(masked.sum(1).tolist()) == {1, 2, 3}
    assert torch.equal(rows, torch.where(masked, MASK, tokens))


def test_the_generator_alone_decides():
    tokens, is_answer = torch.tensor([0, 1, 0, 2]), torch.tensor([False, True, True, True])

    def run(seed):
        return log_likelihood(exact_conditionals, tokens, is_answer, mask_id=MASK, num_draws=3, generator=seeded(seed))

    torch.manual_seed(1)
    first = run(5)
    torch.manual_seed(2)
    assert run(5) == first
    assert len({run(seed) for seed in range(8)}) > 1


@pytest.mark.parametrize(("num_draws", "num_tokens"), [(1, 5), (3, 10), (5, 5), (10, 5), (12, 5), (128, 7)])
def test_stratified_counts_are_evenly_spread(num_draws, num_tokens):
    counts = stratified_counts(num_draws, num_tokens, generator=seeded())
    assert counts.shape == (num_draws,)
    how_often = torch.bincount(counts, minlength=num_tokens + 1)
    assert how_often[0] == 0
    assert len(how_often) == num_tokens + 1
    assert how_often[1:].max() - how_often[1:].min() <= 1


def test_each_stratified_count_alone_is_uniform():
    # Chi-square of the second count over 1..6, 3,000 draws: a false alarm for one seed in a million.
    generator = seeded()
    second = torch.stack([stratified_counts(4, 6, generator=generator)[1] for _ in range(3000)])
    counts = torch.bincount(second, minlength=7)[1:]
    statistic = ((counts - 500) ** 2 / 500).sum().double()
    assert torch.special.gammaincc(torch.tensor(2.5).double(), statistic / 2) > 1e-6


@pytest.mark.parametrize(("is_answer", "num_draws"), [([False, False], 4), ([True, False], 0)])
def test_refused(is_answer, num_draws):
    with pytest.raises(InputError, match=f"the answer has {sum(is_answer)} tokens and num_draws={num_draws}; both must be at least 1"):
        log_likelihood(exact_conditionals, torch.tensor([0, 1]), torch.tensor(is_answer), mask_id=MASK, num_draws=num_draws)


@pytest.mark.parametrize("answer", [0, 5, 14, 26])
def test_the_surest_first_is_the_likelihood_of_a_perfect_model(answer):
    tokens = torch.cat([torch.tensor([0]), STATES[answer]])
    found = confident_log_likelihood(exact_conditionals, tokens, torch.tensor([False, True, True, True]), mask_id=MASK)
    assert found == pytest.approx(float(JOINT[answer].log()), abs=1e-5)


def test_the_surest_token_of_the_answer_is_uncovered_first():
    """A model whose answer to each row depends on the row: the order and the sum are those of the plain loop."""
    tokens, is_answer = torch.tensor([2, 0, 1, 2, 1]), torch.tensor([0, 1, 1, 1, 1]).bool()
    table = torch.randn(4, 5, 5, 4, generator=seeded(), dtype=torch.float64)
    rows = []

    def logits_of(xt, is_masked):
        rows.append(xt[0].tolist())
        (row,) = xt
        return sum(table[token, place] for place, token in enumerate(row))[None][is_masked]

    found = confident_log_likelihood(logits_of, tokens, is_answer, mask_id=MASK)
    row, expected, total = tokens.masked_fill(is_answer, MASK).tolist(), [], 0.0
    while MASK in row:
        expected.append(list(row))
        logp = sum(table[token, place] for place, token in enumerate(row)).log_softmax(-1)
        best = max((i for i, token in enumerate(row) if token == MASK), key=lambda i: logp[i, tokens[i]])
        total, row[best] = total + float(logp[best, tokens[best]]), int(tokens[best])
    assert rows == expected
    assert found == pytest.approx(total, abs=1e-5)
    with pytest.raises(InputError, match="has no token"):
        confident_log_likelihood(logits_of, tokens, is_answer & False, mask_id=MASK)
