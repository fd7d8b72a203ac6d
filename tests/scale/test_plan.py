"""mmada plan: what fits, what is refused and what would fit instead, and published runs beside the model's numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from mmada.errors import InputError
from mmada.hub.networks import shapes
from mmada.model import TransformerConfig, preset
from mmada.scale.hardware import ACCELERATORS, accelerator
from mmada.scale.plan import STRATEGIES, plan, remedies, usable_bytes
from mmada.scale.plan_config import planned_run
from mmada.scale.training_cost import ModelShape, TrainingStep

from .. import processes

CONFIGS = Path(__file__).parents[2] / "configs"
H100, A100, H800 = (ACCELERATORS[name] for name in ("h100", "a100", "h800"))


@cache
def large():
    config = preset("8b")
    return ModelShape(config, shapes(config))


def test_the_8b_is_the_published_one():
    assert large().num_parameters == 8_082_690_048
    assert large().num_in_blocks + 2 * 134_656 * 4096 + 4096 == large().num_parameters


def test_sharing_out_divides_the_state_and_nothing_else():
    step = TrainingStep(length=4096, checkpointing=True)
    one, many = (plan(large(), step, H100, num_gpus=count, strategy="fsdp2").memory_bytes for count in (8, 64))
    for name in ("weights", "gradients", "optimizer"):
        assert one[name] == 8 * many[name]
    for name in ("activations", "gathered", "head"):
        assert one[name] == many[name]
    whole = plan(large(), step, H100, num_gpus=64, strategy="ddp").memory_bytes
    assert whole["weights"] + whole["gradients"] + whole["optimizer"] == 16 * large().num_parameters


def test_speed_is_bounded_by_the_peak_and_by_the_links():
    step = TrainingStep(length=4096)
    alone = plan(large(), step, H100, num_gpus=1, strategy="ddp")
    assert 0.4 < alone.mfu < 0.5  # the share that kernels reach, less the optimizer's time
    assert plan(large(), replace(step, checkpointing=True), H100, num_gpus=1, strategy="ddp").mfu == pytest.approx(
        alone.mfu * 3 / 4, rel=0.1
    )
    slow = replace(H100, network_bandwidth=1e9)
    for strategy in STRATEGIES:
        fast = plan(large(), step, H100, num_gpus=64, strategy=strategy)
        assert plan(large(), step, slow, num_gpus=64, strategy=strategy).mfu < fast.mfu < 0.5


def test_what_would_fit_fits():
    refused = plan(large(), TrainingStep(rows=8, length=4096), A100, num_gpus=8, strategy="ddp")
    assert not refused.fits
    found = remedies(refused, large(), A100)
    assert found[0].startswith("--strategy fsdp2 --checkpointing")
    assert 1 <= len(found) <= 3
    tiny = replace(A100, memory_bytes=8e9)
    assert not remedies(refused, large(), tiny)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"num_gpus": 0}, "gpus=0"),
        ({"efficiency": 1.5}, "efficiency=1.5"),
        ({"strategy": "tp", "tp": 3}, "tp=3 must divide"),
        ({"strategy": "tp", "tp": 16, "num_gpus": 16}, "tp=16 is above"),
        ({"step": TrainingStep(length=8192)}, "length=8192 is above the model's context"),
    ],
)
def test_plans_that_make_no_sense(options, problem):
    arguments = {"num_gpus": 8, "strategy": "ddp", "step": TrainingStep(), **options}
    with pytest.raises(InputError, match=problem):
        plan(large(), arguments.pop("step"), H100, **arguments)


@pytest.mark.parametrize(
    ("values", "problem"),
    [({"rows": 0}, "rows=0"), ({"scored": 0.0}, "scored=0.0"), ({"dtype": "int8"}, "dtype='int8'"), ({"lora_rank": -1}, "lora_rank=-1")],
)
def test_steps_that_make_no_sense(values, problem):
    with pytest.raises(InputError, match=problem):
        TrainingStep(**values)


def test_every_accelerator_says_where_its_numbers_are_from():
    assert all(one.source for one in ACCELERATORS.values())
    assert accelerator("a100").bf16_flops == 312e12
    with pytest.raises(InputError, match="did you mean 'h200'"):
        accelerator("h20")


# Published runs, by docs/scale.md.


def llada():
    config = TransformerConfig(vocab_size=126464, embedding_size=126464)
    return ModelShape(config, shapes(config))


def test_lora_of_an_8b_on_an_a100():
    """https://github.com/ZHZisZZ/dllm/issues/14: LoRA of LLaDA-8B at about 2,000 tokens took 33 GB on an A100."""
    shape = llada()
    step = TrainingStep(length=2048, dtype="bfloat16", lora_rank=16)
    predicted = plan(shape, step, A100, num_gpus=1, strategy="ddp")
    reserved = A100.memory_bytes - usable_bytes(A100)
    assert predicted.total_bytes < 33e9 < predicted.total_bytes + reserved


