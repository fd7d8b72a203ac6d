"""Records as a stage learns them: which of them take part, and what rows they become.

    learner = Learner.of(STAGES["finetune"], prompts, defaults, grid=(16, 16), context=1024)
    learner.left_out(record)    why a record takes no part; None if it does
    learner.rows(record)        component -> clean canvas, made by the same ComponentRows that training reads

`mmada data check` shows both, so what it shows is what trains.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mmada.canvas import Canvas, Prompts
from mmada.data import Epochs, Picture, Record, lengths_of
from mmada.data.rows import lacking
from mmada.errors import InputError
from mmada.families import FAMILIES, Ability, Family
from mmada.families.mmada import MMADA
from mmada.generation.requests import GenerationConfig
from mmada.train.source import ComponentRows, RecordExamples
from mmada.train.stages import ImageStage, MixtureComponent, Stage

__all__ = ["Learner", "check_layout", "settled"]

_NEEDS: Mapping[str, Ability] = {
    **dict.fromkeys(("draw", "reason_draw", "t2i", "r2i"), "draw"),
    **dict.fromkeys(("edit", "restyle"), "edit"),
    "parallel": "parallel",
}
"""What layouts of rows ask of a family."""
_GROWING = ("chat", "plan")
"""Layouts whose answer is sampled by `variable_length`: it ends the row."""


def settled(stage: Stage, defaults: GenerationConfig, family: Family = MMADA) -> Stage:
    """A stage whose blocks are those that the checkpoint is sampled by: as long, if it does not say, and seeing as much."""

    def noise(component: MixtureComponent) -> tuple[str, ...]:
        asked: str = family.text_noise if defaults.full_attention else "block"
        if defaults.variable_length and component.layout in _GROWING:
            asked = "last_block"
        return tuple(asked if name == "block" else name for name in component.noise)

    components = tuple(replace(component, noise=noise(component)) for component in stage.components)
    in_blocks = stage.prompt_in_blocks or defaults.prompt_in_blocks
    return replace(stage, components=components, block_length=stage.block_length or defaults.block_length, prompt_in_blocks=in_blocks)


def check_layout(component: MixtureComponent, family: Family) -> None:
    """Raises InputError, which says what can, for a component whose rows models of a family do not have."""
    if not component.mixture_weight or component.layout in family.layouts:
        return
    if (needed := _NEEDS.get(component.layout)) is not None:
        family.require(needed, list(FAMILIES.values()))
    raise InputError(
        f"component {component.name!r}: {family.title} has no rows of layout={component.layout}; it learns {', '.join(sorted(family.layouts))}"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Learner:
    """A stage, and what it needs to know to learn records.

    grid     (h, w) codes of an image that has none yet
    context  of the model, in tokens
    family   of the checkpoint
    """

    stage: Stage
    prompts: Prompts
    grid: tuple[int, int]
    context: int
    family: Family = MMADA

    @classmethod
    def of(
        cls,
        stage: Stage | ImageStage,
        prompts: Prompts,
        defaults: GenerationConfig,
        *,
        grid: tuple[int, int],
        context: int,
        family: Family = MMADA,
    ) -> Learner:
        """Raises InputError for a stage that learns no records."""
        if isinstance(stage, ImageStage):
            raise InputError(f"stage={stage.name!r} trains the image tokenizer, which learns no records; give a stage such as finetune")
        return cls(stage=settled(stage, defaults, family), prompts=prompts, grid=grid, context=context, family=family)

    @property
    def answer_length(self) -> int | None:
        """Positions that a learned text may take, at most; None: the published layouts cut it instead."""
        return self.stage.answer_lengths[-1] if self.stage.text_length is None else None

    def learns(self, task: str) -> bool:
        """Whether a component has records of this task."""
        return any(component.mixture_weight and component.task == task for component in self.stage.components)

    def left_out(self, record: Record) -> str | None:
        """Why a record takes no part, in words that are the same for all of one sort."""
        if not self.learns(record.task):
            return f"no component of stage {self.stage.name} learns task {record.task}"
        if (problem := lacking(record, self.family)) is not None:
            return problem
        try:
            lengths = lengths_of(record, self.prompts, grid=self.grid)
        except InputError as error:  # such as several turns, or several sources, for which a family has no row
            return str(error)
        if record.turns and self.answer_length is not None and lengths.text > self.answer_length:
            return lengths.reason(answer_length=self.answer_length)
        in_blocks = all(component.in_blocks for component in self._components(record))
        return lengths.reason(answer_length=self.answer_length if record.turns and not in_blocks else None, context=self.context)

    def rows(self, record: Record) -> dict[str, Canvas]:
        """The rows of a record that takes part: thinking where the component has any, the prompt not dropped, the shortest length.

        Raises InputError for a record that a component cannot lay out.
        """
        samples = RecordExamples(Epochs([record], shuffle=False), self._codes)
        stage = replace(self.stage, longer_answer_share=0.0)
        canvases: dict[str, Canvas] = {}
        for component in self._components(record):
            usual = replace(component, cond_dropout_prob=0.0, think=float(component.think > 0))
            rows = ComponentRows(usual, stage, samples, self.prompts, seed=0, num_image_tokens=self.grid[0] * self.grid[1])
            canvases[component.name] = rows.rows([0])[0].canvas
        return canvases

    def _components(self, record: Record) -> list[MixtureComponent]:
        return [component for component in self.stage.components if component.mixture_weight and component.task == record.task]

    def _codes(self, picture: Picture) -> Tensor:
        """As many codes as a picture has; which ones they are changes no layout."""
        count = len(picture.source) if isinstance(picture.source, tuple) else self.grid[0] * self.grid[1]
        return self.prompts.shaped(torch.zeros(count, dtype=torch.long), self.grid)
