"""README and docs are written in sentences of at most thirty words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MOST = 30
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
NO_PROSE = re.compile(r"```.*?```|<!--.*?-->|^\|.*?$|^#+ .*?$|<[^>]*>", re.DOTALL | re.MULTILINE)
"""code, comments, rows of tables, headings, tags"""
BLOCK = re.compile(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.) )")
END = re.compile(r"(?<=[.!?])\s+(?=[A-Za-z0-9\"'(])")


def sentences(text: str) -> Iterator[str]:
    text = NO_PROSE.sub("\n\n", text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", re.sub(r"`[^`]*`", "x", text))
    for block in BLOCK.split(text):
        yield from END.split(" ".join(block.split()))


def test_sentences_are_found():
    text = "# Title\n\nOne `a b c` here. Two\nthere!\n\n- Three [of them](x y).\n- Four.\n\n| no | row |\n"
    assert [one for one in sentences(text) if one] == ["One x here.", "Two there!", "- Three of them.", "- Four."]


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_sentence_is_long(file):
    assert [one for one in sentences(file.read_text(encoding="utf-8")) if len(one.split()) > MOST] == []
