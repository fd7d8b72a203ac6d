"""Plans of a run over processes: what is asked for is in force, or an error. The files of configs/accelerate as users start them."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from accelerate import Accelerator
from torch import nn

from mmada.errors import InputError, MissingDependencyError
from mmada.train import plan
from mmada.train.plan import RunPlan

from ..processes import ROOT, command_line, mmada, ranks

CONFIGS = ROOT / "configs" / "accelerate"
LAUNCHED = ("ACCELERATE_", "FSDP_", "RANK", "WORLD_SIZE", "LOCAL_", "MASTER_", "GROUP_", "OMP_", "KMP_")
RUN = """
debug: true
stage: base
data: {world: shapes}
loop: {prefetch: 0}
net: {patch: 4, encoder_ch_mult: [1, 2], decoder_ch_mult: [1, 2]}
defaults: {max_new_tokens: 32, max_thinking_tokens: 32, block_length: 16, image_height: 32, image_width: 32, image_steps: 2}
"""


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch):
    for name in os.environ:
        if name.startswith(LAUNCHED):
            monkeypatch.delenv(name)


def launcher_environment(name, *options):
    """What `accelerate launch` gives to the processes of one of our files, by its own code."""
    from accelerate.commands import launch
    from accelerate.utils import launch as environments

    file = CONFIGS / f"{name}.yaml"
    args = launch.launch_command_parser().parse_args(["--config_file", str(file), "--main_process_port", "0", *options, "mmada"])
    args, _, _ = launch._validate_launch_command(args)
    if (args.use_fsdp or args.multi_gpu or args.use_deepspeed) and not args.cpu:
        return environments.prepare_multi_gpu_env(args)
    return environments.prepare_simple_launcher_cmd_env(args)[1]


@pytest.mark.parametrize(("name", "strategy"), [("single", "one process"), ("ddp", "DDP"), ("fsdp2", "FSDP2")])
def test_each_file_asks_for_its_strategy(name, strategy):
    several = strategy != "one process"
    environ = launcher_environment(name, *(["--num_processes", "2"] if several else []))
    assert plan.asked(environ | ({"WORLD_SIZE": "2"} if several else {})) == strategy


@pytest.mark.parametrize("name", ["fsdp2", "ddp"])
def test_a_launcher_that_starts_one_process_of_several_is_an_error(monkeypatch, name):
    for key, value in launcher_environment(name, "--num_processes", "2", "--cpu").items():
        monkeypatch.setenv(key, value)
    with pytest.raises(InputError, match=r"--cpu starts one process and no strategy.*leave --cpu out"):
        plan.begin()


REFUSED = [
    ({"ACCELERATE_USE_DEEPSPEED": "true", "WORLD_SIZE": "2"}, "DeepSpeed was asked for, and accelerate runs it on GPUs only"),
    ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "Megatron-LM was asked for"),
    ({"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, "a parallelism_config"),
    ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1", "WORLD_SIZE": "2"}, "set fsdp_version: 2"),
    ({"ACCELERATE_USE_FSDP": "true", "FSDP_OFFLOAD_PARAMS": "true", "WORLD_SIZE": "2"}, "fsdp_offload_params"),
    ({"ACCELERATE_USE_FSDP": "true", "FSDP_ACTIVATION_CHECKPOINTING": "true", "WORLD_SIZE": "2"}, "loop.checkpointing=true"),
    ({"ACCELERATE_USE_FSDP": "true", "WORLD_SIZE": "1"}, "FSDP2 was asked for with one process"),
]


@pytest.mark.parametrize(("environ", "message"), REFUSED)
def test_what_could_not_be_carried_out_is_refused_before_anything_is_loaded(environ, message):
    with pytest.raises(InputError, match=message):
        plan._check(environ, on_cpu=True)


def test_deepspeed_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(plan, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="pip install deepspeed"):
        plan._check({"ACCELERATE_USE_DEEPSPEED": "true", "WORLD_SIZE": "2"}, on_cpu=False)


def test_what_is_in_force_must_be_what_was_asked_for(monkeypatch):
    accelerator, network = Accelerator(cpu=True), nn.Linear(2, 3)
    found = plan.in_force(accelerator, network, "fp32")
    assert str(found) == "1 process on 1 node, cpu; 0.00 M weights, 0.00 M trained in float32; it holds everything"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with pytest.raises(InputError, match=r"mixed_precision: bf16 was asked of accelerate, and loop.precision=fp32 decides"):
        plan.in_force(accelerator, network, "fp32")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="FSDP2 over 2 processes was asked for, and one process over 1 is in force"):
        plan.in_force(accelerator, network, "fp32")


def test_the_line_says_who_holds_what_and_the_warning_what_is_lost():
    eight = RunPlan(
        strategy="FSDP2",
        num_processes=16,
        num_nodes=2,
        device="cuda",
        dtypes=("float32",),
        precision="bf16",
        num_weights=8_080_000_000,
        num_trained=8_080_000_000,
    )
    assert str(eight) == (
        "16 processes on 2 nodes, FSDP2, cuda; 8.08 B weights, 8.08 B trained in float32, computed in bfloat16; "
        "each process holds 1/16 of the weights, their gradients, optimizer states and averages"
    )
    assert eight.lost_updates is None
    assert "all weights, and 1/16 of the gradients" in str(replace(eight, strategy="DeepSpeed", zero_stage=2))
    assert "1/16 of the weights" in str(replace(eight, strategy="DeepSpeed", zero_stage=3))
    assert "each process holds all weights" in str(replace(eight, strategy="DDP"))
    low = replace(eight, strategy="DDP", dtypes=("bfloat16",))
    assert "set model.dtype=float32 and loop.precision=bf16" in low.lost_updates


def test_nodes_are_counted():
    assert plan._num_nodes({"GROUP_WORLD_SIZE": "4"}, 32) == 4
    assert plan._num_nodes({"LOCAL_WORLD_SIZE": "8"}, 32) == 4
    assert plan._num_nodes({}, 2) == 1


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.integration
def test_two_processes_train_by_the_command_line_with_shards(tmp_path):
    (tmp_path / "run.yaml").write_text(RUN)
    environ = launcher_environment("fsdp2", "--num_processes", "2")
    out, words = tmp_path / "out.txt", ["train", "run.yaml", "out=run"]
    assert ranks(command_line, words, env=environ, cwd=tmp_path, out=out) == [0, 0], out.read_text()
    assert out.read_text().count("2 processes on 1 node, FSDP2, cpu;") == 1
    found = files(tmp_path / "run")
    assert {"state/step-00000004/shards/.metadata", "samples/step-00000004/answers.jsonl", "model/model.safetensors"} <= set(found)
    done = mmada(["convert", "run/state/step-00000004", "made"], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "made" / "model.safetensors").read_bytes() == (tmp_path / "run" / "model" / "model.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "number", "line"),
    [
        ("single", 1, "1 process on 1 node, cpu;"),
        ("ddp", 2, "2 processes on 1 node, DDP, cpu;"),
        ("fsdp2", 2, "2 processes on 1 node, FSDP2, cpu;"),
        ("deepspeed_zero2", 2, "DeepSpeed"),
        ("deepspeed_zero3", 2, "DeepSpeed"),
    ],
)
def test_each_file_of_accelerate_runs_as_a_user_types_it(tmp_path, name, number, line):
    """DeepSpeed needs a GPU: here it is refused, by accelerate if it is not installed, else by us."""
    (tmp_path / "run.yaml").write_text(RUN)
    accelerate, program = (Path(sys.executable).with_name(tool) for tool in ("accelerate", "mmada"))
    command = [accelerate, "launch", "--config_file", CONFIGS / f"{name}.yaml", "--num_processes", number, "--main_process_port", 0]
    command += [program, "train", "run.yaml", "out=run"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(list(map(str, command)), cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=300)
    assert line in done.stdout + done.stderr
    if line == "DeepSpeed":
        assert done.returncode
        assert not (tmp_path / "run" / "model").exists()
        return
    assert done.returncode == 0, done.stderr
    assert re.search(r"4 steps, [\d,]+ tokens", done.stderr)
    parts = "shards/*.distcp" if name == "fsdp2" else "random_states_*.pkl"
    assert len(list((tmp_path / "run" / "state" / "step-00000004").glob(parts))) == number
