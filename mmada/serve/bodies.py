"""Bytes of a body -> JSON or a form, within limits that are checked before the work is done.

    request_body   what a client sends, or GoneError
    parsed_json    counts what the text may hold, parses it, counts messages, parts and characters
    parsed_form    splits a form at its boundary

All of it is linear in the bytes. A body of a few megabytes may say a million things; so it is first counted, at the speed of memory, how many
values and escapes there can be. Strings alone may be long: they carry pictures.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect, Request

from mmada.errors import InputError
from mmada.serve.config import ServeConfig
from mmada.serve.refusals import about

__all__ = ["FormField", "GoneError", "content_type", "parsed_form", "parsed_json", "request_body"]

_SLICE = 65536
_MAX_FIELDS, _MAX_FILES = 64, 32
_MAX_HEAD = 4096
"""Bytes of the headers of one field of a form."""
_MAX_DIGITS = 64
"""Characters of a number. Longer ones say nothing that a double can hold, and take time with their square."""
_MAX_BOUNDARY = 70
"""Characters, by RFC 2046."""


class GoneError(Exception):
    """The client went away."""


async def request_body(request: Request) -> bytes:
    """Raises GoneError if the client gives the upload up."""
    try:
        return await request.body()
    except ClientDisconnect as error:
        raise GoneError from error


def content_type(request: Request) -> str:
    """Without its parameters, in lower case."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


# JSON.


def parsed_json(data: bytes, config: ServeConfig) -> Any:
    """Raises InputError for what is no JSON, or holds more than a request may."""
    _check_size(data, config)
    try:
        values = json.loads(data, parse_int=_whole_number, parse_float=_number, object_pairs_hook=_object)
    except InputError:  # which is a ValueError, too
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"the body is no JSON ({error})") from error
    if isinstance(values, dict):
        _check_counts(values, config)
    return values


def _whole_number(text: str) -> int:
    return int(_short(text))


def _number(text: str) -> float:
    return float(_short(text))


