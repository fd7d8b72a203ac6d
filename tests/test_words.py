"""The word test: names and phrases that the glossary replaced stay away from code and documents."""

from __future__ import annotations

import io
import re
import tokenize
from pathlib import Path

import pytest
import tomllib

ROOT = Path(__file__).parents[1]
WORDS = tomllib.loads((Path(__file__).parent / "words.toml").read_text(encoding="utf-8"))
NAMES = frozenset(WORDS["names"])
ANYWHERE = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, sorted(NAMES)))})(?!\w)")
"""A file in which no name occurs even in prose need not be taken apart, which takes far longer."""
PHRASES = re.compile("|".join(rf"(?<!\w){re.escape(phrase)}" for phrase in WORDS["phrases"]), re.IGNORECASE)

# The emoji world has words of its own: those that its models were trained on. The table of former names is one place.
OWN_WORDS = ("mmada/worlds/emoji", "tests/worlds/emoji", "scripts")
HISTORY = ("docs/glossary.md", "docs/decisions.md", "CHANGELOG.md")


def is_under(file: Path, folders: tuple[str, ...]) -> bool:
    return file.relative_to(ROOT).as_posix().startswith(folders)


PYTHON = [
    file
    for folder in ("mmada", "tests", "scripts", "examples")
    for file in sorted((ROOT / folder).rglob("*.py"))
    if file.name != "test_words.py" and not is_under(file, OWN_WORDS)
]
DOCUMENTS = [file for file in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))] if not is_under(file, HISTORY)]


def names_in(text: str) -> set[str]:
    """Every identifier, keyword argument and attribute."""
    return {token.string for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type == tokenize.NAME}


def prose_in(text: str) -> str:
    """Docstrings, messages and comments, each on lines of its own."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return "\n".join(token.string for token in tokens if token.type in (tokenize.STRING, tokenize.COMMENT))


def test_the_lists_find_what_they_ban():
    assert names_in("a.told = Sight(sees_ahead=x)") & NAMES == {"told", "Sight", "sees_ahead"}
    assert PHRASES.search(prose_in('x = "It says Who sees whom."'))
    assert not PHRASES.search("who attends to whom, learned behavior")


@pytest.mark.parametrize("file", PYTHON, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_former_word_is_left_in_code(file):
    text = file.read_text(encoding="utf-8")
    assert not ANYWHERE.search(text) or not names_in(text) & NAMES
    assert not PHRASES.search(text) or not PHRASES.findall(prose_in(text))


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_former_word_is_left_in_documents(file):
    text = file.read_text(encoding="utf-8")
    assert not PHRASES.findall(text)
    code = " ".join(re.findall(r"```.*?```|`[^`\n]*`", text, re.DOTALL))
    assert not set(re.findall(r"(?<![\w/.-])[A-Za-z_]\w*(?![\w/])", code)) & (NAMES - set(WORDS["data"]))


def test_no_module_has_a_former_name():
    found = [
        file for file in PYTHON if file.stem in WORDS["modules"] and is_under(file, ("mmada",)) and not is_under(file, ("mmada/worlds",))
    ]
    assert not [str(file.relative_to(ROOT)) for file in found if file.parent.name != "train"]  # train/recipes.py: the stages
