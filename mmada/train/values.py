"""YAML and key=value become dataclasses, and nothing else: names and types are checked, and an error says what would fit.

mappings(path, settings)       the runs of a file as nested mappings, `key=value` settings on top
fill(base, values)             a dataclass value with some fields replaced
build(Stage, values)           a dataclass value of its own
"""

from __future__ import annotations

import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from mmada.data.paths import shipped
from mmada.errors import InputError, suggest
from mmada.generation.field_types import options, words

__all__ = ["build", "fill", "mappings", "read_yaml"]

T = TypeVar("T")


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping of a YAML file, also of one that comes with the package. Raises InputError if it cannot be read, or holds something else."""
    import yaml

    if path.suffix in (".jsonl", ".json", ".parquet", ".csv", ".tar"):
        raise InputError(f"config {str(path)!r} is no YAML file; records are named by a setting: configs/finetune.yaml data.path={path}")
    try:
        values = yaml.safe_load(shipped(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"config {str(path)!r} cannot be read ({error.strerror}); give an existing YAML file, or one that comes with the package, "
            "such as configs/finetune.yaml"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"config {str(path)!r} is no text file; give a YAML file") from error
    except yaml.YAMLError as error:
        raise InputError(f"config {str(path)!r} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise InputError(f"config {str(path)!r} must be a mapping of names to values")
    return values


def mappings(path: Path, overrides: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The runs of a YAML file as nested mappings, settings applied, names and types not checked yet."""
    import yaml

    values = read_yaml(path)
    try:
        settings = [(key, yaml.safe_load(value)) for key, value in map(_setting, overrides)]
    except yaml.YAMLError as error:
        raise InputError(f"a setting in {list(overrides)} is not valid YAML: {error}") from error
    runs = values.pop("runs", [{}])
    if not isinstance(runs, list) or not all(isinstance(run, dict) for run in runs) or not runs:
        raise InputError(f"config {str(path)!r}: runs must be a list of mappings, one for each run")
    made = [_put(_merge(values, run), settings) for run in runs]
    outs = [run["out"] for run in made if "out" in run]
    for out in outs:
        if outs.count(out) > 1:
            raise InputError(
                f"out={out!r} is the folder of {outs.count(out)} of the {len(made)} runs of {str(path)!r}; give each one of its own"
            )
    return made


def fill(base: T, values: Mapping[str, Any], where: str = "") -> T:
    """A dataclass value with some fields replaced, checked by name and type; sections are filled in turn.

    where  dotted name of `base`, for messages
    """
    assert is_dataclass(base)
    assert not isinstance(base, type)
    hints = typing.get_type_hints(type(base))
    known = [f.name for f in fields(base)]
    changes: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise InputError(f"unknown setting {where}{name}: {suggest(str(name), known)}")
        changes[name] = _value(getattr(base, name), value, hints[name], f"{where}{name}")
    try:
        return replace(base, **changes)
    except InputError as error:
        raise InputError(_with_place(str(error), where)) from None


def _with_place(message: str, where: str) -> str:
    """A section's own message, which names settings by the section alone (optim.lr), with the names that the user writes (stage.optim.lr)."""
    outer, _, section = where.removesuffix(".").rpartition(".")
    return re.sub(rf"(?<![\w.]){section}\.", where, message) if outer else message


def build(kind: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """A dataclass value from its fields; sections are built in turn. A tuple of dataclasses maps their names to their fields.

    where  dotted name of the value, for messages
    """
    hints = typing.get_type_hints(kind)
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            raise InputError(f"unknown setting {where}{name}: {suggest(str(name), known)}")
    missing = [name for name, f in known.items() if f.default is MISSING and f.default_factory is MISSING and name not in values]
    if missing:
        raise InputError(f"{where.rstrip('.') or kind.__name__} lacks {', '.join(missing)}; give a value for each")
    return kind(**{name: _built(value, hints[name], f"{where}{name}") for name, value in values.items()})


def _built(value: Any, hint: Any, where: str) -> Any:
    part = typing.get_args(hint)[0] if typing.get_origin(hint) is tuple else hint
    if not is_dataclass(part):
        return _converted(value, hint, where)
    assert isinstance(part, type)
    if not isinstance(value, Mapping):
        raise InputError(f"{where}={value!r} must be a mapping")
    if part is hint:
        return build(part, value, f"{where}.")
    return tuple(build(part, {"name": str(name), **section}, f"{where}.{name}.") for name, section in value.items())


def _setting(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InputError(f"setting {text!r} is not of the form key=value, such as stage.optim.lr=1e-3")
    return key, value


def _merge(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings joined, changes on top."""
    merged = dict(values)
    for key, value in changes.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _put(values: dict[str, Any], settings: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Dotted settings into nested mappings; a section that is a bare name, such as `stage: base`, becomes {name: base}."""
    for dotted, value in settings:
        *sections, last = dotted.split(".")
        if not sections and isinstance(values.get(last), dict) and isinstance(value, str):
            value = {"name": value}
        node = values
        for section in sections:
            below = node.get(section)
            node[section] = dict(below) if isinstance(below, dict) else {"name": below} if below is not None else {}
            node = node[section]
        node[last] = value
    return values


def _value(old: Any, value: Any, hint: Any, where: str) -> Any:
    """`value` as the type of the field, or an InputError that says what was expected."""
    if is_dataclass(old) and not isinstance(old, type):
        if not isinstance(value, Mapping):
            raise InputError(f"{where}={value!r} is a section; set its parts, such as {where}.{fields(old)[0].name}=...")
        return fill(old, value, f"{where}.")
    if isinstance(old, tuple) and old and is_dataclass(old[0]):
        return _named(old, value, where)
    return _converted(value, hint, where)


def _converted(value: Any, hint: Any, where: str) -> Any:
    if value is None and hint is str:  # `model.start=` on a command line
        return ""
    for option in options(hint):
        converted = _convert(value, option)
        if converted is not None or (value is None and option is type(None)):
            return converted
    raise InputError(f"{where}={value!r} is not {words(hint)}")


def _named(old: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    """A tuple of dataclasses with a name, as a mapping from names to changes."""
    known = {part.name: part for part in old}
    if not isinstance(value, Mapping):
        raise InputError(f"{where}={value!r} must map names to settings; known names are {', '.join(known)}")
    for name in value:
        if name not in known:
            raise InputError(f"unknown setting {where}.{name}: {suggest(str(name), known)}")
    return tuple(fill(part, value.get(name, {}), f"{where}.{name}.") for name, part in known.items())


def _convert(value: Any, hint: Any) -> Any:
    """The value if it is of the type, else None. Whole numbers are numbers; "1e-3", which YAML takes for a text, is one too."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return value if value in args else None
    if origin is Mapping and isinstance(value, Mapping):
        return dict(value)
    if origin is tuple and isinstance(value, list | tuple):
        kinds = args[:1] * len(value) if args[1:] == (...,) else args
        parts = [_convert(part, kind) for part, kind in zip(value, kinds, strict=False)]
        return tuple(parts) if len(parts) == len(value) == len(kinds) and None not in parts else None
    if hint is float and isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return None
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    return None
