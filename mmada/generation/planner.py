"""A request becomes a job: a canvas and a recipe, later a result.

    plan = Planner(prompts, defaults, context=4096, image_tokenizer=...)
    job = plan.job(request)          # InputError for a bad request, before anything is computed
    plan.start([job])                # Denoisings to be advanced until they are done
    plan.go_on(job)                  # True: thinking is done, and the job now draws, or all are drawn and are compared; start it again
    plan.result(job)                 # Answer or Drawing

No model is needed here; the pipeline and the server bring the forward passes.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mmada.canvas import Canvas, Field, Hole, IdRange, Message, Prompts, VocabLayout, messages_of, parse_holes, split_thinking
from mmada.errors import ImageError, InputError
from mmada.generation.requests import Answer, ChatRequest, Defaults, Drawing, DrawRequest, FillRequest, Request, Result
from mmada.image import ImageSource, ImageTokenizer, fit, fit_mask, load_image
from mmada.sampling import Denoising, Ranking, Recipe, Step, fast_image, fast_text, infill, named_cache

__all__ = ["Job", "Planner", "Sketch"]


@dataclass(slots=True, eq=False)
class Job:
    """One request on its way: its canvas and recipe, then the denoising that it is a row of, or several rows to choose from.

    thinks   this is the thinking before a drawing
    later    the image field of a joint row, drawn when its thinking is done
    sketch   what a drawing starts from
    ranking  compares the drawings of a job that has several, when they are done
    row      of the denoising: of the only one, of the first until they are compared, then of the best
    """

    request: Request
    canvas: Canvas
    recipe: Recipe
    layout: VocabLayout
    negative: Canvas | None = None
    thinks: bool = False
    later: Field | None = None
    sketch: Sketch | None = None
    thinking: str | None = None
    prompt: str = ""
    num_forwards: int = 0
    ranking: Ranking | None = None
    best: int = 0
    denoising: Denoising = field(init=False)
    row: int = field(init=False)

    @property
    def num_slots(self) -> int:
        return len(self.canvas.fields[0].positions)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of the rows that it asks for: one, or as many as there are drawings to choose from."""
        count = self.request.best_of if isinstance(self.request, DrawRequest) and self.draws_now else 1
        return tuple(_seed(self.request.seed, i) for i in range(count))

    @property
    def num_evaluated(self) -> int:
        """Tokens that a step evaluates at most, the unconditional rows included."""
        return len(self.seeds) * (len(self.canvas) + (len(self.negative) if self.negative is not None else 0))

    @property
    def num_kept(self) -> int:
        """Tokens whose keys and values are kept from step to step."""
        return 0 if self.recipe.cache is None else self.num_evaluated

    @property
    def draws_now(self) -> bool:
        """Whether it fills an image now; False while it is thinking, or is a text."""
        return self.sketch is not None and not self.thinks

    @property
    def num_done(self) -> int:
        return int((self.denoising.token_ids(self.row) != self.layout.mask_id).sum())

    @property
    def finish_reason(self) -> Literal["stop", "length"]:
        """Of a text; one with something behind its holes ends there, one that is open at its end ends because the room does."""
        if isinstance(self.request, FillRequest):
            return "length" if int(self.canvas.fields[0].positions[-1]) == len(self.canvas) - 2 else "stop"
        return self.denoising.finish_reasons[self.row]

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
class Sketch:
    """What a drawing starts from: codes (h, w), which are open (h, w) bool, and the picture whose other parts stay."""

    codes: Tensor
    is_open: Tensor
    picture: Image.Image | None = None


