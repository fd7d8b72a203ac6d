"""The transformer's training as a `Task` of the loop: mixed batches, losses, fixed-noise evaluation, samples, export.

    step s, rank r  ->  positions s B + r, s B + r + R, ... of the mixture  ->  rows  ->  noise  ->  batches

Evaluation masks exactly 25, 50, 75 and 100 % of each held-out row, with noise that never changes: the curve over training is the
model's, not that of the draw.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from mmada.canvas import Query, VocabLayout
from mmada.errors import InputError
from mmada.sampling import Denoiser
from mmada.train.batch import Batch, ComponentRow, Row, collate, noise_row
from mmada.train.source import BatchMixture, RowSource
from mmada.train.stages import MixtureComponent, Stage
from mmada.train.step import DiffusionLoss

__all__ = ["EVAL_RATIOS", "BatchPlan", "DiffusionTask"]

EVAL_RATIOS = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchPlan:
    """Batches of a stage: a pure function of the step.

    sources   component name -> its rows
    round_to  rows are padded to a multiple of so many tokens
    """

    stage: Stage
    sources: Mapping[str, RowSource]
    layout: VocabLayout
    seed: int
    round_to: int = 1

    def __post_init__(self) -> None:
        missing = [component.name for component in self.components if component.name not in self.sources]
        if missing:
            raise InputError(f"stage {self.stage.name!r} has no rows for the components {missing}; give a source for each, or share 0")

    @property
    def components(self) -> tuple[MixtureComponent, ...]:
        """Those that have a share of the batch."""
        return tuple(component for component in self.stage.components if component.mixture_weight)

    def batches(self, step: int, *, rank: int, world: int, accumulate: int) -> list[Batch]:
        """This process's micro-batches. Raises InputError if one would be empty."""
        if self.stage.batch < world * accumulate:
            raise InputError(
                f"batch={self.stage.batch} rows cannot be split over {world} processes with {accumulate} micro-batches each; "
                f"raise stage.batch to {world * accumulate} or more"
            )
        mixture = BatchMixture({component.name: component.mixture_weight for component in self.components}, self.stage.batch)
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

    def collate(self, rows: Sequence[ComponentRow], components: Sequence[MixtureComponent] | None = None) -> Batch:
        """Rows packed into a batch of the stage. components: all of the plan's by default."""
        mask_value = self.stage.mask_value
        return collate(rows, components or self.components, layout=self.layout, mask_value=mask_value, round_to=self.round_to)

    def _noise(self, row: Row) -> tuple[ComponentRow, ...]:
        component = next(component for component in self.components if component.name == row.component)
        s = self.stage
        return noise_row(
            row,
            component,
            layout=self.layout,
            seed=self.seed,
            stratified=s.stratified,
            block_length=s.block_length,
            prompt_in_blocks=s.prompt_in_blocks,
        )


