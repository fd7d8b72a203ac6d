"""A run of reinforcement learning as a value. YAML and key=value fill it, by the rules of train/values.py.

out: runs/max
model: {start: runs/mixcot/model}
data: {world: shapes}
tasks: {text: {prompts: 6, rewards: {correct: 2.0, format: 0.5}}, draw: {prompts: 4, rewards: {correct: 1.0}}}
objective: {name: unigrpo, updates: 2}
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from mmada.data.find_world import find_world
from mmada.data.world import World
from mmada.errors import InputError, suggest
from mmada.generation.requests import GenerationConfig
from mmada.rl.advantage import Scale
from mmada.rl.objective import ObjectiveConfig
from mmada.rl.prompts import PROMPT_TASKS
from mmada.rl.rollout import Decoding
from mmada.train.config import RECIPES, ImageTokenizerSettings, ModelConfig, SampleSource, check_quantized, small_model, small_net
from mmada.train.loop import LoopConfig
from mmada.train.lora import Lora, for_adapters
from mmada.train.optim import OptimizerConfig
from mmada.train.values import fill, mappings

__all__ = ["NEEDS_REFERENCE", "REWARDS", "PromptDataConfig", "RLConfig", "RLTaskConfig", "load"]

REWARDS: Mapping[str, str] = {
    "format": "thinking in its tags where it was asked for, none where it was not",
    "brevity": "fewer tokens than there could be",
    "exact": "the answer is the reference",
    "math": "the answer means the reference, by math-verify",
    "correct": "the world's verifier calls the answer, or the drawing, right",
    "clip": "CLIPScore of a drawing; reward_models.clip names the weights",
    "caption_clip": "CLIPScore of an answer and the picture shown; reward_models.clip",
    "pick": "PickScore; reward_models.pick",
    "image_reward": "ImageReward; reward_models.image_reward",
    "hps": "HPS v2; reward_models.hps",
    "pixels": "a drawing, or an edit, is the picture that its record has",
}
"""Name -> what is rewarded, in any world. A world may bring more; "package.module:function" is a reward of your own (docs/rl.md)."""

NEEDS_REFERENCE = ("exact", "math")
"""Rewards that compare with a record's answer; prompts without one are left out where they have a weight."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RLTaskConfig:
    """One task's part of a batch. Raises InputError if its parts do not fit together."""

    name: str
    task: str = ""
    """of the world, whose prompts these are; empty: the name. So one task of a world may have several parts, with kinds and weights of their own"""
    prompts: int = 0
    """for each batch of rollouts, over all processes; 0: the task takes no part"""
    weight: float = 1.0
    """of its loss, which is a mean over its rollouts"""
    think: float = 1.0
    """share of prompts that ask for thinking; plain drawings never do, drawings that need it always"""
    kinds: tuple[str, ...] = ()
    """of the world's kinds of the task; empty: all"""
    rewards: Mapping[str, Any] = field(default_factory=dict)
    """name -> weight"""
    decoding: Decoding = field(default_factory=Decoding)

    @property
    def of_world(self) -> str:
        """The task of the world, or of records."""
        return self.task or self.name

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w-]+", self.name):
            raise InputError(f"tasks.{self.name}: a name is made of letters, digits, - and _, for logs and files have it")
        if self.prompts < 0 or not self.weight >= 0:
            raise InputError(
                f"tasks.{self.name}: prompts={self.prompts} and weight={self.weight} must not be negative; 0 turns the task off"
            )
        if not 0 <= self.think <= 1:
            raise InputError(f"tasks.{self.name}: think={self.think} is a share of prompts and must lie in 0..1")
        for reward, weight in self.rewards.items():
            if isinstance(weight, bool) or not isinstance(weight, int | float):
                raise InputError(f"tasks.{self.name}.rewards.{reward}={weight!r} must be a number, the weight of the reward")
        if self.prompts and not any(self.rewards.values()):
            raise InputError(f"tasks.{self.name} has prompts={self.prompts} and no reward with a weight; add one of {', '.join(REWARDS)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptDataConfig(SampleSource):
    """Where prompts come from: a world, or records, each with the reference of its rewards, if they need one."""

    held_out: int = 32
    """prompts of each task that are evaluated"""
    num_samples: int = 4
    """samples of each task written during training"""

    def __post_init__(self) -> None:
        SampleSource.__post_init__(self)
        if self.held_out < 0 or self.num_samples < 0:
            raise InputError(f"data.held_out={self.held_out} and num_samples={self.num_samples} must not be negative; 0 turns them off")
        if self.path.endswith(RECIPES):
            raise InputError(f"data.path={self.path!r} is a recipe, which `mmada rl` does not take; name one file, folder or set of shards")


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardModels:
    """Directories or names of the weights of learned rewards; only those that a task rewards are loaded."""

    clip: str = "openai/clip-vit-large-patch14"
    pick: str = "yuvalkirstain/PickScore_v1"
    image_reward: str = "ImageReward-v1.0"
    hps: str = "v2.1"


@dataclass(frozen=True, kw_only=True, slots=True)
class RLConfig:
    """One run. Raises InputError if its parts do not fit together."""

    out: str
    """directory of everything that the run writes"""
    steps: int = 400
    """optimizer steps; every objective.updates of them share a batch of rollouts"""
    seed: int = 0
    group: int = 8
    """rollouts of each prompt"""
    scale: Scale = "group"
    """of advantages (advantage.py)"""
    drop_zero_variance: bool = True
    """leave groups whose rollouts all have the same reward out of the objective"""
    unfinished: Literal["score", "zero", "drop"] = "zero"
    """a text without end token: rewarded as it is; no reward at all; or out of its group. It is counted in any case"""
    tasks: tuple[RLTaskConfig, ...] = tuple(RLTaskConfig(name=name) for name in PROMPT_TASKS)
    """of records these; of a world any, by names of your own"""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optim: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(lr=1e-6, weight_decay=0.0, schedule="constant", warmup=5, clip=1.0)
    )
    model: ModelConfig = field(default_factory=ModelConfig)
    net: ImageTokenizerSettings = field(default_factory=ImageTokenizerSettings)
    data: PromptDataConfig = field(default_factory=PromptDataConfig)
    reward_models: RewardModels = field(default_factory=RewardModels)
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(prefetch=0, log_every=1, eval_every=50, sample_every=50, save_every=50))
    lora: Lora = field(default_factory=Lora)
    reward_timeout: float = 300.0
    """seconds that a reward of your own may take for the answers of a round; after that they count as failed. 0: no limit"""
    max_tokens: int = 65536
    """that share a forward pass of the sampler"""
    rollouts: Literal["here", "ray"] = "here"
    """who samples: this process, or workers over Ray, each with a whole model (docs/rl.md). The rollouts are the same"""
    rollout_workers: int = 2
    """of rollouts=ray"""
    rollout_staleness: int = 0
    """rounds that the weights which sample may be older than those that train: while one round trains, the next ones are sampled. It is the same
    for every round, except the first ones, so that the seed decides the rollouts. 0: a round waits for its rollouts"""
    rollout_gpus: float = 0.0
    """of each worker; below 1, several share one. 0: they sample on CPUs"""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """how the trained model is best used (mmada.generation.requests.GenerationConfig), on top of what it starts from"""
    debug: bool = False
    """shrink everything, so that the run takes seconds on a CPU"""

    def __post_init__(self) -> None:
        if not self.out:
            raise InputError("out='' is empty; name a directory, such as runs/max")
        if self.steps < 1 or self.group < 2:
            raise InputError(f"steps={self.steps} must be at least 1, and group={self.group} at least 2, for rollouts are compared")
        if self.rollout_workers < 1 or not self.rollout_gpus >= 0:
            raise InputError(
                f"rollout_workers={self.rollout_workers} must be at least 1, and rollout_gpus={self.rollout_gpus} must not be negative"
            )
        if self.rollout_staleness < 0:
            raise InputError(f"rollout_staleness={self.rollout_staleness} must not be negative; 0 samples by the latest weights")
        if self.rollout_staleness and self.rollouts == "here":
            raise InputError(
                f"rollout_staleness={self.rollout_staleness} needs workers that sample while this process trains; set rollouts=ray, or 0"
            )
        if self.rollout_staleness and not self.objective.has_ratio:
            raise InputError(
                f"objective.name={self.objective.name!r} has no importance ratio, which corrects for older weights; set rollout_staleness=0"
            )
        if not self.reward_timeout >= 0:
            raise InputError(f"reward_timeout={self.reward_timeout} must not be negative; 0 sets no limit")
        if self.loop.prefetch:
            raise InputError(f"loop.prefetch={self.loop.prefetch} would sample with weights that are not there yet; set it to 0")
        if self.loop.tensor_parallel > 1:
            raise InputError(
                f"loop.tensor_parallel={self.loop.tensor_parallel} is of `mmada train` alone: rollouts are shared out to single processes; "
                "set it to 1, and use FSDP2"
            )
        check_quantized(self.model, self.lora)
        fill(GenerationConfig(), self.defaults, "defaults.")

    @property
    def active(self) -> tuple[RLTaskConfig, ...]:
        """Tasks that take part."""
        return tuple(task for task in self.tasks if task.prompts)


