"""`MMaDA`: the object a user holds. Chat, look at images, draw, fill; one request or many kinds at once.

    model = MMaDA.from_pretrained("Gen-Verse/MMaDA-8B-MixCoT")
    model.chat("How many legs have two cats?", think=True).text
    model.ask("photo.png", "What is this?").text
    model.draw("two red hearts above a dog", seed=3).image.save("out.png")
    model.run([ChatRequest("Hello"), DrawRequest("a cat"), FillRequest("The [MASK:2] sat.")])   # one forward pass a round for all

A request becomes a canvas (prompt.py), one loop fills it (sampling/loop.py), and the result is read off it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mmada import checkpoint, tokenizer
from mmada.canvas import Canvas, Field
from mmada.errors import CheckpointError, ImageError, InputError, MMaDAError, suggest
from mmada.image import FitMode, ImageSource, ImageTokenizer, ImageTokenizerConfig, fit, load_image
from mmada.model import MMadaModelLM, TransformerDenoiser, preset
from mmada.processor import MMaDAImageProcessor, MMaDAProcessor
from mmada.prompt import Hole, Message, Prompts, Style, messages_of, parse_holes, split_thinking
from mmada.sampling import Denoising, Recipe, Step, denoise, fast_image, fast_text, infill
from mmada.vocab import IdRange, VocabLayout

__all__ = [
    "Answer",
    "ChatRequest",
    "Defaults",
    "DrawRequest",
    "Drawing",
    "EmptyAnswerError",
    "FillRequest",
    "MMaDA",
    "Progress",
    "Request",
    "Result",
]

DEFAULTS_NAME = "mmada.json"
PUBLISHED_IMAGE_TOKENIZER = "showlab/magvitv2"
IMAGE_TOKENIZER_DIR = "image_tokenizer"
DESCRIBE = "Please describe this image in detail."

Conversation = str | Sequence[Message | Mapping[str, str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Defaults:
    """How a checkpoint is best used; stored beside it in mmada.json. The values here are those of the published 8B models."""

    max_new_tokens: int = 256
    """room for an answer, in tokens"""
    max_thinking_tokens: int = 512
    """room for thinking and answer together"""
    block_length: int = 32
    threshold: float = 0.9
    """a text token is committed when its probability reaches this"""
    image_height: int = 512
    image_width: int = 512
    """pixels; what images are brought to before they are looked at, and the size of drawings"""
    image_mode: FitMode = "crop"
    image_steps: int = 15
    guidance_scale: float = 3.5
    reasons_in_one_row: bool = False
    """thinking before drawing: the model was taught the joint row (prompt.r2i). False: think as text, then draw the result"""
    style: Style = field(default_factory=Style)

    def save(self, directory: Path) -> None:
        (directory / DEFAULTS_NAME).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, directory: Path) -> Defaults:
        """From mmada.json, or the published values where there is none. Raises CheckpointError on an unknown field."""
        file = directory / DEFAULTS_NAME
        if not file.exists():
            return cls()
        values = json.loads(file.read_text(encoding="utf-8"))
        known = {f.name for f in fields(cls)}
        for name in sorted(set(values) - known):
            raise CheckpointError(f"{file} has the unknown field {name!r}: {suggest(name, known)}")
        return cls(**{**values, "style": Style(**values.get("style", {}))})


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A conversation, with or without images, to be answered. `recipe` overrides the checkpoint's way of decoding text."""

    messages: Conversation
    images: Sequence[ImageSource] = ()
    think: bool = False
    max_new_tokens: int | None = None
    recipe: Recipe | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class DrawRequest:
    """An image to be drawn; with `image` and `mask`, a part of an image to be drawn anew.

    size      (height, width) in pixels
    image     what to start from; brought to `size`, or to its own size in whole tokens if there is none
    mask      where to draw, non-black; as large as `image`; everything in tokens that it touches
    extend    (left, top, right, bottom) pixels to add around `image` and draw
    """

    prompt: str
    negative_prompt: str = ""
    size: tuple[int, int] | None = None
    image: ImageSource | None = None
    mask: ImageSource | None = None
    extend: tuple[int, int, int, int] = (0, 0, 0, 0)
    think: bool = False
    steps: int | None = None
    guidance_scale: float | None = None
    recipe: Recipe | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class FillRequest:
    """A text with holes, `[MASK:n]` for n tokens, to be completed; with messages, the text is the answer to them."""

    template: str | Sequence[str | Hole]
    messages: Conversation = ()
    recipe: Recipe | None = None
    seed: int = 0


