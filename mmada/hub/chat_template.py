"""How a checkpoint is spoken to, as a chat template: what `Prompts.dialogue` knows, written where other tools look for it.

    tokenizer.apply_chat_template(turns, add_generation_prompt=True)                          the ids of Prompts.dialogue
    tokenizer.apply_chat_template(turns, add_generation_prompt=True, enable_thinking=True)    those with the instruction to think

The format is the published one, with one line end behind a header, or as the model's family has it (`Prompts.own_template`). One difference
remains: a template makes a string, so that a special token's name in a user's text becomes that token; `Prompts` never does this.
"""

from __future__ import annotations

import json

from mmada.canvas import SPECIAL_STRINGS, Prompts

__all__ = ["chat_template"]

_CONTENT = r"""    {%- set found = namespace(text='') %}
    {%- if message['content'] is string %}
        {%- set found.text = message['content'] %}
    {%- elif message['content'] is iterable and message['content'] is not mapping %}
        {%- for part in message['content'] %}
            {%- if part is string %}
                {%- set found.text = found.text ~ part %}
            {%- elif part['type'] == 'text' %}
                {%- set found.text = found.text ~ part['text'] %}
            {%- else %}
                {{- raise_exception("message " ~ loop.index0 ~ " holds a part of type '" ~ part['type'] ~ "', which is no text; give it to the processor") }}
            {%- endif %}
        {%- endfor %}
    {%- endif %}
    {%- set text = SPACED %}
    {%- if not text %}
        {{- raise_exception("content of message " ~ loop.index0 ~ " is empty; write a text") }}
    {%- endif %}
    {%- if enable_thinking is defined and enable_thinking and loop.last and message['role'] == 'user' %}
        {%- set text = THINKING ~ text %}
    {%- endif %}"""
"""A message's content as `text`: a string, or the text parts of a list."""

_TEMPLATE = r"""{{- BOS }}
{%- for message in messages %}
    {%- if message['role'] not in ['system', 'user', 'assistant'] %}
        {{- raise_exception("role='" ~ message['role'] ~ "' of message " ~ loop.index0 ~ " is unknown; use system, user or assistant") }}
    {%- endif %}
CONTENT
    {{- START ~ message['role'] ~ END ~ text ~ TURN }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- START ~ 'assistant' ~ END }}
{%- endif %}
"""


def chat_template(prompts: Prompts) -> str | None:
    """The chat template (Jinja) of a checkpoint that was taught these prompts; None if that of its tokenizer's files is what lays turns out."""
    if not prompts.has_headers and prompts.own_template is None:
        return None
    if prompts.follows_files and getattr(prompts.tokenizer, "template", None) is not None:
        return None
    style = prompts.style
    headers = {
        "BOS": SPECIAL_STRINGS["bos"],
        "START": SPECIAL_STRINGS["start_header"],
        "END": SPECIAL_STRINGS["end_header"] + prompts.after_header,
        "TURN": "<eot_id>" if style.separator == "literal" else SPECIAL_STRINGS["eot"],
    }
    values = {**(headers if prompts.has_headers else {}), "THINKING": style.thinking}
    spaced = "found.text | trim" if style.whitespace == "kept" else "found.text.split() | join(' ')"
    template = (prompts.own_template or _TEMPLATE).replace("CONTENT", _CONTENT).replace("SPACED", spaced)
    for name, value in values.items():
        template = template.replace(name, json.dumps(value, ensure_ascii=False))
    return template
