"""The training loop. It knows nothing about diffusion: a `TrainTask` brings batches, losses, evaluation, samples and the export.

    for each step:  batches -> global normalizers -> losses -> backward -> clip -> optimizers -> averages
    now and then:   log, evaluate, sample, save

accelerate carries devices, precision, accumulation and processes. Each batch is a pure function of its step, the state on disk
is everything else. So stopping at any time and going on gives the same weights, bit for bit (on CPUs).
SIGTERM and Ctrl-C finish the step, save, and return.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn

from mmada.errors import InputError
from mmada.train import plan as plans
from mmada.train import state
from mmada.train.interrupt import signals_noted
from mmada.train.log import Log
from mmada.train.optim import Ema, OptimizerConfig, build, lr_scale, set_lr, settings_kept
from mmada.train.plan import RunPlan
from mmada.train.prefetch import prefetched
from mmada.train.protocols import Compares, MicroBatch, NonFiniteLossError, StepReport, TrainHooks, TrainResult, TrainTask
from mmada.train.saver import Saver
from mmada.train.sharding import shard, whole, whole_state

__all__ = ["LoopConfig", "train"]


_PRECISIONS = {"fp32": "no", "bf16": "bf16"}
"""Our word -> accelerate's, which YAML would read as false."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopConfig:
    """How a run is carried out; nothing here but accumulation and precision touches the weights, but for rounding."""

    accumulate: int = 1
    """micro-batches that a global batch is split into on each process"""
    precision: Literal["fp32", "bf16"] = "fp32"
    """autocast of the forward pass; weights keep model.dtype"""
    tensor_parallel: int = 1
    """processes that split each matrix, for a model that one GPU does not hold or is too slow for; 1: none. More processes than that need FSDP2"""
    compile: bool = False
    """torch.compile each block, once for all shapes"""
    checkpointing: bool = False
    """compute activations again in the backward pass: a third more work, a fraction of the memory"""
    prefetch: int = 2
    """batches made ahead, by a thread or by workers; 0: in line"""
    workers: int = 0
    """processes that make batches, each `prefetch` ahead; 0: a thread of this one, enough for a CPU"""
    round_to: int = 1
    """rows are padded to a multiple of so many tokens, unseen by the others: few large kernels instead of many small ones; 32 on a GPU"""
    log_every: int = 10
    eval_every: int = 500
    sample_every: int = 1000
    """in steps, as eval_every; 0: never"""
    save_every: int = 500
    """0: at the end only"""
    keep: int = 2
    """saves kept"""
    async_saves: bool = False
    """write saves while the run goes on, from a copy in the memory of the host; the next save waits for the one before"""
    keep_best: bool = False
    """export the weights of the evaluation with the lowest held-out loss instead of the last ones: the mean of the new task's loss and of
    what should stay. Needs eval_every and held-out records (data.eval_path or data.eval_share)"""
    max_minutes: float = 0.0
    """stop after that long, saved, to be continued; 0: no limit"""
    trackers: tuple[Literal["wandb", "mlflow"], ...] = ()
    """services that get the numbers of the run, too; each finds account and address in the environment, by its own variables"""

    def __post_init__(self) -> None:
        for name in ("accumulate", "keep", "log_every", "round_to", "tensor_parallel"):
            if getattr(self, name) < 1:
                raise InputError(f"loop.{name}={getattr(self, name)} must be at least 1")
        for name in ("prefetch", "workers", "eval_every", "sample_every", "save_every", "max_minutes"):
            if not getattr(self, name) >= 0:
                raise InputError(f"loop.{name}={getattr(self, name)} must not be negative; 0 turns it off")
        if self.keep_best and not self.eval_every:
            raise InputError("loop.keep_best=true chooses among evaluations, and loop.eval_every=0 makes none; set it to 25, for example")
        if self.compile and self.tensor_parallel > 1:
            raise InputError(
                f"loop.compile=true is not done with loop.tensor_parallel={self.tensor_parallel}, whose sums torch.compile does not know; set it to false"
            )
        if self.workers and not self.prefetch:
            raise InputError(f"loop.workers={self.workers} make batches ahead, and loop.prefetch=0 asks for none; set it to 1 or more")


