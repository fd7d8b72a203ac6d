"""What the training loop asks of whatever is trained, and what it reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from mmada.errors import MMaDAError

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["Compares", "MicroBatch", "NonFiniteLossError", "StepReport", "TrainHooks", "TrainResult", "TrainTask"]


class MicroBatch(Protocol):
    """One micro-batch: normalizers (F,) float32, its part of what the losses are divided by."""

    @property
    def normalizers(self) -> Tensor: ...

    @property
    def num_tokens(self) -> int:
        """Tokens that the model reads, for a run's speed."""
        ...


class TrainTask(Protocol):
    """What is trained, and on what.

    module        the weights; what accelerate prepares and `losses` calls
    names         (F,) of the losses; coefficients  (F,) of their sum
    batches       micro-batches of a step on one process: pure, may run ahead in another thread
    losses        (F,) differentiable sums of a micro-batch
    evaluate      name -> (sum, count) over this process's part; the loop adds them up
    sample        files to look at. On the main process only, or, where weights are sharded, on all, and None on those that write nothing
    export        the trained model for users; weights: the state dict of `module`, whole. On the main process only
    """

    @property
    def module(self) -> nn.Module: ...
    @property
    def names(self) -> Sequence[str]: ...
    @property
    def coefficients(self) -> Tensor: ...

    def batches(self, step: int, *, rank: int, world: int, accumulate: int) -> Sequence[MicroBatch]: ...
    def losses(self, model: nn.Module, batch: Any, device: torch.device) -> Tensor: ...
    def evaluate(self, model: nn.Module, device: torch.device, *, rank: int, world: int) -> Mapping[str, tuple[float, float]]: ...
    def sample(self, directory: Path | None) -> None: ...
    def export(self, directory: Path, weights: Mapping[str, Tensor]) -> None: ...


@runtime_checkable
class TrainHooks(Protocol):
    """A task that looks at the model while it is trained, such as one whose batches are made by it (loop.prefetch=0).

    prepared   called once, before a save is restored: with the accelerator and the prepared model
    save, load  what belongs to a save beside the weights, to and from its directory; every process calls them
    measures   name -> (sum, count) since the last call, for a report; the same names on each process, and the loop adds them up
    """

    def prepared(self, accelerator: Accelerator, model: nn.Module) -> None: ...
    def save(self, directory: Path) -> None: ...
    def load(self, directory: Path) -> None: ...
    def measures(self) -> Mapping[str, tuple[float, float]]: ...


@runtime_checkable
class Compares(Protocol):
    """A task whose model is compared at the end with what it was before.

    compare  "GROUP/PART" -> (sum, count) of losses in nats over this process's part; groups are `held_out` or `trained`, records of the new
             task, and `stay`, records of what should stay. Nothing: no comparison
    """

    def compare(self, model: nn.Module, device: torch.device, *, rank: int, world: int) -> Mapping[str, tuple[float, float]]: ...


class NonFiniteLossError(MMaDAError):
    """A loss or gradient became infinite or not a number."""


@dataclass(frozen=True, slots=True)
class StepReport:
    """One step, for a progress bar. values holds what was logged in this step, if anything."""

    step: int
    steps: int
    tokens_per_second: float
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class TrainResult:
    """How a run ended: "done", "stopped" (by a signal) or "time"; `step` steps are done and saved."""

    reason: Literal["done", "stopped", "time"]
    step: int
    tokens: int
    seconds: float
    compared: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """group of `Compares` -> loss before and after, in nats a token, the mean over its parts; only of a run that is done"""
    kept_step: int | None = None
    """of loop.keep_best: the step whose weights were exported"""
