"""What a program needs of a checkpoint: canvases for requests, sampling parameters by its defaults, and results read off filled rows.

    request -> checked -> canvas and parameters    (programs.py yields them as a `Fill`)
    filled row -> text, or codes -> picture

No model is needed here; the engine brings the forward passes (engine.py).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mmada.canvas import Canvas, Field, Hole, Message, Prompts, VocabLayout, messages_of, parse_holes, split_thinking
from mmada.canvas.prompts import Thought
from mmada.errors import ContextError, ImageError, InputError
from mmada.families import FAMILIES, Ability, EditPrompts, Family, ParallelPrompts
from mmada.families.mmada import MMADA
from mmada.generation.guide import guide_of
from mmada.generation.lexicon import Lexicon
from mmada.generation.prompt_reader import PromptReader, WorldRules
from mmada.generation.requests import (
    Answer,
    ChatRequest,
    Drawing,
    DrawRequest,
    EditRequest,
    FillRequest,
    GenerationConfig,
    ParallelRequest,
    check_image_threshold,
)
from mmada.generation.settings import TextSettings, changed
from mmada.generation.speller import corrections_said
from mmada.generation.steps import Fill, InitCodes, SequenceState
from mmada.image import (
    BaseImageTokenizer,
    ImageSource,
    best_crop_size,
    crops_of_area,
    fit,
    fit_mask,
    load_image,
    psnr,
    windows,
)
from mmada.sampling import Guide, SamplingParams, infill, named_cache, named_image_cache
from mmada.sampling.joint import image_first, text_first

__all__ = ["Planner", "seed_of"]

_AS_SAVED = TextSettings()


class Planner:
    """Turns requests into canvases and sampling parameters, and filled rows into results, for one checkpoint.

    family           of the checkpoint: what it can do, and how it is sampled
    context          most tokens that a canvas may have
    image_tokenizer  called when an image is first needed
    """

    def __init__(
        self,
        prompts: Prompts,
        defaults: GenerationConfig,
        *,
        context: int,
        image_tokenizer: Callable[[], BaseImageTokenizer],
        family: Family = MMADA,
    ) -> None:
        self.prompts, self.defaults, self.context, self._image_tokenizer = prompts, defaults, context, image_tokenizer
        self.family = family
        self.lexicon: Lexicon | None = None
        """the words that the checkpoint was taught to draw from; None: it ships none"""
        self.world: Callable[[], WorldRules] | None = None
        """the world of the checkpoint, called when a prompt is first read; None: nobody checks prompts and plans"""

    @property
    def reader(self) -> PromptReader:
        """Who reads prompts, by the defaults, words and world of the moment."""
        return PromptReader(self.defaults, self.lexicon, self.world)

    @property
    def layout(self) -> VocabLayout:
        return self.prompts.layout

    @property
    def image_tokenizer(self) -> BaseImageTokenizer:
        return self._image_tokenizer()

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) tokens of an image at the checkpoint's size."""
        factor = self.image_tokenizer.factor
        return self.defaults.image_height // factor, self.defaults.image_width // factor

    @property
    def drawing_size(self) -> tuple[int, int]:
        """(height, width) of a drawing at the checkpoint's size, in pixels: so many times what is encoded as its image tokenizer draws larger."""
        scale = self.image_tokenizer.upscale
        return scale * self.defaults.image_height, scale * self.defaults.image_width

    def size_of(self, picture: Image.Image) -> tuple[int, int]:
        """(height, width) at which a picture is gone on from if no size is named, in whole tokens.

        Its own size; or, where drawings are larger than what is encoded, with its shorter side as long as that of a drawing. A picture of 64 pixels
        and the drawing of 256 that it became are then alike. Where pictures keep their shape, one that is larger than an image becomes a crop.
        """
        d = self.defaults
        if d.image_crops and picture.width * picture.height > self.drawing_size[0] * self.drawing_size[1]:
            height, width = self._crop_of(picture)
            return self.image_tokenizer.upscale * height, self.image_tokenizer.upscale * width
        factor, sides = self.image_tokenizer.decode_factor, (picture.height, picture.width)
        if self.image_tokenizer.upscale > 1:
            shorter = min(self.drawing_size)
            sides = (shorter * sides[0] // min(sides), shorter * sides[1] // min(sides))
        height, width = (max(1, side // factor) * factor for side in sides)
        return height, width

    def edit_size(self, picture: Image.Image) -> tuple[int, int]:
        """(height, width) of an edit if no size is named, by its first source, in pixels of the drawing.

        That of the source's crop, where the checkpoint takes pictures of any shape; the checkpoint's own, where it was taught one alone; or else
        as `size_of` has it.
        """
        if self.defaults.image_crops:
            height, width = self._crop_of(picture, self.defaults.edit_side)
            return self.image_tokenizer.upscale * height, self.image_tokenizer.upscale * width
        return self.drawing_size if self.defaults.one_image_size else self.size_of(picture)

    def _crops(self, side: int = 0) -> list[tuple[int, int]]:
        """(width, height) of crops of the area of an image, or of a square of `side` pixels, if that is less."""
        d = self.defaults
        return crops_of_area(d.image_height, d.image_width, factor=self.image_tokenizer.factor, side=side)

    def _crop_of(self, picture: Image.Image, side: int = 0) -> tuple[int, int]:
        """(height, width) of the crop that leaves out least of a picture, in pixels that are encoded."""
        width, height = best_crop_size(picture, self._crops(side))
        return height, width

    # What is checked.

    def require(self, ability: Ability) -> None:
        """Raises InputError, which says who can, if the checkpoint's family lacks an ability."""
        self.family.require(ability, list(FAMILIES.values()))

    def checked(self, fill: Fill) -> Fill:
        """The same. Raises InputError for rows that are too long, or steps that its blocks cannot share."""
        if isinstance(fill.params, SamplingParams):
            fill.params.steps_per_block(fill.num_open, fill.num_given)
        for canvas, what in ((fill.canvas, "request"), *((negative, "negative prompt") for negative in fill.negatives)):
            self._check_length(what, len(canvas), fill.num_open)
        return fill

    def _check_length(self, what: str, num_tokens: int, num_open: int) -> None:
        """Raises ContextError for what is longer than the context; before a canvas is made, num_tokens is what it will have at least."""
        if num_tokens > self.context:
            raise ContextError(
                f"the {what} needs {num_tokens} tokens, of which {num_open} are to be filled, and the model's context has {self.context}; "
                "shorten the prompt, or ask for fewer new tokens or a smaller image"
            )

    def fits(self, canvas: Canvas) -> bool:
        """Whether the whole row, given and open tokens, is within the context."""
        return len(canvas) <= self.context

    def check_chat(self, request: ChatRequest) -> int:
        """Length of the answer, in tokens. Raises InputError if that and the pictures are too long."""
        self.require("look" if request.images else "chat")
        num_new = request.wanted_tokens
        if num_new is None:
            num_new = self.defaults.max_thinking_tokens if self.thinks_first(request) else self.defaults.max_new_tokens
        if num_new < 1:
            raise InputError(f"max_new_tokens={num_new} must be at least 1")
        num_codes = self._least_codes() if request.images else 0
        # A prompt that cannot fit is not worth looking at the pictures for.
        num_words = sum(len(self.prompts.encode(turn.content)) for turn in messages_of(request.messages)) if request.images else 0
        self._check_length("request", len(request.images) * num_codes + num_words + num_new, num_new)
        return num_new

    def _least_codes(self) -> int:
        """Codes of a picture that is looked at; where pictures keep their shape, of the smallest crop."""
        if not self.defaults.image_crops:
            return self.grid[0] * self.grid[1]
        return min(width * height for width, height in self._crops()) // self.image_tokenizer.factor**2

    def check_draw(self, request: DrawRequest) -> None:
        """Raises InputError for a prompt without words, or a number of drawings that cannot be made."""
        self.require("draw" if request.image is None else "inpaint")
        if not request.prompt.strip():
            raise InputError("prompt='' is empty; say what to draw")
        if request.best_of < 1:
            raise InputError(f"best_of={request.best_of} must be at least 1: how many drawings to choose from")
        if request.image is not None or request.strict:  # before it is read word for word, or a picture is looked at
            for what, text in (("request", request.prompt), ("negative prompt", request.negative_prompt)):
                self._check_length(what, len(self.prompts.encode(text)), 0)
        if request.strict and self.lexicon is not None and (unknown := self.reader.unknown_as_written(request)):
            raise InputError(f"prompt={request.prompt!r}: {self.lexicon.sentence(unknown)} Say it in other words, or do not be strict")

    def refused(
        self, request: DrawRequest, init: InitCodes, problem: str, *, thinking: str | None = None, num_forwards: int = 0
    ) -> Drawing:
        """A blank picture in place of a drawing that could not be made, of a request as it came."""
        unknown = self.reader.unknown_in(self.reader.read(request))
        said = f" {self.lexicon.sentence(unknown)}" if self.lexicon is not None and unknown else ""
        corrections = self.reader.corrections(request)
        factor = self.image_tokenizer.decode_factor
        size = (init.codes.shape[1] * factor, init.codes.shape[0] * factor)
        return Drawing(
            image=Image.new("RGB", size, "white"),
            codes=init.codes,
            thinking=thinking,
            prompt=request.prompt,
            num_forwards=num_forwards,
            seed=seed_of(request.seed, 0),
            unknown=unknown,
            corrections=corrections,
            problem=" ".join(filter(None, (f"prompt={request.prompt!r} cannot be drawn: {problem}.{said}", corrections_said(corrections)))),
        )

    def thinks_first(self, request: ChatRequest) -> bool:
        """Whether an answer is thought about first."""
        return self.defaults.thinks_before_answering if request.think is None else request.think

    def check_edit(self, request: EditRequest | ParallelRequest) -> None:
        """Raises InputError for a prompt without words, or without an image."""
        self.require("parallel" if isinstance(request, ParallelRequest) else "edit")
        if not request.prompt.strip():
            raise InputError("prompt='' is empty; say how the image is to be changed")
        if not request.images:
            raise InputError("images=[] is empty; give the image that is to be changed")
        if isinstance(request, EditRequest) and request.restyle and len(request.images) != 2:
            raise InputError(f"{len(request.images)} images with restyle=True; give the content, then the image whose style it is to have")

    def thinks(self, request: DrawRequest) -> bool:
        """Whether a drawing is thought about first."""
        return self.defaults.thinks_before_drawing and request.image is None if request.think is None else request.think

    # Canvases.

    def chat_canvas(self, request: ChatRequest, num_new: int, codes: Sequence[Tensor], params: SamplingParams) -> Canvas:
        """codes: (N,) of each picture."""
        ids = self.layout.any_ids if params.propose_any else None
        turns = [
            replace(turn, content=self.reader.heard(turn.content, strict=request.strict)) if turn.role == "user" else turn
            for turn in messages_of(request.messages)
        ]
        return self.prompts.chat(turns, num_new, images=codes, thinking=self.thinks_first(request), ids=ids)

    def guide(self, request: ChatRequest, params: SamplingParams) -> Guide | None:
        """Who knows parts of an answer for certain; None where nobody does, or nothing is thought.

        Raises InputError if the request wants a calculator, and the checkpoint has none.
        """
        wanted = self.defaults.calculator if request.calculator is None else request.calculator
        if not wanted or not self.thinks_first(request):
            return None
        if self.world is None:
            raise InputError("calculator=True needs a checkpoint with a world whose rules can be asked; leave it out")
        if params.propose_any or params.block_length is None:
            return None
        *earlier, asked = messages_of(request.messages)
        turns = [*(turn.content for turn in earlier if turn.role != "system"), self.reader.heard(asked.content, strict=request.strict)]
        return guide_of(self.prompts, partial(self.world().completed, turns))

    def fill_canvas(self, request: FillRequest) -> Canvas:
        """The row of a text with holes, each of which is a field of open positions; a string has them as `parse_holes` reads them.

        Raises InputError if the family does not fill holes, a hole is no such thing, or the holes alone are longer than the context.
        """
        self.require("fill")
        parts = parse_holes(request.template) if isinstance(request.template, str) else list(request.template)
        num_open = sum(part.num_tokens for part in parts if isinstance(part, Hole))
        self._check_length("request", num_open, num_open)
        return self.prompts.infill(parts, messages=messages_of(request.messages) if request.messages else ())

    def thinking_canvas(self, request: DrawRequest, init: InitCodes, max_thinking_tokens: int | None) -> tuple[Canvas, Field | None]:
        """The thought before a drawing, and the image field that follows in the same row, if the model was taught that."""
        d = self.defaults
        answer_length = max_thinking_tokens or d.max_thinking_tokens
        if not d.reasons_in_one_row:
            return self.prompts.chat([Message("user", d.style.draw_thinking + request.prompt)], answer_length), None
        canvas = self.prompts.reason_draw(request.prompt, answer_length, self._shaped(init.codes))
        return canvas.only(0), canvas.fields[1]

    def drawing_canvas(self, prompt: str, init: InitCodes) -> Canvas:
        """The row of a drawing. init: codes (h, w), and which of them are open; the closed ones stay as they are."""
        return self.prompts.draw(prompt, self._shaped(init.codes), is_open=self._shaped(init.is_open))

    def _shaped(self, grid: Tensor) -> Tensor:
        """(h, w) as prompts take it: in rows where these end with a newline, or else in one run."""
        return grid.flatten() if self.layout.newline_id is None else grid

    # Fills of rows with source images.

    def fit_sources(
        self, images: Sequence[ImageSource], size: tuple[int, int] | None, seed: int = 0
    ) -> tuple[list[Image.Image], tuple[int, int]]:
        """Source images as they are encoded, and (height, width) of the edit in pixels of the drawing.

        size  to which all of them are brought; None: `edit_size` of the first, and each source has a crop of its own where pictures keep their shape
        seed  draws where the windows of such crops lie
        Raises InputError for a size that is not of whole tokens, or has too many of them.
        """
        scale, factor = self.image_tokenizer.upscale, self.image_tokenizer.factor
        pictures = [load_image(image) for image in images]
        height, width = size or self.edit_size(pictures[0])
        _whole_tokens("size", (height, width), scale * factor)
        keeps_shape = size is None and self.defaults.image_crops
        encoded = [self._crop_of(p, self.defaults.edit_side) if keeps_shape else (height // scale, width // scale) for p in pictures]
        num_new = height * width // (scale * factor) ** 2
        self._check_length("edit", num_new + sum(h * w for h, w in encoded) // factor**2, num_new)
        if keeps_shape:
            return windows(pictures, [(w, h) for h, w in encoded], seed=seed_of(seed, 0)), (height, width)
        mode = self.defaults.image_mode
        return [fit(p, height=h, width=w, mode=mode) for p, (h, w) in zip(pictures, encoded, strict=True)], (height, width)

    def fitted(self, request: EditRequest | ParallelRequest) -> EditRequest | ParallelRequest:
        """The same request with its source images as they are encoded, so that it may wait and hold no large one."""
        images, size = self.fit_sources(request.images, request.size, request.seed)
        keeps_shape = request.size is None and self.defaults.image_crops  # and each its own, which it is cropped to again
        return replace(request, images=images, size=None if keeps_shape else size)

    def sources(self, images: Sequence[ImageSource], size: tuple[int, int] | None, seed: int = 0) -> tuple[list[Tensor], InitCodes]:
        """Codes of source images, and an image to fill; arguments and errors of `fit_sources`."""
        pictures, (height, width) = self.fit_sources(images, size, seed)
        factor = self.image_tokenizer.decode_factor
        shape = (height // factor, width // factor)
        codes = [self._shaped(self.image_tokenizer.encode_images([picture])[0].cpu()) for picture in pictures]
        return codes, InitCodes(torch.zeros(shape, dtype=torch.long), torch.ones(shape, dtype=torch.bool))

    def edit_fill(self, request: EditRequest, sources: Sequence[Tensor], init: InitCodes) -> Fill:
        """An edit by instruction as rows to fill: conditional, and unconditional ones where it is guided.

        sources  codes of the source images, as `sources` gives them with init
        init     codes (h, w) of the edited image, and which of them are open
        Settings that the request leaves out are the family's. Given `params`, only `image_cache` and `image_threshold` change them.
        """
        assert isinstance(self.prompts, EditPrompts)
        assert self.family.edit_params is not None
        named = {"steps": request.steps, "guidance_scale": request.guidance_scale, "image_guidance_scale": request.image_guidance_scale}
        params = request.params or self.family.edit_params(**{name: value for name, value in named.items() if value is not None})
        image_cache = request.image_cache or (self.defaults.image_cache if request.params is None else None)
        params = params if image_cache is None else params.with_(cache=named_image_cache(image_cache))
        of_checkpoint = self._image_threshold(request.steps) if request.params is None else None
        threshold = of_checkpoint if request.image_threshold is None else request.image_threshold
        params = params if threshold is None else params.with_(**_committing(threshold))
        asked = (request.prompt, sources, self._shaped(init.codes))
        return Fill(
            canvas=self.prompts.edit(*asked, restyle=request.restyle),
            params=params,
            seeds=(seed_of(request.seed, 0),),
            negatives=self.prompts.edit_negatives(*asked, restyle=request.restyle) if params.is_guided else (),
            init=init,
            prompt=request.prompt,
        )

    def parallel_fill(self, request: ParallelRequest, sources: Sequence[Tensor], init: InitCodes) -> Fill:
        """A text and an image that are written in the same passes, as rows with two fields: the text, then the image.

        sources, init  as in `edit_fill`
        Unless it is given, text_steps is half of the new tokens. The image is drawn in the last three quarters of these steps.
        Raises InputError if image_steps are more than that, where neither an order nor params are given.
        """
        assert isinstance(self.prompts, ParallelPrompts)
        assert self.family.joint_params is not None
        d, order = self.defaults, {"text_first": text_first, "image_first": image_first}.get(request.order)
        num_new = request.max_new_tokens or d.max_new_tokens
        text_steps = request.text_steps or max(2, num_new // 2)  # two tokens a step, as published
        most = text_steps - text_steps // 4
        image_steps = request.image_steps or min(d.image_steps, most)
        if order is None and request.params is None and image_steps > most:
            raise InputError(
                f"image_steps={image_steps} are more than the last three quarters of text_steps={text_steps}; "
                f"give at most {most}, or more text_steps"
            )
        named = {"text_guidance_scale": request.guidance_scale, "image_guidance_scale": request.image_guidance_scale}
        params = request.params or self.family.joint_params(
            text_steps=text_steps,
            image_steps=image_steps,
            timeline=None if order is None else order(text_steps, image_steps),
            **{name: value for name, value in named.items() if value is not None},
        )
        asked = (request.prompt, sources, num_new, self._shaped(init.codes))
        return Fill(
            canvas=self.prompts.parallel(*asked),
            params=params,
            seeds=(seed_of(request.seed, 0),),
            negatives=self.prompts.parallel_negatives(*asked)[: params.num_negatives],
            init=init,
            prompt=request.prompt,
        )

    # Sampling parameters.

    def text_params(self, settings: TextSettings = _AS_SAVED, /, **changes: object) -> SamplingParams:
        """The checkpoint's sampling parameters for text, with a request's settings, and some parameters changed.

        Raises InputError for values that do not go together.
        """
        d = self.defaults
        params = self.family.text_params(
            threshold=d.threshold, block_length=d.block_length, full_attention=d.full_attention, cache=named_cache(d.cache)
        )
        own = {"variable_length": d.variable_length, "prompt_in_blocks": d.prompt_in_blocks}
        return params.with_(**{**own, **_params_of(settings), **changes})

    def params_of(self, request: ChatRequest | FillRequest) -> SamplingParams:
        """How the text of a request is written: as it says, else as the checkpoint is best used."""
        if isinstance(request.params, SamplingParams):
            return request.params
        made = self.text_params if isinstance(request, ChatRequest) else self.fill_params
        return made(request.params or _AS_SAVED)

    def fill_params(self, settings: TextSettings = _AS_SAVED) -> SamplingParams:
        """The checkpoint's sampling parameters for infilling, with a request's settings."""
        return infill(threshold=self.defaults.threshold).with_(**_params_of(settings))

    def thinking_params(self) -> SamplingParams:
        """The checkpoint's way of thinking before it draws."""
        return self.text_params(temperature=self.defaults.draw_thinking_temperature)

    def image_params(self, request: DrawRequest, init: InitCodes) -> SamplingParams:
        """The request's, in its own steps and with its own guidance if it names them. By default no more steps than there is to fill."""
        d = self.defaults
        if request.params is not None:
            own: dict[str, object] = {"steps": request.steps, "guidance_scale": request.guidance_scale}
            own = {name: value for name, value in own.items() if value is not None}
            own |= {} if request.image_cache is None else {"cache": named_image_cache(request.image_cache)}
            own |= {} if request.image_threshold is None else _committing(request.image_threshold)
            return request.params.with_(**own)
        scale = d.guidance_scale if request.guidance_scale is None else request.guidance_scale
        steps = d.image_steps if request.steps is None else request.steps
        image_cache = named_image_cache(d.image_cache if request.image_cache is None else request.image_cache)
        params = self.family.image_params(steps=min(steps, int(init.is_open.sum())), guidance_scale=scale)
        threshold = self._image_threshold(request.steps) if request.image_threshold is None else request.image_threshold
        return params.with_(cache=image_cache, **_committing(threshold))

    def _image_threshold(self, steps: int | None) -> float:
        """The checkpoint's, for as many steps as it takes, or more. With fewer, what is not sure would be left to the last step."""
        d = self.defaults
        return d.image_threshold if steps is None or steps >= d.image_steps else 1.0

    # Pictures to codes.

    def looked_at(self, images: Sequence[ImageSource], seed: int = 0) -> list[Image.Image]:
        """Pictures as they are encoded to be looked at: of the checkpoint's size, or cropped to shapes of their own. To do so again changes nothing.

        seed  draws where the windows of crops lie
        """
        d, pictures = self.defaults, [load_image(image) for image in images]
        if d.image_crops:
            sizes = self._crops()
            return windows(pictures, [best_crop_size(picture, sizes) for picture in pictures], seed=seed_of(seed, 0))
        return [fit(picture, height=d.image_height, width=d.image_width, mode=d.image_mode) for picture in pictures]

    def seen(self, images: Sequence[ImageSource], seed: int = 0) -> tuple[list[Tensor], str | None]:
        """Codes of each image that is looked at, (N,), or (h, w) where rows end with a newline; and what is to be said of the images."""
        fitted = self.looked_at(images, seed)
        codes = [self.image_tokenizer.encode_images([picture])[0] for picture in fitted]
        return [self._shaped(one.cpu()) for one in codes], self._doubts(fitted, codes)

    def _doubts(self, fitted: Sequence[Image.Image], codes: Sequence[Tensor]) -> str | None:
        """What is to be said of pictures that are unlike those that the checkpoint was taught: its tokenizer cannot restore them."""
        if not self.defaults.least_picture_psnr:
            return None
        alike = len({one.shape for one in codes}) == 1
        groups = [torch.stack(list(codes))] if alike else [one[None] for one in codes]
        restored = [picture for group in groups for picture in self.image_tokenizer.restore_images(group)]
        unlike = [i for i, pair in enumerate(zip(fitted, restored, strict=True)) if psnr(*pair) < self.defaults.least_picture_psnr]
        if not unlike:
            return None
        which = "this picture is" if len(fitted) == 1 else f"picture {unlike[0] + 1} is"
        return f"{which} unlike those that I was taught, so the answer may be wrong"

    def init_codes(self, request: DrawRequest) -> InitCodes:
        """What a drawing starts from. Raises InputError or ImageError if size, image, mask and extension do not go together."""
        factor = self.image_tokenizer.decode_factor
        if request.image is None:
            if request.mask is not None or any(request.extend):
                raise InputError("mask and extend need an image to start from; give image")
            height, width = request.size or self.drawing_size
            _whole_tokens("image_height, image_width", (self.defaults.image_height, self.defaults.image_width), self.image_tokenizer.factor)
            _whole_tokens("size", (height, width), factor)
            shape = (height // factor, width // factor)
            self._check_length("drawing", shape[0] * shape[1], shape[0] * shape[1])
            return InitCodes(torch.zeros(shape, dtype=torch.long), torch.ones(shape, dtype=torch.bool))
        picture = load_image(request.image)
        height, width = request.size or self.size_of(picture)
        _whole_tokens("size", (height, width), factor)
        _whole_tokens("extend", request.extend, factor, least=0)
        left, top, right, bottom = request.extend
        whole = ((height + top + bottom) // factor) * ((width + left + right) // factor)
        self._check_length("picture", whole, whole - (height // factor) * (width // factor))
        is_open = torch.zeros(height // factor, width // factor, dtype=torch.bool)
        if request.mask is not None:
            marks = load_image(request.mask)
            if marks.size != picture.size:
                raise ImageError(
                    f"mask is {marks.width}x{marks.height} pixels, image {picture.width}x{picture.height}; make them the same size"
                )
            is_open = fit_mask(marks, height=height, width=width).unflatten(0, (-1, factor)).unflatten(2, (-1, factor)).any(3).any(1)
        codes = self._encoded(picture, height // factor, width // factor)
        picture = fit(picture, height=height, width=width, mode="crop")
        around = (left // factor, right // factor, top // factor, bottom // factor)
        codes, is_open = F.pad(codes, around), F.pad(is_open, around, value=True)
        if not bool(is_open.any()):
            raise InputError("nothing is to be drawn: mask is black everywhere and extend is 0; mark a part in white or extend the image")
        frame = Image.new("RGB", (width + left + right, height + top + bottom))
        frame.paste(picture, (left, top))
        return InitCodes(codes, is_open, frame)

    def doubts_of_size(self, init: InitCodes) -> str | None:
        """What is to be said of a drawing whose size the checkpoint was not taught, if it declares that it knows one alone."""
        factor, (height, width) = self.image_tokenizer.decode_factor, self.drawing_size
        rows, columns = init.codes.shape
        if not self.defaults.one_image_size or (rows, columns) == (height // factor, width // factor):
            return None
        return (
            f"I was taught drawings of {width}x{height} pixels alone; this one has {columns * factor}x{rows * factor}, "
            "so what I drew of it may make no sense."
        )

    def _encoded(self, picture: Image.Image, rows: int, columns: int) -> Tensor:
        """(rows, columns) codes of a picture, of what lies in its middle."""
        factor = self.image_tokenizer.factor
        return self.image_tokenizer.encode_images([picture], size=(rows * factor, columns * factor), mode="crop")[0].cpu()

    # Results.

    def answer(self, row: SequenceState, num_tokens: int | None = None) -> Answer:
        """What was written, taken apart. num_tokens: how much of the row is text; None: all of it."""
        ids = row.ids[:num_tokens]
        said = split_thinking(self.prompts.decode(ids))
        wants_picture = bool(self.defaults.picture_thought) and (said.thinking or "").strip() == self.defaults.picture_thought
        return Answer(
            said.answer, said.thinking, row.finish_reason, tuple(ids.tolist()), row.num_forwards, row.trace, wants_picture=wants_picture
        )

    def completion(self, request: FillRequest, row: SequenceState) -> Answer:
        """The whole text, its holes filled; one that is open at its end ended for lack of room."""
        canvas = row.canvas
        tokens = canvas.tokens
        before = self.prompts.dialogue(messages_of(request.messages)) if request.messages else self.prompts.begin
        shown = tokens[len(before) :]
        ends_in_a_hole = int(canvas.fields[0].positions[-1]) == len(canvas) - 2
        return Answer(
            self.prompts.decode(shown), None, "length" if ends_in_a_hole else "stop", tuple(row.ids.tolist()), row.num_forwards, row.trace
        )

    def thought(self, row: SequenceState) -> Thought:
        """What was thought before a drawing, taken apart."""
        return split_thinking(self.prompts.decode(row.ids))

    def codes(self, init: InitCodes, ids: Tensor) -> Tensor:
        """(h, w) codes of a drawing whose open positions have the ids (N,), on the CPU; [MASK] counts as code 0."""
        codes = init.codes.clone()
        codes[init.is_open] = (ids - self.layout.image_offset).clamp(0, self.layout.codebook_size - 1)
        return codes

    def render(self, init: InitCodes, codes: Tensor) -> Image.Image:
        """Codes (h, w) as a picture. Given tokens keep their own pixels, not their reconstruction."""
        (image,) = self.image_tokenizer.decode_images(codes[None])
        if init.picture is not None:
            given = Image.fromarray((~init.is_open).numpy().astype(np.uint8) * 255)
            image.paste(init.picture, mask=given.resize(image.size, Image.Resampling.NEAREST))
        return image


def seed_of(first: int, i: int) -> int:
    """Seeds of the drawings of one request, far from those of requests with neighboring seeds; the first is the request's own.

    They differ in their lowest 32 bits, for torch's generator on a CPU looks at no others.
    """
    try:
        first = operator.index(first)
    except TypeError:
        raise InputError(f"seed={first!r} must be a whole number") from None
    return (first + i * 2654435761 + 2**63) % 2**64 - 2**63


def _params_of(settings: TextSettings) -> dict[str, object]:
    """What a request changes of its sampling parameters. The length of an answer is none of them."""
    found = changed(settings)
    found.pop("max_new_tokens", None)
    return found | ({"cache": named_cache(found["cache"])} if "cache" in found else {})


def _committing(image_threshold: float) -> dict[str, float | None]:
    """What it changes of an image's sampling parameters. 1 is off, since a code may be that sure in float64. Raises InputError."""
    check_image_threshold(image_threshold)
    return {"threshold": None if image_threshold == 1 else image_threshold}


def _whole_tokens(name: str, values: Sequence[int], factor: int, *, least: int = 1) -> None:
    """Raise InputError unless every value is a whole number of tokens of `factor` pixels, and at least `least` of them."""
    if any(value % factor or value < least * factor for value in values):
        near = tuple(max(least, round(value / factor)) * factor for value in values)
        raise InputError(f"{name}={tuple(values)} must be multiples of {factor} pixels, at least {least * factor}; try {near}")
