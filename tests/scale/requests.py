"""Batches for tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CHAT, COMPLETIONS, GENERATIONS, EDITS = (f"/v1/{end}" for end in ("chat/completions", "completions", "images/generations", "images/edits"))


def chat(number: int, *, tokens: int = 16) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": f"hello {number}"}], "seed": number, "temperature": 1.0, "max_tokens": tokens}
    return {"custom_id": f"chat {number}", "method": "POST", "url": CHAT, "body": body}


def written(path: Path, requests: Sequence[object]) -> Path:
    path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in requests))
    return path


def results(path: Path) -> dict[str | None, dict[str, Any]]:
    """By custom_id; each once."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    found = {line["custom_id"]: line for line in lines}
    assert len(found) == len(lines)
    return found


def said(body: dict[str, Any]) -> dict[str, Any]:
    """A body without what is new each time."""
    return {name: value for name, value in body.items() if name not in ("id", "created")}
