"""Outcomes of the engine -> bodies and events in OpenAI's shapes."""

from __future__ import annotations

import base64
import json
import math
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from PIL import Image

from mmada.serve.outputs import Commit, Draft, DrawingThought, ImageOutput, PartialImage, TextDelta, TextOutput
from mmada.serve.response_schema import (
    AnswerMessage,
    ChatChoice,
    ChatCompletionResponse,
    CompletionChoice,
    CompletionResponse,
    ImageItem,
    ImagesResponse,
    ImageUsage,
    InputDetails,
    OutputDetails,
    TokenDetails,
    Usage,
)
from mmada.serve.schema import ChatBody, CompletionBody, Format, GenerationBody, ImageOptions

__all__ = ["ImageResponses", "TextResponses", "event"]

_EXTENSIONS = ("warning", "wants_picture")
"""Fields of an answer that OpenAI's shapes lack; left out where there is nothing to say."""


def event(data: object, name: str | None = None) -> bytes:
    """One server-sent event."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()


@dataclass(frozen=True, slots=True)
class TextResponses:
    """Replies to one request for text."""

    body: ChatBody | CompletionBody
    model: str
    seed: int
    created: int = field(default_factory=lambda: int(time.time()))
    token: str = field(default_factory=lambda: secrets.token_hex(12))

    @property
    def is_chat(self) -> bool:
        """Whether the chat endpoint was asked, whose bodies have another shape."""
        return isinstance(self.body, ChatBody)

    def whole(self, results: Sequence[TextOutput]) -> dict[str, Any]:
        """The answer as one body."""
        common: dict[str, Any] = {"created": self.created, "model": self.model, "usage": self._usage(results), "seed": self.seed}
        if self.is_chat:
            choices = [
                ChatChoice(
                    index=i,
                    message=AnswerMessage(content=result.answer, reasoning_content=result.thinking),
                    finish_reason=result.finish_reason,
                    warning=result.warning,
                    wants_picture=result.wants_picture,
                )
                for i, result in enumerate(results)
            ]
            unsaid = {i: {name for name in _EXTENSIONS if not getattr(result, name)} for i, result in enumerate(results)}
            return ChatCompletionResponse(id=f"chatcmpl-{self.token}", choices=choices, **common).model_dump(exclude={"choices": unsaid})
        texts = [CompletionChoice(index=i, text=result.answer, finish_reason=result.finish_reason) for i, result in enumerate(results)]
        return CompletionResponse(id=f"cmpl-{self.token}", choices=texts, **common).model_dump()

    # Chunks of a stream.

    def first(self, index: int) -> list[dict[str, Any]]:
        """Chunks that open a choice: its role, or nothing for completions."""
        return [self._chunk(index, {"role": "assistant", "content": ""})] if self.is_chat else []

    def words(self, index: int, words: TextDelta) -> list[dict[str, Any]]:
        """Chunks for what is new of a choice: of its thinking, then of its answer."""
        if not self.is_chat:
            return [self._chunk(index, words.answer)]
        deltas = [{"reasoning_content": words.thinking}] * bool(words.thinking) + [{"content": words.answer}] * bool(words.answer)
        return [self._chunk(index, delta) for delta in deltas]

    def draft(self, index: int, draft: Draft) -> list[dict[str, Any]]:
        """A chunk with the whole text as it looks now, each piece with its confidence."""
        pieces = [
            {"text": piece.text, "confidence": piece.confidence}
            | ({"top_logprobs": _logprobs(piece.alternatives)} if piece.alternatives else {})
            for piece in draft.pieces
        ]
        return [{**self._chunk(index, {} if self.is_chat else ""), "mmada": {"draft": pieces}}]

    def last(self, index: int, result: TextOutput) -> list[dict[str, Any]]:
        """The chunk that closes a choice, with its finish reason."""
        chunk = self._chunk(index, {} if self.is_chat else "", result.finish_reason)
        return [{**chunk, **{name: value for name in _EXTENSIONS if (value := getattr(result, name))}}]

    def usage_chunk(self, results: Sequence[TextOutput]) -> list[dict[str, Any]]:
        """The chunk with the tokens of all choices, if the client asked for it."""
        if not self._shows_usage:
            return []
        return [{**self._chunk(0, {}), "choices": [], "usage": self._usage(results).model_dump()}]

    def so_far(self, chunk: dict[str, Any], num_prompt_tokens: int, num_new_tokens: int) -> dict[str, Any]:
        """A chunk, with the tokens of its choice if the client counts as it reads: as vLLM sends them."""
        if not (self.body.stream_options and self.body.stream_options.continuous_usage_stats):
            return chunk
        counts = {"prompt_tokens": num_prompt_tokens, "completion_tokens": num_new_tokens}
        return {**chunk, "usage": {**counts, "total_tokens": num_prompt_tokens + num_new_tokens}}

    @property
    def _shows_usage(self) -> bool:
        return bool(self.body.stream_options and self.body.stream_options.include_usage)

    def _chunk(self, index: int, content: object, reason: str | None = None) -> dict[str, Any]:
        head = {"id": f"{'chatcmpl' if self.is_chat else 'cmpl'}-{self.token}"}
        kind = "chat.completion.chunk" if self.is_chat else "text_completion"
        choice = {"index": index, "delta" if self.is_chat else "text": content, "logprobs": None, "finish_reason": reason}
        chunk = {**head, "object": kind, "created": self.created, "model": self.model, "choices": [choice], "seed": self.seed}
        return {**chunk, "usage": None} if self._shows_usage else chunk

    def _usage(self, results: Sequence[TextOutput]) -> Usage:
        new = sum(result.num_new_tokens for result in results)
        prompt = sum(result.num_prompt_tokens for result in results[:: self.body.n or 1])  # each prompt once
        forwards = sum(result.num_forwards for result in results)
        return Usage(
            prompt_tokens=prompt,
            completion_tokens=new,
            total_tokens=prompt + new,
            completion_tokens_details=TokenDetails(reasoning_tokens=sum(result.num_thinking_tokens for result in results)),
            nfe=forwards,
            tokens_per_forward=round(new / max(1, forwards), 3),
        )


@dataclass(frozen=True, slots=True)
class ImageResponses:
    """Replies to one request for images. prefix is that of the events' types."""

    body: ImageOptions
    seed: int
    prefix: str
    prompt: str | None = None
    """a prompt that the server made up"""
    note: str | None = None
    """what was done otherwise than it was asked, of every image"""
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, results: Sequence[ImageOutput]) -> dict[str, Any]:
        """The images as one body."""
        reply = ImagesResponse(
            created=self.created,
            data=[self._item(result) for result in results],
            output_format=self._format,
            size=_size(results[0].drawing.image),
            quality=self._quality,
            usage=_image_usage(results),
            seed=self.seed,
        )
        unsaid = {i: {name for name in ("text", "warning", "unknown") if getattr(item, name) is None} for i, item in enumerate(reply.data)}
        return reply.model_dump(exclude={"data": unsaid})

    def preview(self, index: int, preview: PartialImage) -> bytes:
        """index, that of the choice, is ours: OpenAI streams one image."""
        data = self._event("partial_image", preview.image, compress_level=1)  # it is looked at for a moment
        return event({**data, "partial_image_index": preview.index, "index": index}, str(data["type"]))

    @property
    def sends_thinking(self) -> bool:
        """Whether the client asked for thinking by name, and so knows of an event that OpenAI's streams do not have."""
        return isinstance(self.body, GenerationBody) and bool(self.body.thinking)

    def thought(self, index: int, thought: DrawingThought) -> bytes:
        """An event of ours."""
        kind = f"{self.prefix}.thinking"
        payload = {
            "type": kind,
            "thinking": thought.thinking,
            "revised_prompt": thought.prompt,
            "created_at": int(time.time()),
            "index": index,
        }
        return event(payload, kind)

    def completed(self, index: int, result: ImageOutput) -> bytes:
        """The last event of an image: picture, trace if asked for, and usage."""
        data = self._event("completed", result.drawing.image)
        item = self._item(result, with_image=False).model_dump(exclude_none=True)
        trace = {} if result.commits is None else {"trace": _trace(result.commits)}
        usage = _image_usage([result]).model_dump()
        return event({**data, **item, **trace, "index": index, "seed": self.seed, "usage": usage}, str(data["type"]))

    @property
    def _format(self) -> Format:
        return self.body.output_format or "png"

    @property
    def _quality(self) -> Any:
        return "low" if self.body.quality == "low" else "high" if self.body.quality in ("high", "xhigh", "max", "hd") else "medium"

    def _encoded(self, image: Image.Image, *, compress_level: int = 3) -> str:
        """compress_level: of a PNG. A drawing at 3 is an eighth larger than at PIL's own 6, in less than half of the time."""
        buffer, asked = BytesIO(), self.body.output_compression
        how = {"compress_level": compress_level} if self._format == "png" else {"quality": 90 if asked is None else asked}
        image.save(buffer, format=self._format, **how)
        return base64.b64encode(buffer.getvalue()).decode()

    def _item(self, result: ImageOutput, *, with_image: bool = True) -> ImageItem:
        drawing = result.drawing
        revised = drawing.prompt if drawing.thinking is not None else self.prompt
        warning, unknown = " ".join(filter(None, (self.note, drawing.warning))) or None, list(drawing.unknown) or None
        text = None if drawing.answer is None else drawing.answer.text
        item = ImageItem(revised_prompt=revised, thinking=drawing.thinking, seed=drawing.seed, text=text, warning=warning, unknown=unknown)
        if with_image and self.body.response_format == "url":
            item.url = f"data:image/{self._format};base64,{self._encoded(drawing.image)}"
        elif with_image:
            item.b64_json = self._encoded(drawing.image)
        return item

    def _event(self, kind: str, image: Image.Image, *, compress_level: int = 3) -> dict[str, Any]:
        return {
            "type": f"{self.prefix}.{kind}",
            "b64_json": self._encoded(image, compress_level=compress_level),
            "created_at": int(time.time()),
            "size": _size(image),
            "quality": self._quality,
            "background": "opaque",
            "output_format": self._format,
        }


