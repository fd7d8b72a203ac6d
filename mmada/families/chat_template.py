"""Conversations laid out by the chat template of a tokenizer's files, with nothing that a user writes taken for a special token.

    template -> text with a placeholder for every content -> split at special tokens -> contents put in -> ids of each piece

Special tokens split a text before it is tokenized, so this equals tokenizing the whole text, but for special tokens within contents.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from mmada.canvas import Message
from mmada.errors import InputError, MissingDependencyError

__all__ = ["TemplateTokenizer", "template_ids"]

_PLACEHOLDER = "\ue000{}\ue001"
_FOUND = re.compile("\ue000(\\d+)\ue001")


@runtime_checkable
class TemplateTokenizer(Protocol):
    """A text tokenizer whose files may hold a chat template."""

    template: str | None
    config: dict[str, Any]

    @property
    def special_strings(self) -> tuple[str, ...]:
        """Strings that are one token each, whatever stands beside them."""
        ...

    def encode(self, text: str, *, special_tokens: bool = False) -> list[int]:
        """As in `canvas.prompts.Tokenizer`."""
        ...


def template_ids(tokenizer: TemplateTokenizer, messages: Sequence[Message]) -> list[int]:
    """Ids of the turns and of what opens the assistant's answer.

    Raises InputError if there is no template, or it refuses the messages; MissingDependencyError without jinja2.
    """
    if tokenizer.template is None:
        raise InputError("the tokenizer's files have no chat template; add chat_template.jinja, or fill in a text instead of chatting")
    turns = [{"role": message.role, "content": _PLACEHOLDER.format(i)} for i, message in enumerate(messages)]
    text = _render(tokenizer.template, turns, tokenizer.config)
    special = "|".join(re.escape(string) for string in sorted(tokenizer.special_strings, key=len, reverse=True))
    pieces = re.split(f"({special})", text) if special else [text]
    ids: list[int] = []
    for i, piece in enumerate(pieces):
        is_special = i % 2 == 1
        whole = piece if is_special else _FOUND.sub(lambda match: messages[int(match[1])].content.strip(), piece)
        ids += tokenizer.encode(whole, special_tokens=is_special) if whole else []
    return ids


def _render(template: str, turns: Sequence[Mapping[str, str]], config: Mapping[str, Any]) -> str:
    try:
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as error:
        raise MissingDependencyError("a chat template needs jinja2; pip install jinja2") from error

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = refuse
    named = {name: value["content"] if isinstance(value, dict) else value for name, value in config.items() if name.endswith("_token")}
    try:
        return environment.from_string(template).render(messages=list(turns), add_generation_prompt=True, **named)
    except TemplateError as error:
        raise InputError(f"the chat template refuses these {len(turns)} messages ({error}); change their order or roles") from error
