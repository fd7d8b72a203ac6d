"""The bodies that come and go, in OpenAI's shapes with our fields beside them.

Nothing that is asked for is dropped in silence. A field that neither OpenAI nor we know is an error that names the nearest one. One that
asks for what we cannot do is refused unless it asks for nothing (`UNSUPPORTED`). Only fields that never change a reply are ignored (`IGNORED`).
Fields marked "extension" are ours: clients send them in `extra_body`.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from mmada.errors import suggest
from mmada.generation.settings import EditSettings, ImageSettings, Setting, TextSettings, named_settings, settings_of
from mmada.serve.refusals import shown

__all__ = [
    "IGNORED",
    "UNSUPPORTED",
    "ChatBody",
    "ChatCompletionResponse",
    "CompletionBody",
    "CompletionResponse",
    "EditBody",
    "EditForm",
    "ErrorResponse",
    "ExampleFacts",
    "GenerationBody",
    "ImagesResponse",
    "ModelCard",
    "ModelFacts",
    "ModelList",
    "SettingFacts",
    "StreamOptions",
    "VariationForm",
]

IGNORED = frozenset(
    {
        "metadata",
        "parallel_tool_calls",
        "prompt_cache_breakpoint",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "user",
    }
)
"""OpenAI's fields that never change a reply: who asks, tags of stored replies, where a cache may help, how tools would be called."""
UNSUPPORTED: dict[str, tuple[object, ...]] = {
    "annotations": ([],),
    "tool_calls": ([],),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "frequency_penalty": (0, 0.0),
    "presence_penalty": (0, 0.0),
    "continuous_usage_stats": (False,),
    "ignore_eos": (False,),
    "chat_template_kwargs": ({},),
    "chat_template": (),
    "include_reasoning": (True,),
    "verbosity": ("medium",),
    "store": (False,),
    "modalities": (["text"],),
    "audio": (),
    "name": ("",),
    "refusal": ("",),
    "detail": ("auto", "low"),
    "include_obfuscation": (False,),
    "prediction": (),
    "web_search_options": (),
    "echo": (False,),
    "best_of": (1,),
    "moderation": ("auto", "low"),
    "input_fidelity": ("low",),
    "style": ("vivid",),
    "complexity": ("auto",),
    "markup": (),
    "svg": (),
    "frame_count": (1,),
    "frame_duration_ms": (),
}
"""OpenAI's fields that would change the reply, with the values, besides null, that change nothing: OpenAI's own defaults."""
_REMEDIES = {
    "tools": "describe them in a message",
    "functions": "describe them in a message",
    "response_format": "ask for the format in a message",
    "logprobs": "stream with stream_options.include_drafts, which has the confidence of each token",
    "top_logprobs": "stream with include_drafts and top_logprobs in stream_options, which has the likeliest tokens of each place",
    "continuous_usage_stats": "it is a field of stream_options, beside include_usage",
    "chat_template": "a checkpoint has one form of dialogue, which it was taught",
    "include_reasoning": "the thinking stands apart, in reasoning_content",
    "verbosity": "ask for a short or a long answer in a message",
    "name": "write it into the content",
    "refusal": "send it as the content",
    "detail": "every image is looked at once, at the model's size",
    "include_obfuscation": "events are not padded",
    "store": "keep the reply yourself",
    "echo": "put the prompt before the text yourself",
    "style": "name the style in the prompt",
    "input_fidelity": "what the mask leaves is kept as it is",
}

Seed = Annotated[
    int, Field(ge=-(2**63), lt=2**63, description="The same seed gives the same result. Default: a new one; the reply has it.")
]
NumAlternatives = Annotated[int, Field(ge=0, le=20)]
Bias = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Format = Literal["png", "jpeg", "webp"]
Quality = Literal["auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"]


def _neutral(name: str, value: object) -> bool:
    if name == "logit_bias" and isinstance(value, dict):
        return not any(value.values())
    return value is None or any(value == v and type(value) is type(v) for v in UNSUPPORTED[name])


def _refused(name: str, value: object, reason: str) -> ValidationError:
    """The error of one field; `reason` goes on from "name=value"."""
    message = f"{name}={shown(value)} {reason}".encode("utf-8", "replace").decode()  # half characters are no text
    error = PydanticCustomError("refused", "{message}", {"message": message})
    return ValidationError.from_exception_data("body", [InitErrorDetails(type=error, loc=(name,), input=value)])


_HALVES = re.compile("[\ud800-\udfff]")