def _short(text: str) -> str:
    if len(text) > _MAX_DIGITS:
        raise InputError(f"the body has a number of {len(text)} characters, {text[:16]}…; give it with {_MAX_DIGITS} at most")
    return text


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of a field that is given twice, one value would be dropped."""
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = next(name for name, count in counts.items() if count > 1)[:64]
        raise InputError(f"{twice} is given twice in one object; give it once")
    return found


def _check_size(data: bytes, config: ServeConfig) -> None:
    """Commas and brackets bound the number of values, and may stand in texts too; backslashes are what makes a string slow to read."""
    most_values = config.max_prompt_chars + 16 * (config.max_messages + config.max_parts)
    most_escapes = 2 * config.max_prompt_chars + len(data) // 32  # some write \/ in base64
    num_values = num_escapes = 0
    for start in range(0, len(data), _SLICE):
        piece = data[start : start + _SLICE]
        num_values += piece.count(b",") + piece.count(b"[") + piece.count(b"{")
        num_escapes += piece.count(b"\\")
        if num_values > most_values or num_escapes > most_escapes:
            raise InputError(
                f"the body has more values, or longer texts, than a request of {config.max_messages} messages and "
                f"{config.max_prompt_chars} characters; send less"
            )


def _check_counts(values: dict[str, Any], config: ServeConfig) -> None:
    """Before a schema looks at each of them."""
    messages = values.get("messages")
    if isinstance(messages, list):
        with about("messages"):
            _at_most(len(messages), config.max_messages, "messages has", "messages", "leave out the oldest")
            parts = [part for message in messages for part in _parts_of(message)]
            _at_most(len(parts), config.max_parts, "messages has", "parts", "send fewer")
            _check_chars(_texts_of(messages, parts), config)
    stop = values.get("stop")
    stops = stop if isinstance(stop, list) else [stop]
    with about("stop"):
        _at_most(sum(len(one) for one in stops if isinstance(one, str)), config.max_stop_chars, "stop has", "characters", "shorten it")


def _at_most(count: int, most: int, subject: str, what: str, remedy: str) -> None:
    if count > most:
        raise InputError(f"{subject} {count} {what}, {most} are allowed; {remedy}")


def _check_chars(texts: Iterator[str], config: ServeConfig) -> None:
    count = sum(map(len, texts))
    if count > config.max_prompt_chars:
        raise InputError(f"the texts of the request have {count} characters, {config.max_prompt_chars} are allowed; shorten them")


def _parts_of(message: object) -> list[Any]:
    content = message.get("content") if isinstance(message, dict) else None
    return content if isinstance(content, list) else []


def _texts_of(messages: Sequence[object], parts: Sequence[object]) -> Iterator[str]:
    for place, name in ((messages, "content"), (parts, "text")):
        for one in place:
            if isinstance(one, dict) and isinstance(one.get(name), str):
                yield one[name]


# Forms.


@dataclass(frozen=True, slots=True)
class FormField:
    """A field of a form: a text, or the bytes of a file."""

    name: str
    value: str | bytes


def parsed_form(data: bytes, header: str, config: ServeConfig) -> list[FormField]:
    """The fields of a form by its Content-Type; none of a body of another type. Raises InputError for one that cannot be read."""
    kind, options = parse_options_header(header)
    if kind == b"application/x-www-form-urlencoded":
        most = 12 * config.max_prompt_chars  # a character takes four bytes at most, and each may be written as %41
        if len(data) > most:
            raise InputError(f"the form has {len(data)} bytes, {most} are allowed without files; send multipart/form-data")
        try:
            pairs = parse_qsl(data.decode(), keep_blank_values=True, max_num_fields=_MAX_FIELDS)
        except ValueError as error:
            raise InputError(f"the form cannot be read ({error}); send multipart/form-data") from error
        return [FormField(name, value) for name, value in pairs]
    if kind != b"multipart/form-data":
        return []
    boundary = options.get(b"boundary", b"")
    if not 0 < len(boundary) <= _MAX_BOUNDARY:
        raise InputError(f"the form's Content-Type has a boundary of {len(boundary)} characters; give 1 to {_MAX_BOUNDARY}")
    fields = [_field(part) for part in _split(data, boundary)]
    for is_file, what, most in ((True, "files", _MAX_FILES), (False, "fields", _MAX_FIELDS)):
        _at_most(sum(isinstance(one.value, bytes) is is_file for one in fields), most, "the form has", what, "send fewer")
    return fields


def _split(data: bytes, boundary: bytes) -> Iterator[bytes]:
    """What stands between the boundaries, headers included."""
    _, *parts = (b"\r\n" + data).split(b"\r\n--" + boundary, _MAX_FIELDS + _MAX_FILES + 2)
    for part in parts:
        if part.startswith(b"--"):
            return
        padding, line_end, rest = part.partition(b"\r\n")
        if padding.strip() or not line_end:
            break
        yield rest
    raise InputError("the form is cut off, or has too many fields: its last boundary is missing")


def _field(part: bytes) -> FormField:
    head, end, content = part.partition(b"\r\n\r\n")
    if not end or len(head) > _MAX_HEAD:
        raise InputError("the form has a field without the empty line behind its headers; send multipart/form-data")
    headers = dict(_header(line) for line in head.split(b"\r\n"))
    kind, options = parse_options_header(headers.get(b"content-disposition", b""))
    if kind != b"form-data" or b"name" not in options:
        raise InputError('the form has a field without a name; send Content-Disposition: form-data; name="..." with each')
    name = options[b"name"].decode("utf-8", "replace")
    if b"filename" in options:
        return FormField(name, content)
    try:
        return FormField(name, content.decode())
    except UnicodeDecodeError as error:
        raise InputError(f"{name[:64]} is no text in UTF-8 ({error.reason}); encode it again, or send it as a file") from error


def _header(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b":")
    return name.strip().lower(), value.strip()
