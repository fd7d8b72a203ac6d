"""The whole: rewards rise, stopping changes nothing, and what goes wrong is counted."""

import json
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from mmada.errors import CheckpointError, InputError
from mmada.rl.rollout import Decoding
from mmada.rl.settings import OBJECTIVES, ObjectiveConfig
from mmada.rl.step import Policy
from mmada.train import lora
from mmada.train.state import latest

from ..processes import ranks, start
from . import tiny


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


# What an objective computes is tested by itself; that a run learns with it takes two seconds each.
SLOW = ("coupled", "diffu_grpo", "espo", "spg", "trace")


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in OBJECTIVES])
def test_every_objective_raises_a_toy_reward(tmp_path, name):
    settings = ObjectiveConfig(name=name, updates=2, kl_weight=0.0, steps_per_mask=2)
    job = tiny.task(tiny.config(steps=16, group=8, objective=settings))
    reports = []
    tiny.fit(job, tmp_path, reports=reports)
    rewards = [r.values["reward/text"] for r in reports if "reward/text" in r.values]
    assert len(rewards) == 8
    assert sum(rewards[-3:]) / 3 > rewards[0] + 0.3, rewards


@pytest.mark.slow
def test_drawings_are_learnt_too(tmp_path):
    model, reports = tiny.pipeline(), []
    # The debug tokenizer's pictures all look alike: paint each code as a gray of its own.
    model.image_tokenizer.decode_images = lambda codes: [Image.fromarray((4 * c).numpy().astype(np.uint8)) for c in codes]
    job = tiny.task(tiny.config("draw", steps=16, group=8, objective=ObjectiveConfig(kl_weight=0.0, updates=2)), model=model)
    tiny.fit(job, tmp_path, reports=reports)
    rewards = [r.values["reward/draw"] for r in reports if "reward/draw" in r.values]
    assert sum(rewards[-3:]) / 3 > rewards[0] + 0.1, rewards


@pytest.mark.integration
def test_a_run_killed_in_a_round_goes_on_to_the_same_weights(tmp_path):
    whole = tiny.resumable()
    tiny.fit(whole, tmp_path / "whole")
    process = start(tiny.main, "kill", tmp_path / "killed")
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert latest(tmp_path / "killed" / "state").name == "step-00000002"
    resumed = tiny.resumable()
    assert resumed.experience is None
    tiny.fit(resumed, tmp_path / "killed")
    assert same(tiny.weights(whole), tiny.weights(resumed))
    assert not same(tiny.weights(whole), tiny.weights(tiny.resumable()))


@pytest.mark.slow
def test_a_round_that_was_sampled_before_a_stop_is_logged_after_it(tmp_path):
    whole, parts = [], []
    tiny.fit(tiny.task(tiny.config()), tmp_path / "whole", reports=whole)
    tiny.fit(tiny.task(tiny.config(loop=replace(tiny.QUIET, max_minutes=1e-9))), tmp_path / "parts", reports=parts)
    assert not parts
    tiny.fit(tiny.task(tiny.config()), tmp_path / "parts", reports=parts)
    rewards = [[report.values.get("reward/text") for report in reports] for reports in (whole, parts)]
    assert rewards[0] == rewards[1]
    assert rewards[0][0] is not None


