"""What one generation sends: orders come in, events go out, and an `OutputProcessor` says which are due after a step.

Admitted, then for a text   TextDelta* (streams), Draft* (drafts), TextOutput
            for a drawing   DrawingThought?, PartialImage*, ImageOutput
or Failed, at any time
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from PIL import Image
from torch import Tensor

from mmada.errors import MMaDAError
from mmada.generation.planner import Planner
from mmada.generation.requests import Answer, ChatRequest, Drawing, DrawRequest, EditRequest, FillRequest, ParallelRequest, Request
from mmada.generation.steps import BegunProgram, Fill, InitCodes, RequestState, SequenceState
from mmada.sampling.loop import DenoisingStep
from mmada.serve.stream import TextStream

__all__ = [
    "Admitted",
    "Commit",
    "Draft",
    "DraftToken",
    "EngineRequest",
    "Event",
    "Failed",
    "ImageOutput",
    "OutputProcessor",
    "PartialImage",
    "TextDelta",
    "TextOutput",
    "DrawingThought",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineRequest:
    """A request, and how it is to be followed.

    stop          texts that end an answer
    max_forwards  model evaluations after which a text ends with what is final
    streams       send what is final as soon as it is
    drafts        send the whole text as it looks, each round
    num_previews  pictures to send on the way to a drawing
    traces        tell of a drawing when each of its codes was committed, and how surely
    num_alternatives  how many of the likeliest tokens drafts and traces tell with each that was committed
    begun         the request's program, if it was begun where nobody waits for it
    """

    request: Request
    stop: tuple[str, ...] = ()
    max_forwards: int | None = None
    streams: bool = False
    drafts: bool = False
    num_previews: int = 0
    traces: bool = False
    num_alternatives: int = 0
    begun: BegunProgram[Any] | None = field(default=None, compare=False, repr=False)

    @property
    def kind(self) -> str:
        """Of the request, as metrics name it."""
        return _KINDS[type(self.request)]

    @property
    def is_text(self) -> bool:
        """Whether its result is a text alone."""
        return isinstance(self.request, ChatRequest | FillRequest)


_KINDS = {ChatRequest: "chat", FillRequest: "fill", DrawRequest: "draw", EditRequest: "edit", ParallelRequest: "edit"}


@dataclass(frozen=True, slots=True)
class Admitted:
    """The request is a good one and waits for its turn."""

    num_prompt_tokens: int


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More of an answer, and of the thinking before it. num_new_tokens are final so far."""

    thinking: str
    answer: str
    num_new_tokens: int


@dataclass(frozen=True, slots=True)
class DraftToken:
    """A token of a draft. confidence is that with which it was committed, None while it is open.

    alternatives  in the draft of the step that committed it, if they were asked for: the likeliest tokens and their probabilities
    """

    text: str
    confidence: float | None
    alternatives: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Draft:
    """A text as it looks after a round. num_new_tokens are final so far: behind them, a place is open."""

    pieces: tuple[DraftToken, ...]
    num_new_tokens: int


@dataclass(frozen=True, slots=True)
class DrawingThought:
    """What was thought before a drawing, and what is drawn now."""

    thinking: str | None
    prompt: str


@dataclass(frozen=True, slots=True, eq=False)
class PartialImage:
    """A drawing as it looks on the way."""

    index: int
    image: Image.Image


@dataclass(frozen=True, slots=True)
class TextOutput:
    """A finished text; counts in tokens, num_forwards in model evaluations. warning: why the answer may be wrong.

    wants_picture: whether the model took the prompt for one that asks for a picture
    """

    answer: str
    thinking: str | None
    finish_reason: Literal["stop", "length"]
    token_ids: tuple[int, ...]
    num_prompt_tokens: int
    num_new_tokens: int
    num_thinking_tokens: int
    num_forwards: int
    warning: str | None = None
    wants_picture: bool = False


