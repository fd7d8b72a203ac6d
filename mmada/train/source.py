"""Where rows come from: pure functions of an index, so that the position in the data is one integer.

    Samples   indices -> samples  what is said, thought, answered and shown: a world's (train/world.py), or a shuffled list
    ComponentRows  indices -> rows     samples in the layout of one component, their clean tokens on canvases
    Mixture   position -> (component, index of the component's row)

Every global batch holds the same number of rows of each component, and rank r of R takes its rows r, r + R, ... So the batch is the
same for any number of processes, and so is everything that is drawn for a row: it depends on (seed, component, index) alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from mmada.canvas import Canvas, Message, Prompts, join_thinking
from mmada.data import Endless, Picture, Record
from mmada.data.seeds import uniforms
from mmada.errors import InputError
from mmada.families import EditPrompts, ParallelPrompts
from mmada.train.batch import Row
from mmada.train.stages import MixtureComponent, Stage

__all__ = ["BatchMixture", "ComponentRows", "ExampleSource", "RecordExamples", "RowSource", "TrainingExample"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrainingExample:
    """What a row teaches, before it is laid out.

    text, understand     messages (seen)  -> think, answer; text without messages is a target as it is
    draw                 messages         -> drawn
    reason_draw          messages         -> think, answer (a plain drawing prompt), drawn
    edit, restyle        messages (seen)  -> drawn
    parallel             messages (seen)  -> think, answer, drawn
    layout interview     messages (seen)  -> answer; the answers of earlier turns are targets too
    layout infill        pieces of a text; every second one is a target
    """

    messages: tuple[Message, ...] = ()
    seen: tuple[Tensor, ...] = ()
    """int64 codes of each image that is given, (N,), or (h, w) where rows end with a newline"""
    think: str | None = None
    answer: str = ""
    drawn: Tensor | None = None
    """codes of the target image, likewise"""
    pieces: tuple[str, ...] = ()
    """of a text with gaps, what is given and what is learned in turn"""

    @property
    def prompt(self) -> str:
        """The user's last words, or nothing."""
        return self.messages[-1].content if self.messages else ""


class ExampleSource(Protocol):
    """indices >= 0, without end -> samples; each depends on its own index alone."""

    def take(self, indices: Sequence[int]) -> list[TrainingExample]:
        """The examples of these indices, in their order."""
        ...


class RowSource(Protocol):
    """indices >= 0, without end -> rows of a component; each depends on its own index alone."""

    def rows(self, indices: Sequence[int]) -> list[Row]:
        """The rows of these indices, in their order."""
        ...


class RecordExamples:
    """Records of one task (mmada.data.records), with their pictures as codes."""

    def __init__(self, records: Endless[Record], encode: Callable[[Picture], Tensor]) -> None:
        self.records, self.encode = records, encode

    def take(self, indices: Sequence[int]) -> list[TrainingExample]:
        return [self._sample(self.records[index]) for index in indices]

    def _sample(self, record: Record) -> TrainingExample:
        return TrainingExample(
            messages=tuple(Message(turn.role, turn.text) for turn in record.turns),
            seen=tuple(self.encode(picture) for turn in record.turns for picture in turn.pictures),
            think=None if record.thinking is None else record.thinking.text,
            answer=record.answer or "",
            drawn=None if record.image is None else self.encode(record.image),
        )