def load(path: Path, overrides: Sequence[str] = ()) -> RLConfig:
    """The run of a YAML file, with `key=value` settings on top. Raises InputError for what is unknown, mistyped or does not fit."""
    found = mappings(path, overrides)
    if len(found) != 1:
        raise InputError(f"{path} holds {len(found)} runs; reinforcement learning takes one")
    if "stage" in found[0]:
        raise InputError("unknown setting stage: it belongs to training without rewards; run this config by mmada train")
    base = RLConfig(out="runs/rl")
    if fill(Lora(), found[0].get("lora", {}), "lora.").rank:
        base = replace(base, optim=for_adapters(base.optim))
    base = replace(base, tasks=(*base.tasks, *_own_parts(found[0])))
    config = fill(base, found[0])
    world = find_world(config.data.world, config.data.options) if config.data.world else None
    for task in config.tasks:
        if world is None and task.task:
            raise InputError(f"tasks.{task.name}.task={task.task!r} is of data.world alone; records say which task they are of")
        if world is None and task.kinds:
            raise InputError(
                f"tasks.{task.name}.kinds={list(task.kinds)} are of data.world alone; leave records of other kinds out of data.path"
            )
        if world is not None and task.prompts:
            _check_task(task.name, task.of_world, world)
    known = {*REWARDS, *(world.rewards() if world is not None else ())}
    for task in config.tasks:
        for reward in task.rewards:
            if reward not in known and ":" not in reward:
                raise InputError(
                    f"unknown reward tasks.{task.name}.rewards.{reward}: {suggest(reward, known)}; one of your own is package.module:function"
                )
    return _debug(config) if config.debug else config


