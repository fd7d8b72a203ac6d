"""What is wrong with a request, in OpenAI's shape: a sentence, and the part of the body that it is about.

A sentence says the field as the client sent it, its value, and what it must be. It names no type of ours and none of pydantic's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

from mmada.errors import ContextError, ImageError, InputError, MMaDAError
from mmada.generation.engine import EngineError, ExpiredError
from mmada.generation.scheduler import BusyError, ClosedError

__all__ = ["UnknownModelError", "about", "body_of", "body_of_invalid", "cut", "error_body", "shown", "status_of"]

_MAX_SHOWN = 60


class UnknownModelError(MMaDAError):
    """A request names a model that is not served here."""


def error_body(message: str, kind: str, *, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """An error in OpenAI's shape. Half characters, which JSON may smuggle into a text that is quoted, are replaced."""
    return {"error": {"message": message.encode("utf-8", "replace").decode(), "type": kind, "param": param, "code": code}}


@contextmanager
def about(param: str) -> Iterator[None]:
    """Errors that are raised inside are about a part of the body, such as messages.0.content.1.image_url.url."""
    try:
        yield
    except MMaDAError as error:
        error.param = error.param or param
        raise


# Errors of the package.

_STATUS: Mapping[type[MMaDAError], int] = {
    BusyError: 429,
    ClosedError: 503,
    ExpiredError: 504,
    EngineError: 500,
    UnknownModelError: 404,
    InputError: 400,
    ImageError: 400,
}
_KINDS: Mapping[int, tuple[str, str | None]] = {
    429: ("rate_limit_error", "queue_full"),
    503: ("server_error", "unavailable"),
    504: ("server_error", "timeout"),
    500: ("server_error", None),
}


def status_of(error: MMaDAError) -> int:
    """The HTTP status of an error."""
    return next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 500)


def body_of(error: MMaDAError, given: Collection[str] = ()) -> dict[str, Any]:
    """An error of the package. `given` are the fields of the body: a message that begins with one of them is about it."""
    kind, code = _KINDS.get(status_of(error), ("invalid_request_error", None))
    if isinstance(error, UnknownModelError):
        return error_body(str(error), kind, param="model", code="model_not_found")
    if isinstance(error, ContextError):  # by this code, clients know that they have to shorten a conversation
        param = next((name for name in ("messages", "prompt") if name in given), None)
        return error_body(str(error), kind, param=param, code="context_length_exceeded")
    named = re.match(r"(\w+)=", str(error))
    param = error.param or (named[1] if named and named[1] in given else None)
    return error_body(str(error), kind, param=param, code=code or ("invalid_image" if isinstance(error, ImageError) else None))


# Bodies that do not fit their schema.


def body_of_invalid(errors: Any, body: object) -> dict[str, Any]:
    """What is wrong with a body: the first fault, of those that lie deepest.

    Where a value may have several forms, each form has its faults, and those of the form that was meant lie deeper.
    """
    first = max(errors, key=lambda error: len(error["loc"]))
    if first["type"] == "json_invalid":
        return error_body(f"the body is no JSON: {first['ctx']['error']} at character {first['loc'][-1]}", "invalid_request_error")
    where, value = _in_body(first["loc"], body, is_missing=first["type"] == "missing")
    if not where and not isinstance(body, dict):
        return error_body("the body must be a JSON object, sent with 'Content-Type: application/json'", "invalid_request_error")
    forms = [error for error in errors if len(error["loc"]) == len(first["loc"]) and error["loc"][:-1] == first["loc"][:-1]]
    expected = _expected(forms if first["type"].endswith("_type") else [first])
    name = ".".join(map(str, where)) or None
    if expected is None:
        return _of_ours(str(first["msg"]).removeprefix("Value error, "), where)
    if first["type"] == "missing":
        missing = ".".join([*map(str, where), str(first["loc"][-1])])
        return error_body(f"{missing} is missing; give it", "invalid_request_error", param=name)
    return error_body(f"{name}={shown(value)} {expected}", "invalid_request_error", param=name)


def _of_ours(message: str, where: Sequence[str | int]) -> dict[str, Any]:
    """A sentence of the schema's own, which may name its field."""
    if not where:
        return error_body(message, "invalid_request_error")
    *inside, last = map(str, where)
    name = ".".join([*inside, last])
    if message.startswith(f"{last}="):
        return error_body(".".join([*inside, message]), "invalid_request_error", param=name)
    return error_body(f"{name}: {message}", "invalid_request_error", param=name)


_KIND_WORDS: Mapping[str, str] = {
    "string_type": "a text",
    "list_type": "a list",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "dict_type": "an object",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number of usual size",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
}
_BOUND_WORDS: Mapping[str, tuple[str, str]] = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("above", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("below", "lt"),
}


def _expected(errors: Sequence[Any]) -> str | None:
    """What a value must be, "must be ..."; None where the schema's own words say it."""
    first = errors[0]
    kind, context = first["type"], first.get("ctx", {})
    if words := [_KIND_WORDS[error["type"]] for error in errors if error["type"] in _KIND_WORDS]:
        return f"must be {' or '.join(dict.fromkeys(words))}"
    if kind in _BOUND_WORDS:
        words_, bound = _BOUND_WORDS[kind]
        return f"must be {words_} {context[bound]:g}"
    if kind == "literal_error":
        return f"must be {context['expected']}"
    if kind == "union_tag_invalid":
        return f"has a `{context['discriminator'].strip(chr(39))}` that is unknown; it must be {context['expected_tags']}"
    if kind == "union_tag_not_found":
        return f"has no `{context['discriminator'].strip(chr(39))}`; give it one, such as text"
    if kind == "too_short":
        return f"must have at least {context['min_length']} item"
    if kind == "too_long":
        return f"must have at most {context['max_length']} items"
    return "" if kind == "missing" else None


def shown(value: object) -> str:
    """A value as the client wrote it, cut where it is long. Costs no more for a large value than for a small one."""
    value = cut(value)
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):  # a form's values and numbers beyond JSON
        text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


def cut(value: object, depth: int = 3) -> object:
    """The beginning of a value, which is all that is shown."""
    if isinstance(value, (str, bytes)):
        return value[: _MAX_SHOWN + 1]
    if isinstance(value, dict):
        return {str(key)[:_MAX_SHOWN]: cut(one, depth - 1) for key, one in islice(value.items(), _MAX_SHOWN)} if depth else {}
    if isinstance(value, list):
        return [cut(one, depth - 1) for one in value[:_MAX_SHOWN]] if depth else []
    return value


def _in_body(location: Sequence[str | int], body: object, *, is_missing: bool) -> tuple[list[str | int], object]:
    """A location without what is no part of the body, such as the names of the forms that a value may have, and the value there.

    What is missing is no part of the body either: the location is that of the object that lacks it.
    """
    path = list(location[1:] if location[:1] == ("body",) else location)
    where: list[str | int] = []
    for i, part in enumerate(path):
        if isinstance(body, dict):
            there = part in body and not (is_missing and i == len(path) - 1)
        else:
            there = isinstance(body, list) and isinstance(part, int) and part < len(body)
        if there:
            where.append(part)
            body = body[part]  # type: ignore[index]
    return where, body
