"""The bodies that come in, in OpenAI's shapes with our fields beside them.

A field that is not here is ignored or refused (strict_body.py). Fields marked "extension" are ours: clients send them in `extra_body`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Literal, Self

from pydantic import Field, create_model, model_validator

from mmada.generation.settings import EditSettings, ImageSettings, Setting, TextSettings, named_settings, settings_of
from mmada.serve.strict_body import StrictBody, refused_field

__all__ = [
    "ChatBody",
    "ChatMessage",
    "CompletionBody",
    "EditBody",
    "EditForm",
    "Format",
    "GenerationBody",
    "ImageOptions",
    "ImagePart",
    "StreamOptions",
    "TextOptions",
    "TextPart",
    "VariationForm",
]

Seed = Annotated[
    int, Field(ge=-(2**63), lt=2**63, description="The same seed gives the same result. Default: a new one; the reply has it.")
]
NumAlternatives = Annotated[int, Field(ge=0, le=20)]
Bias = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Format = Literal["png", "jpeg", "webp"]
Quality = Literal["auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"]


class _Options(StrictBody):
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


class StreamOptions(StrictBody):
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
            raise refused_field("continuous_usage_stats", True, "needs include_usage=true beside it; give both, or leave it out")
        if self.top_logprobs and not self.include_drafts:
            raise refused_field("top_logprobs", self.top_logprobs, "is part of drafts; give include_drafts=true, or leave it out")
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
            raise refused_field("stream_options", asked, "is for streams; give stream=true, or leave it out")
        return self


class TextPart(StrictBody):
    """Words of a message."""

    type: Literal["text"]
    text: str


class ImageAddress(StrictBody):
    """An image: a data: URL, or an http(s) address if the server fetches those."""

    url: str


class ImagePart(StrictBody):
    """A picture in a message."""

    type: Literal["image_url"]
    image_url: ImageAddress


class ChatMessage(StrictBody):
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
            raise refused_field("content", None, f"says nothing in a message of role {self.role!r}; give a text, or a list of parts")
        return self


class TemplateOptions(StrictBody):
    """What clients of other servers tell a template."""

    enable_thinking: bool | None = Field(None, description="Extension: think first, or not.")


class Reasoning(StrictBody):
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
            raise refused_field(first, wishes[first], f"and {second} disagree about thinking; give one of them")
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
            raise refused_field("partial_images", self.partial_images, "is for streams; give stream=true, or leave it out")
        if self.include_trace and not self.stream:
            raise refused_field("include_trace", True, "is for streams; give stream=true, or leave it out")
        if self.top_logprobs and not self.include_trace:
            raise refused_field("top_logprobs", self.top_logprobs, "is part of the trace; give include_trace=true, or leave it out")
        if self.response_format == "url" and self.stream:
            raise refused_field("response_format", self.response_format, "is not for streams, whose events have b64_json; leave it out")
        if self.output_compression not in (None, 100) and self.output_format in (None, "png"):
            raise refused_field(
                "output_compression", self.output_compression, "is for jpeg and webp, and png loses nothing; give output_format"
            )
        if self.quality not in (None, "auto") and (self.steps or self.num_inference_steps):
            raise refused_field("quality", self.quality, "stands for a number of steps, which is given as well; give one of them")
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


class FileReference(StrictBody):
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