def test_7b_on_96_h800():
    """https://hkunlp.github.io/blog/2025/dream/: 580 billion tokens, 256 hours of 96 H800. Its batch is not known here: 4 rows of 2,048 tokens a GPU."""
    config = replace(preset("8b"), d_model=3584, n_heads=28, n_kv_heads=4, n_layers=28, mlp_hidden_size=18944, vocab_size=152064)
    config = replace(config, embedding_size=152064, vocab_layout=None)
    shape = ModelShape(config, shapes(config))
    assert shape.num_parameters == pytest.approx(7.6e9, rel=0.01)
    reached = 580e9 / (256 * 3600)
    for checkpointing, low, high in ((False, 0.5, 0.8), (True, 0.7, 1.0)):
        predicted = plan(shape, TrainingStep(rows=4, length=2048, checkpointing=checkpointing), H800, num_gpus=96, strategy="fsdp2")
        assert low < reached / predicted.tokens_per_second < high


def test_nodes_with_a_slow_network():
    """https://github.com/ZHZisZZ/dllm/issues/102: hours of one run on 8 to 64 GPUs, so that a step's time goes as hours times GPUs."""
    hours = {8: 44.24, 16: 59.45, 32: 29.90, 64: 17.22}
    machine, step = replace(A100, network_bandwidth=20e9 / 8), TrainingStep(rows=4, length=1024)
    planned = {count: plan(llada(), step, machine, num_gpus=count, strategy="fsdp2").step_seconds for count in hours}
    for count in hours:
        published = hours[count] * count / (hours[16] * 16)
        assert planned[count] / planned[16] == pytest.approx(published, rel=0.15)


# Runs.

RUNS = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.yaml") if path.parent.name not in ("accelerate", "data"))


@pytest.mark.parametrize("name", RUNS)
def test_every_shipped_config_is_planned_or_refused_with_the_reason(name):
    if name == "debug.yaml":
        with pytest.raises(InputError, match="holds 9 runs"):
            planned_run(CONFIGS / name)
    elif "\nnet:" in (CONFIGS / name).read_text() and not name.startswith("rl/"):
        with pytest.raises(InputError, match="trains an image tokenizer"):
            planned_run(CONFIGS / name)
    else:
        run = planned_run(CONFIGS / name)
        step = TrainingStep(**run.step)
        assert run.batch >= run.rows(1, step.accumulate) * step.accumulate
        assert run.model


def test_a_run_is_planned_by_its_settings(tmp_path):
    run = planned_run(
        CONFIGS / "published" / "stage2.1.yaml",
        ["loop.accumulate=2", "stage.optim.ema=0.99", "loop.tensor_parallel=2", "loop.compile=false"],
    )
    assert (run.name, run.model, run.starts, run.batch, run.tensor_parallel) == ("2.1", "runs/published/1.3/model", True, 1024, 2)
    step = TrainingStep(**run.step)
    assert step == TrainingStep(accumulate=2, ema=True, checkpointing=True)
    assert [run.rows(groups, 2) for groups in (8, 64, 500)] == [64, 8, 2]
    with pytest.raises(InputError, match=r"the 1 rows that each of 600 GPUs has; give --accumulate 1"):
        run.rows(600, 2)
    with pytest.raises(InputError, match="gpus=2000 cannot share batch=1024 rows"):
        run.rows(2000, 1)
    (tmp_path / "new.yaml").write_text("{stage: base, data: {world: shapes}, model: {preset: 6m, max_sequence_length: 512}}")
    new = planned_run(tmp_path / "new.yaml")
    assert (new.model, new.starts, new.step["length"]) == ("6m", False, 512)


