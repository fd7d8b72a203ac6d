"""Group-relative advantages by hand, and what is left out."""

import math

import pytest
import torch

from mmada.errors import InputError
from mmada.rl.advantage import advantages

NAN = math.nan


@pytest.mark.parametrize("scale", ["none", "group", "batch"])
def test_each_group_sums_to_zero(scale):
    rewards = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    rewards[3, 2] = rewards[4, :3] = NAN
    found = advantages(rewards, scale=scale)
    assert float(found.values.sum(1).abs().max()) < 1e-12


def test_scales_by_hand():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.0, 4.0, 0.0, 4.0]])
    assert advantages(rewards, scale="none").values.tolist() == [[0.5, -0.5, -0.5, 0.5], [-2, 2, -2, 2]]
    assert advantages(rewards, scale="group").values.tolist() == [[1, -1, -1, 1], [-1, 1, -1, 1]]
    batch = advantages(rewards, scale="batch").values
    deviation = math.sqrt((4 * 0.25 + 4 * 4) / 8)
    torch.testing.assert_close(batch, advantages(rewards, scale="none").values / deviation)


def test_processes_share_the_deviation_of_the_batch():
    rewards = torch.tensor([[1.0, 0.0], [0.0, 4.0]])
    whole = advantages(rewards, scale="batch").values
    sums = []

    def total(own):
        sums.append(own)
        return torch.tensor([0.5 + 8.0, 4.0], dtype=torch.float64)

    parts = [advantages(rewards[i : i + 1], scale="batch", total=total).values for i in range(2)]
    torch.testing.assert_close(torch.cat(parts), whole)
    assert torch.stack(sums).sum(0).tolist() == [8.5, 4.0]


def test_a_failed_rollout_takes_no_part():
    found = advantages(torch.tensor([[1.0, 0.0, NAN, 1.0, 0.0, math.inf]]))
    assert found.values.tolist() == [[1, -1, 0, 1, -1, 0]]
    assert found.is_kept.tolist() == [[True, True, False, True, True, False]]
    assert found.is_failed.tolist() == [[False, False, True, False, False, True]]


def test_empty_groups_and_groups_without_signal():
    rewards = torch.tensor([[NAN, NAN, NAN], [NAN, 1.0, NAN], [0.1, 0.1, 0.1], [0.0, NAN, 1.0]])
    found = advantages(rewards)
    assert found.is_empty.tolist() == [True, True, False, False]
    assert found.is_flat.tolist() == [False, False, True, False]
    assert found.is_kept.any(1).tolist() == [False, False, False, True]
    assert found.values[:3].abs().sum() == 0
    kept = advantages(rewards, drop_zero_variance=False)
    assert kept.is_kept.any(1).tolist() == [False, False, True, True]
    assert kept.values[2].tolist() == [0, 0, 0]


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_rewards_of_another_shape_are_errors(shape):
    with pytest.raises(InputError, match="at least 2 rollouts"):
        advantages(torch.zeros(shape))
