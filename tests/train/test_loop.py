"""The loop: learning, accumulation, processes, stopping, numbers that are not finite."""

import json
import os
import shutil
import signal
from dataclasses import replace
from functools import partial

import pytest
import torch
from accelerate import PartialState

from mmada.errors import CheckpointError, InputError, MissingDependencyError
from mmada.train import loop, state
from mmada.train.log import TRACKERS, Log
from mmada.train.loop import LoopConfig
from mmada.train.optim import OptimizerConfig
from mmada.train.prefetch import prefetched
from mmada.train.protocols import NonFiniteLossError
from mmada.train.state import latest
from mmada.train.step import DiffusionLoss
from mmada.train.task import DiffusionTask

from ..processes import ranks
from . import tiny


class OneBatch(DiffusionTask):
    """The first batch at every step."""

    def batches(self, step, **shares):
        return super().batches(0, **shares)


SLOW = ("draw", "look", "plan")
"""flows whose parts are learned in the others"""


@pytest.mark.parametrize("name", [*(pytest.param(name, marks=pytest.mark.slow) for name in SLOW), "text", "make"])
def test_each_flow_learns_one_batch_by_heart(tmp_path, name):
    stage = tiny.stage(name, batch=2, optim=OptimizerConfig(name="muon", lr=1e-2, matrix_lr=0.05, warmup=5, decay=0.5))
    network = tiny.model(init_std=0.1, attention_layer_norm=True)
    job = OneBatch(plan=tiny.plan(stage), module=DiffusionLoss(network), held_out={})
    losses = []
    loop.train(job, stage.optim, tiny.QUIET, steps=50, out=tmp_path, on_step=lambda report: losses.append(report.values["loss"]))
    assert losses[-1] < 0.05 * losses[0], losses[::10]


def relative(one, other):
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_accumulation_equals_one_large_batch(tmp_path):
    whole, _ = tiny.fit(tiny.small(), tmp_path / "whole", steps=3)
    split, _ = tiny.fit(tiny.small(), tmp_path / "split", steps=3, settings=replace(tiny.QUIET, accumulate=4))
    assert relative(tiny.weights(whole), tiny.weights(split)) < 1e-6
    assert relative(tiny.weights(whole), tiny.weights(tiny.task(tiny.small()))) > 1e-4


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two processes have trained: with DDP, then with FSDP2."""
    out = tmp_path_factory.mktemp("two")
    assert ranks(tiny.main, "rank", out) == [0, 0]
    return out


def metrics(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.integration
def test_two_processes_equal_one_with_the_same_global_batch(two, tmp_path):
    alone, _ = tiny.fit(tiny.small(), tmp_path, steps=3)
    first, second = (torch.load(two / f"weights-{i}.pt") for i in range(2))
    assert relative(first, second) == 0
    assert relative(first, tiny.weights(alone)) < 1e-6
    for one, other in zip(metrics(two), metrics(tmp_path), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-6)
        assert one["tokens"] == other["tokens"]


@pytest.mark.integration
def test_one_process_goes_on_with_what_two_saved(two, tmp_path):
    shutil.copytree(two / "state", tmp_path / "resumed" / "state")
    resumed, _ = tiny.fit(tiny.small(), tmp_path / "resumed", steps=4)
    alone, _ = tiny.fit(tiny.small(), tmp_path / "alone", steps=4)
    assert metrics(tmp_path / "resumed")[-1]["step"] == 4
    assert relative(tiny.weights(resumed), tiny.weights(alone)) < 1e-6


@pytest.mark.integration
def test_sharded_weights_equal_one_process_with_the_same_global_batch(two, tmp_path):
    tiny.exported(tiny.small(), tmp_path, steps=3, settings=replace(tiny.QUIET, eval_every=3))
    assert relative(torch.load(two / "sharded" / "exported.pt"), torch.load(tmp_path / "exported.pt")) < 1e-6
    sharded, alone = metrics(two / "sharded"), metrics(tmp_path)
    assert [line["loss"] for line in sharded] == pytest.approx([line["loss"] for line in alone], rel=1e-6)
    assert sharded[-1]["eval/draw/nll"] == pytest.approx(alone[-1]["eval/draw/nll"], rel=1e-5)


@pytest.mark.integration
@pytest.mark.parametrize("name", ["muon", "split-muon"])
def test_muon_moves_parts_as_it_moves_whole_matrices(two, name):
    for rank in range(2):
        made = torch.load(two / f"{name}-{rank}.pt")
        assert len(made["whole"]) > 8
        assert all(map(torch.equal, made["whole"], made["parts"]))
        assert not torch.equal(made["whole"][0], tiny.model().model.transformer["blocks"][0].q_proj.weight)


@pytest.mark.slow
def test_four_processes_equal_one(tmp_path):
    """With DDP and with FSDP2; the parts of Muon's matrices lie with four, and with two groups of two."""
    assert ranks(tiny.main, "rank", tmp_path / "four", size=4) == [0] * 4
    test_two_processes_equal_one_with_the_same_global_batch(tmp_path / "four", tmp_path / "whole")
    test_sharded_weights_equal_one_process_with_the_same_global_batch(tmp_path / "four", tmp_path / "alone")
    for name in ("muon", "split-muon"):
        test_muon_moves_parts_as_it_moves_whole_matrices(tmp_path / "four", name)


