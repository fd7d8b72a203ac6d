"""Sentences of several writers (voices/*.txt), and a chooser that speaks with their voices instead of the grammar's.

A file has sections, with one sentence a line. {Fields} are filled in.

    [count]           ways to ask how many there are: the tables of the grammar, by name
    [problem a - b]   word problems, with what is to be computed
    [sum a + b]       sums in words
    [talk greeting]   what people say who ask for nothing
    [draw], [remark]  ways to ask for a picture, and what is told beside it
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files

from mmada.worlds.emoji.chooser import Chooser
from mmada.worlds.emoji.split import Templates

__all__ = ["TAUGHT", "Voice", "read_sections", "sections", "sentences"]

TAUGHT = ("asks", "child", "developer", "grandmother", "learner", "passerby", "teacher")
"""Voices that mmada-emoji-chat was taught. The others came after it."""

_OWN = 0.15
"""share of the sentences that stay the grammar's"""


def read_sections(text: str) -> dict[str, tuple[str, ...]]:
    """Section -> its lines, of one file."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        if line.startswith("[") and line.endswith("]"):
            name = line[1:-1]
        elif line:
            found.setdefault(name, []).append(line)
    return {section: tuple(lines) for section, lines in found.items()}


@cache
def sections(voices: tuple[str, ...] = ()) -> Mapping[str, tuple[str, ...]]:
    """Section -> the lines of some voices, by default of all."""
    found: dict[str, list[str]] = {}
    for file in sorted(files(__package__).joinpath("voices").iterdir(), key=lambda file: file.name):
        if voices and file.name.removesuffix(".txt") not in voices:
            continue
        for section, lines in read_sections(file.read_text(encoding="utf-8")).items():
            found.setdefault(section, []).extend(lines)
    return {section: tuple(lines) for section, lines in found.items()}


@cache
def sentences(kind: str) -> Mapping[str, tuple[str, ...]]:
    """What stands behind the first word of a heading -> lines: sentences("talk") has greeting, thanks, ..."""
    return {name.removeprefix(f"{kind} "): lines for name, lines in sections().items() if name.startswith(f"{kind} ")}


class Voice(Chooser):
    """A chooser whose sentences are mostly those of the voices, where these have any for a table."""

    def template(self, table: Templates) -> str:
        """A line of the voices for the table, or now and then, or if they have none, one of its own."""
        lines = sections().get(table.name, ())
        return super().template(table) if not lines or self.chance(_OWN) else self.pick(lines)