Request = ChatRequest | DrawRequest | FillRequest


@dataclass(frozen=True, slots=True)
class Answer:
    """Text, with what was thought before it. finish_reason is "stop" or "length"; num_forwards counts model evaluations."""

    text: str
    thinking: str | None
    finish_reason: str
    token_ids: tuple[int, ...]
    num_forwards: int
    trace: tuple[Step, ...] = ()

    def __str__(self) -> str:
        return self.text

    @property
    def problem(self) -> str | None:
        """Why there is no text, and what would help; None if there is one."""
        if self.text:
            return None
        if self.thinking is not None:
            return f"the thinking used all {len(self.token_ids)} tokens and was not closed; raise max_new_tokens, or ask without thinking"
        if self.finish_reason == "stop":
            return "the model ended its answer at once; rephrase the question, or raise the temperature"
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
    trace: tuple[Step, ...] = ()


Result = Answer | Drawing
_R = TypeVar("_R", Answer, Drawing)


class EmptyAnswerError(MMaDAError):
    """The model gave no answer. `results` holds what was produced all the same, for every request of the call."""

    def __init__(self, message: str, results: Sequence[Result]) -> None:
        super().__init__(message)
        self.results = list(results)


@dataclass(frozen=True, slots=True, eq=False)
class Progress:
    """The state after a round, for a progress bar, a stream or a preview. Its methods cost something only when called."""

    round: int
    model: MMaDA
    _jobs: Sequence[_Job]

    @property
    def fraction(self) -> float:
        """Share of all open positions that are committed, 0 to 1."""
        total = sum(job.num_slots for job in self._jobs)
        return sum(job.num_done for job in self._jobs) / total

    def text(self, request: int = 0) -> str:
        """What is final of a text from its beginning; only ever grows."""
        job = self._jobs[request]
        ids = job.denoising.token_ids(job.row)[: job.denoising.num_final(job.row)]
        # A character may be spread over several tokens; an incomplete one decodes to U+FFFD and is held back.
        return self.model.prompts.decode(ids).rstrip("\ufffd")

    def draft(self, request: int = 0) -> str:
        """The whole text as it looks now, open positions with their latest proposals."""
        job = self._jobs[request]
        return self.model.prompts.decode(job.denoising.preview(job.row))

    def codes(self, request: int = 0) -> tuple[Tensor, Tensor]:
        """Codes of a drawing (h, w), open positions with their latest proposals, and which are still open (h, w) bool."""
        job = self._jobs[request]
        if job.sketch is None or job.canvas.fields[0].ids != self.model.layout.image_ids:
            raise InputError(f"request {request} is not drawing now; ask for its text")
        is_open = job.sketch.is_open.clone()
        is_open[job.sketch.is_open] = (job.denoising.token_ids(job.row) == self.model.layout.mask_id).cpu()
        return job.codes(job.denoising.preview(job.row)), is_open

    def image(self, request: int = 0) -> Image.Image:
        """The drawing as it looks now."""
        return self.model.image_tokenizer.decode_images(self.codes(request)[0][None])[0]


@dataclass(slots=True, eq=False)
class _Job:
    """One request on its way: its canvas and recipe, then the denoising that it is a row of."""

    request: Request
    canvas: Canvas
    recipe: Recipe
    layout: VocabLayout
    negative: Canvas | None = None
    later: Field | None = None
    """the image field of a joint row, drawn when its thinking is done"""
    sketch: _Sketch | None = None
    thinking: str | None = None
    prompt: str = ""
    num_forwards: int = 0
    denoising: Denoising = field(init=False)
    row: int = field(init=False)

    @property
    def num_slots(self) -> int:
        return len(self.canvas.fields[0].positions)

    @property
    def num_done(self) -> int:
        return int((self.denoising.token_ids(self.row) != self.layout.mask_id).sum())

    @property
    def trace(self) -> tuple[Step, ...]:
        return tuple(step for step in self.denoising.trace if step.row == self.row)

    def codes(self, ids: Tensor) -> Tensor:
        """(h, w) codes of a drawing whose open positions have the ids (N,); [MASK] counts as code 0."""
        assert self.sketch is not None
        codes = self.sketch.codes.clone()
        codes[self.sketch.is_open] = (ids.cpu() - self.layout.image_offset).clamp(0, self.layout.codebook_size - 1)
        return codes


