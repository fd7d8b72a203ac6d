"""Records say the types of their fields; here the values are held against them, so that a wrong one is an error that names it.

    check_types(record)     InputError for the first field whose value is of another type than is declared
    words(hint)             a type in words

Numbers of numpy are numbers, a whole number is a number, and a list will do for a tuple. Pictures and turns are left to whoever reads them.
"""

from __future__ import annotations

import operator
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from functools import cache
from typing import Any, Literal

from mmada.errors import InputError

__all__ = ["check_types", "options", "words"]

_LEFT_OUT = {"Image", "Message"}
"""Names of classes that may be given in many forms, and are checked where they are read."""
_SHOWN = 80


def check_types(record: object) -> None:
    """Raise InputError, with name, value and what would fit, for the first field of a dataclass whose value is of another type."""
    kind: Any = type(record)
    for name, hint in _hints(kind).items():
        value = getattr(record, name)
        if not _fits(value, hint):
            wanted = words(tuple(option for option in options(hint) if option is not type(None)))
            many = hint is str and isinstance(value, list | tuple)
            remedy = "; several are asked for by MMaDA.run, with a request for each" if many else ""
            raise InputError(f"{name}={_short(value)} must be {wanted}{remedy}")


@cache
def _hints(kind: type[Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def options(hint: Any) -> tuple[Any, ...]:
    """The types of a union or a tuple of types, or the type itself."""
    if isinstance(hint, tuple):
        return hint
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def words(hint: Any) -> str:
    """A type in words."""
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", type(None): "null"}
    found = []
    for option in options(hint):
        origin, parts = typing.get_origin(option), typing.get_args(option)
        if origin is Literal:
            found.append("one of " + ", ".join(map(repr, parts)))
        elif origin is tuple and parts[1:] != (...,):
            found.append(f"{len(parts)} values, each {words(parts[0])}")
        elif origin is not None and issubclass(origin, Collection) and not issubclass(origin, Mapping):
            found.append("a list" if _is_left_out(parts[0]) else f"a list, each {words(parts[0])}")
        else:
            found.append(names.get(option, getattr(origin or option, "__name__", str(option))))
    return " or ".join(found)


def _is_left_out(hint: Any) -> bool:
    return any(getattr(option, "__name__", "") in _LEFT_OUT for option in options(hint))


def _fits(value: Any, hint: Any) -> bool:
    return _is_left_out(hint) or any(_fits_one(value, option) for option in options(hint))


def _fits_one(value: Any, hint: Any) -> bool:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return any(value == part for part in parts)
    if origin is tuple and isinstance(value, list | tuple):
        each = parts[:1] * len(value) if parts[1:] == (...,) else parts
        return len(each) == len(value) and all(map(_fits, value, each))
    if origin is Sequence:
        return isinstance(value, Sequence) and not isinstance(value, str | bytes) and all(_fits(one, parts[0]) for one in value)
    if hint in (int, float):
        return not isinstance(value, bool | str) and hasattr(value, "__float__") and (hint is float or _is_whole(value))
    return isinstance(value, origin or hint)


def _is_whole(value: Any) -> bool:
    try:
        operator.index(value)
    except TypeError:
        return False
    return True


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= _SHOWN else shown[: _SHOWN - 1] + "…"
