"""What a program asks the engine for, what it gets back, and what others see meanwhile.

    Fill(canvas, params, seeds)   fill a canvas, once for each seed    -> tuple of SequenceState, one for each seed
    Rank(canvases)                which filling is likeliest           -> a Ranking that is done
    Work(function)                compute something without the model  -> what the function returns

A `RequestState` is one program in the engine's hands. Streams, previews and progress bars read it; only the engine changes it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from PIL import Image
from torch import Tensor

from mmada.canvas import Canvas
from mmada.generation.scheduler import ScheduledSequence
from mmada.sampling import Denoising, DenoisingStep, Guide, JointDenoising, JointParams, MaxLogitCacheConfig, Ranking, SamplingParams

__all__ = ["BegunProgram", "Fill", "InitCodes", "Program", "Rank", "RequestState", "SequenceState", "Work"]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, eq=False)
class InitCodes:
    """What a drawing starts from: codes (h, w), which are open (h, w) bool, and the picture whose other parts stay."""

    codes: Tensor
    is_open: Tensor
    picture: Image.Image | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Fill:
    """Fill the one field of a canvas, once for each seed; with `JointParams`, its fields together.

    params     how: what the sampler takes
    negatives  the unconditional rows of guidance, one for each scale
    num_later  positions that later fills of the same program will have, for its progress
    init       of a drawing: what it starts from. None: a text is filled
    thinking   of a drawing: what was thought before it
    prompt     of a drawing: what is drawn
    guide      of a text: who knows parts of it for certain
    """

    canvas: Canvas
    params: SamplingParams | JointParams
    seeds: tuple[int, ...]
    negatives: tuple[Canvas, ...] = ()
    num_later: int = 0
    init: InitCodes | None = None
    thinking: str | None = None
    prompt: str = ""
    guide: Guide | None = None

    @property
    def num_open(self) -> int:
        """Positions to be filled, of one row."""
        return sum(len(field.positions) for field in self.canvas.fields)

    @property
    def num_given(self) -> int:
        """Attended positions of a row that are given."""
        start, stop = self.canvas.span
        return stop - start - self.num_open

    @property
    def num_blocks(self) -> int:
        """Of a row."""
        return self.params.num_blocks(self.num_open, self.num_given)

    @property
    def num_text(self) -> int:
        """Of these, how many are text; they come first."""
        return self.num_open if self.init is None else self.num_open - len(self.canvas.fields[-1].positions)

    @property
    def num_tokens(self) -> int:
        """Tokens that a step evaluates at most, the unconditional rows included."""
        return len(self.seeds) * sum(len(canvas) for canvas in (self.canvas, *self.negatives))

    @property
    def num_kept(self) -> int:
        """Tokens whose keys and values are kept from step to step."""
        return 0 if isinstance(self.params, JointParams) or self.params.cache is None else self.num_tokens

    @property
    def num_logits(self) -> int:
        """Numbers that a step is told at most."""
        rows = len(self.seeds) * (1 + len(self.negatives))
        if isinstance(self.params, JointParams):
            return rows * sum(len(field.positions) * (field.ids.stop - field.ids.start) for field in self.canvas.fields)
        ids, block = self.canvas.fields[0].ids, self.params.block_length or self.num_open
        if isinstance(self.params.cache, MaxLogitCacheConfig):  # it looks at every position
            return self.num_tokens * (ids.stop - ids.start)
        if self.params.propose_any:
            block = self.num_open
        return rows * min(block, self.num_open) * (ids.stop - ids.start)


@dataclass(frozen=True, slots=True, eq=False)
class Rank:
    """Ask which of several fillings of one canvas the model finds likeliest."""

    canvases: tuple[Canvas, ...]

    @property
    def num_tokens(self) -> int:
        """Of all canvases, as each pass reads them."""
        return sum(len(canvas) for canvas in self.canvases)

    @property
    def num_logits(self) -> int:
        """Of one pass, the larger if halves differ: every canvas at half of the positions, on the ids of the field."""
        ids, positions = self.canvases[0].fields[0].ids, self.canvases[0].fields[0].positions
        return len(self.canvases) * -(-len(positions) // 2) * (ids.stop - ids.start)


@dataclass(frozen=True, slots=True, eq=False)
class Work(Generic[_T]):
    """Compute something that needs no denoiser, such as the codes of a picture: in a thread of its own if the engine has one."""

    function: Callable[[], _T]


Program = Generator[Fill | Rank | Work[Any], Any, _T]
"""Yields what it needs to know next and returns a result."""


@dataclass(frozen=True, slots=True, eq=False)
class BegunProgram(Generic[_T]):
    """A program that has run to the first thing that it asks for, or to its end: `result` is what it returned then.

    What a program does before that, such as tokenizing, needs no engine and may be done in any thread (programs.begin).
    """

    program: Program[_T]
    asked: Fill | Rank | Work[Any] | None = None
    result: _T | None = None


@dataclass(frozen=True, slots=True, eq=False)
class SequenceState:
    """One row of a fill, while the sampler fills it and afterwards."""

    fill: Fill
    denoising: Denoising | JointDenoising
    row: int

    @property
    def done(self) -> bool:
        """Whether the sampler is through with this row; the other rows of its denoising may go on."""
        return self.row not in self.denoising.live

    @property
    def ids(self) -> Tensor:
        """(N,) int64 ids of the open positions, on the CPU; those not committed yet hold the mask id."""
        return self.denoising.token_ids(self.row).cpu()

    @property
    def preview(self) -> Tensor:
        """(N,) int64 ids, on the CPU; those not committed yet show their latest proposal."""
        return self.denoising.preview(self.row).cpu()

    @property
    def is_open(self) -> Tensor:
        """(N,) bool, on the CPU: positions that are not committed yet."""
        return self.ids == self.denoising.mask_id

    @property
    def num_final(self) -> int:
        """Leading positions that are committed: what a stream may send."""
        return self.denoising.num_final(self.row)

    @property
    def num_forwards(self) -> int:
        """Model evaluations that this row took part in."""
        return self.denoising.num_forwards[self.row]

    @property
    def finish_reason(self) -> Literal["stop", "length"]:
        """ "stop" if the row was ended, by an end token or by whoever follows it; "length" otherwise."""
        return self.denoising.finish_reasons[self.row]

    @property
    def canvas(self) -> Canvas:
        """The row with what was filled so far, on the CPU."""
        return self.denoising.canvas(self.row).to("cpu")

    @property
    def trace(self) -> tuple[DenoisingStep, ...]:
        """What each step committed, if the engine was told to record it."""
        return tuple(step for step in self.denoising.trace if step.row == self.row)


@dataclass(slots=True, eq=False)
class RequestState(Generic[_T]):
    """One program in the engine's hands.

    asked       what the program waits for
    sequences   rows of the fill that runs, or of the last one
    finished    first sequences of the fills before that
    cut         whether the fill was ended before it was done
    result      what the program returned, or `error`: why it did not
    """

    program: Program[_T]
    scheduled: ScheduledSequence
    record: bool = False
    num_alternatives: int = 0
    asked: Fill | Rank | Work[Any] | None = None
    sequences: tuple[SequenceState, ...] = ()
    finished: list[SequenceState] = field(default_factory=list)
    ranking: Ranking | None = None
    cut: bool = False
    num_prompt_tokens: int | None = None
    """tokens that the first fill was given; None until it is known"""
    result: _T | None = None
    error: Exception | None = None
    done: bool = False

    @property
    def sequence(self) -> SequenceState | None:
        """What is shown of the request: the first row of its fill; None before the first step."""
        return self.sequences[0] if self.sequences else None

    @property
    def draws(self) -> bool:
        """Whether it fills an image now; False while it is thinking, or is a text."""
        return self.sequence is not None and self.sequence.fill.init is not None

    @property
    def progress(self) -> tuple[int, int]:
        """Positions that are filled, and positions in all, those of later fills included. Never runs backwards."""
        before = sum(sequence.fill.num_open for sequence in self.finished)
        if self.sequence is None:
            total = self.asked.num_open + self.asked.num_later if isinstance(self.asked, Fill) else 1
            return 0, total
        fill = self.sequence.fill
        now = fill.num_open if self.sequence.done else fill.num_open - int(self.sequence.is_open.sum())
        return before + now, before + fill.num_open + fill.num_later
