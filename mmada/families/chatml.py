"""Conversations as models that were made of Qwen have them, by the chat template of their files or, without one, in its plain form.

    <|im_start|>user \\n TEXT <|im_end|> \\n <|im_start|>assistant \\n | answer

Files of Qwen's models have a template that puts a sentence of the system before these turns; it stands over the plain form.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from mmada.canvas import Message, Prompts
from mmada.errors import InputError
from mmada.families.chat_template import TemplateTokenizer, template_ids

__all__ = ["ChatMLPrompts"]

_ROLES = ("system", "user", "assistant")
_TEMPLATE = r"""{%- for message in messages %}
    {%- if message['role'] not in ['system', 'user', 'assistant'] %}
        {{- raise_exception("role='" ~ message['role'] ~ "' of message " ~ loop.index0 ~ " is unknown; use system, user or assistant") }}
    {%- endif %}
CONTENT
    {{- '<|im_start|>' ~ message['role'] ~ '\n' ~ text ~ '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""


class ChatMLPrompts(Prompts):
    """Turns between a begin and an end token, each with the name of its role in a line of its own."""

    __slots__ = ()

    has_headers: ClassVar[bool] = False
    own_template: ClassVar[str | None] = _TEMPLATE
    follows_files: ClassVar[bool] = True

    def dialogue(self, messages: Sequence[Message], *, thinking: str | None = None) -> list[int]:
        """As in `Prompts`, by the template of the tokenizer's files if it has one, and by ChatML otherwise."""
        if not messages or messages[-1].role != "user":
            raise InputError(f"the last of {len(messages)} messages must be the user's; add the question")
        for i, message in enumerate(messages):
            if message.role not in _ROLES:
                raise InputError(f"role={message.role!r} of message {i} is unknown; use system, user or assistant")
            if not message.content.strip():
                raise InputError(f"content='' of message {i} is empty; write a prompt")
        turns = [Message(message.role, self.style.spaced(message.content).strip()) for message in messages]
        turns[-1] = Message("user", (thinking or "") + turns[-1].content)
        if isinstance(self.tokenizer, TemplateTokenizer) and self.tokenizer.template is not None:
            return template_ids(self.tokenizer, turns)
        ids: list[int] = []
        for turn in turns:
            ids += [self.layout.special("start_header"), *self.encode(f"{turn.role}\n{turn.content}"), self.layout.special("eot")]
            ids += self.encode("\n")
        return [*ids, self.layout.special("start_header"), *self.encode("assistant\n")]
