"""Write saves (state.py), at once or while the run goes on.

    saver.save(progress)    what will be written is settled when this returns
    saver.check()           raises the error of a save that has failed meanwhile
    saver.wait()            until everything is written; every process calls it

                     each process                          the main process
    whole weights    its random numbers, its part of a task    weights, optimizers, averages
    FSDP2            the same, and its rows                    progress.json
                                                           then the name, and the removal of old saves

In the background, weights and optimizers are copied to the memory of the host first. One save is written at a time: the next one waits.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist
from accelerate.checkpointing import save_accelerator_state
from accelerate.utils import OPTIMIZER_NAME, SAFE_WEIGHTS_NAME
from accelerate.utils import save as save_file
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from mmada.errors import CheckpointError
from mmada.train import sharding, state
from mmada.train.state import EMA, PARTIAL, PROGRESS, SHARDS, Live, TrainState

__all__ = ["Saver"]


class Saver:
    """The saves of one session, in `directory`, which the processes share.

    keep           saves that stay
    in_background  write while the run goes on, which takes memory for a copy
    """

    def __init__(self, directory: Path, live: Live, *, keep: int, in_background: bool) -> None:
        self._directory, self._live, self._keep = directory, live, keep
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="saves") if in_background else None
        # The thread's messages must not come between those of the run.
        self._group = dist.new_group(backend="gloo") if in_background and live.is_sharded else None
        self._pending: Future[None] | None = None

    def save(self, progress: TrainState) -> None:
        """Write a save and remove all but the last. Every process calls it. Raises CheckpointError that names it, and leaves those before."""
        self.wait()
        accelerator, live = self._live.accelerator, self._live
        target = self._directory / f"step-{progress.step:08d}"
        scratch = self._directory / f"{PARTIAL}{target.name}"
        with self._named(scratch, target):
            if accelerator.is_main_process:
                for left in self._directory.glob(f"{PARTIAL}*"):
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
                scratch.mkdir(parents=True)
            accelerator.wait_for_everyone()
            if live.ema is not None:
                progress.ema_updates = live.ema.num_updates
            settled = replace(progress, before=dict(progress.before))
            if live.hooks is not None:
                live.hooks.save(scratch)
            write = self._settled(scratch)
            accelerator.wait_for_everyone()
        if self._pool is not None:
            self._pending = self._pool.submit(self._finish, write, settled, scratch, target)
            return
        self._finish(write, settled, scratch, target)
        accelerator.wait_for_everyone()

    def check(self) -> None:
        """Raises the CheckpointError of a save that has failed in the background."""
        if self._pending is not None and self._pending.done():
            self._pending.result()

    def wait(self) -> None:
        """Until what was begun is written. Every process calls it. Raises its CheckpointError if it was not."""
        if self._pool is None:
            return
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()
        self._live.accelerator.wait_for_everyone()

    def close(self) -> None:
        """Let what was begun be written, whatever has become of the run."""
        if self._pool is not None:
            self._pool.shutdown()

    def _settled(self, scratch: Path) -> Callable[[], object]:
        """Write what is small or not ours to copy; returns what writes the rest, which does not change any more."""
        accelerator, live = self._live.accelerator, self._live
        if live.strategy == "DEEPSPEED":
            accelerator.save_state(str(scratch))
            return lambda: None
        if live.is_sharded:
            tensors = live.weights() | live.moments()
            if self._group is None:
                return partial(sharding.write, scratch / SHARDS, tensors)
            return sharding.write_later(scratch / SHARDS, tensors, self._group).result
        save_accelerator_state(str(scratch), [], [], [], [], accelerator.process_index, accelerator.step)
        if not accelerator.is_main_process:
            return lambda: None
        files: dict[str, Any] = {SAFE_WEIGHTS_NAME: accelerator.unwrap_model(live.model).state_dict()}
        for i, optimizer in enumerate(live.optimizers):
            files[f"{OPTIMIZER_NAME}_{i}.bin" if i else f"{OPTIMIZER_NAME}.bin"] = optimizer.state_dict()
        if live.ema is not None:
            files[EMA] = {name: tensor.contiguous() for name, tensor in live.ema.weights.items()}
        return partial(_write, scratch, files if self._pool is None else _copied(files, {}))

    def _finish(self, write: Callable[[], object], progress: TrainState, scratch: Path, target: Path) -> None:
        with self._named(scratch, target):
            write()
            if self._live.accelerator.is_main_process:
                (scratch / PROGRESS).write_text(json.dumps(asdict(progress)), encoding="utf-8")
                state.publish(scratch, target)
                saves = state.complete(self._directory)
                for old in saves[: max(0, len(saves) - self._keep)]:
                    shutil.rmtree(old)

    @contextmanager
    def _named(self, scratch: Path, target: Path) -> Iterator[None]:
        """What goes wrong inside is an error that names the save, of which nothing is left."""
        try:
            yield
        except (Exception, CheckpointException) as error:  # files, safetensors and torch raise different ones
            if self._live.accelerator.is_main_process:
                shutil.rmtree(scratch, ignore_errors=True)
            last = state.latest(self._directory)
            raise CheckpointError(
                f"{target} could not be written ({_reason(error)}); see to it that there is room, and repeat the command, which goes on from "
                f"{'the beginning' if last is None else last.name}"
            ) from error


def _write(scratch: Path, files: dict[str, Any]) -> None:
    for name, content in files.items():
        save_file(content, scratch / name, safe_serialization=name.endswith(".safetensors"))


def _copied(value: Any, seen: dict[tuple[object, ...], Tensor]) -> Any:
    """A copy on the CPU of tensors in dictionaries and lists. What is one tensor stays one: tied weights are written once."""
    if isinstance(value, Tensor):
        key = (value.untyped_storage().data_ptr(), value.storage_offset(), value.shape, value.stride(), value.dtype)
        if key not in seen or not value.numel():
            seen[key] = value.detach().to("cpu", copy=True)
        return seen[key]
    if isinstance(value, dict):
        return type(value)((name, _copied(one, seen)) for name, one in value.items())
    return [_copied(one, seen) for one in value] if isinstance(value, list) else value


def _reason(error: BaseException) -> str:
    if isinstance(error, CheckpointException):
        error = next((found for found, _ in error.failures.values()), error)
    return (str(error).splitlines() or [type(error).__name__])[0]
