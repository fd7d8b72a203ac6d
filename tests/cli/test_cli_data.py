"""What `mmada data` shows on a terminal before the records are counted."""

import io
import sys
import time

from rich.console import Console

from mmada.cli import session
from mmada.cli.data import opening


def terminal(monkeypatch, *, is_one: bool = True) -> io.StringIO:
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setattr(session, "remarks", Console(stderr=True, force_terminal=is_one))
    return shown


def test_a_folder_that_is_looked_through_says_how_many_files_it_has(tmp_path, monkeypatch):
    """`mmada data check` of a large folder was silent for minutes."""
    for name in ("a.txt", "b.txt", "c.txt"):
        (tmp_path / name).touch()
    shown = terminal(monkeypatch)
    with opening(str(tmp_path)):
        deadline = time.monotonic() + 10
        while "3 files" not in shown.getvalue() and time.monotonic() < deadline:
            time.sleep(0.02)
    assert "opening" in shown.getvalue()
    assert "3 files" in shown.getvalue()
    assert sys.stderr is shown


def test_it_gives_way_to_another_bar(tmp_path, monkeypatch):
    shown = terminal(monkeypatch)
    with opening(str(tmp_path)):
        sys.stderr.write("Generating train split")
        time.sleep(0.3)  # a spinner turns ten times a second
        assert shown.getvalue().endswith("Generating train split")


def test_where_no_terminal_is_nothing_is_shown(tmp_path, monkeypatch):
    shown = terminal(monkeypatch, is_one=False)
    with opening(str(tmp_path)):
        assert sys.stderr is shown
    assert shown.getvalue() == ""