@dataclass(slots=True)
class DiffusionTask:
    """Train the transformer on a plan.

    held_out    component name -> rows that are never trained on; empty: no evaluation
    num_held_out  rows of each component that are evaluated
    compared    group -> component name -> rows whose loss is compared before and after training (protocols.Compares)
    about       which model is trained on what, in words
    on_sample, on_export  write samples, or the model for users: (directory, model that answers the sampler) or (directory, state dict) -> files
    """

    plan: BatchPlan
    module: DiffusionLoss
    held_out: Mapping[str, RowSource]
    num_held_out: int = 32
    compared: Mapping[str, Mapping[str, RowSource]] = field(default_factory=dict)
    about: str = ""
    on_sample: Callable[[Path | None, Denoiser], None] | None = None
    on_export: Callable[[Path, Mapping[str, Tensor]], None] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(component.name for component in self.plan.components)

    @property
    def coefficients(self) -> Tensor:
        return torch.tensor([component.coefficient for component in self.plan.components])

    def batches(self, step: int, *, rank: int, world: int, accumulate: int) -> list[Batch]:
        return self.plan.batches(step, rank=rank, world=world, accumulate=accumulate)

    def losses(self, model: nn.Module, batch: Batch, device: torch.device) -> Tensor:
        sums: Tensor = model(batch.to(device))
        return sums

    def evaluate(self, model: nn.Module, device: torch.device, *, rank: int, world: int) -> dict[str, tuple[float, float]]:
        """eval/FLOW/nll@RATIO in nats and acc@RATIO, each over scored tokens, and eval/FLOW/nll over all four ratios."""
        values: dict[str, tuple[float, float]] = {}
        for component in self.plan.components:
            if component.name not in self.held_out:
                continue
            totals = self._totals(component, self.held_out[component.name], model, device, rank, world)
            for (nll, correct, count), ratio in zip(totals.T.tolist(), EVAL_RATIOS, strict=True):
                values[f"eval/{component.name}/nll@{ratio:g}"] = (nll, count)
                values[f"eval/{component.name}/acc@{ratio:g}"] = (correct, count)
            values[f"eval/{component.name}/nll"] = (float(totals[0].sum()), float(totals[2].sum()))
        return values

    def compare(self, model: nn.Module, device: torch.device, *, rank: int, world: int) -> dict[str, tuple[float, float]]:
        """GROUP/FLOW, nats over the scored tokens at all four ratios, of every group of `compared`."""
        values: dict[str, tuple[float, float]] = {}
        for group, rows in self.compared.items():
            for component in self.plan.components:
                if component.name in rows:
                    totals = self._totals(component, rows[component.name], model, device, rank, world)
                    values[f"{group}/{component.name}"] = (float(totals[0].sum()), float(totals[2].sum()))
        return values

    def _totals(
        self, component: MixtureComponent, source: RowSource, model: nn.Module, device: torch.device, rank: int, world: int
    ) -> Tensor:
        """(3, ratios): nll, correct and scored tokens of this process's held-out rows of a component, at each ratio."""
        rows = source.rows(range(rank, self.num_held_out, world))
        plain = replace(component, weight="1", normalizer="scored", markers=False, complement=False)
        components = [replace(plain, name=f"{ratio:g}") for ratio in EVAL_RATIOS]
        noise = partial(self._noised, plain, components)
        noised = noise(rows)
        totals = torch.zeros(3, len(components))
        # As many passes as the process with the most rows: where weights are sharded, every pass needs all processes.
        for start in range(0, -(-self.num_held_out // world) * len(components), self.plan.stage.batch):
            own = noised[start : start + self.plan.stage.batch]
            batch = self.plan.collate(own or noise(source.rows([0]))[:1], components)
            sums = torch.cat([model(batch.to(device), counts=True).cpu(), batch.normalizers[None]])
            totals += sums if own else 0.0
        return totals

    def _noised(self, plain: MixtureComponent, components: Sequence[MixtureComponent], rows: Sequence[Row]) -> list[ComponentRow]:
        """Each row at each ratio, in the component of that name."""
        stage = self.plan.stage
        return [
            replace(noised, component=at.name)
            for at, ratio in zip(components, EVAL_RATIOS, strict=True)
            for row in rows
            for noised in noise_row(
                replace(row, factor=None),
                plain,
                layout=self.plan.layout,
                seed=0,
                ratio=ratio,
                block_length=stage.block_length,
                prompt_in_blocks=stage.prompt_in_blocks,
            )
        ]

    def sample(self, directory: Path | None) -> None:
        if self.on_sample is not None:
            self.on_sample(directory, self._denoise)

    def _denoise(self, queries: Sequence[Query]) -> list[Tensor]:
        logits: list[Tensor] = self.module(queries=queries)
        return logits

    def export(self, directory: Path, weights: Mapping[str, Tensor]) -> None:
        if self.on_export is not None:
            self.on_export(directory, {name.removeprefix("model."): tensor for name, tensor in weights.items()})
