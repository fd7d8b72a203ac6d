import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmada.diffusion.noise import complement, exact, independent, stratified_uniform
from mmada.errors import InputError

MASK = 99
few = settings(derandomize=True, deadline=None)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(seed, rows=4, length=24):
    """Clean ids and where they may be masked."""
    generator = seeded(seed)
    x0 = torch.randint(0, 90, (rows, length), generator=generator)
    return x0, torch.rand(rows, length, generator=generator) < 0.6


def check_noised(noised, x0, maskable):
    assert noised.is_masked.dtype == torch.bool
    assert not (noised.is_masked & ~maskable).any()
    assert torch.equal(noised.xt, torch.where(noised.is_masked, MASK, x0))


@few
@given(st.integers(0, 10**6), st.floats(1e-3, 1))
def test_independent_touches_maskable_positions_only(seed, ratio):
    x0, maskable = batch(seed)
    before = x0.clone()
    check_noised(independent(x0, torch.full((4,), ratio), maskable, mask_id=MASK, generator=seeded(seed)), x0, maskable)
    assert torch.equal(x0, before)


def test_independent_at_ratio_one_masks_everything_that_it_may():
    x0, maskable = batch(0)
    assert torch.equal(independent(x0, torch.ones(4), maskable, mask_id=MASK, generator=seeded()).is_masked, maskable)


def test_independent_masks_at_the_ratio_of_each_row():
    # 3 counts of 40,000 positions, each within 5 standard deviations: a false alarm for one seed in 600,000.
    ratio, count = torch.tensor([0.05, 0.5, 0.9]), 40_000
    x0, maskable = torch.zeros(3, 2 * count, dtype=torch.long), torch.arange(2 * count) % 2 == 0
    noised = independent(x0, ratio, maskable.expand(3, -1), mask_id=MASK, generator=seeded())
    deviation = (noised.is_masked.sum(1) - ratio * count) / (count * ratio * (1 - ratio)).sqrt()
    assert deviation.abs().max() < 5


def test_independent_positions_are_independent():
    # Neighboring pairs both masked: binomial(20,000, 0.09), within 5 standard deviations: a false alarm for one seed in 1.7 million.
    x0 = torch.zeros(1, 40_000, dtype=torch.long)
    masked = independent(x0, torch.tensor([0.3]), torch.ones_like(x0).bool(), mask_id=MASK, generator=seeded()).is_masked
    pairs = masked.reshape(-1, 2).all(1).sum()
    assert abs(pairs - 20_000 * 0.09) < 5 * (20_000 * 0.09 * 0.91) ** 0.5


@few
@given(st.integers(0, 10**6), st.data())
def test_exact_masks_exactly_that_many_maskable_positions(seed, data):
    x0, maskable = batch(seed)
    counts = [data.draw(st.integers(0, available)) for available in maskable.sum(1).tolist()]
    noised = exact(x0, torch.tensor(counts), maskable, mask_id=MASK, generator=seeded(seed))
    check_noised(noised, x0, maskable)
    assert noised.is_masked.sum(1).tolist() == counts


def test_exact_draws_every_subset_alike():
    # Chi-square over the 15 pairs of 6 positions, 6,000 rows: a false alarm for one seed in a million.
    x0 = torch.zeros(6000, 8, dtype=torch.long)
    maskable = torch.tensor([1, 1, 0, 1, 1, 0, 1, 1]).bool().expand(6000, -1)
    masked = exact(x0, torch.full((6000,), 2), maskable, mask_id=MASK, generator=seeded()).is_masked
    _, counts = (masked.long() * 2 ** torch.arange(8)).sum(1).unique(return_counts=True)
    assert len(counts) == 15
    statistic = ((counts - 400) ** 2 / 400).sum().double()
    assert torch.special.gammaincc(torch.tensor(7.0).double(), statistic / 2) > 1e-6


@few
@given(st.integers(0, 10**6))
def test_complement_masks_what_was_left_visible(seed):
    x0, maskable = batch(seed)
    first = independent(x0, torch.full((4,), 0.4), maskable, mask_id=MASK, generator=seeded(seed))
    second = complement(x0, first.is_masked, maskable, mask_id=MASK)
    check_noised(second, x0, maskable)
    assert torch.equal(first.is_masked ^ second.is_masked, maskable)


@pytest.mark.parametrize(
    "draw",
    [
        lambda generator: independent(*args(torch.full((4,), 0.5)), mask_id=MASK, generator=generator).xt,
        lambda generator: exact(*args(torch.full((4,), 3)), mask_id=MASK, generator=generator).xt,
        lambda generator: stratified_uniform(64, generator=generator),
    ],
)
def test_the_generator_alone_decides(draw):
    torch.manual_seed(1)
    first, other = draw(seeded(5)), draw(seeded(6))
    torch.manual_seed(2)
    assert torch.equal(draw(seeded(5)), first)
    assert not torch.equal(other, first)


def args(amount):
    x0, maskable = batch(0)
    return x0, amount, maskable


@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_stratified_uniform_has_one_number_in_each_interval(count):
    values = stratified_uniform(count, generator=seeded())
    assert (values.shape, values.dtype) == ((count,), torch.float32)
    assert (values * count).floor().sort().values.tolist() == list(range(count))
    assert values.max() < 1


def test_each_stratified_number_alone_is_uniform():
    # Chi-square of the first of 5 numbers over 10 cells, 2,000 draws: a false alarm for one seed in a million.
    generator = seeded()
    first = torch.stack([stratified_uniform(5, generator=generator)[0] for _ in range(2000)])
    counts = torch.histc(first, 10, 0, 1)
    statistic = ((counts - 200) ** 2 / 200).sum().double()
    assert torch.special.gammaincc(torch.tensor(4.5).double(), statistic / 2) > 1e-6


X0 = torch.zeros(2, 3, dtype=torch.long)
ALL = torch.ones(2, 3, dtype=torch.bool)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: independent(X0, torch.tensor([0.5, 0.0]), ALL, mask_id=MASK), r"ratio in \[0, 0.5\] must lie in \(0, 1\]"),
        (lambda: independent(X0, torch.tensor([0.5, 1.5]), ALL, mask_id=MASK), r"ratio in \[0.5, 1.5\] must lie in \(0, 1\]"),
        (lambda: independent(X0, torch.ones(2), ALL.long(), mask_id=MASK), "maskable must be bool"),
        (lambda: independent(X0, torch.ones(2), ALL[:1], mask_id=MASK), r"the shape \(2, 3\) of x0, got torch.bool \(1, 3\)"),
        (lambda: exact(X0, torch.tensor([3, 4]), ALL, mask_id=MASK), r"num_masked=\[3, 4\] must lie between 0 and .* \[3, 3\]"),
        (lambda: exact(X0, torch.tensor([3, -1]), ALL, mask_id=MASK), r"num_masked=\[3, -1\] must lie between 0"),
        (lambda: exact(X0, torch.tensor([1, 1]), X0 > 0, mask_id=MASK), r"maskable positions \[0, 0\]"),
        (lambda: complement(X0, ALL, ALL[:, :2], mask_id=MASK), "maskable must be bool"),
        (lambda: stratified_uniform(0), "count=0 must be at least 1"),
    ],
)
def test_refused(draw, message):
    with pytest.raises(InputError, match=message):
        draw()
