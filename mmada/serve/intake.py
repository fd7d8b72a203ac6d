"""A body becomes orders: requests of the package with their recipes, and how they are to be followed.

All that can be wrong with a body is found here or by the planner, before anything is computed. Pictures are brought to the size that
the model looks at or starts from at once, so that a waiting request holds no large image.
"""

from __future__ import annotations

import random
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from mmada.canvas import Hole, Message
from mmada.errors import ImageError, InputError
from mmada.generation.planner import Planner
from mmada.generation.requests import ChatRequest, DrawRequest, FillRequest
from mmada.image import fit, load_image
from mmada.pipeline import DESCRIBE
from mmada.serve.config import ServeConfig
from mmada.serve.engine import Order
from mmada.serve.pictures import Pictures, transparent_part
from mmada.serve.schema import (
    ChatBody,
    ChatMessage,
    CompletionBody,
    EditForm,
    GenerationBody,
    ImageOptions,
    ImagePart,
    ModelFacts,
    TextOptions,
    TextPart,
    VariationForm,
)

__all__ = ["Intake", "Reader"]

_SIZE = re.compile(r"(\d{1,6})x(\d{1,6})")
_PRIORITY = {"flex": -1, "priority": 1, "fast": 1}
_RECIPE_FIELDS = ("temperature", "top_p", "top_k", "block_length", "threshold", "steps", "guidance_scale")
_FINE = ("high", "xhigh", "max", "hd")
_DEFAULT_STRENGTH = 0.6
_DEFAULT_COMPLETION = 16  # as OpenAI has it


@dataclass(frozen=True, slots=True)
class Intake:
    """The orders of a body, one for each choice, the seed of the first, and the priority of all."""

    orders: tuple[Order, ...]
    seed: int
    priority: int


