"""A body becomes engine requests: requests of the package with their sampling parameters, and how they are to be followed.

All that can be wrong with a body is found here or by the planner, before anything is computed. Pictures are brought to the size that
the model looks at or starts from at once, so that a waiting request holds no large image.
"""

from __future__ import annotations

import math
import random
import re
import secrets
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, Literal

from PIL import Image

from mmada.canvas import Hole, Message
from mmada.errors import ImageError, InputError
from mmada.families import Ability
from mmada.generation.edits import instructed_edit
from mmada.generation.planner import Planner
from mmada.generation.programs import begin, program_of
from mmada.generation.requests import ChatRequest, DrawRequest, EditRequest, FillRequest, ParallelRequest
from mmada.generation.settings import ORDER_NAMES, EditSettings, ImageSettings, Setting, TextSettings, changed, named_settings, settings_of
from mmada.image import fit, load_image
from mmada.pipeline import DESCRIBE
from mmada.sampling import SamplingParams
from mmada.serve.config import ServeConfig
from mmada.serve.outputs import EngineRequest
from mmada.serve.pictures import data_url, transparent_part
from mmada.serve.refusals import about
from mmada.serve.response_schema import ExampleFacts, ModelFacts, SettingFacts
from mmada.serve.schema import (
    ChatBody,
    ChatMessage,
    CompletionBody,
    EditForm,
    GenerationBody,
    ImageOptions,
    ImagePart,
    TextOptions,
    TextPart,
    VariationForm,
)

__all__ = ["ParsedRequest", "RequestParser"]

_SIZE = re.compile(r"([0-9]{1,6})x([0-9]{1,6})")
_ID = re.compile("0|[1-9][0-9]{0,8}")
_CLIENTS_SIZES = ("256x256", "512x512", "1024x1024", "1536x1024", "1024x1536", "1792x1024", "1024x1792")
"""Sizes that OpenAI's models have, which clients send unasked."""
_PRIORITY = {"flex": -1, "priority": 1, "fast": 1}
_KINDS: Mapping[type, Literal["integer", "number", "string"]] = {int: "integer", float: "number", str: "string"}
_FINE = ("high", "xhigh", "max", "hd")
_OF_INSTRUCTIONS: Mapping[str, Ability | None] = {
    "thinking": "parallel",
    "order": "parallel",
    "text_steps": "parallel",
    "max_completion_tokens": "parallel",
    "restyle": "edit",
    "image_guidance_scale": None,
}
"""Fields of an edit that only edits by instruction have -> what a model must be able to do for them; None: either way."""
_NOT_OF_INSTRUCTIONS = ("negative_prompt", "best_of", "quality")
_DEFAULT_STRENGTH = 0.6
_DEFAULT_COMPLETION = 16  # as OpenAI has it


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """The engine requests of a body, one for each choice, the seed of the first, and the priority of all.

    note  what is done otherwise than it was asked
    """

    engine_requests: tuple[EngineRequest, ...]
    seed: int
    priority: int
    note: str | None = None


