"""What README shows is run: its Python, and its commands on the built-in model."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from mmada.cli import main

README = (Path(__file__).parents[1] / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = [line.split("#")[0].strip() for line in re.findall(r"^mmada .*$", README, re.MULTILINE) if "Gen-Verse" not in line]


def test_readme_shows_something():
    assert len(PYTHON) >= 3
    assert {command.split()[1] for command in COMMANDS} >= {"draw", "ask", "chat", "fill", "info"}


@pytest.mark.parametrize("code", PYTHON, ids=range(len(PYTHON)))
def test_python(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})


def test_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for command in COMMANDS:
        monkeypatch.setattr(sys, "argv", shlex.split(command))
        with pytest.raises(SystemExit) as leave:
            main()
        assert not leave.value.code, f"{command}: {capsys.readouterr().err}"
    assert (tmp_path / "out.png").exists()
    assert (tmp_path / "wide.png").exists()