def _has_half_characters(text: str) -> bool:
    r"""Whether a text has lone surrogates, which JSON can write (\ud800) but no encoding can."""
    return _HALVES.search(text) is not None


class _Body(BaseModel):
    """What comes in."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _only_known_fields(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        known = {field.alias or name for name, field in cls.model_fields.items()}
        kept = {}
        for name, value in values.items():
            if name in known:
                for text in value if isinstance(value, list) else [value]:
                    if isinstance(text, str) and not text.isascii() and _has_half_characters(text):
                        raise _refused(name, text, "has a surrogate that is no character; encode the text as UTF-8")
                kept[name] = value
            elif name in UNSUPPORTED and not _neutral(name, value):
                raise _refused(name, value, f"is not supported by this server; leave it out{_or(_REMEDIES.get(name))}")
            elif name not in IGNORED and name not in UNSUPPORTED:
                name = name.encode("utf-8", "replace").decode()
                raise _refused(name[:64], value, f"is unknown: {suggest(name[:64], known)}")
        return kept


def _or(remedy: str | None) -> str:
    return "" if remedy is None else f"; {remedy}"


class _Options(_Body):
    """What every generation understands."""

    model: str | None = Field(None, description="The id of /v1/models; may be left out.")
    n: Annotated[int, Field(ge=1)] | None = Field(None, description="How many; the seeds count up from `seed`.")
    seed: Seed | None = None
    stream: bool | None = None
    service_tier: Literal["auto", "default", "fast", "flex", "priority", "scale"] | None = Field(
        None, description="flex waits behind the others, priority and fast go before them."
    )


def _field_of(name: str, known: Setting, written: type) -> Any:
    """A setting as pydantic reads a field: null and left out are the same."""
    bounds = {"ge": known.at_least, "gt": known.above, "le": known.at_most, "allow_inf_nan": False if written is float else None}
    kind: Any = Literal[known.choices] if known.choices else written
    bounded = Annotated[kind, Field(**{bound: value for bound, value in bounds.items() if value is not None})]
    own = "" if name in _OPENAI else "Extension: "
    return bounded | None, Field(None, description=own + known.help + ("" if known.checkpoint is None else " Default: the checkpoint's."))


_OPENAI = ("temperature", "top_p", "frequency_penalty", "presence_penalty")
"""settings that OpenAI's clients know, by the names that they have here"""


def _with_settings(name: str, settings: type, leave_out: Collection[str] = (), *, base: type[_Options] = _Options) -> Any:
    """A body like `base` with a field for each setting of generation/settings.py."""
    kinds = named_settings(settings)
    fields = {one: _field_of(one, known, kinds[one]) for one, known in settings_of(settings).items() if one not in leave_out}
    return create_model(name, __base__=base, **fields)


# OpenAI has several names for the length of an answer, and they belong to the endpoints.
_TextFields = _with_settings("_TextFields", TextSettings, leave_out=["max_new_tokens"])
_ImageFields = _with_settings("_ImageFields", ImageSettings)


class StreamOptions(_Body):
    """What a stream of text carries besides the text."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = Field(
        None, description="Of vLLM: with include_usage, each chunk has the tokens of its choice that are final so far."
    )
    include_drafts: bool | None = Field(None, description="Extension: each round, the whole text as it looks, in `mmada.draft` of a chunk.")
    top_logprobs: NumAlternatives | None = Field(
        None, description="Extension: the draft of the step that commits a token has that many of the likeliest tokens there."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.continuous_usage_stats and not self.include_usage:
            raise _refused("continuous_usage_stats", True, "needs include_usage=true beside it; give both, or leave it out")
        if self.top_logprobs and not self.include_drafts:
            raise _refused("top_logprobs", self.top_logprobs, "is part of drafts; give include_drafts=true, or leave it out")
        return self


class TextOptions(_TextFields):  # type: ignore[misc, valid-type]
    """How a text is written and sent."""

    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    logit_bias: Annotated[dict[str, Bias], Field(max_length=300)] | None = Field(
        None, description="Ids of text tokens, each with what is added to its logit."
    )
    ignore_eos: bool | None = Field(None, description="Extension: write on, to the whole length, where the model would end.")
    stream_options: StreamOptions | None = None
    max_nfe: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Extension: model evaluations after which the text ends with what is final."
    )

    @model_validator(mode="after")
    def _streams(self) -> Self:
        asked = None if self.stream_options is None else self.stream_options.model_dump(exclude_none=True)
        if asked and any(asked.values()) and not self.stream:
            raise _refused("stream_options", asked, "is for streams; give stream=true, or leave it out")
        return self


class TextPart(_Body):
    """Words of a message."""

    type: Literal["text"]
    text: str


class ImageAddress(_Body):
    """An image: a data: URL, or an http(s) address if the server fetches those."""

    url: str


class ImagePart(_Body):
    """A picture in a message."""

    type: Literal["image_url"]
    image_url: ImageAddress


class ChatMessage(_Body):
    """A turn. Images may stand in user messages; the model sees them before the dialogue."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Annotated[TextPart | ImagePart, Field(discriminator="type")]] | None = Field(
        None, description="Only the assistant's may be null or left out, which is an empty answer."
    )
    reasoning_content: str | None = Field(
        None, description="Extension, of replies that are sent back: earlier thinking is not shown to the model."
    )
    reasoning: str | None = Field(None, description="Extension: another name of reasoning_content.")

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.content is None and self.role != "assistant":
            raise _refused("content", None, f"says nothing in a message of role {self.role!r}; give a text, or a list of parts")
        return self