@pytest.mark.integration
def test_two_processes_with_sharded_weights_equal_one(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    tiny.fit(tiny.spread(tmp_path / "one"), tmp_path / "one" / "run")
    assert ranks(tiny.main, "shard", tmp_path / "two") == [0, 0]
    one, two = (torch.load(tmp_path / name / "weights.pt") for name in ("one", "two"))
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-6
    before = tiny.weights(tiny.resumable())
    assert max(float((one[name] - before[f"model.{name}"]).abs().max()) for name in one) > 1e-4


def test_a_round_in_a_save_wants_the_settings_that_it_was_made_with(tmp_path):
    tiny.fit(tiny.resumable(), tmp_path, steps=2)
    other = tiny.task(tiny.config("text", "draw", prompts=1, objective=ObjectiveConfig(updates=4, kl_weight=0.1)))
    with pytest.raises(InputError, match=r"objective.updates=3 and loop.accumulate=1, not 4 and 1"):
        tiny.fit(other, tmp_path)
    file = latest(tmp_path / "state") / "experience-0.pt"
    torch.save({**torch.load(file), "world": 2}, file)
    with pytest.raises(CheckpointError, match=r"by 2 processes within a round of objective.updates=3.*not 1, or from a save whose step"):
        tiny.fit(tiny.resumable(), tmp_path)
    file.unlink()
    with pytest.raises(CheckpointError, match=r"experience-0\.pt is missing"):
        tiny.fit(tiny.resumable(), tmp_path)


@pytest.mark.integration
def test_between_rounds_another_number_of_processes_goes_on(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        tiny.fit(tiny.spread(tmp_path / name), tmp_path / name / "run")
    tiny.fit(tiny.spread(tmp_path / "one"), tmp_path / "one" / "run", steps=4)
    assert ranks(tiny.main, "more", tmp_path / "two") == [0, 0]
    one, two = (torch.load(tmp_path / name / "weights.pt") for name in ("one", "two"))
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-6
    assert sorted(path.name for path in latest(tmp_path / "two" / "run" / "state").glob("experience-*")) == [
        "experience-0.pt",
        "experience-1.pt",
    ]


def test_constant_rewards_change_nothing(tmp_path):
    for drop_zero_variance in (True, False):
        settings = tiny.config("text", steps=2, drop_zero_variance=drop_zero_variance, objective=ObjectiveConfig(updates=1, kl_weight=0.5))
        job = tiny.task(settings, rewards={"text": {"same": (1.0, lambda samples: [0.7] * len(samples))}})
        before, reports = tiny.weights(job), []
        tiny.fit(job, tmp_path / str(drop_zero_variance), reports=reports)
        assert same(before, tiny.weights(job))
        values = reports[0].values
        assert (values["signal/text"], values["gradient_norm"], values["reward/text"]) == (0, 0, pytest.approx(0.7))
        assert ("kl/text" in values) is not drop_zero_variance


def test_the_first_update_has_ratio_one_and_no_divergence(tmp_path):
    job, reports = tiny.task(tiny.config("text", "draw", steps=2, objective=ObjectiveConfig(updates=2))), []
    tiny.fit(job, tmp_path, reports=reports)
    first, second = (r.values for r in reports)
    for name in ("text", "draw"):
        assert (first[f"ratio/{name}"], first[f"ratio_change/{name}"], first[f"clipped/{name}"], first[f"kl/{name}"]) == (1, 0, 0, 0)
        assert second[f"ratio_change/{name}"] > 0
        assert second[f"kl/{name}"] > 0


def test_a_reward_that_is_not_a_number_drops_its_rollout_and_is_counted(tmp_path):
    def broken(samples):
        return [float("nan") if i % 4 == 1 else value for i, value in enumerate(tiny.vowels(samples))]

    job, reports = tiny.task(tiny.config(steps=1), rewards={"text": {"broken": (1.0, broken)}}), []
    tiny.fit(job, tmp_path, reports=reports)
    values = reports[0].values
    assert values["failed/text"] == pytest.approx(1 / 4)
    assert values["reward/text"] == values["reward/text"]
    (batch,) = job.experience.batches[0]
    assert len(batch.advantage) == 6  # two groups of four, one failed in each
    assert float(batch.advantage[:3].sum()) == pytest.approx(0, abs=1e-6)


def test_an_empty_group_is_left_out_and_counted(tmp_path):
    def broken(samples):
        return [float("inf") if i < 4 else value for i, value in enumerate(tiny.vowels(samples))]

    job, reports = tiny.task(tiny.config(steps=1), rewards={"text": {"broken": (1.0, broken)}}), []
    tiny.fit(job, tmp_path, reports=reports)
    values = reports[0].values
    assert (values["empty/text"], values["failed/text"]) == (1 / 2, 1 / 2)
    assert len(job.experience.batches[0][0].advantage) == 4


def test_a_batch_without_any_signal_is_a_step_of_zero(tmp_path):
    job, reports = tiny.task(tiny.config(steps=2), rewards={"text": {"nothing": (1.0, lambda samples: [None] * len(samples))}}), []
    before = tiny.weights(job)
    tiny.fit(job, tmp_path, reports=reports)
    assert same(before, tiny.weights(job))
    assert reports[0].values["failed/text"] == 1
    assert "reward/text" not in reports[0].values


@pytest.mark.parametrize(("unfinished", "failed", "reward"), [("score", 0, 1), ("zero", 0, 0), ("drop", 1, None)])
def test_a_text_without_end_is_handled_as_asked_and_counted(tmp_path, unfinished, failed, reward):
    model = tiny.pipeline()
    with torch.no_grad():  # at temperature 0 it never writes an end: others always have a logit above 0
        model.model.head_weight[[model.layout.eos_id, model.layout.eot_id]] = 0
    settings = tiny.config(steps=1, unfinished=unfinished, decoding=Decoding(max_new_tokens=16, temperature=0.0))
    job, reports = tiny.task(settings, model=model, rewards={"text": {"one": (1.0, ones)}}), []
    tiny.fit(job, tmp_path, reports=reports)
    values = reports[0].values
    assert (values["unfinished/text"], values["failed/text"], values.get("reward/text")) == (1, failed, reward)


def ones(samples):
    return [1.0] * len(samples)


def test_accumulation_equals_one_large_batch(tmp_path):
    whole = tiny.task(tiny.config("text", steps=2, optim=replace(tiny.ADAM, eps=1e-3)))
    tiny.fit(whole, tmp_path / "whole")
    split = tiny.task(tiny.config("text", steps=2, optim=replace(tiny.ADAM, eps=1e-3)))
    tiny.fit(split, tmp_path / "split", settings=replace(tiny.QUIET, accumulate=3))
    one, other = tiny.weights(whole), tiny.weights(split)
    assert max(float((one[name] - other[name]).abs().max()) for name in one) < 1e-6


def test_a_process_without_prompts_of_a_task_has_an_empty_batch():
    job = tiny.task(tiny.config(prompts=1))
    (batch,) = job.batches(0, rank=1, world=2, accumulate=1)
    assert (len(batch.advantage), batch.num_tokens, batch.normalizers.tolist()) == (0, 0, [0])
    assert job.losses(job.module, batch, torch.device("cpu")).tolist() == [0]


@pytest.mark.slow
def test_an_adapter_is_its_own_reference(tmp_path):
    model = tiny.pipeline()
    lora.inject(model.model, lora.Lora(rank=2, targets=("q_proj", "ff_out")), seed=0)
    job = tiny.task(tiny.config(steps=2, objective=ObjectiveConfig(updates=1)), model=model, reference=None)
    job.reference = job.module
    before, reports = tiny.weights(job), []
    tiny.fit(job, tmp_path, reports=reports)
    after = tiny.weights(job)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all("lora_" in name for name in moved)
    assert reports[0].values["kl/text"] == 0
    assert reports[1].values["kl/text"] > 0
    # With the adapters off it is still the model that it began as.
    other = Policy(tiny.pipeline().model)
    (batch,) = job.experience.batches[0]
    torch.testing.assert_close(batch.ref, other(batch)[0], rtol=1e-4, atol=1e-5)


def test_thinking_before_drawing_trains_both_parts(tmp_path):
    job, reports = tiny.task(tiny.config("reason_draw", prompts=1, steps=1)), []
    tiny.fit(job, tmp_path, reports=reports, settings=replace(tiny.QUIET, eval_every=1, sample_every=1))
    (batch,) = job.experience.batches[0]
    assert len(batch.scored) == 2
    assert batch.share.tolist() == [0.5] * 8
    assert torch.equal(batch.advantage[0::2], batch.advantage[1::2])
    values = reports[0].values
    assert values["reward/reason_draw"] == pytest.approx(values["reward/reason_draw/vowels"] + values["reward/reason_draw/brightness"])
    assert {"eval/reason_draw", "eval/reason_draw/vowels", "eval/reason_draw/brightness", "rollout_seconds"} <= set(values)
    folder = tmp_path / "samples" / "step-00000001"
    lines = [json.loads(line) for line in (folder / "rollouts.jsonl").read_text().splitlines()]
    assert [line["picture"] for line in lines] == [f"rollout-reason_draw-{i}.png" for i in range(4)]
    assert all((folder / line["picture"]).exists() for line in lines)
    assert sum(line["advantage"] for line in lines) == pytest.approx(0, abs=1e-6)
    assert len((folder / "held_out.jsonl").read_text().splitlines()) == job.config.data.num_samples
