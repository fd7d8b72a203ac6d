"""Everything that a run needs to go on, in one directory a save: `out/state/step-00000012`. Beside the saves lies `best.safetensors`
(loop.keep_best): the trainable weights of the step with the lowest held-out loss.

    model.safetensors, optimizer*.bin, random_states_*    written by accelerate
    ema.safetensors                                       averaged weights, float32
    shards/                                               with FSDP2, in place of all these: torch's distributed checkpoint, which any
                                                          number of processes reads
    experience-RANK.pt                                    of reinforcement learning: an unfinished round
    progress.json                                         steps done and other counters; written last

A save goes to a directory with another name, is forced to the disk, and is renamed (saver.py): a directory called step-* is complete,
whatever happens. What an interrupted save left behind is removed by the next run.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from mmada.errors import CheckpointError
from mmada.train import sharding

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from mmada.train.optim import Ema
    from mmada.train.protocols import TrainHooks

__all__ = [
    "PARTIAL",
    "PROGRESS",
    "Live",
    "TrainState",
    "averaged_weights",
    "complete",
    "keep_best",
    "latest",
    "publish",
    "put_best",
    "restore",
    "steps_of",
    "strategy_of",
    "whole_weights",
    "write",
]

_COMPLETE = re.compile(r"step-(\d{8})")
PARTIAL = ".partial-"
PROGRESS, EMA, BEST = "progress.json", "ema.safetensors", "best.safetensors"
SHARDS, MODEL, AVERAGE = "shards", "model.", "average."
"""Directory of a sharded save, and how names begin in it."""
_MOMENT = "moment."
_NEWER = ("before", "best_loss", "best_step")
"""Counters that saves of earlier versions lack."""
_SHARDED = {SHARDS: "FSDP", "pytorch_model_fsdp_0": "FSDP", "pytorch_model_fsdp.bin": "FSDP", "pytorch_model": "DEEPSPEED"}
"""What stands in place of model.safetensors, in earlier versions too -> the strategy that wrote it."""
_CONFIGS = {"FSDP": "configs/accelerate/fsdp2.yaml", "DEEPSPEED": "the same file of configs/accelerate"}


@dataclass(kw_only=True, slots=True)
class TrainState:
    """How far a run is. The position in the data is `step`: every batch is a pure function of it."""

    step: int = 0
    """optimizer steps done"""
    tokens: int = 0
    """tokens seen, padding not counted"""
    seconds: float = 0.0
    """spent in training, over all sessions"""
    ema_updates: int = 0
    before: dict[str, float] = field(default_factory=dict)
    """what the task compares, before the first step"""
    best_loss: float | None = None
    best_step: int = 0
    """of loop.keep_best: the lowest held-out loss so far, and its step, whose weights are in `BEST`"""


def latest(directory: Path) -> Path | None:
    """The complete save with the most steps, or None."""
    return next(reversed(complete(directory)), None)


def complete(directory: Path) -> list[Path]:
    """The complete saves, those with the fewest steps first."""
    return sorted(path for path in directory.glob("step-*") if _COMPLETE.fullmatch(path.name))


def steps_of(save: Path) -> int:
    """Optimizer steps done in a save, from its name."""
    return int(save.name.removeprefix("step-"))


@dataclass(frozen=True, slots=True)
class Live:
    """What a run holds in memory, of which a save is the copy.

    hooks  the task, if it has something of its own to save
    """

    accelerator: Accelerator
    model: nn.Module
    optimizers: Sequence[Optimizer]
    ema: Ema | None = None
    hooks: TrainHooks | None = None

    @property
    def is_sharded(self) -> bool:
        """Whether any weight is shared out between processes."""
        return any(map(sharding.is_sharded, self.model.parameters()))

    @property
    def strategy(self) -> str | None:
        """FSDP or DEEPSPEED; None: weights are whole."""
        return "FSDP" if self.is_sharded else "DEEPSPEED" if self.accelerator.distributed_type.value == "DEEPSPEED" else None

    def weights(self) -> dict[str, Tensor]:
        """Of FSDP: everything under the names of a sharded save, but for the optimizers' state."""
        found = {f"{MODEL}{name}": tensor for name, tensor in self.model.state_dict().items()}
        averages = {} if self.ema is None else self.ema.weights
        return found | {f"{AVERAGE}{name}": tensor for name, tensor in averages.items()}

    def moments(self) -> dict[str, Tensor]:
        """Of FSDP: the optimizers' state."""
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        return {
            f"{_MOMENT}{names[id(parameter)]}.{key}": value
            for optimizer in self.optimizers
            for parameter, values in optimizer.state.items()
            for key, value in values.items()
        }

    def make_moments(self, directory: Path) -> None:
        """Room for the state that a save holds: an optimizer makes it in its first step."""
        stored = sharding.sizes(directory)
        for optimizer in self.optimizers:
            own = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
            for name, parameter in self.model.named_parameters():
                begin = f"{_MOMENT}{name}."
                keys = [key for key in stored if key.startswith(begin) and "." not in key[len(begin) :]] if id(parameter) in own else []
                for key in keys:
                    size, dtype = stored[key]
                    made = torch.zeros_like(parameter) if size == parameter.shape else torch.zeros(size, dtype=dtype)
                    optimizer.state[parameter][key[len(begin) :]] = made