def train(
    task: TrainTask,
    optim: OptimizerConfig,
    settings: LoopConfig,
    *,
    steps: int,
    out: Path,
    on_step: Callable[[StepReport], None] | None = None,
    on_plan: Callable[[RunPlan], None] | None = None,
    optim_key: str = "stage.optim",
) -> TrainResult:
    """Train up to `steps` optimizer steps, from the last save in `out` if there is one.

    on_plan    is told, on every process, who holds what, before the first step
    optim_key  what the user calls the optimizer's settings, for messages

    Raises NonFiniteLossError, before any weight takes harm; CheckpointError if the save does not fit; InputError if the processes do not
    work as a launcher was asked to make them.
    """
    plans.begin()
    plans.check_groups(settings.tensor_parallel)
    accelerator = _accelerator(settings)
    if plans.asked(tensor_parallel=settings.tensor_parallel) in ("FSDP2", "tensor parallelism"):
        shard(task.module, device=accelerator.device, precision=settings.precision, tensor_parallel=settings.tensor_parallel)
    plan = plans.in_force(accelerator, task.module, settings.precision, tensor_parallel=settings.tensor_parallel)
    if on_plan is not None:
        on_plan(plan)
    deepspeed = accelerator.state.deepspeed_plugin
    if deepspeed is not None:  # it wants a number; ours are not of one size, and it only reports speed by it
        deepspeed.deepspeed_config |= {"train_micro_batch_size_per_gpu": 1, "gradient_clipping": optim.clip}
        deepspeed.deepspeed_config["gradient_accumulation_steps"] = settings.accumulate
    if deepspeed is not None and (optim.ema or optim.name == "muon" or settings.sample_every):
        raise InputError(
            f"{optim_key}.name={optim.name}, {optim_key}.ema={optim.ema} and loop.sample_every={settings.sample_every} are not done with "
            f"DeepSpeed, which keeps weights to itself; set {optim_key}.name=adamw {optim_key}.ema=0 loop.sample_every=0, or use FSDP2"
        )
    if deepspeed is not None and settings.async_saves:
        raise InputError("loop.async_saves=true is not done with DeepSpeed, which writes by itself; set it to false, or use FSDP2")
    if settings.keep_best and (deepspeed is not None or not isinstance(task, Compares)):
        raise InputError(
            "loop.keep_best=true keeps a copy of the weights and needs held-out records; it does not go with DeepSpeed or `mmada rl`"
        )
    built = build(task.module.named_parameters(), optim)
    # accelerate has no part in shards: nothing is wrapped, and no optimizer is told of other parameters.
    prepared: Any = (task.module, *built) if plan.in_shards else accelerator.prepare(task.module, *built)
    model, *optimizers = prepared
    unwrapped = accelerator.unwrap_model(model)
    ema = Ema({name: p for name, p in unwrapped.named_parameters() if p.requires_grad}, optim.ema) if optim.ema else None
    if isinstance(task, TrainHooks):
        task.prepared(accelerator, model)
    live = state.Live(accelerator, model, optimizers, ema, task if isinstance(task, TrainHooks) else None)
    saved = state.latest(out / "state")
    with settings_kept(optimizers):
        progress = state.restore(saved, live) if saved is not None else state.TrainState()
    accelerator.step = 0  # it counts micro-batches, of which a step may have had another number when it was saved
    log = Log(out, start=progress.step, trackers=settings.trackers) if accelerator.is_main_process else None
    saver = Saver(out / "state", live, keep=settings.keep, in_background=settings.async_saves)
    runner = _Runner(task, optim, settings, steps, out, on_step, live, plan, progress, log, saver, optim_key)
    with signals_noted() as is_stopped, _denormals_flushed(), closing(saver):
        return runner.run(is_stopped)


