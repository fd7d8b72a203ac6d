"""What passes between the parts of reinforcement learning.

Prompt   what is asked, and what a reward may know about the right answer
Sample   what came back, as text and picture: all that a reward sees
Part     a stretch of tokens that the sampler filled: an answer, the thinking before a drawing, an image
Rollout  one answer to a prompt: its sample and its parts
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from PIL import Image
from torch import Tensor

from mmada.canvas import Canvas, Field, messages_of
from mmada.data import Meta
from mmada.data.records import Picture
from mmada.generation.requests import ChatRequest, DrawRequest, EditRequest
from mmada.image import load_image

__all__ = ["Completion", "Prompt", "Rollout", "Segment"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Prompt:
    """A request, and what its rewards may compare the answer with."""

    task: str
    index: int
    """of the prompt among those of its task; with the seed it decides everything that is drawn for it"""
    request: ChatRequest | DrawRequest | EditRequest
    reference: str = ""
    """the right answer; empty where there is none"""
    origin: Any = None
    """of a world: what its rewards know of the prompt (data.world.WorldSample.origin)"""
    meta: Meta = field(default_factory=Meta)
    """of a record: license, lang, source, and in `extra` whatever its owner wrote"""
    record: str = ""
    """of a record: file and line"""
    wanted: Picture | None = None
    """of a record: the picture that it would teach, which the model does not see"""

    @property
    def sources(self) -> list[Image.Image]:
        """The pictures that the request shows, in order: what an edit starts from, what a question is about. Read anew at each call."""
        return [] if isinstance(self.request, DrawRequest) else [load_image(image) for image in self.request.images]

    @property
    def place(self) -> str:
        """For messages: the record's file and line, or task and number."""
        return self.record or f"{self.index} of task {self.task}"

    @property
    def text(self) -> str:
        """What the user said last."""
        if isinstance(self.request, ChatRequest):
            return messages_of(self.request.messages)[-1].content
        return self.request.prompt


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Completion:
    """One answer to a prompt, as a reward sees it."""

    prompt: Prompt
    text: str = ""
    """everything that was written up to the end token, tags included; of a drawing that was thought about, the thinking"""
    thinking: str | None = None
    answer: str = ""
    """the text without its thinking"""
    image: Image.Image | None = None
    num_tokens: int = 0
    """of the text, its end token included"""
    answer_length: int = 0
    """positions that there were for it"""
    has_ended: bool = True
    """whether an end token was written; a drawing without thinking has none to write"""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Segment:
    """One field that the sampler filled, and how.

    canvas       the row with its N slots filled, and that field alone
    num_tokens   leading slots that count: up to and including the first end token; all of an image
    steps        (N,) int64, the step in which a slot was committed; -1: filled without one, behind the end. None: not recorded
    """

    canvas: Canvas
    num_tokens: int
    is_image: bool
    temperature: float
    """of the proposals; 0 was the arg max"""
    block_length: int | None
    full_attention: bool
    """as in sampling.SamplingParams: whether every slot of the row sees every other"""
    steps: Tensor | None = None
    prompt_in_blocks: bool = False
    """as in sampling.SamplingParams: whether blocks are counted from the beginning of the row"""
    variable_length: bool = False
    """as in sampling.SamplingParams: whether the row ended behind the active block"""

    @property
    def looks_ahead(self) -> bool:
        """Whether the open slots behind the active block were seen."""
        return self.full_attention and not self.variable_length

    @property
    def field(self) -> Field:
        """The one field of its canvas."""
        return self.canvas.fields[0]

    @property
    def num_begun(self) -> int:
        """Positions of the first block that the prompt holds."""
        return int(self.field.positions[0]) % self.block_length if self.prompt_in_blocks and self.block_length is not None else 0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Rollout:
    """One answer to a prompt. A drawing that was thought about has two parts, everything else one."""

    sample: Completion
    parts: tuple[Segment, ...]
    seed: int
