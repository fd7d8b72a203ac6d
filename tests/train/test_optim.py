"""Schedules, groups, Muon, averages."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from mmada.errors import InputError
from mmada.train.optim import Ema, Muon, OptimizerConfig, _orthogonal_by_shape, build, lr_scale, orthogonal, set_lr

from . import tiny


def curve(optim, steps):
    return [lr_scale(optim, step, steps) for step in range(steps)]


def test_the_warm_up_rises_evenly_and_reaches_the_peak():
    assert curve(OptimizerConfig(warmup=4, schedule="constant"), 6) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_stable_stays_at_the_peak_and_falls_in_its_last_share():
    values = curve(OptimizerConfig(warmup=2, decay=0.4, floor=0.0), 10)
    assert values == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25])


def test_cosine_ends_at_the_floor_and_is_half_way_in_the_middle():
    optim = OptimizerConfig(warmup=0, schedule="cosine", floor=0.2)
    assert lr_scale(optim, 0, 100) == 1.0
    assert lr_scale(optim, 50, 100) == pytest.approx(0.6)
    assert lr_scale(optim, 100, 100) == pytest.approx(0.2)
    values = curve(optim, 100)
    assert all(a > b for a, b in pairwise(values))


def test_every_trainable_weight_is_in_exactly_one_group():
    network = tiny.model()
    network.model.transformer["wte"].weight.requires_grad_(False)
    for name in ("adamw", "muon"):
        optimizers = build(network.named_parameters(), OptimizerConfig(name=name))
        found = [id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
        assert sorted(found) == sorted(id(p) for p in network.parameters() if p.requires_grad)
        assert len(found) == len(set(found))


def decayed(network, optim):
    groups = [group for optimizer in build(network.named_parameters(), optim) for group in optimizer.param_groups]
    chosen = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    return {name for name, p in network.named_parameters() if id(p) in chosen}


def test_only_matrices_of_the_blocks_are_decayed_unless_everything_is():
    network = tiny.model(attention_layer_norm=True)
    names = {name for name, _ in network.named_parameters()}
    blocks = {name for name in names if ".blocks." in name and "norm" not in name}
    assert decayed(network, OptimizerConfig(weight_decay=0.1)) == blocks
    assert decayed(network, OptimizerConfig(name="muon", weight_decay=0.1)) == blocks
    assert decayed(network, OptimizerConfig(weight_decay=0.1, decay_everything=True)) == names


def test_muon_moves_the_matrices_of_the_blocks_by_orthogonal_updates():
    network = tiny.model()
    adamw, muon = build(network.named_parameters(), OptimizerConfig(name="muon", weight_decay=0.0, matrix_lr=0.1))
    by_muon = {id(p) for p in muon.param_groups[0]["params"]}
    assert {name for name, p in network.named_parameters() if id(p) in by_muon} == {
        name for name, p in network.named_parameters() if ".blocks." in name and p.dim() == 2
    }
    weight = network.model.transformer["blocks"][0].up_proj.weight
    before = weight.detach().clone()
    for p in network.parameters():
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(0))
    set_lr([adamw, muon], 1.0)
    muon.step()
    scale = 0.1 * (weight.shape[0] / weight.shape[1]) ** 0.5
    singular = torch.linalg.svdvals((weight.detach() - before) / scale)
    assert 0.5 < float(singular.min()) < float(singular.max()) < 1.5  # Newton-Schulz stops near 1, by design


def test_muon_equals_torchs_on_matrices():
    generator = torch.Generator().manual_seed(0)
    network = {name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in (("wide", (20, 48)), ("tall", (48, 20)))}
    copies = {name: nn.Parameter(weight.detach().clone()) for name, weight in network.items()}
    ours = Muon([{"params": list(network.values())}], lr=0.03, momentum=0.9, weight_decay=0.1)
    theirs = torch.optim.Muon(list(copies.values()), lr=0.03, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        for name, weight in network.items():
            weight.grad = torch.randn(weight.shape, generator=generator)
            copies[name].grad = weight.grad.clone()
        ours.step()
        theirs.step()
    for name, weight in network.items():
        # torch's works in bfloat16, which has 8 bits: a step of 0.03 is off by less than a hundredth of it.
        torch.testing.assert_close(weight, copies[name], rtol=0, atol=3e-3)


def test_matrices_of_one_shape_are_made_orthogonal_at_once_as_alone():
    generator = torch.Generator().manual_seed(0)
    matrices = [torch.randn(shape, generator=generator) for shape in ((20, 48), (48, 20), (20, 48))]
    for one, alone in zip(_orthogonal_by_shape(matrices), map(orthogonal, matrices), strict=True):
        torch.testing.assert_close(one, alone, rtol=0.05, atol=0.02)


def test_muon_takes_convolutions_between_many_channels():
    network = nn.Sequential(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3), nn.Conv2d(32, 12, 3))
    _, muon = build(network.named_parameters(), OptimizerConfig(name="muon"))
    assert [p.shape for p in muon.param_groups[0]["params"]] == [(32, 32, 3, 3)]


def test_learning_rates_are_set_from_the_peaks():
    optimizers = build(tiny.model().named_parameters(), OptimizerConfig(name="muon", lr=1e-3, matrix_lr=0.02))
    set_lr(optimizers, 0.5)
    assert {group["lr"] for optimizer in optimizers for group in optimizer.param_groups} == {5e-4, 0.01}


def test_nothing_to_train_is_an_error():
    network = nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(InputError, match="no parameter is trainable"):
        build(network.named_parameters(), OptimizerConfig())


def test_averages_follow_their_formula():
    weight = nn.Parameter(torch.zeros(3))
    ema = Ema({"w": weight}, 0.5)
    expected = torch.zeros(3)
    for n in range(20):
        with torch.no_grad():
            weight.fill_(float(n))
        d = min(0.5, (1 + n) / (10 + n))
        expected = d * expected + (1 - d) * n
        ema.update()
    torch.testing.assert_close(ema.weights["w"], expected)


def test_averages_are_applied_and_taken_back_bit_for_bit():
    weight = nn.Parameter(torch.tensor([math.pi]))
    ema = Ema({"w": weight}, 0.9)
    with torch.no_grad():
        weight.fill_(2.0)
    ema.update()
    with ema.applied():
        assert weight.tolist() == ema.weights["w"].tolist()
    assert weight.tolist() == [2.0]


@pytest.mark.parametrize("changes", [{"lr": 0.0}, {"clip": -1.0}, {"ema": 1.0}, {"betas": (0.9, 1.0)}, {"decay": 1.5}, {"warmup": -1}])
def test_values_that_cannot_be_used_are_errors(changes):
    with pytest.raises(InputError, match=f"optim.{next(iter(changes))}"):
        replace(OptimizerConfig(), **changes)