def _accelerator(settings: LoopConfig) -> Accelerator:
    # Shards are ours (sharding.py). accelerate would load the whole network in each process first, and shard on GPUs only.
    asked = os.environ.pop("ACCELERATE_USE_FSDP", None)
    try:
        accelerator = Accelerator(
            mixed_precision=_PRECISIONS[settings.precision],
            gradient_accumulation_steps=settings.accumulate,
            step_scheduler_with_optimizer=False,
            # Buffers are tables and quantized matrices, which no step changes.
            kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
        )
    finally:
        if asked is not None:
            os.environ["ACCELERATE_USE_FSDP"] = asked
    accelerator.gradient_accumulation_steps = settings.accumulate  # a launcher's environment would override it
    return accelerator


@contextmanager
def _denormals_flushed() -> Iterator[None]:
    """Numbers below 1e-38 make CPUs slow and change nothing; other code in the process may need them."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@dataclass(slots=True)
class _Runner:
    """One session of a run."""

    task: TrainTask
    optim: OptimizerConfig
    settings: LoopConfig
    steps: int
    out: Path
    on_step: Callable[[StepReport], None] | None
    live: state.Live
    plan: RunPlan
    progress: state.TrainState
    log: Log | None
    saver: Saver
    optim_key: str
    window: Tensor = field(init=False)
    """(2, F) sums and normalizers since the last report; their quotient is the mean over those steps"""

    @property
    def accelerator(self) -> Accelerator:
        return self.live.accelerator

    @property
    def model(self) -> nn.Module:
        return self.live.model

    @property
    def optimizers(self) -> Sequence[torch.optim.Optimizer]:
        return self.live.optimizers

    @property
    def ema(self) -> Ema | None:
        return self.live.ema

    @property
    def _share_of_data(self) -> dict[str, int]:
        """Which part of a batch is this process's: those of a tensor-parallel group have the same."""
        return {"rank": self.accelerator.process_index // self.plan.tensor_parallel, "world": self.plan.num_groups}

    def __post_init__(self) -> None:
        self.window = torch.zeros(2, len(self.task.names), device=self.accelerator.device)

    def run(self, is_stopped: Callable[[], bool]) -> TrainResult:
        reason: Literal["done", "stopped", "time"] = "done"
        settings = self.settings
        if self.progress.step == 0 and not self.progress.before and isinstance(self.task, Compares):
            task = self.task
            self._as_averaged(lambda: self.progress.before.update(self._compare(task)))
        begin = clock = time.monotonic()
        limit = begin + (60 * settings.max_minutes or math.inf)
        made = prefetched(self._batches, range(self.progress.step, self.steps), settings.prefetch, workers=settings.workers)
        while True:
            if not (settings.prefetch or settings.workers):  # to make a batch may be most of the work
                late, stop = self._sum(torch.tensor([time.monotonic() > limit, is_stopped()], dtype=torch.float32)).tolist()
                if late or stop:
                    reason = "stopped" if stop else "time"
                    break
            batches = next(made, None)
            if batches is None:
                break
            *normalizers, tokens, late, stop = self._share(batches, late=time.monotonic() > limit, stop=is_stopped())
            if late or stop:  # the same on every process
                reason = "stopped" if stop else "time"
                break
            self.saver.check()
            norm = self._step(batches, torch.tensor(normalizers))
            now = time.monotonic()
            self.progress.step += 1
            self.progress.tokens += int(tokens)
            self.progress.seconds += now - clock
            rate = tokens / (now - clock)
            values = self._losses(norm, rate) if self.progress.step % self.settings.log_every == 0 else {}
            values |= self._now_and_then()
            if self.log is not None and values:
                self.log.write(self.progress.step, values)
            if self.on_step is not None:
                self.on_step(StepReport(self.progress.step, self.steps, rate, values))
            clock = time.monotonic()
        self.saver.wait()
        saved = state.latest(self.out / "state")
        if saved is None or state.steps_of(saved) != self.progress.step:
            self.saver.save(self.progress)
            self.saver.wait()
        compared, kept = self._end(reason == "done")
        if self.log is not None:
            self.log.close()
        return TrainResult(reason, self.progress.step, self.progress.tokens, self.progress.seconds, compared, kept)

    def _end(self, is_done: bool) -> tuple[dict[str, tuple[float, float]], int | None]:
        """Export the best or the last weights; if the run is done, compare them with what was before."""
        progress, after = self.progress, dict[str, float]()
        kept = progress.best_step if self.settings.keep_best and progress.best_loss is not None else None

        def finish() -> None:
            if is_done and progress.before and isinstance(self.task, Compares):
                after.update(self._compare(self.task))
            self._export()

        if kept is None:
            self._as_averaged(finish)
        else:
            state.put_best(self.out / "state", self._trainable())
            self.model.eval()
            with torch.no_grad():
                finish()
        before, now = _by_group(progress.before), _by_group(after)
        return {group: (before[group], value) for group, value in now.items() if group in before}, kept

    def _compare(self, task: Compares) -> dict[str, float]:
        """Name of `Compares` -> mean loss; logged too."""
        parts = task.compare(self.model, self.accelerator.device, **self._share_of_data)
        values = self._means(parts) if parts else {}
        if self.log is not None and values:
            self.log.write(self.progress.step, {f"compare/{name}": value for name, value in values.items()})
        return values

    def _trainable(self) -> dict[str, Tensor]:
        return {name: p for name, p in self.accelerator.unwrap_model(self.model).named_parameters() if p.requires_grad}

    def _note_best(self, task: Compares) -> None:
        """Keep the weights of this step if their held-out loss is the lowest so far."""
        values = _by_group(self._compare(task))
        loss = sum(values.values()) / len(values)
        if self.progress.best_loss is None or loss < self.progress.best_loss:
            self.progress.best_loss, self.progress.best_step = loss, self.progress.step
            state.keep_best(self.out / "state", self._trainable(), is_main=self.accelerator.is_main_process)
            self.accelerator.wait_for_everyone()

    def _batches(self, step: int) -> Sequence[MicroBatch]:
        return self.task.batches(step, **self._share_of_data, accumulate=self.settings.accumulate)

    def _share(self, batches: Sequence[MicroBatch], *, late: bool, stop: bool) -> list[float]:
        """F + 3 sums over micro-batches and processes: normalizers, tokens, late, stop. One message a step."""
        own = torch.stack([batch.normalizers for batch in batches]).sum(0)
        counted = self._once(torch.cat([own, own.new_tensor([sum(batch.num_tokens for batch in batches)])]))
        return self._sum(torch.cat([counted, own.new_tensor([late, stop])])).tolist()

    def _sum(self, values: Tensor) -> Tensor:
        if self.accelerator.num_processes == 1:  # without a wait for the device
            return values.clone()
        total: Tensor = self.accelerator.reduce(values.to(self.accelerator.device), reduction="sum")
        return total

    def _once(self, values: Tensor) -> Tensor:
        """Values for a sum over processes, in which each tensor-parallel group counts once."""
        return values if self.accelerator.process_index % self.plan.tensor_parallel == 0 else torch.zeros_like(values)

    def _step(self, batches: Sequence[MicroBatch], normalizers: Tensor) -> float:
        """One optimizer step. Returns the norm of the gradient."""
        a, device = self.accelerator, self.accelerator.device
        set_lr(self.optimizers, lr_scale(self.optim, self.progress.step, self.steps))
        share = (self.task.coefficients / normalizers.clamp_min(1e-12)).to(device)
        sums, norm = torch.zeros_like(self.window[0]), torch.zeros(())
        for batch in batches:
            with a.accumulate(self.model):
                losses = self.task.losses(self.model, batch, device)
                if a.state.deepspeed_plugin is not None:  # its backward pass also moves the weights
                    self._check(losses.detach().sum(), losses.detach(), normalizers)
                # accelerate divides by the micro-batches, and processes average their gradients: both are undone.
                a.backward((losses * share).sum() * (self.plan.num_groups * self.settings.accumulate))
                sums += losses.detach()
                if a.sync_gradients:
                    norm = whole(torch.as_tensor(a.clip_grad_norm_(self.model.parameters(), self.optim.clip or math.inf) or 0.0))
                    self._check(norm, sums, normalizers)
                for optimizer in self.optimizers if a.sync_gradients else ():
                    optimizer.step()
                    optimizer.zero_grad()
        if self.ema is not None:
            self.ema.update()
        self.window += torch.stack([sums, normalizers.to(device) / self.plan.num_groups])
        return float(norm)

    def _losses(self, norm: float, rate: float) -> dict[str, float]:
        """Means since the last report. Every process calls it."""
        total = self._sum(self._once(self.window)).cpu()
        self.window.zero_()
        means = total[0] / total[1].clamp_min(1e-12)
        values = {f"loss/{name}": float(mean) for name, mean, count in zip(self.task.names, means, total[1], strict=True) if count}
        if isinstance(self.task, TrainHooks):
            values |= self._means(self.task.measures())
        scale = lr_scale(self.optim, self.progress.step - 1, self.steps)
        return {
            "loss": float(means @ self.task.coefficients),
            **values,
            "lr": self.optim.lr * scale,
            "gradient_norm": norm,
            "tokens": self.progress.tokens,
            "seconds": self.progress.seconds,
            "tokens_per_second": rate,
        }

    def _check(self, norm: Tensor, sums: Tensor, normalizers: Tensor) -> None:
        """Before the weights move; the norm is the same on every process, so all of them stop. (DeepSpeed's weights: by the losses' sum.)"""
        if bool(torch.isfinite(norm)):
            return
        means = {n: float(s / c) for n, s, c in zip(self.task.names, sums.cpu(), normalizers, strict=True) if c}
        raise NonFiniteLossError(
            f"step {self.progress.step}: the gradient's norm is {float(norm)}, losses {means}; no weight was changed and nothing was saved. "
            f"The last save is {state.latest(self.out / 'state')}; lower {self.optim_key}.lr, or set {self.optim_key}.clip, and go on from there"
        )

    def _now_and_then(self) -> dict[str, float]:
        """After a step: evaluate, sample, save, each in its own time."""
        step, settings = self.progress.step, self.settings
        values: dict[str, float] = {}
        if settings.eval_every and step % settings.eval_every == 0:
            self._as_averaged(lambda: values.update(self._evaluate()))
            if settings.keep_best and isinstance(self.task, Compares):
                task = self.task
                self._as_averaged(lambda: self._note_best(task))
        if settings.sample_every and step % settings.sample_every == 0:
            self._sample(self.out / "samples" / f"step-{step:08d}")
        if settings.save_every and step % settings.save_every == 0 and step < self.steps:
            self.saver.save(self.progress)
        return values

    def _sample(self, directory: Path) -> None:
        """On the main process; with shards the others go along, and write nothing."""
        target = directory if self.accelerator.is_main_process else None
        if target is not None or self.plan.is_sharded:
            self._as_averaged(lambda: self.task.sample(target))

    def _evaluate(self) -> dict[str, float]:
        return self._means(self.task.evaluate(self.model, self.accelerator.device, **self._share_of_data))

    def _means(self, parts: Mapping[str, tuple[float, float]]) -> dict[str, float]:
        """Quotients of (sum, count) over all processes; nothing where nothing was counted."""
        total = self._sum(self._once(torch.tensor(list(parts.values()), dtype=torch.float32))).cpu()
        return {name: float(value / count) for name, (value, count) in zip(parts, total, strict=True) if count}

    def _as_averaged(self, function: Callable[[], None]) -> None:
        """Call with the averaged weights in place, without gradients."""
        averaged: AbstractContextManager[None] = self.ema.applied() if self.ema is not None else nullcontext()
        self.model.eval()
        with averaged, torch.no_grad():
            function()
        self.model.train()

    def _export(self) -> None:
        a = self.accelerator
        weights = whole_state(self.model, is_kept=a.is_main_process) if self.plan.in_shards else a.get_state_dict(self.model)
        if a.is_main_process:
            self.task.export(self.out / "model", weights)


def _by_group(values: Mapping[str, float]) -> dict[str, float]:
    """ "GROUP/PART" -> loss, as group -> the mean over its parts."""
    groups: dict[str, list[float]] = {}
    for name, value in values.items():
        groups.setdefault(name.partition("/")[0], []).append(value)
    return {group: sum(parts) / len(parts) for group, parts in groups.items()}
