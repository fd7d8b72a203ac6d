"""Everything that a run needs to go on, in one directory a save: `out/state/step-00000012`.

    model.safetensors, optimizer*.bin, random_states_*    written by accelerate, sharded where the weights are
    ema.safetensors                                       averaged weights, float32
    experience-RANK.pt                                    of reinforcement learning: an unfinished round
    progress.json                                         steps done and other counters; written last

A save goes to a directory with another name, is forced to the disk, and is renamed: a directory called step-* is complete,
whatever happens. What an interrupted save left behind is removed by the next run.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import load_file, save_file

from mmada.errors import CheckpointError

if TYPE_CHECKING:
    from accelerate import Accelerator

    from mmada.train.optim import Ema

__all__ = ["TrainState", "latest", "publish", "restore", "save", "steps_of", "write"]

_COMPLETE = re.compile(r"step-(\d{8})")
_PARTIAL = ".partial-"
_PROGRESS, _EMA = "progress.json", "ema.safetensors"


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


def latest(directory: Path) -> Path | None:
    """The complete save with the most steps, or None."""
    found = [path for path in directory.glob("step-*") if _COMPLETE.fullmatch(path.name)]
    return max(found, key=lambda path: path.name, default=None)


def steps_of(save: Path) -> int:
    """Optimizer steps done in a save, from its name."""
    return int(save.name.removeprefix("step-"))


def save(directory: Path, progress: TrainState, accelerator: Accelerator, ema: Ema | None, *, keep: int) -> Path:
    """Write a save and remove all but the last `keep`. Every process calls it; they share the directory."""
    target = directory / f"step-{progress.step:08d}"
    scratch = directory / f"{_PARTIAL}{target.name}"
    if accelerator.is_main_process:
        for left in directory.glob(f"{_PARTIAL}*"):
            shutil.rmtree(left)
        scratch.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(scratch))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        if ema is not None:
            progress.ema_updates = ema.num_updates
            save_file({name: tensor.contiguous() for name, tensor in ema.weights.items()}, scratch / _EMA)
        (scratch / _PROGRESS).write_text(json.dumps(asdict(progress)), encoding="utf-8")
        publish(scratch, target)
        saves = sorted(path for path in directory.glob("step-*") if _COMPLETE.fullmatch(path.name))
        for old in saves[: max(0, len(saves) - keep)]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()
    return target


def restore(path: Path, accelerator: Accelerator, ema: Ema | None) -> TrainState:
    """Put a save into the prepared model, optimizers and averages. Raises CheckpointError if it does not fit."""
    try:
        values = json.loads((path / _PROGRESS).read_text(encoding="utf-8"))
        progress = TrainState(**{field.name: values[field.name] for field in fields(TrainState)})
        accelerator.load_state(str(path))
        if ema is not None:
            stored = load_file(path / _EMA)
            for name, tensor in ema.weights.items():
                tensor.copy_(stored[name])
            ema.num_updates = progress.ema_updates
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{path} does not fit this run ({reason}); go on with the settings that it was saved with, or start afresh"
        ) from error
    return progress


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
    scratch = directory.with_name(f"{_PARTIAL}{directory.name}")
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
