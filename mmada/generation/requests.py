"""What users ask for and what they get: plain records, shared by the pipeline and the server."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from PIL import Image
from torch import Tensor

from mmada.canvas import Hole, Message, Style
from mmada.errors import CheckpointError, InputError, MMaDAError, suggest
from mmada.families import Family
from mmada.families.mmada import MMADA
from mmada.generation.field_types import check_types
from mmada.generation.settings import TextSettings
from mmada.generation.speller import Correction
from mmada.hub import checkpoint
from mmada.hub.family import family_of
from mmada.image import FitMode, ImageSource
from mmada.sampling import DenoisingStep, JointParams, SamplingParams, named_cache, named_image_cache

__all__ = [
    "IMAGE_TOKENIZER_DIR",
    "Answer",
    "ChatRequest",
    "Conversation",
    "DrawRequest",
    "Drawing",
    "EditRequest",
    "EmptyAnswerError",
    "FillRequest",
    "GenerationConfig",
    "NotDrawnError",
    "ParallelRequest",
    "Request",
    "Result",
    "check_image_threshold",
    "edit_request",
    "image_tokenizer_of",
]

DEFAULTS_NAME = "mmada.json"
IMAGE_TOKENIZER_DIR = "image_tokenizer"

Conversation = str | Sequence[Message | Mapping[str, str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationConfig:
    """How a checkpoint is best used; stored beside it in mmada.json. The values here are those of the published 8B models.

    Raises InputError for a value that cannot be used.
    """

    max_new_tokens: int = 256
    """room for an answer, in tokens"""
    max_thinking_tokens: int = 512
    """room for thinking and answer together"""
    block_length: int = 32
    threshold: float = 0.9
    """a text token is committed when its probability reaches this"""
    cache: str = "none"
    """of the keys and values of a text: none, prefix or dual (sampling/params.py); an approximation, unless full_attention is False"""
    full_attention: bool = True
    """whether the room behind the block that is being written is seen (sampling/params.py); the published models see it"""
    prompt_in_blocks: bool = False
    """without full_attention: whether blocks are counted from the beginning of the prompt (sampling/params.py), as SDAR was taught"""
    variable_length: bool = False
    """whether the room of an answer is added block by block as it is needed (sampling/params.py), as iLLaDA was taught"""
    image_height: int = 512
    image_width: int = 512
    """pixels; what images are brought to before they are looked at. Drawings have this size, or a multiple of it (`Planner.drawing_size`)"""
    one_image_size: bool = False
    """whether the checkpoint was taught drawings of that size alone; others are drawn, and say that they may make no sense"""
    image_mode: FitMode = "crop"
    image_crops: bool = False
    """whether pictures keep their shape: each is cropped to the one of many sizes that leaves out least (image/crops.py), at most as large as an image"""
    edit_side: int = 0
    """pixels; with `image_crops`, an edit has the area of a square of that side, and at most that of an image; 0: that of an image"""
    image_steps: int = 15
    image_threshold: float = 1.0
    """an image code is committed when its probability reaches this, beyond what the steps ask; 1: what they ask, and no more. A request for fewer
    steps than image_steps has 1, unless it names another one"""
    guidance_scale: float = 3.5
    image_cache: str = "none"
    """of the keys, values and logits of a drawing: none or max-logit (sampling/logit_cache.py); an approximation"""
    image_tokenizer: str = "showlab/magvitv2"
    """directory, hub name or built-in name, for a checkpoint that holds none"""
    least_picture_psnr: float = 0.0
    """dB; a picture that the image tokenizer restores worse is unlike what the checkpoint was taught, and its answer says so; 0: not checked"""
    lowers_capitals: bool = False
    """a prompt in capitals, or In Title Case, is read as a sentence, which is all that the checkpoint was taught"""
    picture_thought: str = ""
    """a thought that is nothing but this says that a picture is asked for, where only words can come back; empty: no thought says so"""
    plans_name_unknown: bool = False
    """plans begin with what of the prompt cannot be drawn; words that the lexicon lacks are named only where a plan agrees"""
    thinks_before_answering: bool = False
    """what ChatRequest.think=None means"""
    thinks_before_drawing: bool = False
    """what DrawRequest.think=None means for a drawing that starts from words alone"""
    calculator: bool = False
    """what ChatRequest.calculator=None means"""
    draw_thinking_temperature: float = 0.0
    """of the thoughts before a drawing; above 0, other seeds arrange things otherwise"""
    reasons_in_one_row: bool = False
    """thinking before drawing: the model was taught the joint row (prompt.r2i). False: think as text, then draw the result"""
    world: str = ""
    """name of the world (data/find_world.py) that checks prompts and plans before anything is drawn; empty: nobody does"""
    style: Style = field(default_factory=Style)

    def __post_init__(self) -> None:
        named_cache(self.cache)
        named_image_cache(self.image_cache)
        if self.variable_length and not self.full_attention:
            raise InputError("variable_length=True needs full_attention=True: a row that grows sees itself whole; leave one of them out")
        if self.image_mode not in get_args(FitMode):
            raise InputError(f"image_mode={self.image_mode!r} is unknown: {suggest(str(self.image_mode), get_args(FitMode))}")
        for name, least in _LEAST.items():
            value, is_whole = getattr(self, name), isinstance(least, int)
            if isinstance(value, bool) or not isinstance(value, int if is_whole else int | float) or not least <= value < math.inf:
                raise InputError(f"{name}={value!r} must be a {'whole ' if is_whole else ''}number of at least {least:g}")
        check_image_threshold(self.image_threshold)
        check_types(self)

    def save(self, directory: Path) -> None:
        """Write mmada.json into a directory that exists; `load` reads it. Raises OSError if it cannot be written."""
        (directory / DEFAULTS_NAME).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, directory: Path, family: Family = MMADA) -> GenerationConfig:
        """From mmada.json, or the family's values where there is none. Raises CheckpointError if it cannot be used."""
        file = directory / DEFAULTS_NAME
        if not file.exists():
            return cls(**family.defaults)
        try:
            values = _known(json.loads(file.read_text(encoding="utf-8")), cls)
            return cls(**{**values, "style": Style(**_known(values.get("style", {}), Style))})
        except ValueError as error:
            raise CheckpointError(f"{file} cannot be used ({error}); mend it, or copy or download it again") from error


