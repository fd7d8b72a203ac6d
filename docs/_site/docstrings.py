"""Lay our docstrings out as Markdown.

A docstring of this package aligns its arguments as a table of plain text, and starts a line with Returns, Raises or Source.
Markdown would join these lines into one paragraph. Here an aligned line becomes an item of a list, and the others a paragraph.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_ALIGNED = re.compile(r"^(?P<name>[^\s#>*|-]\S*(?: \S+){0,3}?) {2,}(?P<text>\S.*)$")
_PARAGRAPHS = ("Returns", "Raises", "Source", "Yields")


def lay_out(docstring: str) -> str:
    """The same text as Markdown. Indented blocks, which are code, stay as they are."""
    lines: list[str] = []
    is_list = False
    for line in docstring.splitlines():
        if match := _ALIGNED.match(line):
            if not is_list:
                lines.append("")
            lines.append(f"- `{match['name']}` {match['text']}")
            is_list = True
        else:
            ends_list = is_list and line.strip() and not line.startswith(" ")
            if ends_list or line.startswith(_PARAGRAPHS):
                lines.append("")
            lines.append(line.strip() if is_list and line.startswith(" ") else line)
            is_list = is_list and bool(line.strip()) and not ends_list
    return "\n".join(lines)


class Layout(griffe.Extension):
    """Applies `lay_out` to every docstring that is read."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = lay_out(obj.docstring.value)
