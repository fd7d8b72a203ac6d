"""Tensor parallelism in training: runs of processes that split every matrix equal those of one, and what cannot be split is refused."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from mmada.errors import InputError
from mmada.rl import config as rl_config
from mmada.train import config as train_config
from mmada.train.plan import check_groups
from mmada.train.state import latest

from ..processes import ROOT, free_ports, mmada, ranks
from . import starts, tiny

SHARDED = {"ACCELERATE_USE_FSDP": "true"}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return starts.start(tmp_path_factory.mktemp("start") / "run")


def run(start, out, changes, *, env=None, size=2):
    log = out.with_suffix(".txt")
    assert ranks(starts.main, start, out, ("train",), changes, env=env or {}, size=size, out=log) == [0] * size, log.read_text()
    return log.read_text()


def numbers(out):
    return [json.loads(line) for line in (out / "train" / "metrics.jsonl").read_text().splitlines()]


def distance(one, other):
    one, other = (load_file(out / "train" / "model" / "model.safetensors") for out in (one, other))
    return max(float((one[key] - other[key]).abs().max()) for key in one)


IN_PARTS = {"loop": {"tensor_parallel": 2, "log_every": 1}}


@pytest.fixture(scope="module")
def alone(start, tmp_path_factory):
    """The run in one process."""
    out = tmp_path_factory.mktemp("alone") / "one"
    starts.main(start, out, ("train",), {"loop": {"log_every": 1}})
    return out


@pytest.mark.integration
def test_two_processes_that_split_every_matrix_equal_one(start, alone, tmp_path):
    said = run(start, tmp_path / "two", IN_PARTS)
    assert "2 processes on 1 node, tensor parallelism, cpu;" in said
    assert "each process holds 1/2 of every matrix, its gradient, optimizer states and average, and all norms" in said
    assert distance(alone, tmp_path / "two") < 1e-6
    for one, two in zip(numbers(alone), numbers(tmp_path / "two"), strict=True):
        assert two.get("loss") == pytest.approx(one.get("loss"), rel=1e-6)
        assert two.get("gradient_norm") == pytest.approx(one.get("gradient_norm"), rel=1e-5)
        assert two.get("tokens") == one.get("tokens")
    save = latest(tmp_path / "two" / "train" / "state")
    done = mmada(["convert", str(save), "made"], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "made" / "model.safetensors").read_bytes() == (
        tmp_path / "two" / "train" / "model" / "model.safetensors"
    ).read_bytes()


@pytest.mark.slow
def test_four_processes_share_out_what_two_split(start, alone, tmp_path):
    changes = {"loop": {**IN_PARTS["loop"], "checkpointing": True}}
    said = run(start, tmp_path / "four", changes, env=SHARDED, size=4)
    assert "4 processes on 1 node, FSDP2 over 2 x tensor parallelism over 2, cpu;" in said
    assert "each process holds 1/4 of every matrix, its gradient, optimizer states and average, and 1/2 of the norms" in said
    assert distance(alone, tmp_path / "four") < 1e-6


@pytest.mark.slow
def test_a_split_run_goes_on_in_other_shards_and_the_other_way_round(start, alone, tmp_path):
    """Of four steps, the last two."""
    for name, first, second in (("to", {}, SHARDED), ("from", SHARDED, {})):
        for env in (first, second):
            loop = {"save_every": 2, "log_every": 1} | ({} if env else {"tensor_parallel": 2})
            run(start, tmp_path / name, {"loop": loop}, env=env)
            if env is first:
                shutil.rmtree(tmp_path / name / "train" / "model")
                shutil.rmtree(latest(tmp_path / name / "train" / "state"))
        assert [line["step"] for line in numbers(tmp_path / name)] == [1, 2, 3, 4]
        assert distance(alone, tmp_path / name) < 1e-6


@pytest.mark.slow
def test_parts_in_bfloat16_are_trained_in_float32(start, alone, tmp_path):
    changes = {"model": {"dtype": "bfloat16"}, "loop": {**IN_PARTS["loop"], "precision": "bf16"}}
    said = run(start, tmp_path / "two", changes)
    assert "trained in float32, computed in bfloat16" in said
    whole, parts = numbers(alone), numbers(tmp_path / "two")
    assert [line["loss"] for line in parts] == pytest.approx([line["loss"] for line in whole], rel=0.01)
    assert 0 < distance(alone, tmp_path / "two") < 2e-2


@pytest.mark.slow
def test_the_best_weights_are_kept_and_logits_may_come_in_chunks(tmp_path):
    for name in ("two", "one"):
        (tmp_path / name).mkdir()
    assert ranks(tiny.main, "parts", tmp_path / "two", out=tmp_path / "log.txt") == [0, 0], (tmp_path / "log.txt").read_text()
    tiny.best_of_four(tmp_path / "one")
    one, two = (torch.load(tmp_path / name / "exported.pt") for name in ("one", "two"))
    assert max(float((one[key] - two[key]).abs().max()) for key in one) < 1e-6
    kept = [(tmp_path / name).read_text() for name in ("one/kept-0", "two/kept-0", "two/kept-1")]
    assert kept[0] == kept[1] == kept[2]


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["torchrun", "accelerate"])
def test_a_run_as_a_user_types_it(tmp_path, tool):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({**starts.BASE, "stage": "base", "out": "run"}))
    program = Path(sys.executable).with_name(tool)
    words = ["train", "run.yaml", "loop.tensor_parallel=2"]
    command = [program, "--nproc-per-node", "2", "--master-port", *free_ports(1), "-m", "mmada", *words]
    if tool == "accelerate":
        config = ["--config_file", ROOT / "configs" / "accelerate" / "ddp.yaml", "--num_processes", "2", "--main_process_port", "0"]
        command = [program, "launch", *config, Path(sys.executable).with_name("mmada"), *words]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(list(map(str, command)), cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).count("2 processes on 1 node, tensor parallelism, cpu;") == 1
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()


REFUSED = [
    ({"WORLD_SIZE": "3"}, "loop.tensor_parallel=2 does not divide the 3 processes that were started; start 2, or a multiple of it"),
    ({"WORLD_SIZE": "4"}, "makes 2 groups of the 4 processes, which FSDP2 must share the model out to; set ACCELERATE_USE_FSDP=true"),
    ({"WORLD_SIZE": "2", "ACCELERATE_USE_FSDP": "true"}, "takes all 2 processes, and FSDP2 was asked for, too; start 4 processes"),
    ({"WORLD_SIZE": "2", "ACCELERATE_USE_DEEPSPEED": "true"}, "loop.tensor_parallel=2 is not done with DeepSpeed"),
    ({}, "does not divide the 1 processes"),
]


@pytest.mark.parametrize(("environ", "message"), REFUSED)
def test_groups_that_cannot_be_are_refused(environ, message):
    with pytest.raises(InputError, match=message):
        check_groups(2, environ)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora": {"rank": 4}}, "lora.rank=4 puts adapters beside them"),
        ({"model": {"code_bits": True}}, "model.code_bits=true adds maps"),
        ({"stage": "tokenizer"}, "stage 'tokenizer' trains an image tokenizer"),
        ({"loop": {"tensor_parallel": 2, "compile": True}}, "loop.compile=true is not done with loop.tensor_parallel=2"),
        ({"loop": {"tensor_parallel": 0}}, "loop.tensor_parallel=0 must be at least 1"),
    ],
)
def test_what_is_not_done_with_parts_is_refused_before_anything_is_loaded(tmp_path, changes, message):
    values = {**starts.BASE, "stage": "base", "out": str(tmp_path / "run"), "loop": {"tensor_parallel": 2}, **changes}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(InputError, match=message):
        train_config.load(tmp_path / "run.yaml")


def test_rollouts_are_not_split(tmp_path):
    values = {**starts.BASE, "tasks": starts.TASKS, "out": str(tmp_path / "run"), "loop": {"tensor_parallel": 2, "prefetch": 0}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(InputError, match=r"loop.tensor_parallel=2 is of `mmada train` alone"):
        rl_config.load(tmp_path / "run.yaml")