class RequestParser:
    """Reads bodies for one model. Its methods raise InputError or ImageError; they use no model and may run in any thread.

    factor  pixels along the side of an image token, as it is drawn
    """

    def __init__(self, planner: Planner, config: ServeConfig, *, factor: int) -> None:
        self._planner, self._config, self._factor = planner, config, factor

    def chat(self, body: ChatBody, pictures: Mapping[str, Image.Image] | None = None) -> ParsedRequest:
        """pictures  what the addresses of the body hold (ChatBody.addresses)"""
        messages, images = [], []
        for i, message in enumerate(body.messages):
            content, seen = self._content(i, message, pictures or {})
            images += seen
            if seen and not content.strip():
                content = DESCRIBE
            if message.role == "assistant" and not content.strip():
                continue  # an answer of ours that stayed empty, sent back: there is nothing in it to be seen
            if not content.strip():
                with about(f"messages.{i}.content"):
                    raise InputError(f"content='' of message {i} is empty; write a prompt")
            messages.append(Message("system" if message.role == "developer" else message.role, content))
        self._check_chars(*(message.content for message in messages))
        if body.max_tokens is not None and body.max_completion_tokens not in (None, body.max_tokens):
            raise InputError(
                f"max_tokens={body.max_tokens} and max_completion_tokens={body.max_completion_tokens} disagree; give max_completion_tokens"
            )
        room = body.max_completion_tokens or body.max_tokens
        self._check_length("max_tokens" if body.max_completion_tokens is None else "max_completion_tokens", room or 0)
        params = self._adjusted(self._planner.text_params(self._text_settings(body)), body)
        seeds = self._seeds(body.seed, body.n or 1)
        strict = bool(body.strict)
        with about("messages"):
            fitted = {seed: self._planner.looked_at(images, seed) if self._planner.defaults.image_crops else images for seed in seeds}
        requests = [ChatRequest(messages, fitted[seed], body.thinks, room, params, seed, strict, body.calculator) for seed in seeds]
        return self._texts(body, requests, seeds[0])

    def completion(self, body: CompletionBody) -> ParsedRequest:
        """Prompts to continue, or texts with a hole before the suffix, `n` times each.

        Raises InputError for texts, lengths or settings beyond the limits.
        """
        prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
        self._check_chars(*prompts, body.suffix or "")
        hole = Hole(body.max_tokens or _DEFAULT_COMPLETION)
        params = self._adjusted(self._planner.fill_params(self._text_settings(body)), body)
        seeds = self._seeds(body.seed, len(prompts) * (body.n or 1))
        asked = [prompt for prompt in prompts for _ in range(body.n or 1)]
        self._check_length("max_tokens", hole.num_tokens)
        requests = [
            FillRequest([part for part in (prompt, hole, body.suffix) if part], (), params, seed)
            for prompt, seed in zip(asked, seeds, strict=True)
        ]
        return self._texts(body, requests, seeds[0])

    def generation(self, body: GenerationBody) -> ParsedRequest:
        """Drawings of one prompt, `n` of them with seeds of their own. A client's default size may become the nearest, with a note.

        Raises InputError for a size or settings beyond what the model draws.
        """
        size, note = self._size(body)
        seeds = self._seeds(body.seed, body.n or 1)
        strict = bool(body.strict)
        requests = [self._draw(body, body.prompt, size=size, think=body.thinking, strict=strict, seed=seed) for seed in seeds]
        return replace(self._drawings(body, requests, seeds[0]), note=note)

    def edit(self, form: EditForm, images: Sequence[Image.Image], mask: Image.Image | None) -> ParsedRequest:
        """An image, of which the part where `mask` is transparent is drawn anew; without a mask, where the image itself is.

        A model that edits by instruction needs neither, and takes several source images.
        """
        if self._is_instruction(form, images, mask):
            return self._instruction(form, images)
        if len(images) != 1:
            raise InputError(f"image: {len(images)} images are given; give one, which is what the drawing starts from")
        (image,) = images
        marks = transparent_part(image if mask is None else mask)
        if marks is None:
            raise ImageError(
                "nothing says what to edit: neither mask nor image has a transparent part; send a PNG mask that is transparent where to draw"
            )
        if marks.size != image.size:
            raise ImageError(f"mask is {marks.width}x{marks.height} pixels, image {image.width}x{image.height}; make them the same size")
        picture = load_image(image)
        size, note = self._size(form)
        height, width = size or self._own_size(picture)
        picture = fit(picture, height=height, width=width, mode="crop")
        marks = fit(marks.convert("RGB"), height=height, width=width, mode="crop")
        seeds = self._seeds(form.seed, form.n or 1)
        requests = [self._draw(form, form.prompt, image=picture, mask=marks, seed=seed) for seed in seeds]
        return replace(self._drawings(form, requests, seeds[0]), note=note)

    def _is_instruction(self, form: EditForm, images: Sequence[Image.Image], mask: Image.Image | None) -> bool:
        """Raises InputError where both ways are asked for, or a way that the model has not."""
        abilities = self._planner.family.abilities
        asked = {name: value for name in _OF_INSTRUCTIONS if (value := getattr(form, name)) is not None and value is not False}
        for name, value in asked.items():
            with about(name):
                self._planner.require(_OF_INSTRUCTIONS[name] or _by_instruction(abilities))
                if mask is not None:
                    raise InputError(f"{name}={value} is for edits by instruction, which take no mask; leave one of them out")
        of_texts = [name for name in asked if _OF_INSTRUCTIONS[name] == "parallel"]
        if form.thinking is False and of_texts:
            raise InputError(
                f"{of_texts[0]}={asked[of_texts[0]]!r} is about a text beside the image, and thinking=false wants none; leave one of them out"
            )
        if asked:
            return True
        return bool(images) and mask is None and bool(abilities & {"edit", "parallel"}) and transparent_part(images[0]) is None

    def _instruction(self, form: EditForm, images: Sequence[Image.Image]) -> ParsedRequest:
        """What the prompt says, done to the images."""
        for name in _NOT_OF_INSTRUCTIONS:
            if (value := getattr(form, name)) not in (None, "", 1):
                with about(name):
                    raise InputError(f"{name}={value!r} is not for edits by instruction; leave it out, or send a mask")
        self._check_chars(form.prompt)
        steps = self._image_steps(form)
        self._check_steps("text_steps", form.text_steps)
        self._check_length("max_completion_tokens", form.max_completion_tokens or 0)
        pictures = [load_image(image) for image in images]
        size, note = self._size(form)
        if pictures:
            self._check_area(*(size or self._planner.edit_size(pictures[0])))
        drawn = ImageSettings(
            steps=steps, guidance_scale=form.guidance_scale, image_cache=form.image_cache, image_threshold=form.image_threshold
        )
        edits = EditSettings(**_given(form, EditSettings), max_new_tokens=form.max_completion_tokens)
        seeds = self._seeds(form.seed, form.n or 1)
        requests = [
            instructed_edit(
                self._planner.family,
                form.prompt,
                pictures,
                drawn=drawn,
                edits=edits,
                think=form.thinking,
                restyle=bool(form.restyle),
                size=size,
                seed=seed,
            )
            for seed in seeds
        ]
        requests = [self._planner.fitted(request) for request in requests] if pictures else requests
        return replace(self._drawings(form, requests, seeds[0]), note=note)

    def description(self, image: Image.Image) -> EngineRequest:
        """What a variation draws if nothing is said: what the model sees."""
        return EngineRequest(
            request=ChatRequest(DESCRIBE, self._planner.looked_at([image]), think=False, params=self._planner.text_params())
        )

    def variation(self, form: VariationForm, image: Image.Image, prompt: str) -> ParsedRequest:
        """An image of which a random part of the tokens is drawn anew."""
        picture = load_image(image)
        size, note = self._size(form)
        height, width = size or self._own_size(picture)
        picture = fit(picture, height=height, width=width, mode="crop")
        strength = _DEFAULT_STRENGTH if form.strength is None else form.strength
        seeds = self._seeds(form.seed, form.n or 1)
        masks = [_random_part(height, width, self._factor, strength, seed) for seed in seeds]
        requests = [self._draw(form, prompt, image=picture, mask=mask, seed=seed) for mask, seed in zip(masks, seeds, strict=True)]
        return replace(self._drawings(form, requests, seeds[0]), note=note)

    def begun(self, parsed: ParsedRequest) -> ParsedRequest:
        """The same, with programs that have tokenized and checked their prompts, so that the engine's thread need not. Raises what they raise."""
        requests = [replace(one, begun=begin(program_of(one.request, self._planner))) for one in parsed.engine_requests]
        return replace(parsed, engine_requests=tuple(requests))

    def facts(self) -> ModelFacts:
        """What a client may want to know before it asks."""
        d, c, abilities = self._planner.defaults, self._config, self._planner.family.abilities
        draws = "draw" in abilities
        return ModelFacts(
            abilities=sorted(abilities),
            context=self._planner.context,
            max_new_tokens=d.max_new_tokens,
            max_thinking_tokens=d.max_thinking_tokens,
            block_length=d.block_length,
            threshold=d.threshold,
            image_size=self._default_size if draws else "",
            image_factor=self._factor,
            image_upscale=self._planner.image_tokenizer.upscale if draws else 1,
            image_steps=d.image_steps,
            guidance_scale=d.guidance_scale,
            thinks_before_answering=d.thinks_before_answering,
            thinks_before_drawing=d.thinks_before_drawing,
            edits_by_instruction=bool({"edit", "parallel"} & abilities),
            edit_orders=[*(["none"] if "edit" in abilities else []), *(ORDER_NAMES if "parallel" in abilities else [])],
            examples=self._examples(),
            limits="" if self._planner.world is None else self._planner.world().limits,
            max_n=c.max_n,
            max_steps=c.max_steps,
            max_partial_images=c.max_partial_images,
            text_settings=self._described(
                TextSettings, {"max_new_tokens": self._planner.context - 1, "block_length": self._planner.context}
            ),
            image_settings=self._described(ImageSettings, {"best_of": c.max_n}) if draws else [],
        )

    def _examples(self) -> list[ExampleFacts]:
        """Of the world that the checkpoint names."""
        found = []
        for piece in () if self._planner.world is None else self._planner.world().showcase():
            shown, at = piece.picture, piece.at
            if shown is not None and piece.large is not None and piece.large.shape[:2] == self._planner.drawing_size:
                scale = piece.large.shape[0] // shown.shape[0]
                shown, at = piece.large, None if at is None else (scale * at[0], scale * at[1])
            facts = ExampleFacts(
                ability=piece.ability,
                text=piece.text,
                kind=piece.kind,
                think=piece.think,
                picture=None if shown is None else data_url(Image.fromarray(shown)),
                prompt=piece.prompt,
                at=at,
            )
            found.append(facts)
        return found

    def _described(self, kind: type[TextSettings | ImageSettings], limits: Mapping[str, int]) -> list[SettingFacts]:
        """Settings with this checkpoint's defaults and this server's limits."""
        defaults, written = kind(), named_settings(kind)
        limits = {**limits, "steps": self._config.max_steps}
        found = []
        for name, known in settings_of(kind).items():
            usual = getattr(defaults, name) if known.checkpoint is None else getattr(self._planner.defaults, known.checkpoint)
            most = min((limit for limit in (known.at_most, limits.get(name)) if limit is not None), default=None)
            facts = SettingFacts(
                name="max_completion_tokens" if name == "max_new_tokens" else name,
                kind=_KINDS[written[name]],
                help=known.help,
                default=usual,
                minimum=known.at_least,
                exclusive_minimum=known.above,
                maximum=most,
                choices=list(known.choices),
                slider=_slider(known, usual, most),
            )
            found.append(facts)
        return found

    # Parts.

    def _content(self, i: int, message: ChatMessage, pictures: Mapping[str, Image.Image]) -> tuple[str, list[Image.Image]]:
        if message.content is None or isinstance(message.content, str):
            return message.content or "", []
        images = []
        for j, part in enumerate(message.content):
            if not isinstance(part, ImagePart):
                continue
            with about(f"messages.{i}.content.{j}"):
                if message.role != "user":
                    raise InputError(f"message {i} of role {message.role!r} has an image; only the user's messages may have images")
            with about(f"messages.{i}.content.{j}.image_url.url"):
                images += self._looked_at(load_image(pictures[part.image_url.url]))
        return "\n".join(part.text for part in message.content if isinstance(part, TextPart)), images

    def _looked_at(self, image: Image.Image) -> list[Image.Image]:
        """As the planner fits it, which leaves it as it is when it does so again; not yet, where the seed of a choice says which part is seen."""
        return [image] if self._planner.defaults.image_crops else self._planner.looked_at([image])

    def _texts(self, body: TextOptions, requests: Sequence[ChatRequest | FillRequest], seed: int) -> ParsedRequest:
        stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
        if not all(stop):
            raise InputError("stop='' is empty and would end every answer at once; leave it out")
        self._check_steps("max_nfe", body.max_nfe)
        options = body.stream_options
        how: dict[str, Any] = {"stop": stop, "max_forwards": body.max_nfe, "streams": bool(body.stream)}
        if body.stream and options and options.include_drafts:
            how |= {"drafts": True, "num_alternatives": options.top_logprobs or 0}
        engine_requests = [EngineRequest(request=request, **how) for request in requests]
        return ParsedRequest(tuple(engine_requests), seed, _PRIORITY.get(body.service_tier or "", 0))

    def _drawings(self, body: ImageOptions, requests: Sequence[DrawRequest | EditRequest | ParallelRequest], seed: int) -> ParsedRequest:
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
        engine_requests = [
            EngineRequest(
                request=request,
                num_previews=num_previews if body.stream else 0,
                traces=bool(body.include_trace),
                num_alternatives=body.top_logprobs or 0,
            )
            for request in requests
        ]
        return ParsedRequest(tuple(engine_requests), seed, _PRIORITY.get(body.service_tier or "", 0))

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
        strict: bool = False,
    ) -> DrawRequest:
        self._check_chars(prompt, body.negative_prompt or "")
        steps = self._image_steps(body)
        if steps is None and body.quality is not None:
            usual = self._planner.defaults.image_steps
            steps = max(1, usual // 2) if body.quality == "low" else 2 * usual if body.quality in _FINE else None
            self._check_steps("steps", steps)
        settings = ImageSettings(**{**_given(body, ImageSettings), "steps": steps})
        return DrawRequest(prompt, size=size, image=image, mask=mask, think=think, strict=strict, seed=seed, **changed(settings))

    def _image_steps(self, body: ImageOptions) -> int | None:
        """By either of its names; None: it is not given."""
        if body.steps is not None and body.num_inference_steps not in (None, body.steps):
            raise InputError(f"steps={body.steps} and num_inference_steps={body.num_inference_steps} disagree; give one of them")
        steps = body.steps or body.num_inference_steps
        self._check_steps("steps" if body.num_inference_steps is None else "num_inference_steps", steps)
        return steps

    def _text_settings(self, body: TextOptions) -> TextSettings:
        self._check_steps("steps", body.steps)
        return TextSettings(**_given(body, TextSettings))

    def _adjusted(self, params: SamplingParams, body: TextOptions) -> SamplingParams:
        """With what a body says of single tokens."""
        layout = self._planner.layout
        bias = {}
        for name, value in (body.logit_bias or {}).items():
            if not _ID.fullmatch(name) or int(name) not in layout.text_ids:
                raise InputError(f"logit_bias={name[:40]!r} is no id of a text token; give numbers from 0 to {layout.text_ids.stop - 1}")
            if value:
                bias[int(name)] = value
        if bias:
            params = params.with_(logit_bias=tuple(sorted(bias.items())))
        if body.ignore_eos and params.stop_at_eos:
            params = params.with_(stop_at_eos=False, suppress_tokens=tuple(sorted({*params.suppress_tokens, *layout.end_ids})))
        return params

    def _seeds(self, seed: int | None, count: int) -> list[int]:
        if count > self._config.max_n:
            raise InputError(f"n={count} generations are asked for, {self._config.max_n} are allowed; send several requests")
        first = secrets.randbelow(2**31) if seed is None else seed
        return [(first + i) % 2**63 for i in range(count)]

    def _size(self, body: ImageOptions) -> tuple[tuple[int, int] | None, str | None]:
        """(height, width), or None for "auto"; and a note if a client's default became the nearest that the model draws."""
        try:
            return self._exact_size(body), None
        except InputError:
            if body.size not in _CLIENTS_SIZES:
                raise
        width, height = map(int, body.size.split("x"))
        height, width = self._nearest(height, width)
        return (height, width), f"size={body.size!r} is not one that this model draws; the image has {width}x{height}."

    def _nearest(self, height: int, width: int) -> tuple[int, int]:
        """As many tokens as the checkpoint's own size has, in the shape that was asked for."""
        usual = self._planner.drawing_size
        if height * usual[1] == width * usual[0]:
            return usual
        num_tokens = (usual[0] // self._factor) * (usual[1] // self._factor)
        rows = max(2, math.floor(math.sqrt(num_tokens * height / width)))
        return rows * self._factor, max(2, num_tokens // rows) * self._factor

    def _exact_size(self, body: ImageOptions) -> tuple[int, int] | None:
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
        height, width = self._planner.size_of(image)
        self._check_area(height, width)
        return height, width

    @property
    def _default_size(self) -> str:
        height, width = self._planner.drawing_size
        return f"{width}x{height}"

    def _check_area(self, height: int, width: int) -> None:
        num_tokens = (height // self._factor) * (width // self._factor)
        if min(height, width) < 2 * self._factor:
            raise InputError(f"an image of {width}x{height} pixels is too small to draw; give at least {2 * self._factor} a side")
        if num_tokens >= self._planner.context:
            raise InputError(
                f"an image of {width}x{height} pixels has {num_tokens} tokens, the model's context {self._planner.context}; "
                f'give a smaller size, such as "{self._default_size}"'
            )

    def _check_length(self, name: str, num_tokens: int) -> None:
        if num_tokens >= self._planner.context:
            raise InputError(f"{name}={num_tokens} does not fit the model's context of {self._planner.context} tokens; ask for fewer")

    def _check_chars(self, *texts: str) -> None:
        count = sum(map(len, texts))
        if count > self._config.max_prompt_chars:
            raise InputError(f"the texts of the request have {count} characters, {self._config.max_prompt_chars} are allowed; shorten them")

    def _check_steps(self, name: str, value: int | None) -> None:
        if value is not None and value > self._config.max_steps:
            raise InputError(f"{name}={value} is above {self._config.max_steps}; ask for fewer")


def _by_instruction(abilities: Set[Ability]) -> Ability:
    return "parallel" if "parallel" in abilities else "edit"


def _given(body: TextOptions | ImageOptions, kind: type[TextSettings | ImageSettings | EditSettings]) -> dict[str, Any]:
    """The settings that a body has a value for."""
    values = {name: getattr(body, name, None) for name in settings_of(kind)}
    return {name: value for name, value in values.items() if value is not None}


def _slider(known: Setting, usual: float | str | None, most: float | None) -> tuple[float, float, float] | None:
    """Wide enough for twice the checkpoint's own value, and no wider than the server allows."""
    if known.slider is None:
        return None
    least, end, step = known.slider
    wide = max(end, 2 * usual) if isinstance(usual, int) else end
    return least, wide if most is None else min(wide, most), step


def _random_part(height: int, width: int, factor: int, strength: float, seed: int) -> Image.Image:
    """White on a share `strength` of the tokens, at least one, chosen by the seed."""
    shape = (width // factor, height // factor)
    count = shape[0] * shape[1]
    chosen = set(random.Random(seed).sample(range(count), max(1, round(strength * count))))
    marks = Image.frombytes("L", shape, bytes(255 if i in chosen else 0 for i in range(count)))
    return marks.resize((width, height), Image.Resampling.NEAREST)
