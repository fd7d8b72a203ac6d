"""The pages that are written from the code hold everything that the code has, and the site builds without a warning."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmada.serve.config import ServeConfig

ROOT = Path(__file__).parents[1]


def load(name: str):
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / "_site" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_command_line_page_has_every_verb_and_option():
    import typer

    from mmada.cli import app

    page = load("reference").cli()
    commands = typer.main.get_command(app).commands
    for verb, command in commands.items():
        assert f"## mmada {verb}" in page
        for option in (name for one in command.params for name in one.opts if name.startswith("--")):
            assert option in page, f"{verb} {option}"
    assert set(commands) >= {"draw", "doctor"}


def test_the_configs_page_has_every_field_with_the_line_under_it():
    reference = load("reference")
    page = reference.configs()
    for one in dataclasses.fields(ServeConfig):
        assert f"| `{one.name}` |" in page
    assert "generations that may wait for their turn" in reference.field_texts(ServeConfig)["max_queue"]
    assert "| `max_queue` | `int` | `128` | generations that may wait for their turn; more are answered with 429 |" in page
    assert "### stage.optim" in page, "sections are found through unions of stages"


def test_every_room_has_a_page_of_the_api():
    pages = load("reference").api()
    rooms = {file.parent.name for file in (ROOT / "mmada").glob("*/__init__.py")}
    assert {f"reference/api/{room}.md" for room in rooms} | {"reference/api/index.md"} == set(pages)


def test_an_aligned_line_of_a_docstring_becomes_an_item_and_code_stays():
    pytest.importorskip("griffe", reason="the extra docs")
    lay_out = load("docstrings").lay_out
    text = "Draw a mask.\n\nx0   (B, L)  clean tokens,\n     of text\nt    (B,)  time\nRaises ValueError.\n\n    a    = code"
    expected = "Draw a mask.\n\n\n- `x0` (B, L)  clean tokens,\nof text\n- `t` (B,)  time\n\nRaises ValueError.\n\n    a    = code"
    assert lay_out(text) == expected


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_loads_nothing_from_the_network(tmp_path):
    pytest.importorskip("mkdocs", reason="the extra docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    result = subprocess.run(command, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "site" / "reference" / "cli.html").exists()
