"""What a plan takes from the file of a run: its model, and the settings on which memory, communication and speed depend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmada.errors import InputError
from mmada.rl import config as rl
from mmada.train import config as train
from mmada.train.optim import OptimizerConfig
from mmada.train.stages import Stage
from mmada.train.values import mappings

__all__ = ["PlannedRun", "planned_run"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedRun:
    """A run as far as a plan needs it.

    name             the stage, or the objective of reinforcement learning
    model            what it starts from, or the size of a new model
    starts           whether that is a checkpoint
    batch            rows of a step, over all GPUs and micro-batches
    together         rows that one GPU has: the rollouts of a prompt
    step             fields of TrainingStep
    tensor_parallel  GPUs that hold a model together
    remarks          what the plan leaves out
    """

    name: str
    model: str
    starts: bool
    batch: int
    step: Mapping[str, Any]
    together: int = 1
    tensor_parallel: int = 1
    remarks: tuple[str, ...] = ()

    def rows(self, num_groups: int, accumulate: int) -> int:
        """Of the largest micro-batch of a GPU, or of a group that holds a model together. Raises InputError if some would have none."""
        whole = self.batch // self.together
        if whole < num_groups:
            raise InputError(
                f"gpus={num_groups} want {num_groups} prompts or more in a round, and {whole} are there; give fewer GPUs"
                if self.together > 1
                else f"gpus={num_groups} cannot share batch={self.batch} rows; give fewer"
            )
        fewest = whole // num_groups * self.together
        if fewest < accumulate:
            raise InputError(
                f"accumulate={accumulate} micro-batches cannot be made of the {fewest} rows that each of {num_groups} GPUs has; give --accumulate {fewest}"
            )
        return -(-(-(-whole // num_groups) * self.together) // accumulate)


def planned_run(path: Path, settings: Sequence[str] = ()) -> PlannedRun:
    """The run of a file of `mmada train` or `mmada rl`, with key=value settings on top.

    Raises InputError for a file that these commands refuse, for several runs, and for a stage that trains an image tokenizer.
    """
    found = mappings(path, settings)
    if len(found) > 1:
        raise InputError(f"config={str(path)!r} holds {len(found)} runs, and a plan is of one; write that run into a file of its own")
    if found[0].keys() & {"tasks", "objective", "group"}:
        return _of_rl(rl.load(path, settings))
    return _of_training(train.load(path, settings), path)


def _of_training(config: train.TrainConfig, path: Path) -> PlannedRun:
    stage = config.stage
    if not isinstance(stage, Stage):
        raise InputError(f"config={str(path)!r}: stage {stage.name!r} trains an image tokenizer, and a plan is of a transformer")
    return _planned(stage.name, config, stage.batch, stage.optim)


def _of_rl(config: rl.RLConfig) -> PlannedRun:
    """Of an update: every one sees all rollouts of its round."""
    left_out = ["sampling is left out: its KV caches share the GPU with what an update takes, and its time is added"]
    if config.objective.kl_weight and not config.lora.rank:
        left_out.append("the copy of the weights to which the KL term compares is left out")
    batch = config.group * sum(task.prompts for task in config.active)
    return replace(_planned(config.objective.name, config, batch, config.optim, *left_out), together=config.group)


def _planned(name: str, config: train.TrainConfig | rl.RLConfig, batch: int, optim: OptimizerConfig, *remarks: str) -> PlannedRun:
    loop, lora, model = config.loop, config.lora, config.model
    step = {
        "accumulate": loop.accumulate,
        "dtype": model.dtype,
        "precision": loop.precision,
        "optimizer": optim.name,
        "ema": optim.ema > 0,
        "lora_rank": lora.rank,
        "lora_targets": lora.targets,
        "checkpointing": loop.checkpointing,
    }
    if model.quantize:
        remarks = (*remarks, f"model.quantize={model.quantize} is left out: the frozen matrices count in {model.dtype}")
    return PlannedRun(
        name=name,
        model=model.start or model.whole().preset,
        starts=bool(model.start),
        batch=batch,
        step={**step, **({} if model.start else {"length": model.whole().max_sequence_length})},
        tensor_parallel=loop.tensor_parallel,
        remarks=remarks,
    )