def check_image_threshold(image_threshold: float) -> None:
    """Raises InputError unless it is a probability above 0."""
    if not 0 < image_threshold <= 1:
        raise InputError(f"image_threshold={image_threshold} must be above 0 and at most 1; 1 commits what the steps ask, and no more")


_LEAST: Mapping[str, int | float] = {
    "max_new_tokens": 1,
    "max_thinking_tokens": 1,
    "block_length": 1,
    "threshold": 0.0,
    "image_height": 1,
    "image_width": 1,
    "edit_side": 0,
    "image_steps": 1,
    "image_threshold": 0.0,
    "guidance_scale": 0.0,
    "draw_thinking_temperature": 0.0,
}
"""of the numbers among `GenerationConfig`; an int where fractions make no sense"""


_FORMER: Mapping[str, str] = {"sees_ahead": "full_attention"}
"""Names in the mmada.json files of earlier versions."""


def _known(values: object, kind: type[GenerationConfig | Style]) -> dict[str, Any]:
    """Raises InputError unless `values` is an object all of whose fields `kind` has."""
    if not isinstance(values, dict):
        raise InputError(f"{values!r} is no JSON object")
    values = {_FORMER.get(name, name): value for name, value in values.items()}
    known = {f.name for f in fields(kind)}
    for name in sorted(set(values) - known):
        raise InputError(f"unknown field {name!r}: {suggest(name, known)}")
    return values


def image_tokenizer_of(directory: Path, family: Family | None = None) -> str:
    """Directory or name of a checkpoint's image tokenizer: the one inside, or else the one that its defaults name."""
    if family is None:
        family = family_of(directory) if (directory / checkpoint.CONFIG_NAME).exists() else MMADA
    own = [directory / name for name in (IMAGE_TOKENIZER_DIR, family.image_tokenizer_dir) if (directory / name).is_dir()]
    return str(own[0]) if own else GenerationConfig.load(directory, family).image_tokenizer


