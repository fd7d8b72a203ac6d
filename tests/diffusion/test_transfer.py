import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmada.diffusion.schedule import SCHEDULES, cosine, linear
from mmada.diffusion.transfer import even, even_at, remaining
from mmada.errors import InputError

few = settings(derandomize=True, deadline=None)

# reference/mmada.md, section 8.2: how many of 1024 codes stay masked after each of 15 steps.
PUBLISHED = [1018, 1001, 973, 935, 886, 828, 760, 685, 601, 512, 416, 316, 212, 107, 1]


def run(num_open, num_total, steps, schedule, dtype=torch.float32):
    """The open counts after each step when every step commits all but `remaining`."""
    counts = []
    for step in range(steps):
        progress = torch.tensor([(step + 1) / steps], dtype=dtype)
        left = remaining(torch.tensor([num_open]), torch.tensor([num_total]), progress, schedule)
        num_open = int(left)
        counts.append(num_open)
    return counts


@few
@given(st.lists(st.integers(0, 500), min_size=1, max_size=5), st.integers(1, 64))
def test_even_shares_sum_to_the_count(counts, steps):
    shares = even(torch.tensor(counts), steps)
    assert shares.shape == (len(counts), steps)
    assert shares.sum(1).tolist() == counts
    assert (shares.max(1).values - shares.min(1).values <= 1).all()
    assert (shares.diff(dim=1) <= 0).all()  # larger shares first


@few
@given(st.integers(0, 500), st.integers(1, 64))
def test_even_at_is_one_column_of_even(count, steps):
    whole = even(torch.tensor([count]), steps)[0].tolist()
    for step in range(steps):
        assert even_at(torch.tensor([count]), torch.tensor([step]), torch.tensor([steps])).tolist() == [whole[step]]


def test_even_by_hand():
    assert even(torch.tensor([7, 0, 2]), 3).tolist() == [[3, 2, 2], [0, 0, 0], [1, 1, 0]]


@pytest.mark.parametrize("steps", [0, -1])
def test_even_needs_a_step(steps):
    with pytest.raises(InputError, match=f"steps={steps} must be at least 1"):
        even(torch.tensor([4]), steps)


def test_published_counts_of_an_image():
    assert run(1024, 1024, 15, cosine, torch.float64) == PUBLISHED
    # The published code rounds to float32, where 1024 cos(pi/2 * 10/15) lies just below 512.
    assert run(1024, 1024, 15, cosine) == [511 if count == 512 else count for count in PUBLISHED]


@few
@given(st.integers(1, 300), st.integers(0, 300), st.integers(1, 40), st.sampled_from(sorted(SCHEDULES)))
def test_remaining_keeps_at_least_one_and_commits_at_least_one(num_open, num_given, steps, name):
    counts = run(num_open, num_open + num_given, steps, SCHEDULES[name])
    before = [num_open, *counts[:-1]]
    for step, (was, left) in enumerate(zip(before, counts, strict=True)):
        assert 1 <= left <= max(1, was - 1)
        curve = SCHEDULES[name].mask_ratio(torch.tensor((step + 1) / steps))
        assert left <= max(1, math.floor((num_open + num_given) * float(curve) + 1e-3))


def test_the_curve_is_measured_on_the_whole_region():
    # One token a step until total * (1 - progress) has come down to what is open.
    assert run(16, 16, 8, linear) == [14, 12, 10, 8, 6, 4, 2, 1]
    assert run(10, 16, 8, linear) == [9, 8, 7, 6, 5, 4, 2, 1]
    assert run(10, 64, 8, linear) == [9, 8, 7, 6, 5, 4, 3, 1]


def test_rows_do_not_influence_each_other():
    num_open, num_total, progress = torch.tensor([20, 3, 1]), torch.tensor([20, 20, 20]), torch.tensor([0.5, 0.5, 1.0])
    together = remaining(num_open, num_total, progress, cosine)
    alone = [int(remaining(num_open[i : i + 1], num_total[i : i + 1], progress[i : i + 1], cosine)) for i in range(3)]
    assert together.tolist() == alone == [14, 2, 1]
