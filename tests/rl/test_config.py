"""Configurations, and the command."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from typer.testing import CliRunner

from mmada.cli import app
from mmada.errors import InputError
from mmada.rl.config import RLConfig, load
from mmada.rl.prompts import WorldPrompts
from mmada.rl.setup import build_task, check_processes, check_remote, run
from mmada.worlds.shapes import Shapes

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs" / "rl").glob("*.yaml"))


def write(folder, text):
    file = folder / "rl.yaml"
    file.write_text(text)
    return file


DEBUG = """
debug: true
data: {world: shapes}
unfinished: score
net: {patch: 4, encoder_ch_mult: [1, 2], decoder_ch_mult: [1, 2]}
tasks: {text: {prompts: 2, rewards: {"tests.rl.test_config:letters": 1.0, format: 0.5}}}
defaults: {max_new_tokens: 16, max_thinking_tokens: 16, block_length: 8, image_height: 32, image_width: 32, full_attention: false}
"""


def letters(samples):
    """A reward as a user writes it."""
    return [float(sum(c.isalpha() for c in sample.text)) for sample in samples]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_shipped_config_loads_and_has_a_debug_form(path):
    config = load(path)
    assert config.active
    small = load(path, ["debug=true"])
    assert (small.steps, small.group) == (4, 4)
    assert small.objective == config.objective


def test_settings_reach_their_place(tmp_path):
    file = write(tmp_path, "data: {world: shapes}\ntasks: {text: {prompts: 2, rewards: {format: 1}}}")
    config = load(file, ["objective.name=espo", "tasks.text.rewards.exact=2", "tasks.text.decoding.temperature=0.7", "lora.rank=4"])
    assert [task.name for task in config.active] == ["text"]
    assert config.objective.name == "espo"
    assert config.tasks[0].rewards == {"format": 1, "exact": 2}
    assert (config.tasks[0].decoding.temperature, config.lora.rank, config.loop.prefetch) == (0.7, 4, 0)
    rates = (load(file).optim.lr, config.optim.lr, load(file, ["lora.rank=4", "optim.lr=1e-6"]).optim.lr)
    assert rates == (1e-6, pytest.approx(1e-5), 1e-6)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("objective.nme=spg", "did you mean 'name'"),
        ("objective.name=ppo", "objective.name"),
        ("tasks.text.rewards.fromat=1", "did you mean 'format'"),
        ("tasks.text.rewards.format=yes", "must be a number"),
        ("tasks.txt.prompts=1", "did you mean 'text'"),
        ("tasks.text.think=2", "think=2"),
        ("tasks.draw.prompts=2", "no reward with a weight"),
        ("optim.lr=0", "optim.lr=0.0 must be"),
        ("group=1", "group=1"),
        ("loop.prefetch=2", "loop.prefetch=2"),
        ("model.quantize=int8", "set lora.rank=8"),
        ("defaults.colour=1", "unknown setting defaults.colour"),
        ("data={world: shapes, path: x.jsonl}", "two sources"),
    ],
)
def test_settings_that_cannot_be_used_are_errors(tmp_path, setting, message):
    file = write(tmp_path, "data: {world: shapes}\ntasks: {text: {prompts: 2, rewards: {format: 1}}}")
    with pytest.raises(InputError, match=message):
        load(file, [setting])


def test_parts_of_a_worlds_tasks_have_names_of_your_own(tmp_path):
    part = "{task: understand, kinds: [%s], prompts: 2, rewards: {correct: 1}}"
    named = f"{{shapes: {part % 'shape'}, colors: {part % 'color'}, interview: {{prompts: 1, rewards: {{correct: 1}}}}}}"
    config = load(write(tmp_path, f"data: {{world: shapes}}\ntasks: {named}"), ["tasks.colors.prompts=3"])
    assert [(part.name, part.of_world, part.prompts) for part in config.active] == [
        ("shapes", "understand", 2),
        ("colors", "understand", 3),
        ("interview", "interview", 1),
    ]
    source = WorldPrompts(Shapes(), "understand", name="counts", seed=0)
    assert {prompt.task for prompt in source.take(range(3))} == {"counts"}


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ("{a/b: {task: text}}", "tasks.a/b: a name is made of"),
        ("{counts: {weight: 2}}", "tasks.counts is no task of world 'shapes'.*tasks.counts.task"),
        ("{counts: {task: undrstand}}", "did you mean 'understand'"),
    ],
)
def test_names_that_mean_no_task_are_errors(tmp_path, tasks, message):
    with pytest.raises(InputError, match=message):
        load(write(tmp_path, f"data: {{world: shapes}}\ntasks: {tasks}"))


def test_texts_with_gaps_ask_nothing(tmp_path):
    with pytest.raises(InputError, match="the task sums of world 'shapes' is of texts with gaps"):
        load(write(tmp_path, "data: {world: shapes}\ntasks: {sums: {prompts: 1, rewards: {correct: 1}}}"))


def test_records_have_no_parts(tmp_path):
    with pytest.raises(InputError, match=r"tasks.text.kinds=.* are of data.world alone"):
        load(write(tmp_path, "data: {path: x.jsonl}\ntasks: {text: {kinds: [sum]}}"))
    with pytest.raises(InputError, match=r"tasks.text.task='draw' is of data.world alone"):
        load(write(tmp_path, "data: {path: x.jsonl}\ntasks: {text: {task: draw}}"))


def test_parts_that_do_not_fit_together_are_errors(tmp_path):
    file = write(tmp_path, DEBUG)
    out = f"out={tmp_path / 'run'}"
    records = tmp_path / "x.jsonl"
    records.write_text('{"task": "text", "messages": [{"role": "user", "content": "one?"}], "answer": {"text": "1"}}\n')
    for settings, message in (
        (["tasks.text.prompts=0"], "no task has prompts"),
        (["debug=false"], "model.start=''"),
        (["objective.masking=whole"], "masking='whole'"),
        (["data={}"], "name a world, such as shapes, or a file of records"),
        ([f"data={{path: {records}}}", "tasks.text.rewards={correct: 1}"], "correct needs a data.world that verifies"),
        (["tasks.understand={prompts: 1, kinds: [size], rewards: {correct: 1}}"], "kind='size' is none of task understand"),
        (['tasks.text.rewards={"tests.rl.test_config:none": 1}'], "cannot be imported"),
    ):
        with pytest.raises(InputError, match=message):
            build_task(load(file, [out, *settings]))


def test_processes_without_a_prompt_are_refused():
    config = load(ROOT / "configs" / "rl" / "8b-lora.yaml")
    check_processes(config, 1)
    check_processes(config, 4)
    with pytest.raises(InputError, match=r"tasks.text.prompts=4 leaves 4 of 8 processes without a prompt.*set tasks.text.prompts=8"):
        check_processes(config, 8)


def test_who_samples_must_be_whom_the_settings_name():
    here, there = RLConfig(out="unused"), RLConfig(out="unused", rollouts="ray")

    def workers(*_, **__):
        return [], 0

    check_remote(here, is_main=True, remote=None)
    check_remote(there, is_main=True, remote=workers)
    check_remote(there, is_main=False, remote=None)
    for config, is_main, remote, message in (
        (there, True, None, "start the run by `mmada rl`"),
        (here, True, workers, "rollouts=here samples in this process"),
        (there, False, workers, "workers that the main process asks"),
    ):
        with pytest.raises(InputError, match=message):
            check_remote(config, is_main=is_main, remote=remote)


@pytest.mark.slow
def test_a_save_becomes_a_model(tmp_path):
    out = tmp_path / "run"
    run(load(write(tmp_path, DEBUG), [f"out={out}", "loop.eval_every=0", "loop.sample_every=0"]))
    result = CliRunner().invoke(app, ["convert", str(out / "state" / "step-00000004"), str(tmp_path / "model")])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == (out / "model" / "model.safetensors").read_bytes()
    assert (tmp_path / "model" / "mmada.json").read_bytes() == (out / "model" / "mmada.json").read_bytes()


def test_the_command_trains_resumes_and_keeps_its_settings(tmp_path):
    file, out = write(tmp_path, DEBUG), tmp_path / "run"
    result = CliRunner().invoke(app, ["rl", str(file), f"out={out}"])
    assert result.exit_code == 0, result.output
    assert "4 steps" in result.stderr
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    own = "tests.rl.test_config:letters"
    first = lines[0]
    assert first["reward/text"] == pytest.approx(first[f"reward/text/{own}"] + 0.5 * first["reward/text/format"])
    assert {"kl/text", "clipped/text", "ratio/text", "entropy/text", "length/text", "gradient_norm", "rollout_seconds"} <= set(first)
    assert f"eval/text/{own}" in lines[3]
    assert (out / "model" / "mmada.json").exists()
    again = CliRunner().invoke(app, ["rl", str(file), f"out={out}"])
    assert "going on from step-00000004" in again.stderr
    written = yaml.safe_load((out / "config.yaml").read_text())  # as a version without edits left it
    written["tasks"] = [task for task in written["tasks"] if task["name"] not in ("edit", "restyle")]
    for task in written["tasks"]:
        del task["decoding"]["image_guidance_scale"]
    del written["net"]["kind"], written["net"]["num_codes"]
    (out / "config.yaml").write_text(yaml.safe_dump(written))
    run(load(file, [f"out={out}"]))
    with pytest.raises(InputError, match="other settings of objective"):
        run(load(file, [f"out={out}", "objective.kl_weight=0"]))


@pytest.mark.slow
def test_adapters_of_a_bfloat16_model_are_float32(tmp_path):
    settings = [f"out={tmp_path / 'run'}", "lora.rank=2", "model.dtype=bfloat16", "loop.precision=bf16", "loop.eval_every=0"]
    config = load(write(tmp_path, DEBUG), [*settings, "loop.sample_every=0", "tasks.text.prompts=1"])
    config = replace(config, steps=1)
    task = build_task(config)
    assert {p.dtype for p in task.module.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in task.module.parameters() if not p.requires_grad} == {torch.bfloat16}
    assert task.reference is task.module
    run(config)
    assert {t.dtype for t in load_file(tmp_path / "run" / "model" / "model.safetensors").values()} == {torch.bfloat16}
    assert (tmp_path / "run" / "model" / "adapter" / "adapter_model.safetensors").exists()


def test_records_are_prompts(tmp_path, caplog):
    file = tmp_path / "prompts.jsonl"
    line = '{"task": "text", "messages": [{"role": "user", "content": "%s"}], "answer": {"text": "1"}}\n'
    file.write_text(line % "one?" + line % ("long " * 3000))
    settings = [f"out={tmp_path / 'run'}", f"data={{path: {file}}}"]
    task = build_task(load(write(tmp_path, DEBUG), settings))
    assert {p.text for p in task.sources["text"].take(range(6))} == {"one?"}  # the other does not fit the context
    assert task.held_out == {}
    (reported,) = caplog.messages
    assert "1 of 2 records are left out (the prompt and its answer are longer than the context 1" in reported


def test_a_run_into_a_file_is_a_sentence(tmp_path):
    out = tmp_path / "run"
    out.touch()
    with pytest.raises(InputError, match=r"^out='.*run' cannot be written \(File exists\); give a new directory"):
        run(load(write(tmp_path, DEBUG), [f"out={out}"]))