@pytest.mark.integration
def test_another_number_of_processes_goes_on_with_shards(two, tmp_path):
    shutil.copytree(two / "sharded", tmp_path / "three")
    assert ranks(tiny.main, "more", tmp_path / "three", size=3) == [0, 0, 0]
    tiny.exported(tiny.small(), tmp_path, steps=4, settings=replace(tiny.QUIET, eval_every=3))
    assert relative(torch.load(tmp_path / "three" / "exported.pt"), torch.load(tmp_path / "exported.pt")) < 1e-6
    assert metrics(tmp_path / "three")[-1]["loss"] == pytest.approx(metrics(tmp_path)[-1]["loss"], rel=1e-6)


@pytest.mark.integration
@pytest.mark.slow
def test_a_process_that_is_killed_loses_the_steps_since_the_last_save_alone(tmp_path):
    codes = ranks(tiny.main, "long", tmp_path / "two", env={"DIES": "1"}, error=tmp_path / "error.txt")
    assert codes[1] == -signal.SIGKILL
    assert codes[0] not in (0, None)
    assert latest(tmp_path / "two" / "state").name == "step-00000004"
    assert [line["step"] for line in metrics(tmp_path / "two")][:4] == [1, 2, 3, 4]
    assert ranks(tiny.main, "long", tmp_path / "two") == [0, 0]
    tiny.exported(tiny.small(), tmp_path, steps=8, settings=tiny.QUIET)
    assert relative(torch.load(tmp_path / "two" / "exported.pt"), torch.load(tmp_path / "exported.pt")) < 1e-6
    assert [line["step"] for line in metrics(tmp_path / "two")] == list(range(1, 9))


@pytest.mark.integration
def test_a_sharded_save_is_put_together_by_one_process_and_refused_by_a_run_of_whole_weights(two, tmp_path):
    save = latest(two / "sharded" / "state")
    averaged, after = state.averaged_weights(save), torch.load(two / "sharded" / "exported.pt")
    assert state.whole_weights(save).keys() == averaged.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in averaged.items())
    assert relative(state.whole_weights(save), after) > 0
    (tmp_path / "state").mkdir()
    shutil.copytree(save, tmp_path / "state" / save.name)
    with pytest.raises(CheckpointError, match=r"sharded by FSDP, and this run wants whole weights.*fsdp2.yaml.*mmada convert"):
        tiny.fit(tiny.small(), tmp_path, steps=4)