def restore(path: Path, live: Live) -> TrainState:
    """Put a save into the prepared model, optimizers and averages. Raises CheckpointError if it does not fit."""
    _check_strategy(path, live)
    try:
        values = json.loads((path / PROGRESS).read_text(encoding="utf-8"))
        progress = TrainState(**{f.name: values[f.name] for f in fields(TrainState) if f.name in values or f.name not in _NEWER})
        if live.hooks is not None:
            live.hooks.load(path)
        if live.is_sharded:
            live.make_moments(path / SHARDS)
            sharding.read(path / SHARDS, live.weights() | live.moments())
        else:
            live.accelerator.load_state(str(path))
            stored = load_file(path / EMA) if live.ema is not None else {}
            for name, tensor in live.ema.weights.items() if live.ema is not None else ():
                tensor.copy_(stored[name])
        if live.ema is not None:
            live.ema.num_updates = progress.ema_updates
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        if isinstance(error, CheckpointError):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{path} does not fit this run ({reason}); go on with the settings that it was saved with, or start afresh"
        ) from error
    return progress


def keep_best(directory: Path, weights: Mapping[str, Tensor], *, is_main: bool) -> None:
    """Write the best weights so far, whole, in place of those before. Every process calls it, and the main one writes."""
    found: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        full = sharding.whole(tensor.detach())
        if is_main:
            found[name] = full.cpu().contiguous()
    if is_main:
        directory.mkdir(parents=True, exist_ok=True)
        scratch = directory / f"{PARTIAL}{BEST}.tmp"
        save_file(found, scratch)
        scratch.replace(directory / BEST)


def put_best(directory: Path, weights: Mapping[str, Tensor]) -> None:
    """Copy the best weights, or the rows that this process holds, into those of the model.

    Raises CheckpointError if the file is missing or does not fit.
    """
    try:
        with safe_open(directory / BEST, "pt") as best:
            for name, tensor in weights.items():
                sharding.local(tensor.detach()).copy_(sharding.like(best.get_tensor(name), tensor))
    except (OSError, KeyError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(
            f"{directory / BEST} cannot be used ({type(error).__name__}: {error}); set loop.keep_best=false to export the last weights"
        ) from error


def strategy_of(save: Path) -> str | None:
    """Which strategy sharded the weights of a save, FSDP or DEEPSPEED; None: they are whole."""
    return next((strategy for name, strategy in _SHARDED.items() if (save / name).exists()), None)


def _check_strategy(path: Path, live: Live) -> None:
    """Raises CheckpointError if whole weights meet shards, with what can be done about it."""
    there, here = strategy_of(path), live.strategy
    if there == here:
        return
    model = f"make a model of it (mmada convert {path} OUT) and begin a new run from that (model.start=OUT)"
    if there is None:
        raise CheckpointError(f"{path} holds whole weights, and this run shards them ({here}); go on without sharding, or {model}")
    run = "whole weights" if here is None else f"{here} shards"
    remedy = "" if there == "DEEPSPEED" else f", or {model}"
    raise CheckpointError(
        f"{path} holds weights that were sharded by {there}, and this run wants {run}; start it as it was started "
        f"(accelerate launch --config_file {_CONFIGS[there]}){remedy}"
    )


def whole_weights(save: Path) -> dict[str, Tensor]:
    """Name -> tensor of everything that accelerate saved of the model, shards put together. On the CPU; in this process alone.

    Raises CheckpointError for a save that is incomplete, or whose shards only DeepSpeed can put together.
    """
    strategy = strategy_of(save)
    if strategy == "DEEPSPEED":
        raise CheckpointError(
            f"{save} holds shards of DeepSpeed, which only it can put together; let the run end, which writes RUN/model, "
            f"or run {save / 'zero_to_fp32.py'}"
        )
    try:
        if (save / "pytorch_model_fsdp.bin").exists():
            whole: dict[str, Tensor] = torch.load(save / "pytorch_model_fsdp.bin", map_location="cpu", weights_only=True)
            return whole
        if strategy is not None:
            return sharding.gathered(save / (SHARDS if (save / SHARDS).exists() else "pytorch_model_fsdp_0"), MODEL)
        return dict(load_file(save / "model.safetensors"))
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{save} cannot be read ({reason}); give a complete save, such as the one before it") from error


def averaged_weights(save: Path) -> dict[str, Tensor]:
    """Name -> averaged weight of a save, whole; empty where there are none."""
    if (save / SHARDS).exists():
        return sharding.gathered(save / SHARDS, AVERAGE)
    return dict(load_file(save / EMA)) if (save / EMA).exists() else {}


def publish(scratch: Path, target: Path) -> None:
    """Give a finished directory its name, so that after a crash at any moment it is there whole or not at all.

    A directory of that name is replaced; between its removal and the renaming there is none.
    """
    for path in (*sorted(scratch.rglob("*")), scratch):
        _sync(path)
    if target.exists():
        shutil.rmtree(target)
    scratch.rename(target)
    _sync(target.parent)


def write(directory: Path, save_to: Callable[[Path], object]) -> None:
    """Let `save_to` write a directory, which appears whole or not at all."""
    scratch = directory.with_name(f"{PARTIAL}{directory.name}")
    if scratch.exists():
        shutil.rmtree(scratch)
    scratch.mkdir(parents=True)
    save_to(scratch)
    publish(scratch, directory)


def _sync(path: Path) -> None:
    """Force a file or directory to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
