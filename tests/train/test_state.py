"""Going on equals never having stopped, bit for bit, also after a kill in the middle of a save."""

import signal
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from mmada.errors import CheckpointError
from mmada.train import loop
from mmada.train.optim import OptimizerConfig
from mmada.train.state import latest

from ..processes import start
from . import tiny

SAVING = replace(tiny.QUIET, save_every=2)


def same(one, other):
    one, other = load_file(one), load_file(other)
    assert set(one) == set(other)
    for name in one:
        assert torch.equal(one[name], other[name]), name


def same_state(one, other):
    """Weights, averages and optimizers are equal, bit for bit."""
    one, other = latest(one / "state"), latest(other / "state")
    assert one.name == other.name
    same(one / "model.safetensors", other / "model.safetensors")
    same(one / "ema.safetensors", other / "ema.safetensors")
    for path in one.glob("optimizer*.bin"):
        left, right = (torch.load(p, weights_only=True) for p in (path, other / path.name))
        assert left["param_groups"] == right["param_groups"]
        for key, values in left["state"].items():
            assert all(torch.equal(torch.as_tensor(v), torch.as_tensor(right["state"][key][k])) for k, v in values.items())


@pytest.mark.parametrize("name", ["adamw", pytest.param("muon", marks=pytest.mark.slow)])
def test_seven_steps_and_five_more_equal_twelve(tmp_path, name):
    stage = tiny.small(optim=OptimizerConfig(name=name, warmup=3, ema=0.9))
    whole, _ = tiny.fit(stage, tmp_path / "whole")
    stopped_at_seven(stage, tmp_path / "parts")
    resumed, outcome = tiny.fit(stage, tmp_path / "parts")
    assert (outcome.step, outcome.reason) == (12, "done")
    for key, tensor in tiny.weights(whole).items():
        assert torch.equal(tensor, tiny.weights(resumed)[key]), key
    same_state(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.slow
def test_a_run_may_go_on_with_other_micro_batches(tmp_path):
    stage = tiny.small()
    whole, _ = tiny.fit(stage, tmp_path / "whole")
    stopped_at_seven(stage, tmp_path / "parts")
    resumed, outcome = tiny.fit(stage, tmp_path / "parts", settings=replace(tiny.QUIET, accumulate=2))
    assert outcome.step == 12
    for key, tensor in tiny.weights(whole).items():
        torch.testing.assert_close(tiny.weights(resumed)[key], tensor, rtol=1e-4, atol=1e-6, msg=key)


def stopped_at_seven(stage, out):
    """A run of twelve steps that is told to stop after seven."""

    def on_step(report):
        if report.step == 7:
            signal.raise_signal(signal.SIGTERM)

    outcome = loop.train(tiny.task(stage), stage.optim, tiny.QUIET, steps=stage.steps, out=out, on_step=on_step)
    assert outcome.step == 7


@pytest.mark.parametrize("env", [{}, pytest.param({"ASYNC": "1"}, marks=pytest.mark.slow)])
def test_a_kill_in_the_middle_of_a_save_leaves_the_save_before(tmp_path, env):
    process = start(tiny.main, "kill", tmp_path / "killed", env=env)
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    state = tmp_path / "killed" / "state"
    assert (state / ".partial-step-00000004").exists()
    assert latest(state).name == "step-00000002"
    tiny.fit(tiny.small(), tmp_path / "killed", settings=SAVING)
    tiny.fit(tiny.small(), tmp_path / "whole", settings=SAVING)
    same_state(tmp_path / "killed", tmp_path / "whole")
    assert not list(state.glob(".partial-*"))


def test_only_the_last_saves_are_kept(tmp_path):
    tiny.fit(tiny.small(), tmp_path, settings=replace(SAVING, keep=3))
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == ["step-00000008", "step-00000010", "step-00000012"]


def test_directories_with_other_names_are_no_saves(tmp_path):
    for name in (".partial-step-00000009", "step-9", "step-00000008.old"):
        (tmp_path / name).mkdir()
    assert latest(tmp_path) is None
    assert latest(tmp_path / "nowhere") is None


def test_a_run_that_is_done_does_nothing_more(tmp_path):
    tiny.fit(tiny.small(), tmp_path, steps=2)
    before = latest(tmp_path / "state").stat().st_mtime_ns
    _, outcome = tiny.fit(tiny.small(), tmp_path, steps=2)
    assert (outcome.reason, outcome.step) == ("done", 2)
    assert latest(tmp_path / "state").stat().st_mtime_ns == before


def test_a_run_goes_on_with_the_learning_rate_that_it_is_given(tmp_path):
    stage = tiny.small(optim=OptimizerConfig(lr=1e-2, schedule="constant", warmup=0))
    tiny.fit(stage, tmp_path, steps=1)
    before = load_file(latest(tmp_path / "state") / "model.safetensors")
    still = replace(stage, optim=replace(stage.optim, lr=1e-12, weight_decay=0.0))
    job, _ = tiny.fit(still, tmp_path, steps=3)
    for name, tensor in tiny.weights(job).items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=1e-9)


def test_a_save_of_another_network_is_an_error(tmp_path):
    tiny.fit(tiny.small(), tmp_path, steps=2)
    with pytest.raises(CheckpointError, match="does not fit this run"):
        tiny.fit(tiny.small(), tmp_path, network=tiny.model(d_model=32))
