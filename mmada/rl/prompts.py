"""Where prompts come from: index -> Prompt, a pure function, so that the position in the data is one integer.

EmojiPrompts    examples of the emoji world, of chosen kinds, with their verifiable answers
RecordPrompts   your own records (mmada.data.records), in an order that is shuffled anew each epoch
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from PIL import Image

from mmada.canvas import Message
from mmada.data import Endless, Picture, Record
from mmada.errors import InputError, suggest
from mmada.generation.requests import ChatRequest, DrawRequest
from mmada.image import ImageSource
from mmada.rl.records import Prompt
from mmada.train.seeds import generator, uniforms
from mmada.worlds.emoji import KINDS, SCENE_SIZE, Chooser, Example, Task, render, sample
from mmada.worlds.emoji.split import Split

__all__ = ["EmojiPrompts", "Prompts", "RecordPrompts"]


class Prompts(Protocol):
    """indices >= 0, without end -> prompts of one task; each depends on its own index alone."""

    def take(self, indices: Sequence[int]) -> list[Prompt]: ...


class EmojiPrompts:
    """Prompts of one task of the emoji world.

    think  share that asks for thinking; plain drawings never do, drawings that need it always
    kinds  names of tasks.KINDS, drawn by their weights; empty: all of the task
    Raises InputError if a kind is unknown or of another task.
    """

    def __init__(self, task: Task, *, seed: int, split: Split = "train", think: float = 1.0, kinds: Sequence[str] = ()) -> None:
        for kind in kinds:
            if kind not in KINDS or KINDS[kind].task != task:
                raise InputError(f"kind={kind!r} is none of task {task}: {suggest(kind, [k for k, e in KINDS.items() if e.task == task])}")
        self.task, self.seed, self.split, self.think = task, seed, split, think
        self._weights = {kind: entry.weight for kind, entry in KINDS.items() if entry.task == task and (not kinds or kind in kinds)}

    def take(self, indices: Sequence[int]) -> list[Prompt]:
        return [self._prompt(index) for index in indices]

    def _prompt(self, index: int) -> Prompt:
        rng = generator("prompt", self.task, self.split, self.seed, index)
        example = sample(Chooser(rng).weighted(self._weights), rng, self.split)
        thinks = uniforms(1, "prompt thinks", self.task, self.seed, index)[0] < self.think
        return Prompt(task=self.task, index=index, request=_request(example, thinks), reference=example.answer, example=example)


def _request(example: Example, thinks: bool) -> ChatRequest | DrawRequest:
    if example.task in ("draw", "reason_draw"):
        return DrawRequest(example.prompt, size=(SCENE_SIZE, SCENE_SIZE), think=example.task == "reason_draw")
    images = () if example.scene is None else (Image.fromarray(render(example.scene)),)
    return ChatRequest(example.prompt, images=images, think=thinks)


class RecordPrompts:
    """Prompts of one task from records. What a record would teach is the reference of its rewards, and is not shown."""

    def __init__(self, records: Endless[Record], *, seed: int, think: float = 1.0) -> None:
        self.records, self.seed, self.think = records, seed, think

    def take(self, indices: Sequence[int]) -> list[Prompt]:
        return [self._prompt(index, self.records[index]) for index in indices]

    def _prompt(self, index: int, record: Record) -> Prompt:
        request: ChatRequest | DrawRequest
        if record.task in ("draw", "reason_draw"):
            request = DrawRequest(record.turns[-1].text, think=record.task == "reason_draw")
        else:
            thinks = uniforms(1, "prompt thinks", record.task, self.seed, index)[0] < self.think
            messages = [Message(turn.role, turn.text) for turn in record.turns]
            images = [_source(picture) for turn in record.turns for picture in turn.pictures]
            request = ChatRequest(messages, images=images, think=thinks)
        return Prompt(task=record.task, index=index, request=request, reference=record.answer or "")


def _source(picture: Picture) -> ImageSource:
    if isinstance(picture.source, tuple):
        raise InputError(f"picture {picture.name!r} is kept as codes; prompts need its pixels: give records with picture files")
    return picture.source
