"""The bodies that go out, in OpenAI's shapes with our fields beside them; responses.py fills them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from mmada.serve.schema import Format

__all__ = [
    "AnswerMessage",
    "ChatChoice",
    "ChatCompletionResponse",
    "CompletionChoice",
    "CompletionResponse",
    "ErrorResponse",
    "ExampleFacts",
    "ImageItem",
    "ImageUsage",
    "ImagesResponse",
    "InputDetails",
    "ModelCard",
    "ModelFacts",
    "ModelList",
    "OutputDetails",
    "SettingFacts",
    "TokenDetails",
    "Usage",
]


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
    wants_picture: bool = Field(
        False, description="Extension, left out where it is false: the model took the prompt for one that asks for a picture."
    )


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