def test_a_batch_made_ahead_is_the_same_batch(tmp_path):
    inline, _ = tiny.fit(tiny.small(), tmp_path / "inline", steps=4)
    for name, settings in (("thread", replace(tiny.QUIET, prefetch=3)), ("workers", replace(tiny.QUIET, prefetch=1, workers=2))):
        state = torch.get_rng_state()
        prefetched, _ = tiny.fit(tiny.small(), tmp_path / name, steps=4, settings=settings)
        assert relative(tiny.weights(inline), tiny.weights(prefetched)) == 0
        assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_made_ahead_come_in_order_and_bring_their_errors(workers):
    def make(step):
        if step == 5:
            raise ValueError("no fifth batch")
        return step

    stream = prefetched(make, range(2, 9), 2, workers=workers)
    assert [next(stream) for _ in range(3)] == [2, 3, 4]
    with pytest.raises(ValueError, match="no fifth batch"):
        next(stream)


class BrokenAtTheThird(DiffusionTask):
    """Its third loss is not a number."""

    def losses(self, model, batch, device):
        BrokenAtTheThird.calls += 1
        return super().losses(model, batch, device) * (torch.nan if BrokenAtTheThird.calls == 3 else 1)

    calls = 0


def test_a_loss_that_is_not_finite_stops_the_run_before_any_weight_takes_harm(tmp_path):
    stage = tiny.small()
    settings = replace(tiny.QUIET, save_every=2)
    tiny.fit(stage, tmp_path, steps=2, settings=settings)
    broken = BrokenAtTheThird(tiny.plan(stage), DiffusionLoss(tiny.model()), {})
    with pytest.raises(NonFiniteLossError, match=r"step 4: the gradient's norm is nan.*step-00000004"):
        loop.train(broken, stage.optim, settings, steps=12, out=tmp_path)
    assert latest(tmp_path / "state").name == "step-00000004"
    assert all(bool(torch.isfinite(p).all()) for p in broken.module.parameters())


def test_a_signal_ends_the_step_saves_and_returns(tmp_path):
    handler = signal.getsignal(signal.SIGTERM)

    def on_step(report):
        if report.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    stage = tiny.small()
    outcome = loop.train(tiny.task(stage), stage.optim, tiny.QUIET, steps=12, out=tmp_path, on_step=on_step)
    assert (outcome.reason, outcome.step) == ("stopped", 3)
    assert latest(tmp_path / "state").name == "step-00000003"
    assert signal.getsignal(signal.SIGTERM) is handler


def test_time_that_is_up_ends_the_run_saved(tmp_path):
    _, outcome = tiny.fit(tiny.small(), tmp_path, settings=replace(tiny.QUIET, max_minutes=1e-9))
    assert (outcome.reason, outcome.step) == ("time", 0)
    _, outcome = tiny.fit(tiny.small(), tmp_path, steps=2)
    assert (outcome.reason, outcome.step) == ("done", 2)


def test_reports_hold_losses_evaluation_and_speed(tmp_path):
    stage = tiny.stage("draw", "text", batch=4)
    reports = []
    settings = replace(tiny.QUIET, log_every=2, eval_every=2)
    loop.train(tiny.task(stage), stage.optim, settings, steps=4, out=tmp_path, on_step=reports.append)
    assert [bool(report.values) for report in reports] == [False, True, False, True]
    values = reports[-1].values
    assert {"loss", "loss/draw", "loss/text", "lr", "gradient_norm", "tokens_per_second", "eval/draw/acc@0.25", "eval/text/nll"} <= set(
        values
    )
    expected = sum(component.coefficient * values[f"loss/{component.name}"] for component in stage.components)
    assert values["loss"] == pytest.approx(expected, rel=1e-5)
    assert 0 <= values["eval/draw/acc@1"] <= 1
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    assert lines[-1]["eval/draw/nll"] == values["eval/draw/nll"]