class ComponentRows:
    """The rows of one component: layout, thinking, dropped conditions and room for the answer, all drawn by index.

    num_image_tokens  N of the published layouts without an image
    """

    def __init__(
        self, component: MixtureComponent, stage: Stage, samples: ExampleSource, prompts: Prompts, *, seed: int, num_image_tokens: int
    ) -> None:
        self.component, self.stage, self.samples, self.prompts, self.seed = component, stage, samples, prompts, seed
        self.num_image_tokens = num_image_tokens
        self._close = prompts.encode("</think>")
        if "last_block" in component.noise and not prompts.chat([Message("user", "?")], 1).ends_open:
            raise InputError(
                f"component {component.name!r}: noise=last_block, or defaults.variable_length=true, needs an answer that ends its row, and "
                f"{type(prompts).__name__} write behind it; set defaults.variable_length=false"
            )

    def rows(self, indices: Sequence[int]) -> list[Row]:
        return [self._row(index, sample) for index, sample in zip(indices, self.samples.take(indices), strict=True)]

    def _row(self, index: int, sample: TrainingExample) -> Row:
        draw_think, draw_drop, draw_length, which_length = uniforms(4, "row", self.seed, self.component.name, index)
        think = sample.think if draw_think < self.component.think else None
        answer = join_thinking(think, sample.answer)
        is_dropped = draw_drop < self.component.cond_dropout_prob
        canvas = self._canvas(sample, answer, think is not None, is_dropped, draw_length < self.stage.longer_answer_share, which_length)
        return Row(component=self.component.name, index=index, canvas=canvas, factor=self._factor(canvas, think is not None))

    def _canvas(self, sample: TrainingExample, answer: str, thinks: bool, is_dropped: bool, spare: bool, which: float) -> Canvas:
        prompts, layout, length = self.prompts, self.component.layout, self.stage.text_length
        if layout == "chat" and not sample.messages:
            return prompts.lm(answer, length=len(prompts.begin) + len(prompts.encode(answer)) + 1)
        if layout in ("edit", "restyle"):
            assert isinstance(prompts, EditPrompts)  # what records.check_layout lets through
            return prompts.edit_row(sample.prompt, sample.seen, self._drawn(sample), restyle=layout == "restyle", drops=is_dropped)
        if layout == "parallel":
            assert isinstance(prompts, ParallelPrompts)
            room = self._answer_length(answer, spare, which)
            return prompts.parallel_row(sample.prompt, sample.seen, room, answer, self._drawn(sample), drops=is_dropped)
        if layout == "infill":
            return prompts.pieces(sample.pieces)
        if layout == "interview":
            return prompts.interview([*sample.messages, Message("assistant", sample.answer)], images=sample.seen)
        if layout == "plan" or (layout == "chat" and self.component.task == "reason_draw" and thinks):
            ask = replace(sample.messages[-1], content=prompts.style.draw_thinking + sample.prompt)
            return prompts.chat([*sample.messages[:-1], ask], self._answer_length(answer, spare, which), answer=answer)
        if layout == "chat":
            return prompts.chat(
                sample.messages, self._answer_length(answer, spare, which), images=sample.seen, thinking=thinks, answer=answer
            )
        if layout in ("draw", "t2i") or (layout == "reason_draw" and is_dropped):
            # Guidance drops the prompt and any thinking: an unconditional row is the same for drawing and for reasoning first.
            text = "" if is_dropped else sample.prompt
            return prompts.t2i(self._drawn(sample), text, text_length=length if layout == "t2i" else None, pads=self.stage.pads)
        if layout == "reason_draw":
            return prompts.reason_draw(sample.prompt, self._answer_length(answer, spare, which), self._drawn(sample), answer=answer)
        assert length is not None  # checked by Stage
        total = length + self.num_image_tokens + 3
        if layout == "lm" or (layout == "lm_chat" and not sample.messages):
            return prompts.lm("\n".join((*(message.content for message in sample.messages), answer)), length=total)
        dialogue = self._dialogue(sample.messages, answer, thinks)
        if layout == "lm_chat":
            return prompts.lm_chat(dialogue, length=total)
        if layout == "r2i":
            return prompts.r2i(self._drawn(sample), dialogue, text_length=length)
        if len(sample.seen) != 1:
            raise InputError(
                f"component {self.component.name!r}: layout mmu has room for one image, the sample shows {len(sample.seen)}; use layout=chat"
            )
        return prompts.mmu(sample.seen[0], dialogue, text_length=length)

    def _drawn(self, sample: TrainingExample) -> Tensor:
        if sample.drawn is None:
            raise InputError(
                f"component {self.component.name!r}: the sample has no image to draw; give task={self.component.task} samples that do"
            )
        return sample.drawn

    def _answer_length(self, answer: str, spare: bool, which: float) -> int:
        """Positions for an answer: the smallest length that holds it with its end token, or, if `spare`, any that does."""
        needed = len(self.prompts.encode(answer)) + 1
        if self.component.in_blocks:
            block = self.stage.block_length
            assert block is not None  # settled by setup.py
            # A block that the prompt has begun ends later than it would alone, and so may the last one.
            return -(-needed // block) * block + (block if self.stage.prompt_in_blocks else 0)
        fitting = [answer_length for answer_length in self.stage.answer_lengths if answer_length >= needed]
        if not fitting:
            raise InputError(
                f"component {self.component.name!r}: an answer of {needed} tokens fits none of stage.answer_lengths={self.stage.answer_lengths}; add one"
            )
        return fitting[int(which * len(fitting))] if spare else fitting[0]

    def _dialogue(self, messages: Sequence[Message], answer: str, thinks: bool) -> str:
        """Turns and answer as one ready-made text, in the published format."""
        style = self.prompts.style
        end = "<|eot_id|>" if style.separator == "token" else "<eot_id>"
        turns = [
            f"<|start_header_id|>{m.role}<|end_header_id|>\n{style.thinking if thinks and m is messages[-1] else ''}{m.content}{end}"
            for m in messages
        ]
        return "".join(turns) + f"<|start_header_id|>assistant<|end_header_id|>\n{answer}"

    def _factor(self, canvas: Canvas, thinks: bool) -> Tensor | None:
        """(L,) float32, the component's extra factors on answer and fill; None if all are 1."""
        component, layout = self.component, self.prompts.layout
        if (component.answer_weight == 1 or not thinks) and component.eos_padding_weight == 1:
            return None
        factor = torch.ones(len(canvas))
        for field in canvas.fields:
            if layout.eos_id not in field.ids:
                continue
            ids = canvas.tokens[field.positions].tolist()
            end = ids.index(layout.eos_id) + 1 if layout.eos_id in ids else len(ids)
            close = _find(ids, self._close)
            if thinks and close is not None:
                factor[field.positions[close + len(self._close) : end]] = component.answer_weight
            factor[field.positions[end:]] = component.eos_padding_weight
        return factor


def _find(ids: Sequence[int], part: Sequence[int]) -> int | None:
    """Where `part` last begins in `ids`."""
    return next((i for i in range(len(ids) - len(part), -1, -1) if list(ids[i : i + len(part)]) == list(part)), None)


class BatchMixture:
    """position -> (component, index): which row of which component stands at each position of the endless stream of rows.

    Each `batch` positions hold the same components at the same places, as many of each as its share says, by largest remainder.
    Raises InputError if a component with a share would get no row.
    """

    def __init__(self, weights: Mapping[str, float], batch: int) -> None:
        total = sum(weights.values())
        exact = {name: share / total * batch for name, share in weights.items()}
        self.counts = {name: int(count) for name, count in exact.items()}
        by_remainder = sorted(exact, key=lambda name: self.counts[name] - exact[name])
        for name in by_remainder[: batch - sum(self.counts.values())]:
            self.counts[name] += 1
        empty = [name for name, share in weights.items() if share and not self.counts[name]]
        if empty:
            raise InputError(
                f"batch={batch} leaves no row for the components {empty} with shares {dict(weights)}; raise the batch or the shares"
            )
        # Component after component: processes and micro-batches take every n-th row, and so get their share of each component.
        self._slots = [(name, j) for name, n in self.counts.items() for j in range(n)]

    def __getitem__(self, position: int) -> tuple[str, int]:
        step, place = divmod(position, len(self._slots))
        name, j = self._slots[place]
        return name, step * self.counts[name] + j
