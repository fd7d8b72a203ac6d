"""A model that this process and followers hold together: the same answers, and all of them end together."""

import json
import signal
import time
from pathlib import Path

import pytest
import torch

from mmada.errors import InputError
from mmada.pipeline import MMaDA

from ..processes import SERVING, mmada, start
from . import split


def led(function, folder):
    """Call a function of split.py in a process that leads others. Returns its exit code."""
    process = start(function, folder, preload=SERVING)
    process.join(300)
    return process.exitcode


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("led")
    assert led(split.answers, folder) == 0
    return torch.load(folder / "facts.pt")


@pytest.mark.integration
def test_answers_and_drawings_are_those_of_a_whole_model(facts):
    for whole, parts in ((facts["whole"], facts["led"]), facts["cached"]):
        text, codes, seen = whole
        assert text == parts[0]
        assert torch.equal(codes, parts[1])
        assert seen == parts[2]
    assert facts["held"][1] < 0.51 * facts["held"][0]
    assert facts["bytes_per_token"][0] == 2 * facts["bytes_per_token"][1]


@pytest.mark.integration
def test_what_needs_whole_weights_is_refused(facts):
    refused = facts["refused"]
    assert refused["save"] == "save_pretrained needs whole weights, and tensor_parallel=2 processes hold them; load with tensor_parallel=1"
    assert refused["to"].startswith("to needs whole weights")
    assert refused["copy"].startswith("a copy needs whole weights")
    assert "load one such model in a process" in refused["again"]


@pytest.mark.integration
def test_followers_end_when_a_model_is_closed(facts):
    assert facts["children"] == [1, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"tensor_parallel": 3},
            "tensor_parallel=3 must divide the model's 4 heads of keys and its feed-forward width of 160; try 1 or 2 or 4",
        ),
        ({"tensor_parallel": 0}, "tensor_parallel=0 must be at least 1"),
        ({"tensor_parallel": 2, "quantize": "int8"}, "tensor_parallel=2 splits plain matrices, and quantize loads others"),
        ({"tensor_parallel": 2, "device": "cpu:0"}, "device=cpu:0 names one"),
        ({"tensor_parallel": 2, "device": "mps"}, "runs on cuda, and for tests on cpu, not on mps"),
    ],
)
def test_what_cannot_be_split_is_refused_before_processes_start(options, message):
    with pytest.raises(InputError, match=message):
        MMaDA.from_pretrained("debug", **{"device": "cpu", **options})


@pytest.mark.slow
def test_a_follower_that_is_gone_is_told_and_nothing_hangs(tmp_path):
    assert led(split.lose_a_follower, tmp_path) == 0
    first, again = json.loads((tmp_path / "messages.json").read_text())
    assert "has stopped (RuntimeError" in first
    assert first == again


@pytest.mark.slow
def test_followers_end_with_a_leader_that_is_killed(tmp_path):
    assert led(split.lose_the_leader, tmp_path) == -signal.SIGKILL
    (pid,) = json.loads((tmp_path / "pids.json").read_text())
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.slow
def test_verbs_take_the_option(tmp_path):
    words = ["chat", "Hello", "--model", "debug", "--device", "cpu"]
    whole, parts = (mmada([*words, *more], cwd=tmp_path, preload=SERVING) for more in ([], ["--tensor-parallel", "2"]))
    assert parts.returncode == 0, parts.stderr
    assert parts.stdout == whole.stdout
    assert "2 processes, tensor parallelism, cpu; each holds 1/2 of every matrix and of every KV cache" in parts.stderr