def test_evaluation_is_the_same_at_any_time_and_in_parts():
    job = tiny.task(tiny.stage("draw", "text"))
    job.module.eval()

    def evaluate(**kwargs):
        with torch.no_grad():
            return job.evaluate(job.module, torch.device("cpu"), **kwargs)

    whole, again = (evaluate(rank=0, world=1) for _ in range(2))
    assert whole == again
    parts = [evaluate(rank=rank, world=2) for rank in range(2)]
    for name, (value, count) in whole.items():
        assert sum(part[name][0] for part in parts) == pytest.approx(value, rel=1e-5), name
        assert sum(part[name][1] for part in parts) == count


@pytest.mark.parametrize(("world", "held_out"), [(4, 2), (3, 5)])
def test_every_process_evaluates_in_as_many_passes(world, held_out):
    """Where weights are sharded, a pass needs all processes: one with fewer rows, or none, must not wait apart."""
    job = replace(tiny.task(tiny.stage("draw", batch=4)), num_held_out=held_out)
    passes, results = [0] * world, []

    def counted(rank, batch, **settings):
        passes[rank] += 1
        return job.module(batch, **settings)

    with torch.no_grad():
        for rank in range(world):
            results.append(job.evaluate(partial(counted, rank), torch.device("cpu"), rank=rank, world=world))
    assert len(set(passes)) == 1
    with torch.no_grad():
        whole = job.evaluate(job.module, torch.device("cpu"), rank=0, world=1)
    for name, (value, count) in whole.items():
        assert sum(result[name][0] for result in results) == pytest.approx(value, rel=1e-5)
        assert sum(result[name][1] for result in results) == count


def test_a_run_that_is_told_to_stop_makes_no_other_batch(tmp_path, monkeypatch):
    """A batch made in line may take minutes: reinforcement learning samples in it."""
    made = []
    job = tiny.task(tiny.stage("draw"))
    batches = job.plan.batches
    monkeypatch.setattr(type(job.plan), "batches", lambda self, step, **kw: (made.append(step), batches(step, **kw))[1])

    def on_step(report):
        if report.step == 2:
            signal.raise_signal(signal.SIGTERM)

    outcome = loop.train(job, tiny.CALM, tiny.QUIET, steps=5, out=tmp_path, on_step=on_step)
    assert (outcome.step, outcome.reason, made) == (2, "stopped", [0, 1])


def test_a_resumed_log_drops_what_will_be_done_again(tmp_path):
    first = Log(tmp_path, start=0)
    for step in range(1, 6):
        first.write(step, {"loss": 1.0 / step})
    first.close()
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 6, "lo')  # cut short by a crash
    Log(tmp_path, start=3).close()
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3]


@pytest.mark.slow
@pytest.mark.parametrize("name", TRACKERS)
def test_services_get_the_numbers_too(tmp_path, monkeypatch, name):
    service = pytest.importorskip(name)
    monkeypatch.chdir(tmp_path)
    for variable, value in {
        "WANDB_MODE": "offline",
        "MLFLOW_TRACKING_URI": f"file:{tmp_path}/mlruns",
        "MLFLOW_ALLOW_FILE_STORE": "true",
    }.items():
        monkeypatch.setenv(variable, value)
    PartialState(cpu=True)  # as `train` has it, which opens the log
    log = Log(tmp_path / "run", start=0, trackers=[name, name])
    for step in (1, 2):
        log.write(step, {"loss": 1.0 / step})
    log.close()
    if name == "wandb":
        (kept,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
        assert b"loss" in kept.read_bytes()
    else:
        (run,) = service.search_runs(experiment_names=["run"], output_format="list")
        assert run.data.metrics["loss"] == 0.5


def test_a_service_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("mmada.train.log.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"loop.trackers='wandb' .* pip install wandb"):
        Log(tmp_path / "run", start=0, trackers=["wandb"])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("changes", [{"accumulate": 0}, {"keep": 0}, {"prefetch": -1}, {"max_minutes": -1.0}])
def test_settings_that_cannot_be_used_are_errors(changes):
    with pytest.raises(InputError, match=f"loop.{next(iter(changes))}"):
        replace(LoopConfig(), **changes)