class Reader:
    """Reads bodies for one model. Its methods raise InputError or ImageError; they use no model and may run in any thread.

    factor  pixels along the side of an image token
    """

    def __init__(self, planner: Planner, config: ServeConfig, *, factor: int) -> None:
        self._planner, self._config, self._factor = planner, config, factor

    def chat(self, body: ChatBody, fetched: Mapping[str, bytes] | None = None) -> Intake:
        """fetched  what the remote addresses of the body hold (pictures.remote_addresses)"""
        pictures = Pictures(self._config, fetched)
        messages, images = [], []
        for i, message in enumerate(body.messages):
            content, seen = self._content(i, message, pictures)
            images += seen
            if seen and not content.strip():
                content = DESCRIBE
            if message.role == "assistant" and not content.strip():
                continue  # an answer of ours that stayed empty, sent back: there is nothing in it to be seen
            messages.append(Message("system" if message.role == "developer" else message.role, content))
        self._check_chars(*(message.content for message in messages))
        if body.max_tokens is not None and body.max_completion_tokens not in (None, body.max_tokens):
            raise InputError(
                f"max_tokens={body.max_tokens} and max_completion_tokens={body.max_completion_tokens} disagree; give max_completion_tokens"
            )
        think = body.reasoning_effort not in (None, "none", "minimal")
        room = body.max_completion_tokens or body.max_tokens
        self._check_room(room or 0)
        recipe = self._planner.text_recipe(**self._changes(body))
        seeds = self._seeds(body.seed, body.n or 1)
        return self._texts(body, [ChatRequest(messages, images, think, room, recipe, seed) for seed in seeds], seeds[0])

    def completion(self, body: CompletionBody) -> Intake:
        prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
        self._check_chars(*prompts, body.suffix or "")
        hole = Hole(body.max_tokens or _DEFAULT_COMPLETION)
        recipe = self._planner.fill_recipe(**self._changes(body))
        seeds = self._seeds(body.seed, len(prompts) * (body.n or 1))
        asked = [prompt for prompt in prompts for _ in range(body.n or 1)]
        self._check_room(hole.num_tokens)
        requests = [
            FillRequest([part for part in (prompt, hole, body.suffix) if part], (), recipe, seed)
            for prompt, seed in zip(asked, seeds, strict=True)
        ]
        return self._texts(body, requests, seeds[0])

    def generation(self, body: GenerationBody) -> Intake:
        size = self._size(body)
        seeds = self._seeds(body.seed, body.n or 1)
        return self._drawings(body, [self._draw(body, body.prompt, size=size, think=body.thinking, seed=seed) for seed in seeds], seeds[0])

    def edit(self, form: EditForm, image: Image.Image, mask: Image.Image | None) -> Intake:
        """An image, of which the part where `mask` is transparent is drawn anew; without a mask, where the image itself is."""
        marks = transparent_part(image if mask is None else mask)
        if marks is None:
            raise ImageError(
                "nothing says what to edit: neither mask nor image has a transparent part; send a PNG mask that is transparent where to draw"
            )
        if marks.size != image.size:
            raise ImageError(f"mask is {marks.width}x{marks.height} pixels, image {image.width}x{image.height}; make them the same size")
        picture = load_image(image)
        height, width = self._size(form) or self._own_size(picture)
        picture = fit(picture, height=height, width=width, mode="crop")
        marks = fit(marks.convert("RGB"), height=height, width=width, mode="crop")
        seeds = self._seeds(form.seed, form.n or 1)
        return self._drawings(form, [self._draw(form, form.prompt, image=picture, mask=marks, seed=seed) for seed in seeds], seeds[0])

    def description(self, image: Image.Image) -> Order:
        """What a variation draws if nothing is said: what the model sees."""
        return Order(request=ChatRequest(DESCRIBE, [self._looked_at(load_image(image))], recipe=self._planner.text_recipe()))

    def variation(self, form: VariationForm, image: Image.Image, prompt: str) -> Intake:
        """An image of which a random part of the tokens is drawn anew."""
        picture = load_image(image)
        height, width = self._size(form) or self._own_size(picture)
        picture = fit(picture, height=height, width=width, mode="crop")
        strength = _DEFAULT_STRENGTH if form.strength is None else form.strength
        seeds = self._seeds(form.seed, form.n or 1)
        masks = [_random_part(height, width, self._factor, strength, seed) for seed in seeds]
        requests = [self._draw(form, prompt, image=picture, mask=mask, seed=seed) for mask, seed in zip(masks, seeds, strict=True)]
        return self._drawings(form, requests, seeds[0])

    def facts(self) -> ModelFacts:
        """What a client may want to know before it asks."""
        d, c = self._planner.defaults, self._config
        return ModelFacts(
            context=self._planner.context,
            max_new_tokens=d.max_new_tokens,
            max_thinking_tokens=d.max_thinking_tokens,
            block_length=d.block_length,
            threshold=d.threshold,
            image_size=self._default_size,
            image_factor=self._factor,
            image_steps=d.image_steps,
            guidance_scale=d.guidance_scale,
            thinks_before_drawing=d.thinks_before_drawing,
            max_n=c.max_n,
            max_steps=c.max_steps,
            max_partial_images=c.max_partial_images,
        )

    # Parts.

    def _content(self, i: int, message: ChatMessage, pictures: Pictures) -> tuple[str, list[Image.Image]]:
        if message.content is None or isinstance(message.content, str):
            return message.content or "", []
        images = [pictures.from_address(part.image_url.url) for part in message.content if isinstance(part, ImagePart)]
        if images and message.role != "user":
            raise InputError(f"message {i} of role {message.role!r} has an image; only the user's messages may have images")
        text = "\n".join(part.text for part in message.content if isinstance(part, TextPart))
        return text, [self._looked_at(load_image(image)) for image in images]

    def _looked_at(self, image: Image.Image) -> Image.Image:
        """As the planner fits it, which leaves it as it is when it does so again."""
        d = self._planner.defaults
        return fit(image, height=d.image_height, width=d.image_width, mode=d.image_mode)

    def _texts(self, body: TextOptions, requests: Sequence[ChatRequest | FillRequest], seed: int) -> Intake:
        stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
        if not all(stop):
            raise InputError("stop='' is empty and would end every answer at once; leave it out")
        self._check_steps("max_nfe", body.max_nfe)
        drafts = bool(body.stream and body.stream_options and body.stream_options.include_drafts)
        orders = [
            Order(request=request, stop=stop, max_forwards=body.max_nfe, streams=bool(body.stream), drafts=drafts) for request in requests
        ]
        return Intake(tuple(orders), seed, _PRIORITY.get(body.service_tier or "", 0))

    def _drawings(self, body: ImageOptions, requests: Sequence[DrawRequest], seed: int) -> Intake:
        num_previews = body.partial_images or 0
        if num_previews > self._config.max_partial_images:
            raise InputError(f"partial_images={num_previews} is above {self._config.max_partial_images}; ask for fewer")
        best_of = body.best_of or 1
        if best_of > 1 and body.stream and num_previews:
            raise InputError(
                f"partial_images={num_previews} shows one picture on its way, best_of={best_of} chooses at the end; use one of them"
            )
        if best_of * len(requests) > self._config.max_n:
            raise InputError(
                f"best_of={best_of} for n={len(requests)} draws {best_of * len(requests)} pictures, {self._config.max_n} are allowed; ask for fewer"
            )
        orders = [Order(request=request, num_previews=num_previews if body.stream else 0) for request in requests]
        return Intake(tuple(orders), seed, _PRIORITY.get(body.service_tier or "", 0))

    def _draw(
        self,
        body: ImageOptions,
        prompt: str,
        *,
        seed: int,
        size: tuple[int, int] | None = None,
        image: Image.Image | None = None,
        mask: Image.Image | None = None,
        think: bool | None = None,
    ) -> DrawRequest:
        self._check_chars(prompt, body.negative_prompt or "")
        if body.steps is not None and body.num_inference_steps not in (None, body.steps):
            raise InputError(f"steps={body.steps} and num_inference_steps={body.num_inference_steps} disagree; give one of them")
        steps = body.steps or body.num_inference_steps
        if steps is None and body.quality is not None:
            usual = self._planner.defaults.image_steps
            steps = max(1, usual // 2) if body.quality == "low" else 2 * usual if body.quality in _FINE else None
        self._check_steps("steps", steps)
        return DrawRequest(
            prompt,
            negative_prompt=body.negative_prompt or "",
            size=size,
            image=image,
            mask=mask,
            think=think,
            steps=steps,
            guidance_scale=body.guidance_scale,
            seed=seed,
            best_of=body.best_of or 1,
        )

    def _changes(self, body: TextOptions) -> dict[str, object]:
        self._check_steps("steps", body.steps)
        return {name: getattr(body, name) for name in _RECIPE_FIELDS if getattr(body, name) is not None}

    def _seeds(self, seed: int | None, count: int) -> list[int]:
        if count > self._config.max_n:
            raise InputError(f"n={count} generations are asked for, {self._config.max_n} are allowed; send several requests")
        first = secrets.randbelow(2**31) if seed is None else seed
        return [(first + i) % 2**63 for i in range(count)]

    def _size(self, body: ImageOptions) -> tuple[int, int] | None:
        """(height, width), or None for "auto"."""
        if body.size in (None, "auto"):
            return None
        match = _SIZE.fullmatch(body.size or "")
        if match is None:
            raise InputError(f'size={(body.size or "")[:40]!r} must be "auto" or "WIDTHxHEIGHT" in pixels, such as "{self._default_size}"')
        width, height = int(match[1]), int(match[2])
        if not width or not height or width % self._factor or height % self._factor:
            near = "x".join(str(max(1, round(side / self._factor)) * self._factor) for side in (width, height))
            raise InputError(f"size={body.size!r} must be multiples of {self._factor} pixels; try {near!r}")
        self._check_area(height, width)
        return height, width

    def _own_size(self, image: Image.Image) -> tuple[int, int]:
        """(height, width) of an image in whole tokens."""
        height, width = (max(1, side // self._factor) * self._factor for side in (image.height, image.width))
        self._check_area(height, width)
        return height, width

    @property
    def _default_size(self) -> str:
        return f"{self._planner.defaults.image_width}x{self._planner.defaults.image_height}"

    def _check_area(self, height: int, width: int) -> None:
        num_tokens = (height // self._factor) * (width // self._factor)
        if min(height, width) < 2 * self._factor:
            raise InputError(f"an image of {width}x{height} pixels is too small to draw; give at least {2 * self._factor} a side")
        if num_tokens >= self._planner.context:
            raise InputError(
                f"an image of {width}x{height} pixels has {num_tokens} tokens, the model's context {self._planner.context}; "
                f'give a smaller size, such as "{self._default_size}"'
            )

    def _check_room(self, num_tokens: int) -> None:
        if num_tokens >= self._planner.context:
            raise InputError(f"max_tokens={num_tokens} does not fit the model's context of {self._planner.context} tokens; ask for fewer")

    def _check_chars(self, *texts: str) -> None:
        count = sum(map(len, texts))
        if count > self._config.max_prompt_chars:
            raise InputError(f"the texts of the request have {count} characters, {self._config.max_prompt_chars} are allowed; shorten them")

    def _check_steps(self, name: str, value: int | None) -> None:
        if value is not None and value > self._config.max_steps:
            raise InputError(f"{name}={value} is above {self._config.max_steps}; ask for fewer")


def _random_part(height: int, width: int, factor: int, strength: float, seed: int) -> Image.Image:
    """White on a share `strength` of the tokens, at least one, chosen by the seed."""
    shape = (width // factor, height // factor)
    count = shape[0] * shape[1]
    chosen = set(random.Random(seed).sample(range(count), max(1, round(strength * count))))
    marks = Image.frombytes("L", shape, bytes(255 if i in chosen else 0 for i in range(count)))
    return marks.resize((width, height), Image.Resampling.NEAREST)
