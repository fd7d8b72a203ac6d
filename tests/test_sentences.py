"""README, docs and docstrings of public names are written in sentences of at most thirty words."""

from __future__ import annotations

import ast
import inspect
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


PACKAGE = ROOT / "mmada"
ROW = re.compile(r"\s*\S.*?\s{2,}(?=\S)")
"""A row of a table in a docstring: a name, two spaces, and what is said of it."""


def docstrings(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, name: str) -> Iterator[tuple[str, str]]:
    """Of a module and all that is public in it, the texts below fields and constants included."""
    yield name, ast.get_docstring(node) or ""
    for before, after in zip([None, *node.body], node.body, strict=False):
        if isinstance(after, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not after.name.startswith("_"):
            yield from docstrings(after, f"{name} {after.name}")
        elif isinstance(before, ast.Assign | ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            yield f"{name}:{after.lineno}", inspect.cleandoc(str(after.value.value))


def prose(docstring: str) -> str:
    """The text with each row of a table, and each line of a drawing, as a paragraph of its own."""
    lines, column = [], 0
    for line in docstring.splitlines():
        indent = len(line) - len(line.lstrip())
        row = ROW.match(line)
        goes_on = not row and indent == column and not line[indent:][:1].isdigit()
        lines += [line.strip()] if goes_on else ["", line[row.end() if row else 0 :].strip()]
        column = row.end() if row else indent
    return "\n".join(lines)


def long_sentences(docstring: str) -> list[str]:
    """Words have letters: signs and numbers of a formula or a drawing are none."""
    return [one for one in sentences(prose(docstring)) if sum(bool(re.search("[a-z]", word, re.I)) for word in one.split()) > MOST]


def test_sentences_of_docstrings_are_found():
    long = "word " * 30 + "end."
    assert long_sentences(f"Title.\n\nname  {long}\nother  one\n       {long}\n\nmore\n{long}") == [long, f"one {long}", f"more {long}"]
    assert long_sentences("a  " + "word " * 20 + "\nb  " + "word " * 20) == []
    source = 'x = 1\n"""text"""\ndef f():\n    """f"""\ndef _g():\n    """g"""\nclass C:\n    def m(self):\n        """m"""\n'
    found = dict(docstrings(ast.parse(source), "file"))
    assert found == {"file": "", "file:2": "text", "file f": "f", "file C": "", "file C m": "m"}


def test_no_sentence_of_a_docstring_is_long():
    found = [
        (name, sentence)
        for file in sorted(PACKAGE.rglob("*.py"))
        for name, text in docstrings(ast.parse(file.read_text(encoding="utf-8")), str(file.relative_to(PACKAGE)))
        for sentence in long_sentences(text)
    ]
    assert found == []