def _own_parts(values: Mapping[str, Any]) -> tuple[RLTaskConfig, ...]:
    """Parts of a run, with their names alone, that are none of PROMPT_TASKS: of a world a part may have any name. Raises InputError for a
    part whose task the world does not have."""
    data, tasks = values.get("data"), values.get("tasks")
    if not isinstance(data, dict) or not isinstance(tasks, dict) or not isinstance(data.get("world"), str):
        return ()
    world = find_world(data["world"], data.get("options", {}))
    own = [str(name) for name in tasks if name not in PROMPT_TASKS]
    for name in own:
        _check_task(name, str(tasks[name].get("task", name) if isinstance(tasks[name], dict) else name), world)
    return tuple(RLTaskConfig(name=name) for name in own)


def _check_task(name: str, task: str, world: World) -> None:
    """Raises InputError for a part of a run whose task the world does not have, or that has nothing to ask."""
    if task not in world.tasks:
        raise InputError(
            f"tasks.{name} is no task of world {world.name!r}: {suggest(task, world.tasks)}; a part with a name of your own says which "
            f"task it is: tasks.{name}.task"
        )
    if task in world.gap_tasks:
        raise InputError(
            f"tasks.{name}: the task {task} of world {world.name!r} is of texts with gaps, which ask nothing; choose another task"
        )


def _debug(config: RLConfig) -> RLConfig:
    """The same run at a size that takes seconds; what it starts from and where it writes stay."""
    tasks = tuple(
        replace(task, prompts=min(task.prompts, 2), decoding=replace(task.decoding, max_new_tokens=32, image_steps=4))
        for task in config.tasks
    )
    return replace(
        config,
        steps=4,
        group=4,
        tasks=tasks,
        model=small_model(config.model),
        net=small_net(config.net),
        data=replace(config.data, held_out=2, num_samples=1),
        loop=replace(config.loop, log_every=1, eval_every=4, sample_every=4, save_every=2, compile=False),
    )
