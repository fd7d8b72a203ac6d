"""Records as a stage learns them: which of them take part, and what rows they become.

    learner = Learner.of(STAGES["finetune"], prompts, defaults, num_image_tokens=256, context=1024)
    learner.left_out(record)    why a record takes no part; None if it does
    learner.rows(record)        component -> clean canvas, made by the same ComponentRows that training reads

`mmada data check` shows both, so what it shows is what trains.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mmada.canvas import Canvas, Prompts
from mmada.data import Epochs, Picture, Record, lengths_of
from mmada.errors import InputError
from mmada.generation.requests import GenerationConfig
from mmada.train.source import ComponentRows, RecordExamples
from mmada.train.stages import ImageStage, MixtureComponent, Stage

__all__ = ["Learner", "settled"]


def settled(stage: Stage, defaults: GenerationConfig) -> Stage:
    """A stage whose blocks are as long as those that the checkpoint is sampled by, if it does not say."""
    return replace(stage, block_length=stage.block_length or defaults.block_length)


@dataclass(frozen=True, kw_only=True, slots=True)
class Learner:
    """A stage, and what it needs to know to learn records.

    num_image_tokens  codes of an image that has none yet
    context           of the model, in tokens
    """

    stage: Stage
    prompts: Prompts
    num_image_tokens: int
    context: int

    @classmethod
    def of(cls, stage: Stage | ImageStage, prompts: Prompts, defaults: GenerationConfig, *, num_image_tokens: int, context: int) -> Learner:
        """Raises InputError for a stage that learns no records."""
        if isinstance(stage, ImageStage):
            raise InputError(f"stage={stage.name!r} trains the image tokenizer, which learns no records; give a stage such as finetune")
        return cls(stage=settled(stage, defaults), prompts=prompts, num_image_tokens=num_image_tokens, context=context)

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
        lengths = lengths_of(record, self.prompts, num_image_tokens=self.num_image_tokens)
        if record.turns and self.answer_length is not None and lengths.text > self.answer_length:
            return lengths.reason(answer_length=self.answer_length)
        in_blocks = all("block" in component.noise for component in self._components(record))
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
            rows = ComponentRows(usual, stage, samples, self.prompts, seed=0, num_image_tokens=self.num_image_tokens)
            canvases[component.name] = rows.rows([0])[0].canvas
        return canvases

    def _components(self, record: Record) -> list[MixtureComponent]:
        return [component for component in self.stage.components if component.mixture_weight and component.task == record.task]

    def _codes(self, picture: Picture) -> Tensor:
        """As many codes as a picture has; which ones they are changes no layout."""
        return torch.zeros(len(picture.source) if isinstance(picture.source, tuple) else self.num_image_tokens, dtype=torch.long)