@dataclass(frozen=True, slots=True, eq=False)
class _Sketch:
    """What a drawing starts from: codes (h, w), which are open (h, w) bool, and the picture whose other parts stay."""

    codes: Tensor
    is_open: Tensor
    picture: Image.Image | None = None


class MMaDA:
    """A model with its text tokenizer and image tokenizer.

    model            the transformer
    prompts          token layouts over its vocabulary
    image_tokenizer  loaded at first use if given as a name
    defaults         how this checkpoint is best used
    max_tokens       tokens that share a forward pass
    """

    def __init__(
        self,
        model: MMadaModelLM,
        prompts: Prompts,
        image_tokenizer: ImageTokenizer | str | os.PathLike[str] | None,
        *,
        defaults: Defaults | None = None,
        max_tokens: int = 65536,
    ) -> None:
        self.model, self.prompts, self._image_tokenizer = model.eval(), prompts, image_tokenizer
        self.defaults = defaults or Defaults(style=prompts.style)
        self.denoiser = TransformerDenoiser(model, max_tokens=max_tokens)

    # Loading and saving.

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str],
        *,
        image_tokenizer: str | os.PathLike[str] | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype = "auto",
        revision: str | None = None,
    ) -> MMaDA:
        """A checkpoint directory, a hub name such as "Gen-Verse/MMaDA-8B-MixCoT", or "debug".

        image_tokenizer  directory or hub name; default: the one inside the checkpoint, else the published one
        device           default: the GPU if there is one, else the CPU
        dtype            default: as saved
        Raises CheckpointError, TokenizerError.
        """
        device = torch.device(device) if device is not None else _best_device()
        if str(name) == "debug":
            return cls.debug().to(device)
        directory = checkpoint.find(name, revision=revision)
        model = MMadaModelLM.from_pretrained(directory, dtype=dtype).to(device)
        defaults = Defaults.load(directory)
        prompts = Prompts(model.config.layout, tokenizer.load(directory, model.config.layout), defaults.style)
        own = directory / IMAGE_TOKENIZER_DIR
        return cls(model, prompts, image_tokenizer or (own if own.exists() else PUBLISHED_IMAGE_TOKENIZER), defaults=defaults)

    @classmethod
    def debug(cls, *, seed: int = 0) -> MMaDA:
        """A tiny model with random weights and a byte tokenizer: every path of the package in milliseconds, no sense in its answers."""
        text = tokenizer.byte_level()
        bits = 6
        layout = VocabLayout.compact(256, 2**bits)
        small = ImageTokenizerConfig(
            ch=16,
            encoder_ch_mult=(1, 1, 2),
            encoder_num_res_blocks=(1, 1, 1),
            decoder_ch_mult=(1, 1, 2),
            decoder_num_res_blocks=(1, 1, 1),
            z_channels=bits,
        )
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # restored by fork_rng
            # Wide weights, so that a random model prefers some tokens to others.
            model = MMadaModelLM(preset("debug", layout=layout, max_sequence_length=1024, init_std=0.2))
            images = ImageTokenizer(small).eval()
        defaults = Defaults(
            max_new_tokens=32,
            max_thinking_tokens=48,
            block_length=16,
            image_height=32,
            image_width=32,
            image_steps=8,
            guidance_scale=1.0,
            reasons_in_one_row=True,
            style=Style(thinking="Think. ", draw_thinking="Think. "),
        )
        return cls(model, Prompts(layout, text, defaults.style), images, defaults=defaults)

    def save_pretrained(self, directory: str | os.PathLike[str], *, max_shard_size: str = "5GB") -> None:
        """Write weights, both tokenizers and defaults; the published code reads the weights, `from_pretrained` all of it."""
        path = Path(directory)
        self.model.save_pretrained(path, max_shard_size=max_shard_size)
        self.processor.save_pretrained(path)
        self.image_tokenizer.save_pretrained(path / IMAGE_TOKENIZER_DIR)
        self.defaults.save(path)

    def to(self, device: str | torch.device) -> MMaDA:
        """Move the networks; returns self."""
        self.model.to(device)
        if isinstance(self._image_tokenizer, ImageTokenizer):
            self._image_tokenizer.to(device)
        return self

    @property
    def image_tokenizer(self) -> ImageTokenizer:
        """Pixels <-> codes. Raises CheckpointError if it cannot be loaded, or does not fit the vocabulary."""
        if isinstance(self._image_tokenizer, ImageTokenizer):
            return self._image_tokenizer
        name = self._image_tokenizer or PUBLISHED_IMAGE_TOKENIZER
        loaded = ImageTokenizer.from_pretrained(name)
        if loaded.codebook_size != self.layout.codebook_size:
            raise CheckpointError(
                f"image_tokenizer={str(name)!r} has {loaded.codebook_size} codes, the model {self.layout.codebook_size}; "
                "use the one that the model was trained with"
            )
        loaded.to(self.model.device).eval()
        self._image_tokenizer = loaded
        return loaded

    @property
    def layout(self) -> VocabLayout:
        return self.prompts.layout

    @property
    def processor(self) -> MMaDAProcessor:
        """The same tokenizers and layouts as a transformers processor."""
        d = self.defaults
        images = MMaDAImageProcessor(d.image_height, d.image_width, d.image_mode, self.image_tokenizer.factor)
        return MMaDAProcessor(images, self.prompts.tokenizer, vocab_layout=self.layout.to_dict(), style=asdict(d.style))

    # One request.

    def chat(
        self,
        messages: Conversation,
        *,
        images: Sequence[ImageSource] = (),
        think: bool = False,
        max_new_tokens: int | None = None,
        recipe: Recipe | None = None,
        seed: int = 0,
        on_step: Callable[[Progress], None] | None = None,
        trace: bool = False,
    ) -> Answer:
        """Answer a question, or the last turn of a conversation. Raises EmptyAnswerError if there is no answer."""
        return self._one(ChatRequest(messages, images, think, max_new_tokens, recipe, seed), Answer, on_step, trace)

    def ask(
        self,
        image: ImageSource,
        question: str,
        *,
        think: bool = False,
        max_new_tokens: int | None = None,
        recipe: Recipe | None = None,
        seed: int = 0,
        on_step: Callable[[Progress], None] | None = None,
        trace: bool = False,
    ) -> Answer:
        """Answer a question about an image."""
        return self._one(ChatRequest(question, [image], think, max_new_tokens, recipe, seed), Answer, on_step, trace)

    def describe(self, image: ImageSource, *, recipe: Recipe | None = None, seed: int = 0) -> Answer:
        """Describe an image in words."""
        return self.ask(image, DESCRIBE, recipe=recipe, seed=seed)

    def draw(
        self,
        prompt: str,
        *,
        negative_prompt: str = "",
        size: tuple[int, int] | None = None,
        think: bool = False,
        steps: int | None = None,
        guidance_scale: float | None = None,
        recipe: Recipe | None = None,
        seed: int = 0,
        on_step: Callable[[Progress], None] | None = None,
        trace: bool = False,
    ) -> Drawing:
        """Draw an image of (height, width) pixels."""
        request = DrawRequest(prompt, negative_prompt, size, None, None, (0, 0, 0, 0), think, steps, guidance_scale, recipe, seed)
        return self._one(request, Drawing, on_step, trace)

    def fill(
        self,
        template: str | Sequence[str | Hole],
        *,
        messages: Conversation = (),
        recipe: Recipe | None = None,
        seed: int = 0,
        on_step: Callable[[Progress], None] | None = None,
        trace: bool = False,
    ) -> Answer:
        """Complete a text with holes ("The [MASK:2] sat."); the text of the answer is the whole, holes filled."""
        return self._one(FillRequest(template, messages, recipe, seed), Answer, on_step, trace)

    def fill_image(
        self,
        image: ImageSource,
        mask: ImageSource | None = None,
        *,
        prompt: str,
        negative_prompt: str = "",
        extend: tuple[int, int, int, int] = (0, 0, 0, 0),
        steps: int | None = None,
        guidance_scale: float | None = None,
        recipe: Recipe | None = None,
        seed: int = 0,
        on_step: Callable[[Progress], None] | None = None,
        trace: bool = False,
    ) -> Drawing:
        """Draw the part of an image that `mask` marks (non-black), or `extend` it by (left, top, right, bottom) pixels."""
        request = DrawRequest(prompt, negative_prompt, None, image, mask, extend, False, steps, guidance_scale, recipe, seed)
        return self._one(request, Drawing, on_step, trace)

    # Many requests.

    def run(self, requests: Sequence[Request], *, on_step: Callable[[Progress], None] | None = None, trace: bool = False) -> list[Result]:
        """Serve requests of any kind together; each result equals that of the request alone.

        on_step  called after every round
        trace    keep what every step committed
        Raises InputError for a bad request (nothing is computed), EmptyAnswerError if a text stayed empty (it has the results).
        """
        if not requests:
            raise InputError("requests=[] is empty; give at least one")
        jobs = [self._job(request) for request in requests]
        self._denoise(jobs, on_step, trace)
        thought = [job for job in jobs if isinstance(job.request, DrawRequest) and job.request.think]
        if thought:
            for job in thought:
                self._after_thinking(job)
            self._denoise(thought, on_step, trace)
        results = [self._result(job) for job in jobs]
        problems = [f"request {i}: {r.problem}" for i, r in enumerate(results) if isinstance(r, Answer) and r.problem]
        if problems:
            raise EmptyAnswerError("; ".join(problems), results)
        return results

    def _one(self, request: Request, kind: type[_R], on_step: Callable[[Progress], None] | None, trace: bool) -> _R:
        (result,) = self.run([request], on_step=on_step, trace=trace)
        assert isinstance(result, kind)
        return result

    def _denoise(self, jobs: Sequence[_Job], on_step: Callable[[Progress], None] | None, trace: bool) -> None:
        """Fill the canvas of every job. Jobs of equal settings become rows of one `Denoising`."""
        groups: dict[tuple[Recipe, IdRange], list[_Job]] = {}
        for job in jobs:
            groups.setdefault((job.recipe, job.canvas.fields[0].ids), []).append(job)
        denoisings = []
        for (recipe, _), group in groups.items():
            denoising = Denoising(
                [job.canvas.to(self.model.device) for job in group],
                recipe,
                mask_id=self.layout.mask_id,
                eos_id=self.layout.eos_id,
                seeds=[job.request.seed for job in group],
                negatives=[job.negative.to(self.model.device) for job in group if job.negative is not None] or None,
                record=trace,
            )
            denoisings.append(denoising)
            for row, job in enumerate(group):
                job.denoising, job.row = denoising, row
        for round_ in denoise(denoisings, self.denoiser):
            if on_step is not None:
                on_step(Progress(round_, self, jobs))
        for job in jobs:
            job.num_forwards += job.denoising.num_forwards[job.row]

    # From a request to its canvas.

    def _job(self, request: Request) -> _Job:
        if isinstance(request, ChatRequest):
            job = self._chat_job(request)
        elif isinstance(request, FillRequest):
            job = self._fill_job(request)
        elif isinstance(request, DrawRequest):
            job = self._draw_job(request)
        else:
            raise InputError(f"request is of type {type(request).__name__}; give ChatRequest, DrawRequest or FillRequest")
        limit = self.model.config.max_sequence_length
        if len(job.canvas) > limit:
            raise InputError(
                f"the request needs {len(job.canvas)} tokens, of which {job.num_slots} are to be filled, and the model's context has {limit}; "
                "shorten the prompt, or ask for fewer new tokens or a smaller image"
            )
        return job

    def _chat_job(self, request: ChatRequest) -> _Job:
        d = self.defaults
        num_new = request.max_new_tokens or (d.max_thinking_tokens if request.think else d.max_new_tokens)
        recipe = request.recipe or self._text_recipe()
        codes = [self._codes_of(image) for image in request.images]
        ids = self.layout.any_ids if recipe.propose_any else None
        canvas = self.prompts.chat(messages_of(request.messages), num_new, images=codes, thinking=request.think, ids=ids)
        return self._text_job(request, canvas, recipe)

    def _fill_job(self, request: FillRequest) -> _Job:
        parts = parse_holes(request.template) if isinstance(request.template, str) else list(request.template)
        canvas = self.prompts.infill(parts, messages=messages_of(request.messages) if request.messages else ())
        return self._text_job(request, canvas, request.recipe or infill(threshold=self.defaults.threshold))

    def _text_job(self, request: Request, canvas: Canvas, recipe: Recipe) -> _Job:
        return _Job(request, canvas, recipe, self.layout, self.prompts.blank(canvas) if recipe.guidance_scale else None)

    def _draw_job(self, request: DrawRequest) -> _Job:
        if not request.prompt.strip():
            raise InputError("prompt='' is empty; say what to draw")
        sketch = self._sketch(request)
        if request.think:
            return self._thinking_job(request, sketch)
        job = _Job(request, self._drawing(request.prompt, sketch), self._image_recipe(request), self.layout)
        return self._guided(job, sketch)

    def _thinking_job(self, request: DrawRequest, sketch: _Sketch) -> _Job:
        """The first half of a drawing that is thought about."""
        if request.image is not None:
            raise InputError("think=True cannot start from an image; draw without thinking")
        d = self.defaults
        if not d.reasons_in_one_row:
            question = [Message("user", d.style.draw_thinking + request.prompt)]
            job = self._text_job(request, self.prompts.chat(question, d.max_thinking_tokens), self._text_recipe())
        else:
            canvas = self.prompts.reason_draw(request.prompt, d.max_thinking_tokens, sketch.codes.flatten())
            job = self._text_job(request, canvas.only(0), self._text_recipe())
            job.later = canvas.fields[1]
        job.sketch = sketch
        return job

    def _after_thinking(self, job: _Job) -> None:
        """Turn a job whose thinking is done into one that draws."""
        assert isinstance(job.request, DrawRequest)
        assert job.sketch is not None
        thought = split_thinking(self.prompts.decode(job.denoising.token_ids(job.row)))
        job.thinking = thought.thinking
        job.prompt = thought.answer or thought.thinking or job.request.prompt
        job.recipe = self._image_recipe(job.request)
        if job.later is not None:
            job.canvas = replace(job.denoising.canvas(job.row).to("cpu"), fields=(job.later,))
        else:
            job.canvas = self._drawing(job.prompt, job.sketch)
        self._guided(job, job.sketch)

    def _guided(self, job: _Job, sketch: _Sketch) -> _Job:
        """Give a drawing its unconditional row, which drops the prompt and any thinking."""
        assert isinstance(job.request, DrawRequest)
        job.sketch = sketch
        job.prompt = job.prompt or job.request.prompt
        job.negative = self._drawing(job.request.negative_prompt, sketch) if job.recipe.guidance_scale else None
        return job

    def _drawing(self, prompt: str, sketch: _Sketch) -> Canvas:
        return self.prompts.draw(prompt, sketch.codes.flatten(), is_open=sketch.is_open.flatten())

    def _text_recipe(self) -> Recipe:
        return fast_text(threshold=self.defaults.threshold, block_length=self.defaults.block_length)

    def _image_recipe(self, request: DrawRequest) -> Recipe:
        if request.recipe is not None:
            return request.recipe
        d = self.defaults
        scale = d.guidance_scale if request.guidance_scale is None else request.guidance_scale
        return fast_image(steps=d.image_steps if request.steps is None else request.steps, guidance_scale=scale)

    def _codes_of(self, image: ImageSource) -> Tensor:
        """(N,) codes of an image at the checkpoint's size."""
        d = self.defaults
        codes = self.image_tokenizer.encode_images([image], size=(d.image_height, d.image_width), mode=d.image_mode)
        return codes.flatten().cpu()

    def _sketch(self, request: DrawRequest) -> _Sketch:
        """What a drawing starts from. Raises InputError or ImageError if size, image, mask and extension do not go together."""
        factor = self.image_tokenizer.factor
        if request.image is None:
            if request.mask is not None or any(request.extend):
                raise InputError("mask and extend need an image to start from; give image")
            height, width = request.size or (self.defaults.image_height, self.defaults.image_width)
            _whole_tokens("size", (height, width), factor)
            shape = (height // factor, width // factor)
            return _Sketch(torch.zeros(shape, dtype=torch.long), torch.ones(shape, dtype=torch.bool))
        picture = load_image(request.image)
        height, width = request.size or tuple(max(1, side // factor) * factor for side in (picture.height, picture.width))
        _whole_tokens("size", (height, width), factor)
        _whole_tokens("extend", request.extend, factor, least=0)
        is_open = torch.zeros(height // factor, width // factor, dtype=torch.bool)
        if request.mask is not None:
            marks = load_image(request.mask)
            if marks.size != picture.size:
                raise ImageError(
                    f"mask is {marks.width}x{marks.height} pixels, image {picture.width}x{picture.height}; make them the same size"
                )
            marks = fit(marks, height=height, width=width, mode="crop")
            lit = torch.from_numpy(np.asarray(marks.convert("L")).copy()) > 127
            is_open = lit.unflatten(0, (-1, factor)).unflatten(2, (-1, factor)).any(3).any(1)
        picture = fit(picture, height=height, width=width, mode="crop")
        codes = self.image_tokenizer.encode_images([picture])[0].cpu()
        left, top, right, bottom = request.extend
        around = (left // factor, right // factor, top // factor, bottom // factor)
        codes, is_open = F.pad(codes, around), F.pad(is_open, around, value=True)
        if not bool(is_open.any()):
            raise InputError("nothing is to be drawn: mask is black everywhere and extend is 0; mark a part in white or extend the image")
        frame = Image.new("RGB", (width + left + right, height + top + bottom))
        frame.paste(picture, (left, top))
        return _Sketch(codes, is_open, frame)

    # From what was filled to a result.

    def _result(self, job: _Job) -> Result:
        ids = job.denoising.token_ids(job.row)
        if isinstance(job.request, DrawRequest):
            return self._finish_drawing(job, ids)
        reason = job.denoising.finish_reasons[job.row]
        if isinstance(job.request, FillRequest):
            tokens = job.denoising.canvas(job.row).tokens
            shown = tokens[1:] if not job.request.messages else tokens[self._start_of_answer(tokens) :]
            return Answer(self.prompts.decode(shown), None, "stop", tuple(ids.tolist()), job.num_forwards, job.trace)
        thought = split_thinking(self.prompts.decode(ids))
        return Answer(thought.answer, thought.thinking, reason, tuple(ids.tolist()), job.num_forwards, job.trace)

    def _finish_drawing(self, job: _Job, ids: Tensor) -> Drawing:
        assert job.sketch is not None
        codes = job.codes(ids)
        (image,) = self.image_tokenizer.decode_images(codes[None])
        if job.sketch.picture is not None:
            # Given tokens keep their own pixels, not their reconstruction.
            given = Image.fromarray((~job.sketch.is_open).numpy().astype(np.uint8) * 255)
            image.paste(job.sketch.picture, mask=given.resize(image.size, Image.Resampling.NEAREST))
        return Drawing(image, codes, job.thinking, job.prompt, job.num_forwards, job.trace)

    def _start_of_answer(self, tokens: Tensor) -> int:
        """Behind the last header and its newline."""
        header = int((tokens == self.layout.end_header_id).nonzero()[-1])
        return header + 1 + len(self.prompts.encode("\n"))


def _whole_tokens(name: str, values: Sequence[int], factor: int, *, least: int = 1) -> None:
    """Raise InputError unless every value is a whole number of tokens of `factor` pixels, and at least `least` of them."""
    if any(value % factor or value < least * factor for value in values):
        near = tuple(max(least, round(value / factor)) * factor for value in values)
        raise InputError(f"{name}={tuple(values)} must be multiples of {factor} pixels, at least {least * factor}; try {near}")


def _best_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