class TemplateOptions(_Body):
    """What clients of other servers tell a template."""

    enable_thinking: bool | None = Field(None, description="Extension: think first, or not.")


class Reasoning(_Body):
    """How much to think, as an object."""

    effort: Effort | None = None
    enabled: bool | None = Field(None, description="Extension: think first, or not.")


class ChatBody(TextOptions):
    """POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = Field(
        None, description=f"{settings_of(TextSettings)['max_new_tokens'].help} Default: the checkpoint's."
    )
    max_tokens: Annotated[int, Field(ge=1)] | None = Field(None, description="The old name of max_completion_tokens.")
    reasoning_effort: Effort | None = Field(
        None, description="none and minimal: no thinking; low and above: thinking. Default: as the checkpoint was taught."
    )
    reasoning: Reasoning | None = Field(None, description="Extension: the effort as an object.")
    chat_template_kwargs: TemplateOptions | None = Field(None, description="Extension: thinking on or off, as other servers are told.")
    strict: bool | None = Field(None, description="Extension: read every word as it is written, and correct no misspelled ones.")
    calculator: bool | None = Field(
        None,
        description="Extension: let rules write what is certain of a thought, such as the result of a sum that it has set up, or not. "
        "Default: the checkpoint's.",
    )

    @property
    def thinks(self) -> bool | None:
        """Whether to think first; None: as the checkpoint is best used."""
        return next(iter(self._wishes().values()), None)

    @model_validator(mode="after")
    def _is_of_one_mind(self) -> Self:
        wishes = self._wishes()
        if len(set(wishes.values())) > 1:
            first, second = list(wishes)[:2]
            raise _refused(first, wishes[first], f"and {second} disagree about thinking; give one of them")
        return self

    def _wishes(self) -> dict[str, bool]:
        """Whether to think, by each field that says so."""
        effort = self.reasoning_effort or (self.reasoning.effort if self.reasoning else None)
        found = {
            "reasoning_effort": None if effort is None else effort not in ("none", "minimal"),
            "reasoning": self.reasoning.enabled if self.reasoning else None,
            "chat_template_kwargs": self.chat_template_kwargs.enable_thinking if self.chat_template_kwargs else None,
        }
        return {name: wish for name, wish in found.items() if wish is not None}

    @property
    def addresses(self) -> list[tuple[str, str]]:
        """Of the images that the model is shown, in order, each with its place in the body."""
        return [
            (f"messages.{i}.content.{j}.image_url.url", part.image_url.url)
            for i, message in enumerate(self.messages)
            if message.role == "user" and isinstance(message.content, list)
            for j, part in enumerate(message.content)
            if isinstance(part, ImagePart)
        ]


class CompletionBody(TextOptions):
    """POST /v1/completions: with a suffix, what stands between the two; without, max_tokens tokens that follow."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=64)]
    suffix: str | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = Field(None, description="Tokens to write, exactly. Default: 16.")