class Planner:
    """Turns requests into jobs and jobs into results, for one model.

    context          most tokens that a canvas may have
    image_tokenizer  called when an image is first needed
    """

    def __init__(self, prompts: Prompts, defaults: Defaults, *, context: int, image_tokenizer: Callable[[], ImageTokenizer]) -> None:
        self.prompts, self.defaults, self.context, self._image_tokenizer = prompts, defaults, context, image_tokenizer

    @property
    def layout(self) -> VocabLayout:
        return self.prompts.layout

    @property
    def image_tokenizer(self) -> ImageTokenizer:
        return self._image_tokenizer()

    def job(self, request: Request) -> Job:
        if isinstance(request, ChatRequest):
            job = self._chat_job(request)
        elif isinstance(request, FillRequest):
            job = self._fill_job(request)
        elif isinstance(request, DrawRequest):
            job = self._draw_job(request)
        else:
            raise InputError(f"request is of type {type(request).__name__}; give ChatRequest, DrawRequest or FillRequest")
        return self._checked(job)

    def _checked(self, job: Job) -> Job:
        """Raises InputError for rows that are too long, steps that its blocks cannot share, or a seed that is no whole number."""
        _seed(job.request.seed, 0)
        job.recipe.steps_in_block(job.num_slots)
        for canvas, what in ((job.canvas, "request"), (job.negative, "negative prompt")):
            if canvas is not None:
                self._check_room(what, len(canvas), job.num_slots)
        return job

    def _check_room(self, what: str, num_tokens: int, num_open: int) -> None:
        """Raises InputError for what is longer than the context; before a canvas is made, num_tokens is what it will have at least."""
        if num_tokens > self.context:
            raise InputError(
                f"the {what} needs {num_tokens} tokens, of which {num_open} are to be filled, and the model's context has {self.context}; "
                "shorten the prompt, or ask for fewer new tokens or a smaller image"
            )

    def start(self, jobs: Sequence[Job], *, device: torch.device | str = "cpu", trace: bool = False) -> list[Denoising | Ranking]:
        """Denoisings that fill the canvases, jobs of equal settings being rows of one; and the rankings of what is drawn."""
        groups: dict[tuple[Recipe, IdRange], list[Job]] = {}
        started: list[Denoising | Ranking] = []
        for job in jobs:
            if job.ranking is not None:
                started.append(job.ranking)
            else:
                groups.setdefault((job.recipe, job.canvas.fields[0].ids), []).append(job)
        for (recipe, _), group in groups.items():
            rows = [(job, seed) for job in group for seed in job.seeds]
            denoising = Denoising(
                [job.canvas.to(device) for job, _ in rows],
                recipe,
                mask_id=self.layout.mask_id,
                eos_id=self.layout.eos_id,
                stop_ids=[self.layout.eot_id],
                seeds=[seed for _, seed in rows],
                negatives=[job.negative.to(device) for job, _ in rows if job.negative is not None] or None,
                record=trace,
            )
            started.append(denoising)
            row = 0
            for job in group:
                job.denoising, job.row = denoising, row
                row += len(job.seeds)
        return started

    def _chat_job(self, request: ChatRequest) -> Job:
        d = self.defaults
        num_new = request.max_new_tokens
        if num_new is None:
            num_new = d.max_thinking_tokens if request.think else d.max_new_tokens
        num_codes = (
            (d.image_height // self.image_tokenizer.factor) * (d.image_width // self.image_tokenizer.factor) if request.images else 0
        )
        self._check_room("request", len(request.images) * num_codes + num_new, num_new)
        recipe = request.recipe or self.text_recipe()
        codes = [self._codes_of(image) for image in request.images]
        ids = self.layout.any_ids if recipe.propose_any else None
        canvas = self.prompts.chat(messages_of(request.messages), num_new, images=codes, thinking=request.think, ids=ids)
        return self._text_job(request, canvas, recipe)

    def _fill_job(self, request: FillRequest) -> Job:
        parts = parse_holes(request.template) if isinstance(request.template, str) else list(request.template)
        num_open = sum(part.num_tokens for part in parts if isinstance(part, Hole))
        self._check_room("request", num_open, num_open)
        canvas = self.prompts.infill(parts, messages=messages_of(request.messages) if request.messages else ())
        return self._text_job(request, canvas, request.recipe or self.fill_recipe())

    def _text_job(self, request: Request, canvas: Canvas, recipe: Recipe) -> Job:
        return Job(request, canvas, recipe, self.layout, self.prompts.blank(canvas) if recipe.guidance_scale else None)

    def _draw_job(self, request: DrawRequest) -> Job:
        if not request.prompt.strip():
            raise InputError("prompt='' is empty; say what to draw")
        if request.best_of < 1:
            raise InputError(f"best_of={request.best_of} must be at least 1: how many drawings to choose from")
        sketch = self._sketch(request)
        by_default = self.defaults.thinks_before_drawing and request.image is None
        if by_default if request.think is None else request.think:
            return self._thinking_job(request, sketch)
        return self._told_job(request, sketch)

    def _told_job(self, request: DrawRequest, sketch: Sketch) -> Job:
        """A drawing of what the prompt says."""
        return self._guided(Job(request, self._drawing(request.prompt, sketch), self._image_recipe(request, sketch), self.layout), sketch)

    def _thinking_job(self, request: DrawRequest, sketch: Sketch) -> Job:
        """The first half of a drawing that is thought about."""
        if request.image is not None:
            raise InputError("think=True cannot start from an image; draw without thinking")
        # What comes of it is a sentence about as long as the prompt: what cannot be drawn is refused before anything is thought.
        self._checked(self._told_job(request, sketch))
        d = self.defaults
        recipe = self.text_recipe(temperature=d.draw_thinking_temperature)
        if not d.reasons_in_one_row:
            question = [Message("user", d.style.draw_thinking + request.prompt)]
            job = self._text_job(request, self.prompts.chat(question, d.max_thinking_tokens), recipe)
        else:
            canvas = self.prompts.reason_draw(request.prompt, d.max_thinking_tokens, sketch.codes.flatten())
            job = self._text_job(request, canvas.only(0), recipe)
            job.later = canvas.fields[1]
        job.sketch, job.thinks = sketch, True
        return job

    def go_on(self, job: Job) -> bool:
        """Call once when what `start` gave is done: whether there is more to do, for which the job is to be started again."""
        if job.ranking is not None:
            job.num_forwards += job.ranking.num_forwards
            job.best = job.ranking.best
            job.row += job.best
            job.ranking = None
            return False
        job.num_forwards += job.denoising.num_forwards[job.row]
        if not job.thinks:
            if len(job.seeds) > 1:
                drawn = [job.denoising.canvas(job.row + i) for i in range(len(job.seeds))]
                job.ranking = Ranking(drawn, mask_id=self.layout.mask_id)
            return job.ranking is not None
        assert isinstance(job.request, DrawRequest)
        assert job.sketch is not None
        job.thinks = False
        thought = split_thinking(self.prompts.decode(job.denoising.token_ids(job.row)))
        job.thinking = thought.thinking
        job.prompt = thought.answer or thought.thinking or job.request.prompt
        job.recipe = self._image_recipe(job.request, job.sketch)
        if job.later is not None:
            job.canvas = replace(job.denoising.canvas(job.row).to("cpu"), fields=(job.later,))
        else:
            job.canvas = self._drawing(job.prompt, job.sketch)
            if len(job.canvas) > self.context:  # a thought that went on and on
                job.prompt = job.request.prompt
                job.canvas = self._drawing(job.prompt, job.sketch)
        self._checked(self._guided(job, job.sketch))
        return True

    def _guided(self, job: Job, sketch: Sketch) -> Job:
        """Give a drawing its unconditional row, which drops the prompt and any thinking."""
        assert isinstance(job.request, DrawRequest)
        job.sketch = sketch
        job.prompt = job.prompt or job.request.prompt
        if job.request.negative_prompt and not job.recipe.guidance_scale:
            raise InputError(
                f"negative_prompt={job.request.negative_prompt!r} is what guidance leads away from, and guidance_scale is 0; "
                "give guidance_scale=2, or leave it out"
            )
        job.negative = self._drawing(job.request.negative_prompt, sketch) if job.recipe.guidance_scale else None
        return job

    def _drawing(self, prompt: str, sketch: Sketch) -> Canvas:
        return self.prompts.draw(prompt, sketch.codes.flatten(), is_open=sketch.is_open.flatten())

    def text_recipe(self, **changes: object) -> Recipe:
        """The checkpoint's way of decoding text, with some settings changed. Raises InputError for a value that cannot be used."""
        d = self.defaults
        recipe = fast_text(threshold=d.threshold, block_length=d.block_length, sees_ahead=d.sees_ahead, cache=named_cache(d.cache))
        return recipe.with_(**changes)

    def fill_recipe(self, **changes: object) -> Recipe:
        """The checkpoint's way of filling holes in a text, with some settings changed."""
        return infill(threshold=self.defaults.threshold).with_(**changes)

    def _image_recipe(self, request: DrawRequest, sketch: Sketch) -> Recipe:
        """The request's, in its own steps and with its own guidance if it names them. By default no more steps than there is to fill."""
        d = self.defaults
        if request.recipe is not None:
            own = {"steps": request.steps, "guidance_scale": request.guidance_scale}
            return request.recipe.with_(**{name: value for name, value in own.items() if value is not None})
        scale = d.guidance_scale if request.guidance_scale is None else request.guidance_scale
        steps = d.image_steps if request.steps is None else request.steps
        return fast_image(steps=min(steps, int(sketch.is_open.sum())), guidance_scale=scale)

    def _codes_of(self, image: ImageSource) -> Tensor:
        """(N,) codes of an image at the checkpoint's size."""
        d = self.defaults
        codes = self.image_tokenizer.encode_images([image], size=(d.image_height, d.image_width), mode=d.image_mode)
        return codes.flatten().cpu()

    def _sketch(self, request: DrawRequest) -> Sketch:
        """What a drawing starts from. Raises InputError or ImageError if size, image, mask and extension do not go together."""
        factor = self.image_tokenizer.factor
        if request.image is None:
            if request.mask is not None or any(request.extend):
                raise InputError("mask and extend need an image to start from; give image")
            height, width = request.size or (self.defaults.image_height, self.defaults.image_width)
            _whole_tokens("size", (height, width), factor)
            shape = (height // factor, width // factor)
            self._check_room("drawing", shape[0] * shape[1], shape[0] * shape[1])
            return Sketch(torch.zeros(shape, dtype=torch.long), torch.ones(shape, dtype=torch.bool))
        picture = load_image(request.image)
        height, width = request.size or tuple(max(1, side // factor) * factor for side in (picture.height, picture.width))
        _whole_tokens("size", (height, width), factor)
        _whole_tokens("extend", request.extend, factor, least=0)
        left, top, right, bottom = request.extend
        whole = ((height + top + bottom) // factor) * ((width + left + right) // factor)
        self._check_room("picture", whole, whole - (height // factor) * (width // factor))
        is_open = torch.zeros(height // factor, width // factor, dtype=torch.bool)
        if request.mask is not None:
            marks = load_image(request.mask)
            if marks.size != picture.size:
                raise ImageError(
                    f"mask is {marks.width}x{marks.height} pixels, image {picture.width}x{picture.height}; make them the same size"
                )
            is_open = fit_mask(marks, height=height, width=width).unflatten(0, (-1, factor)).unflatten(2, (-1, factor)).any(3).any(1)
        picture = fit(picture, height=height, width=width, mode="crop")
        codes = self.image_tokenizer.encode_images([picture])[0].cpu()
        around = (left // factor, right // factor, top // factor, bottom // factor)
        codes, is_open = F.pad(codes, around), F.pad(is_open, around, value=True)
        if not bool(is_open.any()):
            raise InputError("nothing is to be drawn: mask is black everywhere and extend is 0; mark a part in white or extend the image")
        frame = Image.new("RGB", (width + left + right, height + top + bottom))
        frame.paste(picture, (left, top))
        return Sketch(codes, is_open, frame)

    def result(self, job: Job) -> Result:
        """What was filled, as text or as a picture."""
        ids = job.denoising.token_ids(job.row)
        if isinstance(job.request, DrawRequest):
            return self._finish_drawing(job, ids)
        if isinstance(job.request, FillRequest):
            tokens = job.denoising.canvas(job.row).tokens
            shown = tokens[1:] if not job.request.messages else tokens[self._start_of_answer(tokens) :]
            return Answer(self.prompts.decode(shown), None, job.finish_reason, tuple(ids.tolist()), job.num_forwards, job.trace)
        thought = split_thinking(self.prompts.decode(ids))
        return Answer(thought.answer, thought.thinking, job.finish_reason, tuple(ids.tolist()), job.num_forwards, job.trace)

    def preview(self, job: Job) -> Image.Image:
        """A drawing as it looks now: open positions show their latest proposal."""
        return self._finish_drawing(job, job.denoising.preview(job.row)).image

    def _finish_drawing(self, job: Job, ids: Tensor) -> Drawing:
        assert job.sketch is not None
        codes = job.codes(ids)
        (image,) = self.image_tokenizer.decode_images(codes[None])
        if job.sketch.picture is not None:
            # Given tokens keep their own pixels, not their reconstruction.
            given = Image.fromarray((~job.sketch.is_open).numpy().astype(np.uint8) * 255)
            image.paste(job.sketch.picture, mask=given.resize(image.size, Image.Resampling.NEAREST))
        return Drawing(image, codes, job.thinking, job.prompt, job.num_forwards, job.trace, job.seeds[job.best])

    def _start_of_answer(self, tokens: Tensor) -> int:
        """Behind the last header and its newline."""
        header = int((tokens == self.layout.end_header_id).nonzero()[-1])
        return header + 1 + len(self.prompts.encode("\n"))


def _seed(first: int, i: int) -> int:
    """Seeds of the drawings of one request, far from those of requests with neighbouring seeds; the first is the request's own.

    They differ in their lowest 32 bits, for torch's generator on a CPU looks at no others.
    """
    try:
        first = operator.index(first)
    except TypeError:
        raise InputError(f"seed={first!r} must be a whole number") from None
    return (first + i * 2654435761 + 2**63) % 2**64 - 2**63


def _whole_tokens(name: str, values: Sequence[int], factor: int, *, least: int = 1) -> None:
    """Raise InputError unless every value is a whole number of tokens of `factor` pixels, and at least `least` of them."""
    if any(value % factor or value < least * factor for value in values):
        near = tuple(max(least, round(value / factor)) * factor for value in values)
        raise InputError(f"{name}={tuple(values)} must be multiples of {factor} pixels, at least {least * factor}; try {near}")
