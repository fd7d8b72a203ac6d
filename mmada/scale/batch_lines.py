"""A batch in the shape of OpenAI's files: a request a line, a result a line.

    {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {...}}
    {"id": "batch_req_...", "custom_id": "a", "response": {"status_code": 200, "request_id": "...", "body": {...}}, "error": null}

A request has a number of its own, made from its words, so that a result of an earlier run is known again, and a changed request is found out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmada.errors import InputError, suggest

__all__ = ["URLS", "BatchLine", "BatchSummary", "check_batch", "id_of", "lines_of", "result_of"]

URLS = ("/v1/chat/completions", "/v1/completions", "/v1/images/generations", "/v1/images/edits")
"""What a batch may ask for: the server's paths that take JSON."""
_FIELDS = ("custom_id", "method", "url", "body")


@dataclass(frozen=True, slots=True)
class BatchLine:
    """A request of a batch.

    number   of its line, from 1
    id       of the request with these words, under which its result is kept
    problem  why it cannot be asked, a sentence; None: it can
    """

    number: int
    id: str
    custom_id: str | None
    url: str = ""
    body: bytes = b""
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class BatchSummary:
    """Requests of a batch, and how many of them cannot be asked."""

    num_lines: int
    num_bad: int
    first_problem: str | None


def lines_of(path: Path, limit: int | None = None) -> Iterator[BatchLine]:
    """The requests of a file, in order; empty lines are none. limit: no more than so many."""
    found = 0
    with path.open("rb") as file:
        for number, data in enumerate(file, 1):
            if limit is not None and found >= limit:
                return
            if data.strip():
                found += 1
                yield _line(number, data.strip())


def check_batch(path: Path, *, limit: int | None = None, strict: bool = False) -> BatchSummary:
    """Read a batch once. Raises InputError for a custom_id that is given twice, and if `strict` for a line that cannot be asked."""
    seen: set[int] = set()
    num_lines = num_bad = 0
    first = None
    for line in lines_of(path, limit):
        num_lines += 1
        if line.problem is not None:
            if strict:
                raise InputError(f"{path} line {line.number}: {line.problem}")
            num_bad += 1
            first = first or f"line {line.number}: {line.problem}"
        if line.custom_id is None:
            continue
        digest = int.from_bytes(hashlib.blake2b(line.custom_id.encode("utf-8", "replace"), digest_size=16).digest(), "big")
        if digest in seen:
            raise InputError(f"{path} line {line.number}: custom_id={line.custom_id[:80]!r} is given twice; give each request its own")
        seen.add(digest)
    return BatchSummary(num_lines, num_bad, first)


def id_of(data: bytes) -> str:
    """Of a request by its words."""
    return f"batch_req_{hashlib.sha256(data).hexdigest()[:24]}"


def result_of(
    line: BatchLine, response: dict[str, Any] | None = None, *, code: str = "invalid_request", message: str = ""
) -> dict[str, Any]:
    """A result as OpenAI's files have it. Without a response it is an error: what was never asked, or never answered."""
    error = None if response is not None else {"code": code, "message": message or line.problem}
    return {"id": line.id, "custom_id": line.custom_id, "response": response, "error": error}


def _line(number: int, data: bytes) -> BatchLine:
    unnamed = id_of(b"%d %s" % (number, data))  # a line without a name is known by its place
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        return BatchLine(number, unnamed, None, problem=f"the line is no JSON ({error}); write one object a line")
    if not isinstance(values, dict):
        return BatchLine(number, unnamed, None, problem="the line is no JSON object; write one with custom_id, method, url and body")
    custom_id = values.get("custom_id")
    if not isinstance(custom_id, str) or not custom_id:
        return BatchLine(number, unnamed, None, problem=f"custom_id={custom_id!r} must be a text that names the request; give it one")
    known = id_of(data)
    if (problem := _problem(values)) is not None:
        return BatchLine(number, known, custom_id, problem=problem)
    return BatchLine(number, known, custom_id, values["url"], json.dumps(values["body"]).encode())


def _problem(values: dict[str, Any]) -> str | None:
    for name in values:
        if name not in _FIELDS:
            return f"{name[:64]} is unknown: {suggest(name[:64], _FIELDS)}"
    method, url, body = values.get("method", "POST"), values.get("url"), values.get("body")
    if method != "POST":
        return f"method={str(method)[:40]!r} must be 'POST'"
    if url not in URLS:
        return f"url={str(url)[:80]!r} cannot be asked in a batch; use one of {', '.join(URLS)}"
    if not isinstance(body, dict):
        return "body must be an object: what would be sent to the url"
    if body.get("stream"):
        return f"body.stream={body['stream']!r}: a batch has whole answers; leave it out"
    return None
