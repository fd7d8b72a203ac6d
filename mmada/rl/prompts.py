"""Where prompts come from: index -> Prompt, a pure function, so that the position in the data is one integer.

WorldPrompts    samples of a world, of chosen kinds, with what its rewards know of them
RecordPrompts   your own records (mmada.data.records), in an order that is shuffled anew each epoch
PromptLearner   the rows that they become, for `mmada data check --prompts`
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch

from mmada.canvas import Canvas, Message, Prompts
from mmada.data import Endless, Record
from mmada.data.rows import lacking
from mmada.data.seeds import uniforms
from mmada.data.world import SampleKey, Split, World
from mmada.errors import InputError, suggest
from mmada.families import EditPrompts, Family
from mmada.families.mmada import MMADA
from mmada.generation.requests import ChatRequest, DrawRequest, EditRequest
from mmada.rl.records import Prompt
from mmada.train.world import request_of

__all__ = ["PROMPT_TASKS", "PromptLearner", "PromptSource", "RecordPrompts", "WorldPrompts"]

PROMPT_TASKS = ("text", "understand", "draw", "reason_draw", "edit", "restyle")
"""Tasks of records that may be rewarded."""


class PromptSource(Protocol):
    """indices >= 0, without end -> prompts of one task; each depends on its own index alone."""

    def take(self, indices: Sequence[int]) -> list[Prompt]:
        """The prompts of these indices, in their order."""
        ...


class WorldPrompts:
    """Prompts of one task of a world.

    think  share that asks for thinking; plain drawings never do, drawings that need it always
    kinds  of the task; empty: all of them
    name   of this part of a run, which the prompts bear; empty: the task's
    upscale  how many times as large as the world's pictures the model draws, along a side
    Raises InputError if the world does not have the task, or a kind is unknown or of another task.
    """

    def __init__(
        self,
        world: World,
        task: str,
        *,
        seed: int,
        split: Split = "train",
        think: float = 1.0,
        kinds: Sequence[str] = (),
        name: str = "",
        upscale: int = 1,
    ) -> None:
        if task not in world.tasks:
            raise InputError(f"world {world.name!r} has no task {task!r}: {suggest(task, world.tasks)}")
        known = world.kinds.get(task, ())
        for kind in kinds:
            if kind not in known:
                raise InputError(f"kind={kind!r} is none of task {task}: {suggest(kind, known)}")
        self.world, self.task, self.seed, self.split, self.think, self.kinds = world, task, seed, split, think, tuple(kinds)
        self.name, self.upscale = name or task, upscale

    def take(self, indices: Sequence[int]) -> list[Prompt]:
        return [self._prompt(index) for index in indices]

    def _prompt(self, index: int) -> Prompt:
        # Another stream than that of training, whose samples the model may know by heart.
        key = SampleKey(task=self.task, split=self.split, seed=self.seed, index=index, stream="prompt", kinds=self.kinds)
        sample = self.world.sample(key)
        request = request_of(sample, think=key.uniform("prompt thinks") < self.think, upscale=self.upscale)
        return Prompt(task=self.name, index=index, request=request, reference=sample.answer, origin=sample.origin)


class RecordPrompts:
    """Prompts of one task from records. What a record would teach is the reference of its rewards, and is not shown."""

    def __init__(self, records: Endless[Record], *, seed: int, think: float = 1.0) -> None:
        self.records, self.seed, self.think = records, seed, think

    def take(self, indices: Sequence[int]) -> list[Prompt]:
        return [self._prompt(index, self.records[index]) for index in indices]

    def _prompt(self, index: int, record: Record) -> Prompt:
        request: ChatRequest | DrawRequest | EditRequest
        images = [picture.image for turn in record.turns for picture in turn.pictures]
        if record.task in ("edit", "restyle"):
            request = EditRequest(record.turns[-1].text, images, restyle=record.task == "restyle")
        elif record.task in ("draw", "reason_draw"):
            request = DrawRequest(record.turns[-1].text, think=record.task == "reason_draw")
        else:
            thinks = uniforms(1, "prompt thinks", record.task, self.seed, index)[0] < self.think
            messages = [Message(turn.role, turn.text) for turn in record.turns]
            request = ChatRequest(messages, images=images, think=thinks)
        return Prompt(
            task=record.task,
            index=index,
            request=request,
            reference=record.answer or "",
            meta=record.meta,
            record=str(record.where),
            wanted=record.image,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptLearner:
    """What `mmada rl` makes of records, for `mmada data check`: each becomes a prompt with an open answer.

    context           of the model, in tokens; grid: (h, w) codes of an image
    max_new_tokens    positions of an answer; family: of the model
    """

    prompts: Prompts
    grid: tuple[int, int]
    context: int
    max_new_tokens: int
    family: Family = MMADA

    answer_length: ClassVar[None] = None
    """references are not learned, so their length does not matter"""

    def learns(self, task: str) -> bool:
        """Whether records of a task can become prompts."""
        return task in PROMPT_TASKS

    def left_out(self, record: Record) -> str | None:
        """Why a record is no prompt, in words that are the same for all of one sort."""
        if not self.learns(record.task):
            return f"task {record.task} is none of `mmada rl`, which has {', '.join(PROMPT_TASKS)}"
        if not record.turns:
            return "a text without a question"
        if (problem := lacking(record, self.family)) is not None:
            return problem
        longest = max(map(len, self.rows(record).values()))
        return "the prompt and its answer are longer than the context" if longest > self.context else None

    def rows(self, record: Record) -> dict[str, Canvas]:
        """ "prompt" -> the canvas of a rollout, with open codes or an open answer of `max_new_tokens`. Images count by their size alone."""
        codes = self.prompts.shaped(torch.zeros(self.grid[0] * self.grid[1], dtype=torch.long), self.grid)
        if record.task in ("draw", "reason_draw"):
            return {"prompt": self.prompts.draw(record.turns[-1].text, codes)}
        images = [codes for turn in record.turns for _ in turn.pictures]
        if isinstance(self.prompts, EditPrompts) and record.task in ("edit", "restyle"):
            return {"prompt": self.prompts.edit(record.turns[-1].text, images, codes, restyle=record.task == "restyle")}
        turns = [Message(turn.role, turn.text) for turn in record.turns]
        return {"prompt": self.prompts.chat(turns, self.max_new_tokens, images=images)}
