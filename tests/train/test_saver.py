"""Saves in the background are those of a run that waits, and a save that fails leaves those before."""

import json
import re
import resource
import threading
from dataclasses import replace

import pytest
import torch

from mmada.errors import CheckpointError
from mmada.train import saver, state
from mmada.train.optim import OptimizerConfig
from mmada.train.state import latest

from ..processes import ranks
from . import tiny
from .test_state import SAVING, same_state

AT_ONCE, BEHIND = SAVING, replace(SAVING, async_saves=True)


def losses(out):
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines() if '"loss"' in line]


def contents(save):
    return {path.name: path.read_bytes() for path in save.iterdir() if path.name != state.PROGRESS}


def test_saves_in_the_background_have_the_bytes_of_those_that_are_waited_for(tmp_path):
    stage = tiny.small(optim=OptimizerConfig(name="muon", warmup=3, ema=0.9))
    for name, settings in (("waits", AT_ONCE), ("goes-on", BEHIND)):
        tiny.fit(stage, tmp_path / name, steps=5, settings=settings)
    assert losses(tmp_path / "waits") == losses(tmp_path / "goes-on")
    for step in (4, 5):
        one, other = (contents(tmp_path / name / "state" / f"step-{step:08d}") for name in ("waits", "goes-on"))
        assert one == other
        assert {"model.safetensors", "ema.safetensors", "optimizer.bin", "optimizer_1.bin", "random_states_0.pkl"} <= one.keys()
    for name, settings in (("waits", BEHIND), ("goes-on", AT_ONCE)):
        tiny.fit(stage, tmp_path / name, steps=7, settings=settings)
    same_state(tmp_path / "waits", tmp_path / "goes-on")


def test_the_run_goes_on_while_a_save_is_written_and_the_next_one_waits(tmp_path, monkeypatch):
    may_write, write = threading.Event(), saver._write
    seen = []

    def slow(scratch, files):
        assert may_write.wait(60)
        write(scratch, files)

    def on_step(report):
        seen.append((report.step, latest(tmp_path / "state")))
        if report.step == 3:
            may_write.set()

    monkeypatch.setattr(saver, "_write", slow)
    stage = tiny.small()
    job = tiny.task(stage)
    tiny.train(job, stage.optim, BEHIND, steps=6, out=tmp_path, on_step=on_step)
    assert seen[1:3] == [(2, None), (3, None)]
    assert seen[3][1].name == "step-00000002"
    assert latest(tmp_path / "state").name == "step-00000006"


@pytest.mark.parametrize("settings", [AT_ONCE, BEHIND], ids=["waits", "goes-on"])
def test_a_full_disk_costs_the_steps_since_the_last_save_alone(tmp_path, settings):
    """A limit on the size of files stands for the disk."""
    stage = tiny.small()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def on_step(report):
        if report.step == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))

    try:
        with pytest.raises(
            CheckpointError, match=r"state/step-00000004 could not be written \(.*File too large.*goes on from step-00000002"
        ):
            tiny.train(tiny.task(stage), stage.optim, settings, steps=6, out=tmp_path / "full", on_step=on_step)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in (tmp_path / "full" / "state").iterdir()] == ["step-00000002"]
    for name in ("full", "whole"):
        tiny.fit(stage, tmp_path / name, steps=6, settings=settings)
    same_state(tmp_path / "full", tmp_path / "whole")
    assert losses(tmp_path / "full") == losses(tmp_path / "whole")


@pytest.mark.slow
def test_shards_are_saved_in_the_background_and_the_best_are_kept(tmp_path):
    assert ranks(tiny.main, "saves", tmp_path, out=tmp_path / "log.txt") == [0, 0], (tmp_path / "log.txt").read_text()
    tiny.best_of_four(tmp_path / "alone")
    waits, goes_on, alone = (torch.load(tmp_path / name / "exported.pt") for name in ("waits", "goes-on", "alone"))
    kept = {path.read_text() for path in tmp_path.glob("*/kept-*")}
    assert len(kept) == 1
    assert int(kept.pop()) < 4
    assert losses(tmp_path / "waits") == losses(tmp_path / "goes-on")
    for name, tensor in waits.items():
        assert torch.equal(tensor, goes_on[name])
        torch.testing.assert_close(tensor, alone[name], rtol=0, atol=1e-5)
    for read in (state.whole_weights, state.averaged_weights):
        one, other = (read(latest(tmp_path / name / "state")) for name in ("waits", "goes-on"))
        assert one.keys() == other.keys() != set()
        assert all(torch.equal(one[name], other[name]) for name in one)
        assert any(not torch.equal(one[f"model.{name}"], waits[name]) for name in waits)
    for rank in range(2):  # of which one could write
        said = (tmp_path / f"error-{rank}").read_text()
        failed = re.search(r"step-0000000([23]) could not be written \(.*goes on from step-0000000([12])$", said)
        assert failed, said
        assert int(failed[2]) == int(failed[1]) - 1