def test_an_update_of_rl_is_planned():
    run = planned_run(CONFIGS / "rl" / "8b-lora.yaml", ["lora.rank=16"])
    assert (run.name, run.batch, run.step["accumulate"], run.step["lora_rank"], run.step["dtype"]) == ("unigrpo", 32, 16, 16, "bfloat16")
    assert run.rows(1, 16) == 2
    with pytest.raises(InputError, match="gpus=8 want 8 prompts"):
        run.rows(8, 1)
    assert replace(run, batch=9 * 8).rows(8, 4) == 4  # one GPU has the rollouts of two prompts
    assert "ff_out" not in run.step["lora_targets"]
    assert [one.split()[0] for one in run.remarks] == ["sampling"]
    whole = planned_run(CONFIGS / "rl" / "8b-lora.yaml", ["lora.rank=0"])
    assert "copy of the weights" in whole.remarks[1]


# The verb.


def command(tmp_path, *words):
    return processes.mmada(["plan", *words], cwd=tmp_path, preload=processes.SERVING)


def test_the_verb_shows_plans(tmp_path):
    done = command(tmp_path, "--gpus", "8,64,512", "--checkpointing")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("fsdp2") == 3
    assert "! does not fit" in done.stdout  # ddp
    found = json.loads(command(tmp_path, "--model", "3m", "--gpus", "1,2", "--json").stdout)
    assert [one["strategy"] for one in found["plans"]["1"]] == ["ddp"]
    assert all(one["fits"] and one["total_bytes"] == pytest.approx(sum(one["memory_bytes"].values()), abs=9) for one in found["plans"]["2"])


def test_the_verb_reads_checkpoints_of_any_family(tmp_path):
    found = json.loads(command(tmp_path, "--model", "mmada-emoji-base", "--json").stdout)
    info = json.loads(processes.mmada(["info", "--model", "mmada-emoji-base", "--json"], cwd=tmp_path, preload=processes.SERVING).stdout)
    assert found["parameters"] == info["parameters"]


def test_the_verb_refuses_what_does_not_fit(tmp_path):
    refused = command(tmp_path, "--gpus", "8", "--gpu", "4090", "--strategy", "ddp")
    assert refused.returncode == 2
    assert "what would fit: --strategy" in refused.stderr
    for words, problem in (
        (["--gpus", "8,x"], "gpus='x'"),
        (["--gpu", "b20"], "did you mean 'b200'"),
        (["--strategy", "fsdp"], "did you mean 'fsdp2'"),
        (["--model", "9b"], "9b"),
    ):
        wrong = command(tmp_path, *words)
        assert wrong.returncode == 2, wrong
        assert problem in wrong.stderr


def test_the_verb_takes_a_runs_file_and_options_count_more(tmp_path):
    file = str(CONFIGS / "published" / "stage2.1.yaml")
    done = command(tmp_path, "loop.accumulate=8", "--config", file, "--model", "8b", "--gpus", "8,64", "--no-checkpointing", "--json")
    found = json.loads(done.stdout)
    assert found["step"]["accumulate"] == 8
    assert not found["step"]["checkpointing"]
    rows = {count: {one["strategy"]: one["rows"] for one in plans} for count, plans in found["plans"].items()}
    assert rows["8"]["fsdp2"] == 16
    assert rows["64"]["fsdp2"] == 2
    assert rows["64"]["tp8"] == 16  # eight groups
    remarks = " ".join(done.stderr.split())
    assert "2.1: 1024 rows a step" in remarks
    assert "--checkpointing --model instead of what it says" in remarks
    assert "4096 tokens, the model's context" in remarks
    for words, problem in (
        (["--config", file], "give its size by --model"),
        (["loop.accumulate=8"], "give it by --config"),
        (["--config", file, "--model", "8b", "loop.acumulate=8"], "did you mean 'accumulate'"),
    ):
        wrong = command(tmp_path, *words)
        assert wrong.returncode == 2, wrong
        assert problem in wrong.stderr.replace("\n", " ")
