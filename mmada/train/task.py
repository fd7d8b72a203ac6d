"""The transformer's training as a `Task` of the loop: mixed batches, losses, fixed-noise evaluation, samples, export.

    step s, rank r  ->  positions s B + r, s B + r + R, ... of the mixture  ->  rows  ->  noise  ->  batches

Evaluation masks exactly 25, 50, 75 and 100 % of each held-out row, with noise that never changes: the curve over training is the
model's, not that of the draw.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from mmada.canvas import VocabLayout
from mmada.errors import InputError
from mmada.train.batch import Batch, FlowRow, Row, collate, noise_row
from mmada.train.source import Mixture, Source
from mmada.train.stages import Flow, Stage
from mmada.train.step import Objective

__all__ = ["EVAL_RATIOS", "BatchPlan", "DiffusionTask"]

EVAL_RATIOS = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchPlan:
    """Batches of a stage: a pure function of the step.

    sources   flow name -> its rows
    round_to  rows are padded to a multiple of so many tokens
    """

    stage: Stage
    sources: Mapping[str, Source]
    layout: VocabLayout
    seed: int
    round_to: int = 1

    def __post_init__(self) -> None:
        missing = [flow.name for flow in self.flows if flow.name not in self.sources]
        if missing:
            raise InputError(f"stage {self.stage.name!r} has no rows for the flows {missing}; give a source for each, or share 0")

    @property
    def flows(self) -> tuple[Flow, ...]:
        """Those that have a share of the batch."""
        return tuple(flow for flow in self.stage.flows if flow.share)

    def batches(self, step: int, *, rank: int, world: int, accumulate: int) -> list[Batch]:
        """This process's micro-batches. Raises InputError if one would be empty."""
        if self.stage.batch < world * accumulate:
            raise InputError(
                f"batch={self.stage.batch} rows cannot be split over {world} processes with {accumulate} micro-batches each; "
                f"raise stage.batch to {world * accumulate} or more"
            )
        mixture = Mixture({flow.name: flow.share for flow in self.flows}, self.stage.batch)
        begin = step * self.stage.batch
        parts = []
        for micro in range(accumulate):
            places = range(rank + micro * world, self.stage.batch, world * accumulate)
            wanted: dict[str, list[int]] = {}
            for name, index in (mixture[begin + place] for place in places):
                wanted.setdefault(name, []).append(index)
            rows = [row for name, indices in wanted.items() for row in self.sources[name].rows(indices)]
            parts.append(self.collate([noised for row in rows for noised in self._noise(row)]))
        return parts

    def collate(self, rows: Sequence[FlowRow], flows: Sequence[Flow] | None = None) -> Batch:
        hidden_score = self.stage.hidden_score
        return collate(rows, flows or self.flows, layout=self.layout, hidden_score=hidden_score, round_to=self.round_to)

    def _noise(self, row: Row) -> tuple[FlowRow, ...]:
        flow = next(flow for flow in self.flows if flow.name == row.flow)
        s = self.stage
        return noise_row(row, flow, layout=self.layout, seed=self.seed, stratified=s.stratified, block_length=s.block_length)


@dataclass(slots=True)
class DiffusionTask:
    """Train the transformer on a plan.

    held_out    flow name -> rows that are never trained on; empty: no evaluation
    num_held_out  rows of each flow that are evaluated
    on_sample, on_export  write samples, or the model for users: directory (, state dict of the model) -> files
    """

    plan: BatchPlan
    module: Objective
    held_out: Mapping[str, Source]
    num_held_out: int = 32
    on_sample: Callable[[Path], None] | None = None
    on_export: Callable[[Path, Mapping[str, Tensor]], None] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(flow.name for flow in self.plan.flows)

    @property
    def coefficients(self) -> Tensor:
        return torch.tensor([flow.coefficient for flow in self.plan.flows])

    def batches(self, step: int, *, rank: int, world: int, accumulate: int) -> list[Batch]:
        return self.plan.batches(step, rank=rank, world=world, accumulate=accumulate)

    def losses(self, model: nn.Module, batch: Batch, device: torch.device) -> Tensor:
        sums: Tensor = model(batch.to(device))
        return sums

    def evaluate(self, model: nn.Module, device: torch.device, *, rank: int, world: int) -> dict[str, tuple[float, float]]:
        """eval/FLOW/nll@RATIO in nats and acc@RATIO, each over scored tokens, and eval/FLOW/nll over all four ratios."""
        values: dict[str, tuple[float, float]] = {}
        for flow in self.plan.flows:
            if flow.name not in self.held_out:
                continue
            rows = self.held_out[flow.name].rows(range(rank, self.num_held_out, world))
            plain = replace(flow, weight="1", normaliser="scored", markers=False, complement=False)
            flows = [replace(plain, name=f"{ratio:g}") for ratio in EVAL_RATIOS]
            noise = partial(self._noised, plain, flows)
            noised = noise(rows)
            totals = torch.zeros(3, len(flows))  # nll, correct, scored
            # As many passes as the process with the most rows: where weights are sharded, every pass needs all processes.
            for start in range(0, -(-self.num_held_out // world) * len(flows), self.plan.stage.batch):
                own = noised[start : start + self.plan.stage.batch]
                batch = self.plan.collate(own or noise(self.held_out[flow.name].rows([0]))[:1], flows)
                sums = torch.cat([model(batch.to(device), counts=True).cpu(), batch.normalisers[None]])
                totals += sums if own else 0.0
            for (nll, correct, count), ratio in zip(totals.T.tolist(), EVAL_RATIOS, strict=True):
                values[f"eval/{flow.name}/nll@{ratio:g}"] = (nll, count)
                values[f"eval/{flow.name}/acc@{ratio:g}"] = (correct, count)
            values[f"eval/{flow.name}/nll"] = (float(totals[0].sum()), float(totals[2].sum()))
        return values

    def _noised(self, plain: Flow, flows: Sequence[Flow], rows: Sequence[Row]) -> list[FlowRow]:
        """Each row at each ratio, in the flow of that name."""
        block_length = self.plan.stage.block_length
        return [
            replace(noised, flow=at.name)
            for at, ratio in zip(flows, EVAL_RATIOS, strict=True)
            for row in rows
            for noised in noise_row(
                replace(row, factor=None), plain, layout=self.plan.layout, seed=0, ratio=ratio, block_length=block_length
            )
        ]

    def sample(self, directory: Path) -> None:
        if self.on_sample is not None:
            self.on_sample(directory)

    def export(self, directory: Path, weights: Mapping[str, Tensor]) -> None:
        if self.on_export is not None:
            self.on_export(directory, {name.removeprefix("model."): tensor for name, tensor in weights.items()})
