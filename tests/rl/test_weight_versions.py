"""Rollouts of older weights: the schedule, what they are compared with, and that a run that was stopped goes on with them."""

import copy
from dataclasses import replace

import pytest
import torch
import yaml

from mmada.errors import InputError
from mmada.rl.config import RLConfig
from mmada.rl.rollout import Decoding
from mmada.rl.settings import ObjectiveConfig
from mmada.rl.weight_versions import WeightVersions, rounds_to_ask, version_of

from .tiny import ADAM, Elsewhere, config, fit, task, weights

SMALL = {"prompts": 1, "group": 3, "decoding": Decoding(max_new_tokens=8)}


def stale(staleness, *, steps=6, updates=2, **changes):
    """A run of three rounds whose rollouts are made elsewhere."""
    changes = {"objective": ObjectiveConfig(updates=updates, kl_weight=0.0), "optim": replace(ADAM, lr=2e-2), **changes}
    job = task(config("text", **SMALL, steps=steps, rollouts="ray", rollout_staleness=staleness, **changes))
    job.remote = Elsewhere(job)
    return job


def test_the_schedule_is_that_of_the_picture():
    asked, learned, pending = [], [], set()
    for number in range(4):
        new = rounds_to_ask(number, 1, 4, pending)
        pending |= set(new)
        asked.append([(later, version_of(later, 1)) for later in new])
        pending.remove(number)
        learned.append(version_of(number, 1))
    assert asked == [[(0, 0), (1, 0)], [(2, 1)], [(3, 2)], []]
    assert learned == [0, 0, 1, 2]
    assert rounds_to_ask(2, 0, 4, ()) == [2]
    assert rounds_to_ask(2, 2, 9, {3}) == [2, 4]  # after a resume what was asked for is asked for again


def test_without_staleness_a_run_ends_where_sampling_here_does(tmp_path):
    there, here = (
        stale(0),
        task(config("text", **SMALL, steps=6, objective=ObjectiveConfig(updates=2, kl_weight=0.0), optim=replace(ADAM, lr=2e-2))),
    )
    fit(there, tmp_path / "there")
    fit(here, tmp_path / "here")
    assert all(torch.equal(a, b) for a, b in zip(weights(there).values(), weights(here).values(), strict=True))


def test_a_round_is_sampled_by_the_weights_of_an_earlier_one_and_compared_with_them(tmp_path):
    job, reports = stale(1), []
    begun = weights(job)
    fit(job, tmp_path / "whole", reports=reports)
    one = stale(1, steps=2)
    fit(one, tmp_path / "one")
    rounds = dict(job.remote.sent)
    assert list(rounds) == [0, 1, 2]  # one prompt a round, in the order in which they were asked for
    for version, sent in ((begun, (0, 1)), (weights(one), (2,))):
        assert all(torch.equal(tensor, version[name]) for index in sent for name, tensor in rounds[index].items())
    assert not all(torch.equal(rounds[0][name], rounds[2][name]) for name in rounds[0])
    values = [report.values for report in reports]
    assert [found["staleness"] for found in values[::2]] == [0, 1, 1]
    assert [found["ratio_change/text"] > 0 for found in values] == [False, True, True, True, True, True]

    sampled_by = copy.deepcopy(job.module)
    with torch.no_grad():
        for name, tensor in rounds[2].items():
            sampled_by.get_parameter(name).copy_(tensor)
        for (batch,) in job.experience.batches:
            assert torch.equal(batch.old, sampled_by(batch)[0])
            assert not torch.equal(batch.old, job.module(batch)[0])


@pytest.mark.parametrize("stop", [3, 4])
def test_a_run_that_was_stopped_samples_what_was_under_way_by_the_same_weights(tmp_path, stop):
    whole = stale(2, steps=8)
    fit(whole, tmp_path / "whole")
    fit(stale(2, steps=8), tmp_path / "parts", steps=stop)  # within a round, and between two
    resumed = stale(2, steps=8)
    fit(resumed, tmp_path / "parts")
    assert all(torch.equal(a, b) for a, b in zip(weights(whole).values(), weights(resumed).values(), strict=True))
    assert [index for index, _ in resumed.remote.sent] == [2, 3]


def test_a_run_that_gets_more_steps_goes_on_as_if_it_had_had_them(tmp_path):
    whole = stale(1, steps=6, updates=1)
    fit(whole, tmp_path / "whole")
    fit(stale(1, steps=3, updates=1), tmp_path / "parts")
    resumed = stale(1, steps=6, updates=1)
    fit(resumed, tmp_path / "parts")
    assert all(torch.equal(a, b) for a, b in zip(weights(whole).values(), weights(resumed).values(), strict=True))


def test_rows_of_several_processes_become_those_of_another_number():
    module = torch.nn.Linear(2, 3, bias=False)
    versions = WeightVersions(module)
    rows = torch.arange(6.0).view(3, 2)
    versions.load([{"is_sharded": True, "kept": {4: {"weight": part}}} for part in (rows[:2], rows[2:])])
    before = module.weight.detach().clone()
    with versions.swapped(4):
        assert torch.equal(module.weight, rows)
    assert torch.equal(module.weight, before)
    versions.keep(5, first=5)
    assert (4 in versions, 5 in versions) == (False, True)


def test_a_run_of_an_earlier_version_was_one_without_staleness(tmp_path, monkeypatch):
    from mmada.rl import setup

    monkeypatch.setattr(setup.state, "latest", lambda _: tmp_path)
    settings = config(out=tmp_path)
    setup._record(settings, tmp_path)
    values = yaml.safe_load((tmp_path / "config.yaml").read_text())
    del values["rollout_staleness"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    setup._record(settings, tmp_path)
    with pytest.raises(InputError, match="other settings of rollout_staleness"):
        setup._record(replace(settings, rollouts="ray", rollout_staleness=1), tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rollout_staleness": -1}, "rollout_staleness=-1 must not be negative"),
        ({"rollout_staleness": 1}, "set rollouts=ray, or 0"),
        ({"rollout_staleness": 1, "rollouts": "ray", "objective": ObjectiveConfig(name="spg")}, "has no importance ratio"),
    ],
)
def test_older_weights_are_refused_where_they_cannot_be_right(changes, words):
    with pytest.raises(InputError, match=words):
        RLConfig(out="unused", **changes)