class ImageOptions(_ImageFields):  # type: ignore[misc, valid-type]
    """How a picture is drawn and sent."""

    size: str | None = Field(None, description='"WIDTHxHEIGHT" in pixels, or "auto".')
    quality: Quality | None = Field(None, description="low: half of the checkpoint's steps; high and hd: twice as many.")
    response_format: Literal["b64_json", "url"] | None = Field(None, description="url is a data: URL.")
    output_format: Format | None = None
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = Field(None, description="Quality of jpeg and webp. Default: 90.")
    background: Literal["auto", "opaque"] | None = None
    partial_images: Annotated[int, Field(ge=0)] | None = Field(
        None, description="Pictures on the way, if streamed; more than 3 is an extension."
    )
    num_inference_steps: Annotated[int, Field(ge=1)] | None = Field(None, description="Extension: the same as steps.")
    include_trace: bool | None = Field(
        None, description="Extension, of streams: the last event has the step and the confidence of each image token, in `trace`."
    )

    top_logprobs: NumAlternatives | None = Field(
        None, description="Extension: the trace also has that many of the likeliest codes of each image token."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.partial_images and not self.stream:
            raise _refused("partial_images", self.partial_images, "is for streams; give stream=true, or leave it out")
        if self.include_trace and not self.stream:
            raise _refused("include_trace", True, "is for streams; give stream=true, or leave it out")
        if self.top_logprobs and not self.include_trace:
            raise _refused("top_logprobs", self.top_logprobs, "is part of the trace; give include_trace=true, or leave it out")
        if self.response_format == "url" and self.stream:
            raise _refused("response_format", self.response_format, "is not for streams, whose events have b64_json; leave it out")
        if self.output_compression not in (None, 100) and self.output_format in (None, "png"):
            raise _refused("output_compression", self.output_compression, "is for jpeg and webp, and png loses nothing; give output_format")
        if self.quality not in (None, "auto") and (self.steps or self.num_inference_steps):
            raise _refused("quality", self.quality, "stands for a number of steps, which is given as well; give one of them")
        return self


class GenerationBody(ImageOptions):
    """POST /v1/images/generations."""

    prompt: str
    thinking: bool | None = Field(None, description="Extension: think about the prompt first, or not. Default: the checkpoint's.")
    strict: bool | None = Field(
        None,
        description="Extension: refuse a prompt with words that the checkpoint does not know, instead of drawing the rest; correct no misspelled ones.",
    )


_EditFields = _with_settings("_EditFields", EditSettings, leave_out=["max_new_tokens"], base=ImageOptions)


class EditForm(_EditFields):  # type: ignore[misc, valid-type]
    """POST /v1/images/edits as a form; `image` and `mask` are files. Without a mask, models that edit by instruction do that.

    `order`, `text_steps` and `max_completion_tokens` are about the text that comes with the image, and ask for one.
    """

    prompt: str
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = Field(
        None, description=f"Extension: {settings_of(EditSettings)['max_new_tokens'].help} Default: the checkpoint's."
    )
    restyle: bool | None = Field(
        None, description="Extension, for models that edit by instruction: give the first of two images the style of the second."
    )
    thinking: bool | None = Field(
        None, description="Extension, for models that write and draw in the same passes: answer with a text, too, in `text` of the image."
    )


class FileReference(_Body):
    """An image of a JSON edit."""

    image_url: str


class EditBody(EditForm):
    """POST /v1/images/edits as JSON."""

    images: Annotated[list[FileReference], Field(min_length=1)]
    mask: FileReference | None = None

    @property
    def addresses(self) -> list[tuple[str, str]]:
        """Of the images, and last of the mask, if there is one, each with its place in the body."""
        images = [(f"images.{i}.image_url", reference.image_url) for i, reference in enumerate(self.images)]
        return images if self.mask is None else [*images, ("mask.image_url", self.mask.image_url)]


class VariationForm(ImageOptions):
    """POST /v1/images/variations; `image` is a file."""

    prompt: str | None = Field(None, description="Extension: what the picture shows. Default: what the model sees in it.")
    strength: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = Field(
        None, description="Extension: share of the picture's tokens that are drawn anew. Default: 0.6."
    )


# What goes out.


class _Response(BaseModel):
    pass


class ErrorDetail(_Response):
    """What is wrong, in OpenAI's shape: a sentence, its kind, and the part of the body that it is about."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(_Response):
    """Every answer that is not a success."""

    error: ErrorDetail


class SettingFacts(_Response):
    """A setting as a control needs it, under the name of its field in a request."""

    name: str
    kind: Literal["integer", "number", "string"]
    help: str
    default: float | int | str | None = Field(None, description="null: the model or the server chooses.")
    minimum: float | None
    exclusive_minimum: float | None
    maximum: float | None
    choices: list[str]
    slider: tuple[float, float, float] | None = Field(description="Least, most and step; null: a value to type.")


class ExampleFacts(_Response):
    """Something that the model can do. kind edit: `prompt` is the whole picture, and what stands at pixel `at` is drawn anew."""

    ability: str
    text: str
    kind: Literal["draw", "chat", "edit"]
    think: bool
    picture: str | None = Field(description="A data: URL.")
    prompt: str
    at: tuple[int, int] | None


class ModelFacts(_Response):
    """Extension: how the model is best used, and what the server allows; controls are made of it."""

    abilities: list[str] = Field(description="What the model's family can: chat, look, draw, fill, inpaint, edit, parallel.")
    context: int
    max_new_tokens: int
    max_thinking_tokens: int
    block_length: int
    threshold: float
    image_size: str = Field(description="WIDTHxHEIGHT of a drawing; empty if the model cannot draw.")
    image_factor: int
    image_upscale: int
    image_steps: int
    guidance_scale: float
    thinks_before_answering: bool
    thinks_before_drawing: bool
    edits_by_instruction: bool = Field(description="Whether a picture can be edited without a mask, by what the prompt says.")
    edit_orders: list[str] = Field(description="`order` of an edit that comes with a text; none: there is no text. Empty: no edits.")
    examples: list[ExampleFacts] = Field(description="What may be tried, by the world that the model was trained on; empty: nobody knows.")
    limits: str = Field(description="What the model cannot do, in sentences for visitors.")
    max_n: int
    max_steps: int
    max_partial_images: int
    text_settings: list[SettingFacts]
    image_settings: list[SettingFacts]


class ModelCard(_Response):
    """A model that is served. created: Unix seconds, of the start of the server."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "mmada"
    mmada: ModelFacts


class ModelList(_Response):
    """The answer of GET /v1/models: the one model."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class TokenDetails(_Response):
    """Of the completion tokens, how many belong to the thought."""

    reasoning_tokens: int


class Usage(_Response):
    """Tokens; nfe counts model evaluations."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    completion_tokens_details: TokenDetails
    nfe: int
    tokens_per_forward: float


class AnswerMessage(_Response):
    """What the model says. reasoning_content is its thought, null where there is none."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None
    reasoning_content: str | None = None


class ChatChoice(_Response):
    """One of the answers. finish_reason: stop, or length where the tokens that were asked for were used up."""

    index: int
    message: AnswerMessage
    logprobs: None = None
    finish_reason: Literal["stop", "length"]
    warning: str | None = Field(None, description="Extension, left out where there is none: why the answer may be wrong.")


class ChatCompletionResponse(_Response):
    """The answers to a conversation. created: Unix seconds; seed: of the first answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    seed: int


class CompletionChoice(_Response):
    """One of the texts. finish_reason as in ChatChoice."""

    index: int
    text: str
    logprobs: None = None
    finish_reason: Literal["stop", "length"]


class CompletionResponse(_Response):
    """Texts that continue prompts, or fill the hole before a suffix. created: Unix seconds; seed: of the first text."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage
    seed: int


class ImageItem(_Response):
    """A drawing, as base64 or as a data: URL; the prompt that was drawn, and the thought before it."""

    b64_json: str | None = None
    url: str | None = None
    revised_prompt: str | None = None
    thinking: str | None = None
    seed: int | None = None
    text: str | None = Field(None, description="Extension, left out where there is none: what was written in the same passes.")
    warning: str | None = Field(None, description="Extension, left out where there is none: what could not be done as it was asked.")
    unknown: list[str] | None = Field(
        None, description="Extension, left out where there are none: words that the checkpoint does not know."
    )


class InputDetails(_Response):
    """Tokens of the prompt: of its text and of its images."""

    text_tokens: int
    image_tokens: int


class OutputDetails(_Response):
    """Tokens that were filled: of images, and of the text or thought beside them."""

    image_tokens: int
    text_tokens: int


class ImageUsage(_Response):
    """Tokens of a response with images; nfe counts model evaluations."""

    input_tokens: int
    output_tokens: int
    total_tokens: int
    input_tokens_details: InputDetails
    output_tokens_details: OutputDetails
    nfe: int


class ImagesResponse(_Response):
    """Drawings or edits. created: Unix seconds; size: WIDTHxHEIGHT in pixels; seed: of the first image."""

    created: int
    data: list[ImageItem]
    background: Literal["opaque"] = "opaque"
    output_format: Format
    size: str
    quality: Literal["low", "medium", "high"]
    usage: ImageUsage
    seed: int
