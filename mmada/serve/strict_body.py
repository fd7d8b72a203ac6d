"""Which fields of a body are known, ignored or refused.

Nothing that is asked for is dropped in silence. A field that neither OpenAI nor we know is an error that names the nearest one. One that
asks for what we cannot do is refused unless it asks for nothing (`UNSUPPORTED`). Only fields that never change a reply are ignored (`IGNORED`).
"""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from mmada.errors import suggest
from mmada.serve.refusals import shown

__all__ = ["IGNORED", "UNSUPPORTED", "StrictBody", "refused_field"]

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


def _neutral(name: str, value: object) -> bool:
    if name == "logit_bias" and isinstance(value, dict):
        return not any(value.values())
    return value is None or any(value == v and type(value) is type(v) for v in UNSUPPORTED[name])


def refused_field(name: str, value: object, reason: str) -> ValidationError:
    """The error of one field; `reason` goes on from "name=value"."""
    message = f"{name}={shown(value)} {reason}".encode("utf-8", "replace").decode()  # half characters are no text
    error = PydanticCustomError("refused", "{message}", {"message": message})
    return ValidationError.from_exception_data("body", [InitErrorDetails(type=error, loc=(name,), input=value)])


_HALVES = re.compile("[\ud800-\udfff]")


def _has_half_characters(text: str) -> bool:
    r"""Whether a text has lone surrogates, which JSON can write (\ud800) but no encoding can."""
    return _HALVES.search(text) is not None


class StrictBody(BaseModel):
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
                        raise refused_field(name, text, "has a surrogate that is no character; encode the text as UTF-8")
                kept[name] = value
            elif name in UNSUPPORTED and not _neutral(name, value):
                raise refused_field(name, value, f"is not supported by this server; leave it out{_or(_REMEDIES.get(name))}")
            elif name not in IGNORED and name not in UNSUPPORTED:
                name = name.encode("utf-8", "replace").decode()
                raise refused_field(name[:64], value, f"is unknown: {suggest(name[:64], known)}")
        return kept


def _or(remedy: str | None) -> str:
    return "" if remedy is None else f"; {remedy}"
