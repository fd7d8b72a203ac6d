"""The stages of the emoji world as recipes: the values that the built-in models were trained with, and configs that load."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mmada.rl.config import REWARDS
from mmada.rl.config import load as load_rl
from mmada.train.config import load
from mmada.train.optim import OptimizerConfig
from mmada.train.recipes import named_stage
from mmada.train.setup import build_task
from mmada.train.stages import MixtureComponent, Stage
from mmada.worlds.emoji.source import EmojiWorld

CONFIGS = Path(__file__).parents[3] / "configs" / "emoji"

TEXT = MixtureComponent(
    name="text",
    task="text",
    layout="chat",
    noise=("block",),
    weight="1/p",
    normalizer="maskable",
    mixture_weight=0.2,
    eos_padding_weight=0.1,
)
LOOK = replace(TEXT, name="look", task="understand")
INTERVIEW = MixtureComponent(
    name="interview", task="interview", layout="interview", noise=("cosine",), normalizer="maskable", mixture_weight=0.1
)
READ = replace(INTERVIEW, name="read", task="described")
LOOKUP = replace(TEXT, name="lookup", task="lookup")
FIND = MixtureComponent(name="find", task="find", layout="infill", noise=("all",), mixture_weight=0.1)
CONCLUDE, SUMS, SIGNS, FACTS = (replace(FIND, name=name, task=name) for name in ("conclude", "sums", "signs", "facts"))
DRAW = MixtureComponent(name="draw", task="draw", layout="draw", noise=("linear",), mixture_weight=0.5, cond_dropout_prob=0.1)
PLAN = replace(TEXT, name="plan", task="reason_draw", think=1.0)
MAKE = replace(DRAW, name="make", task="reason_draw")
MUON = OptimizerConfig(name="muon", lr=1.5e-3, matrix_lr=0.01, ema=0.995)
STAGES = (
    Stage(
        name="words",
        components=(replace(FIND, mixture_weight=0.7), replace(LOOKUP, mixture_weight=0.3)),
        batch=60,
        steps=500,
        optim=replace(MUON, decay=0.15),
    ),
    Stage(
        name="base",
        components=(
            replace(DRAW, mixture_weight=44, coefficient=2.0),
            replace(LOOK, mixture_weight=14),
            replace(INTERVIEW, mixture_weight=8, image_mask_ratio=0.5, coefficient=0.5),
            replace(TEXT, mixture_weight=10),
            replace(READ, mixture_weight=1, coefficient=0.1),
            replace(LOOKUP, mixture_weight=3, coefficient=0.25),
            replace(FIND, mixture_weight=1, coefficient=0.05),
            replace(CONCLUDE, mixture_weight=12, coefficient=0.5),
            replace(SUMS, mixture_weight=6, coefficient=0.5),
            replace(SIGNS, mixture_weight=2, coefficient=0.2),
            replace(FACTS, mixture_weight=3, coefficient=0.2),
        ),
        batch=104,
        steps=2_200,
        optim=replace(MUON, decay=0.4),
    ),
    Stage(
        name="mixcot",
        components=(
            replace(DRAW, mixture_weight=44, coefficient=2.0),
            replace(LOOK, mixture_weight=12, think=0.75, answer_weight=2.0),
            replace(INTERVIEW, mixture_weight=2, image_mask_ratio=0.5, coefficient=0.3),
            replace(TEXT, mixture_weight=44, think=0.75, answer_weight=2.0),
            replace(PLAN, mixture_weight=14, coefficient=1.0),
            replace(MAKE, mixture_weight=2, coefficient=0.2),
            replace(READ, mixture_weight=1, coefficient=0.1),
            replace(LOOKUP, mixture_weight=1, coefficient=0.1),
            replace(FIND, mixture_weight=1, coefficient=0.05),
            replace(CONCLUDE, mixture_weight=8, coefficient=1.0),
            replace(SUMS, mixture_weight=2, coefficient=0.3),
            replace(SIGNS, mixture_weight=24, coefficient=1.0),
            replace(FACTS, mixture_weight=1, coefficient=0.05),
        ),
        batch=156,
        steps=11_000,
        optim=replace(MUON, lr=7.5e-4, matrix_lr=0.005, weight_decay=0.1, decay=0.9),
    ),
)


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_a_recipe_holds_the_values_of_the_built_in_models(stage):
    assert named_stage(stage.name, "emoji") == stage


def test_every_stage_has_a_debug_form_that_builds(tmp_path):
    for name in [*(path.stem for path in EmojiWorld().recipes.glob("*.yaml")), "tokenizer", "finetune"]:
        values = (
            "debug: true\ndata: {world: emoji}\ndefaults: {image_height: 64, image_width: 64, block_length: 8, full_attention: false}\n"
        )
        file = tmp_path / f"{name}.yaml"
        file.write_text(values + f"stage: {name}\nout: {tmp_path / name}\nnet: {{patch: 4}}\n")
        assert build_task(load(file)).batches(0, rank=0, world=1, accumulate=1)[0].num_tokens > 0


REINFORCED = ("max", "visitor-rl")


@pytest.mark.parametrize("path", sorted(p for p in CONFIGS.glob("*.yaml") if p.stem not in REINFORCED), ids=lambda p: p.stem)
def test_every_config_names_its_world(path):
    assert load(path).data.world == "emoji"


@pytest.mark.parametrize(("name", "some"), [("max", {"drawn", "objects", "likeness"}), ("visitor-rl", {"correct"})])
def test_configs_of_reinforcement_learning_reward_what_the_world_brings(name, some):
    config = load_rl(CONFIGS / f"{name}.yaml")
    rewards = {reward for task in config.active for reward in task.rewards}
    assert some <= rewards <= {*REWARDS, *EmojiWorld().rewards()}
    assert load_rl(CONFIGS / f"{name}.yaml", ["debug=true"]).steps == 4


def test_the_base_model_can_be_trained_on(tmp_path):
    settings = [f"out={tmp_path}", "model.start=mmada-emoji-base", "loop.prefetch=0"]
    task = build_task(load(CONFIGS / "mixcot.yaml", settings))
    (batch,) = task.batches(0, rank=0, world=1, accumulate=1)
    with torch.no_grad():
        sums = task.losses(task.module, batch, torch.device("cpu"))
    assert bool(torch.isfinite(sums).all())