@dataclass(frozen=True, slots=True)
class Commit:
    """How a code of a drawing was committed: by which step, how surely, and what was likeliest there, if that was asked for.

    alternatives  indices into the codebook, and their probabilities
    """

    step: int
    confidence: float
    alternatives: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class ImageOutput:
    """A finished drawing; num_new_tokens are the codes that were drawn.

    num_text_tokens  that were written for it: of the thought before it, or of the text beside it
    num_given_codes  codes of pictures in its prompt, and of what was not drawn anew
    commits  if asked for, of each code in reading order: how it was committed; None where it was given
    """

    drawing: Drawing
    num_prompt_tokens: int
    num_new_tokens: int
    num_text_tokens: int
    num_given_codes: int = 0
    commits: tuple[Commit | None, ...] | None = None

    @property
    def num_forwards(self) -> int:
        return self.drawing.num_forwards


@dataclass(frozen=True, slots=True)
class Failed:
    """There is no result, and why."""

    error: MMaDAError


Event = Admitted | TextDelta | Draft | DrawingThought | PartialImage | TextOutput | ImageOutput | Failed


@dataclass(slots=True)
class OutputProcessor:
    """Follows one generation.

    later  computes something apart from the engine's thread, and tells what comes of it as an event
    """

    order: EngineRequest
    planner: Planner
    later: Callable[[Callable[[], Event]], None]
    num_thinking_tokens: int = 0
    num_previews: int = 0
    num_final: int = 0
    num_noted: int = 0
    confidence: list[float | None] = field(default_factory=list)
    words: dict[int, str] = field(default_factory=dict)
    text: TextStream | None = field(init=False)

    def __post_init__(self) -> None:
        request = self.order.request
        if self.order.is_text:
            # A stream is not held up for a rare fault.
            waits = isinstance(request, ChatRequest) and self.planner.thinks_first(request) and not self.order.streams
            self.text = TextStream(self.order.stop, plain=isinstance(request, FillRequest), waits=waits)
        else:
            self.text = None

    def after_step(self, state: RequestState[Any], *, lags: bool = False) -> Iterator[Event]:
        """What is new after a step of the generation. lags: the client does not keep up, so that the next draft, or the last, is for this one too."""
        row = state.sequence
        assert row is not None
        if self.text is None:
            if row.fill.init is not None:
                self._preview(row)
            elif isinstance(state.asked, Fill) and state.asked is not row.fill:  # the thought is done, and the drawing begins
                self.num_thinking_tokens = self._num_said(row.ids.tolist())
                yield DrawingThought(state.asked.thinking, state.asked.prompt)
            return
        if self.order.drafts and (row.done or not lags):
            yield self._draft(row)
        if not (self.order.streams or self.order.stop) or row.done:
            return
        num_final = row.num_final
        if num_final > self.num_final:
            self.num_final = num_final
            delta = self.text.push(self.planner.prompts.decode(row.ids[:num_final]))
            if delta and self.order.streams:
                yield TextDelta(delta.thinking, delta.answer, self._num_said(row.ids[:num_final].tolist()))

    def is_enough(self, state: RequestState[Any]) -> bool:
        """Whether a text is to end with what is final."""
        if self.text is None or state.sequence is None:
            return False
        most = self.order.max_forwards
        return self.text.shown.stopped or (most is not None and state.sequence.num_forwards >= most)

    def at_end(self, state: RequestState[Any]) -> Iterator[TextDelta | TextOutput | ImageOutput]:
        """What is left to be sent of a generation that has its result."""
        assert state.sequence is not None
        assert state.num_prompt_tokens is not None
        if self.text is None:
            assert isinstance(state.result, Drawing)
            fill = state.sequence.fill
            commits = None
            if self.order.traces and fill.init is not None:
                commits = _commits(fill.init, state.result.trace, fill.num_text, first_code=self.planner.layout.image_ids.start)
            yield ImageOutput(
                drawing=state.result,
                num_prompt_tokens=state.num_prompt_tokens,
                num_new_tokens=fill.num_open - fill.num_text,
                num_text_tokens=self.num_thinking_tokens + fill.num_text,
                num_given_codes=self._num_codes(fill.canvas.tokens),
                commits=commits,
            )
            return
        assert isinstance(state.result, Answer)
        row, prompts = state.sequence, self.planner.prompts
        said = row.ids[: row.num_final] if state.cut else row.ids
        num_new_tokens = self._num_said(said.tolist())
        delta = self.text.push(prompts.decode(said), whole=True)
        if delta and self.order.streams:
            yield TextDelta(delta.thinking, delta.answer, num_new_tokens)
        shown = self.text.shown
        yield TextOutput(
            answer=shown.answer,
            thinking=shown.thinking,
            finish_reason="stop" if shown.stopped else "length" if state.cut else state.result.finish_reason,
            token_ids=tuple(row.ids.tolist()),
            num_prompt_tokens=state.num_prompt_tokens,
            num_new_tokens=num_new_tokens,
            num_thinking_tokens=len(prompts.encode(shown.thinking)) if shown.thinking else 0,
            num_forwards=row.num_forwards,
            warning=state.result.warning,
            wants_picture=state.result.wants_picture,
        )

    def _draft(self, row: SequenceState) -> Draft:
        trace = row.denoising.trace
        self.confidence = self.confidence or [None] * row.fill.num_open
        new: dict[int, tuple[tuple[int, float], ...]] = {}
        for step in trace[self.num_noted :]:
            for slot, score in zip(step.slots, step.confidences, strict=True):
                self.confidence[slot] = score
            new.update(zip(step.slots, step.alternatives, strict=False))  # none, unless they were asked for
        self.num_noted = len(trace)
        layout, prompts = self.planner.layout, self.planner.prompts
        tokens = row.preview.tolist()
        seen = {*tokens, *(token for alternatives in new.values() for token, _ in alternatives)}
        for token in seen - self.words.keys():
            self.words[token] = "" if token == layout.mask_id else prompts.decode([token])
        pieces = [
            DraftToken(self.words[token], confidence, tuple((self.words[other], share) for other, share in new.get(slot, ())))
            for slot, (token, confidence) in enumerate(zip(tokens, self.confidence, strict=True))
        ]
        return Draft(tuple(pieces), self._num_said(tokens[: row.num_final]))

    def _preview(self, row: SequenceState) -> None:
        """Evenly spread over the steps, without the last, which is the result; never two for one step."""
        init, wanted, steps, step = row.fill.init, self.order.num_previews, row.fill.params.steps or 1, row.num_forwards
        if init is not None and wanted and step < steps and (step * (wanted + 1)) // steps > ((step - 1) * (wanted + 1)) // steps:
            draw = partial(self.planner.render, init, self.planner.codes(init, row.preview[row.fill.num_text :]))
            index, self.num_previews = self.num_previews, self.num_previews + 1
            self.later(lambda: PartialImage(index, draw()))

    def _num_codes(self, tokens: Tensor) -> int:
        ids = self.planner.layout.image_ids
        return int(((tokens >= ids.start) & (tokens < ids.stop)).sum())

    def _num_said(self, ids: list[int]) -> int:
        """Tokens up to the first end token, which counts."""
        ends = self.planner.layout.end_ids
        return next((i + 1 for i, token in enumerate(ids) if token in ends), len(ids))


def _commits(init: InitCodes, trace: Sequence[DenoisingStep], num_text: int, *, first_code: int) -> tuple[Commit | None, ...]:
    """By code in reading order: behind the slots of a text, slot j of a drawing is its j-th open code."""
    places = init.is_open.flatten().nonzero().flatten().tolist()
    commits: list[Commit | None] = [None] * init.is_open.numel()
    for step in trace:
        for slot, confidence, others in zip(step.slots, step.confidences, step.alternatives or [()] * len(step.slots), strict=True):
            if slot >= num_text:
                codes = tuple((token - first_code, share) for token, share in others)
                commits[places[slot - num_text]] = Commit(step.step, confidence, codes)
    return tuple(commits)
