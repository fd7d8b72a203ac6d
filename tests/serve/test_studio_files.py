"""The studio's files, without a browser: served whole, from nowhere else, labeled, in modules of one idea; and the verb that opens it."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path
from typing import Any

import mmada.serve
from mmada.cli import studio as studio_verb
from mmada.cli.options import Loading

from .process import serving

WEB = Path(mmada.serve.__file__).parent / "web"
MOST_LINES = 450


def test_the_page_is_served_whole_and_needs_no_key(tmp_path):
    with serving(tmp_path / "log", "--api-key", "secret") as server:
        for path in WEB.iterdir():
            with urllib.request.urlopen(f"{server.url}/{path.name}") as answer:
                assert answer.read() == path.read_bytes()
        with urllib.request.urlopen(server.url) as answer:
            assert answer.read() == (WEB / "index.html").read_bytes()


def test_nothing_comes_from_elsewhere():
    for path in WEB.glob("*.*"):
        if path.suffix in (".html", ".css", ".js"):
            text = path.read_text()
            assert not re.search(r"""(src=|@import|url\(|from )\s*["']?(https?:)?//""", text), path.name
            assert "innerHTML" not in text, f"{path.name} may write what a model says as HTML"
            assert len(text.splitlines()) <= MOST_LINES, path.name


def test_every_module_and_style_is_used():
    page = (WEB / "index.html").read_text()
    modules = "\n".join(path.read_text() for path in WEB.glob("*.js"))
    for path in [*WEB.glob("*.js"), *WEB.glob("*.css")]:
        assert f'"{path.name}"' in page or f'"./{path.name}"' in modules, path.name


def test_every_input_has_a_label():
    html = (WEB / "index.html").read_text()
    outside = re.sub(r"<label\b.*?</label>", "", html, flags=re.S)
    for tag in re.findall(r"<(?:input|textarea|select)\b[^>]*>", outside):
        name = re.search(r'id="([^"]+)"', tag)[1]
        assert f'for="{name}"' in html or "aria-label=" in tag, tag


def test_the_recording_is_small_and_says_what_it_is_of():
    path = WEB / "recorded.json"
    record = json.loads(path.read_text())
    (picture,) = record["result"]["pictures"]
    assert path.stat().st_size < 300_000
    assert (record["model"], record["prompt"]) == ("mmada-emoji-chat", "two red hearts above a dog")
    assert len(picture["frames"]) == 1 + max(picture["trace"]["steps"]) > 8
    assert len(picture["trace"]["steps"]) == 64


def test_the_verb_starts_the_server_and_opens_the_page(monkeypatch, capsys):
    opened_pages: list[str] = []
    started: dict[str, Any] = {}

    def start(model: str, settings: dict[str, Any], loading: Loading, *, ready: Any, **others: Any) -> None:
        started.update(model=model, settings=settings, loading=loading, **others)
        ready("http://127.0.0.1:1234")

    monkeypatch.setattr(studio_verb, "start", start)
    monkeypatch.setattr(studio_verb.webbrowser, "open", opened_pages.append)

    class Now:
        """A thread that runs at once."""

        def __init__(self, target: Any, args: Any, daemon: bool) -> None:
            self.start = lambda: target(*args)

    monkeypatch.setattr(studio_verb.threading, "Thread", Now)
    studio_verb.studio(model="some/where", browser=False)
    assert opened_pages == []
    assert "http://127.0.0.1:1234" in capsys.readouterr().out
    studio_verb.studio(model="some/where", api_key=["k"])
    assert opened_pages == ["http://127.0.0.1:1234"]
    assert started["settings"] == {"name": "where", "api_keys": ("k",)}