def _trace(commits: Sequence[Commit | None]) -> dict[str, list[Any]]:
    """Step and confidence of each image token in reading order, and what was likeliest there if that was asked for; null where it was given."""
    trace: dict[str, list[Any]] = {
        "steps": [None if commit is None else commit.step for commit in commits],
        "confidences": [None if commit is None else round(commit.confidence, 4) for commit in commits],
    }
    if any(commit is not None and commit.alternatives for commit in commits):
        trace["top_logprobs"] = [None if commit is None else _logprobs(commit.alternatives) for commit in commits]
    return trace


def _logprobs(alternatives: Sequence[tuple[str | int, float]]) -> list[dict[str, Any]]:
    """In OpenAI's shape, without what is impossible."""
    return [{"token": token, "logprob": round(math.log(share), 4)} for token, share in alternatives if share > 0]


def _size(image: Image.Image) -> str:
    return f"{image.width}x{image.height}"


def _image_usage(results: Sequence[ImageOutput]) -> ImageUsage:
    text, drawn = sum(r.num_text_tokens for r in results), sum(r.num_new_tokens for r in results)
    prompt, given = results[0].num_prompt_tokens, results[0].num_given_codes
    return ImageUsage(
        input_tokens=prompt,
        output_tokens=text + drawn,
        total_tokens=prompt + text + drawn,
        input_tokens_details=InputDetails(text_tokens=prompt - given, image_tokens=given),
        output_tokens_details=OutputDetails(image_tokens=drawn, text_tokens=text),
        nfe=sum(r.drawing.num_forwards for r in results),
    )