def _room(params: SamplingParams | TextSettings | None) -> int | None:
    return params.max_new_tokens if isinstance(params, TextSettings) else None


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A conversation, with or without images, to be answered.

    params  `TextSettings` change some of the checkpoint's sampling parameters for text, `SamplingParams` replace all of them
    strict  read every word as it is written, where a checkpoint with a lexicon reads misspelled ones as those that it was taught
    calculator  let the rules of the checkpoint's world write what is certain of a thought, such as the result of a sum that it has set up.
                What is wrong by them is put right. None: as the checkpoint is best used
    """

    messages: Conversation
    images: Sequence[ImageSource] = ()
    think: bool | None = None
    """None: as the checkpoint is best used"""
    max_new_tokens: int | None = None
    params: SamplingParams | TextSettings | None = None
    seed: int = 0
    strict: bool = False
    calculator: bool | None = None

    def __post_init__(self) -> None:
        check_types(self)
        if self.max_new_tokens is not None and _room(self.params) is not None:
            raise InputError(
                f"max_new_tokens={self.max_new_tokens} is in params, too, as {_room(self.params)}; leave it out of one of them"
            )

    @property
    def wanted_tokens(self) -> int | None:
        """Length of the answer that was asked for, in tokens; None: as the checkpoint is best used."""
        return _room(self.params) if self.max_new_tokens is None else self.max_new_tokens


@dataclass(frozen=True, slots=True)
class DrawRequest:
    """An image to be drawn; with `image` and `mask`, a part of an image to be drawn anew.

    size      (height, width) of the drawing in pixels; None: the checkpoint's, or that of `image` in whole tokens (`Planner.size_of`)
    image     what to start from; brought to that size
    mask      where to draw, light; as large as `image`; everything in tokens that it touches
    extend    (left, top, right, bottom) pixels of the drawing to add around `image` and draw
    think     say first what is to be drawn, then draw that; None: as the checkpoint is best used, never with an `image`
    best_of   how many are drawn, with seeds of their own, the first with `seed`; the one that the model itself finds likeliest is kept
    strict    read every word as it is written, and refuse a prompt with words that the checkpoint does not know, instead of drawing the rest
    image_cache  what is not evaluated at every step: none or max-logit; None: as the checkpoint is best used
    image_threshold  probability at which codes are committed beyond what the steps ask, so that fewer are taken; 1: what they ask, and no more;
                     None: as the checkpoint is best used
    """

    prompt: str
    negative_prompt: str = ""
    size: tuple[int, int] | None = None
    image: ImageSource | None = None
    mask: ImageSource | None = None
    extend: tuple[int, int, int, int] = (0, 0, 0, 0)
    think: bool | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    params: SamplingParams | None = None
    seed: int = 0
    best_of: int = 1
    strict: bool = False
    image_cache: str | None = None
    image_threshold: float | None = None

    def __post_init__(self) -> None:
        check_types(self)


@dataclass(frozen=True, slots=True)
class FillRequest:
    """A text with holes, `[MASK:n]` for n tokens, to be completed; with messages, the text is the answer to them. `params` as of a chat."""

    template: str | Sequence[str | Hole]
    messages: Conversation = ()
    params: SamplingParams | TextSettings | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_types(self)
        if _room(self.params) is not None:
            raise InputError(f"max_new_tokens={_room(self.params)} has no effect on holes, which have their own length; leave it out")


@dataclass(frozen=True, slots=True)
class EditRequest:
    """An image to be drawn by an instruction and one or several source images.

    images    sources; for a style, the content comes first, then the reference
    restyle   give the first image the style of the second, instead of following the prompt
    size      (height, width) in pixels, to which sources are brought, too; None: as `Planner.edit_size` has it for the first source
    guidance_scale, image_guidance_scale  how strongly the words and the sources count; None: as the checkpoint's family has it
    image_cache, image_threshold  as of a `DrawRequest`
    """

    prompt: str
    images: Sequence[ImageSource]
    restyle: bool = False
    size: tuple[int, int] | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    image_guidance_scale: float | None = None
    params: SamplingParams | None = None
    seed: int = 0
    image_cache: str | None = None
    image_threshold: float | None = None

    def __post_init__(self) -> None:
        check_types(self)


Order = Literal["together", "text_first", "image_first"]
"""In which order the fields of a joint row are filled."""


@dataclass(frozen=True, slots=True)
class ParallelRequest:
    """An instruction and source images, to be answered by a text and an image that are written in the same passes.

    order        together, or one field after the other
    text_steps, image_steps  how many of each; None: as the checkpoint's family has it
    params       overrides all of these settings
    """

    prompt: str
    images: Sequence[ImageSource]
    size: tuple[int, int] | None = None
    max_new_tokens: int | None = None
    order: Order = "together"
    text_steps: int | None = None
    image_steps: int | None = None
    guidance_scale: float | None = None
    image_guidance_scale: float | None = None
    params: JointParams | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.order not in get_args(Order):
            raise InputError(f"order={self.order!r} is unknown: {suggest(str(self.order), get_args(Order))}")
        check_types(self)


def edit_request(
    task: str, prompt: str, images: Sequence[ImageSource], *, size: tuple[int, int] | None = None, seed: int = 0
) -> EditRequest | ParallelRequest:
    """What a user would ask by a record of task edit, restyle or parallel."""
    if task == "parallel":
        return ParallelRequest(prompt, images, size, seed=seed)
    return EditRequest(prompt, images, task == "restyle", size, seed=seed)


Request = ChatRequest | DrawRequest | FillRequest | EditRequest | ParallelRequest


@dataclass(frozen=True, slots=True)
class Answer:
    """Text, with what was thought before it. finish_reason is "stop" or "length"; num_forwards counts model evaluations."""

    text: str
    thinking: str | None
    finish_reason: Literal["stop", "length"]
    token_ids: tuple[int, ...]
    num_forwards: int
    trace: tuple[DenoisingStep, ...] = ()
    warning: str | None = None
    """why the answer may be wrong, such as a picture unlike those that the checkpoint was taught, or a word that was read as another"""
    corrections: tuple[Correction, ...] = ()
    """words that were taken for misspelled, as they were written and as they were read"""
    wants_picture: bool = False
    """whether the model took the prompt for one that asks for a picture, which `MMaDA.draw` makes"""

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        thought = "" if self.thinking is None else f", thinking={_short(self.thinking)}"
        cost = f"num_tokens={len(self.token_ids)}, num_forwards={self.num_forwards}"
        return f"Answer({_short(self.text)}{thought}, finish_reason={self.finish_reason!r}, {cost})"

    def _repr_markdown_(self) -> str:
        """What a notebook shows: the thinking as a quotation, then the text, or why there is none."""
        quoted = "".join(f"> {line}\n" for line in (self.thinking or "").strip().splitlines())
        return "\n".join(part for part in (quoted, self.text or f"*{self.problem}*") if part)

    @property
    def problem(self) -> str | None:
        """Why there is no text, and what would help; None if there is one."""
        if self.text:
            return None
        if self.thinking is not None:
            if self.finish_reason == "stop":
                return "the model ended behind its thinking, without an answer; rephrase the question, or ask without thinking"
            return f"the thinking used all {len(self.token_ids)} tokens and was not closed; raise max_new_tokens, or ask without thinking"
        if self.finish_reason == "stop":
            return "the model ended its answer at once; rephrase the question"
        return "the model produced no printable token; this checkpoint cannot answer the question"


@dataclass(frozen=True, slots=True)
class Drawing:
    """An image with its codes (h, w), and what was thought before it was drawn."""

    image: Image.Image
    codes: Tensor
    thinking: str | None
    prompt: str
    """what was drawn: the request's prompt, or what thinking made of it"""
    num_forwards: int
    trace: tuple[DenoisingStep, ...] = ()
    seed: int = 0
    """that it was drawn with: of several, the best one's"""
    warning: str | None = None
    """what could not be done as it was asked, or may be wrong: a thought too long to be drawn from, a size that the checkpoint was not taught"""
    unknown: tuple[str, ...] = ()
    """phrases of the prompt that the checkpoint does not know (its lexicon); the rest was drawn"""
    corrections: tuple[Correction, ...] = ()
    """words of the prompt that were taken for misspelled, as they were written and as they were read; the warning names them, too"""
    problem: str | None = None
    """why nothing was drawn: the picture is blank then, and `MMaDA.run` raises NotDrawnError"""
    answer: Answer | None = None
    """what was written in the same passes, of a `ParallelRequest`"""

    def __repr__(self) -> str:
        thought = "" if self.thinking is None else f", thinking={_short(self.thinking)}"
        size = f"size={self.image.height}x{self.image.width}"
        warned = "" if self.warning is None else f", warning={self.warning!r}"
        return f"Drawing({_short(self.prompt)}{thought}, {size}, seed={self.seed}, num_forwards={self.num_forwards}{warned})"

    def _repr_png_(self) -> bytes:
        """What a notebook shows: the image."""
        file = io.BytesIO()
        self.image.save(file, "PNG")
        return file.getvalue()


_SHOWN = 60


def _short(text: str) -> str:
    """As a literal of at most about a line."""
    return repr(text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…")


Result = Answer | Drawing


class EmptyAnswerError(MMaDAError):
    """The model gave no answer. `results` holds what was produced all the same, for every request of the call."""

    def __init__(self, message: str, results: Sequence[Result]) -> None:
        super().__init__(message)
        self.results = list(results)


class NotDrawnError(EmptyAnswerError):
    """Nothing was drawn, because no plan could be made of a prompt. `results` has a blank picture there, and everything else."""
