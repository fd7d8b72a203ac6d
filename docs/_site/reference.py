"""Reference pages as Markdown, written from the code, so that nothing is said twice.

cli()      verbs and options, as typer knows them
configs()  fields of the config dataclasses: type and default from the class, the text from the line under the field
api()      page -> (title, Markdown) with the directives that mkdocstrings fills
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from mmada.generation.settings import settings_of

PACKAGE = Path(__file__).parents[2] / "mmada"
CONFIGS = {
    "Training": "mmada.train.config:TrainConfig",
    "Reinforcement learning": "mmada.rl.config:RLConfig",
    "Server": "mmada.serve.config:ServeConfig",
    "Replicas over Ray Serve": "mmada.scale.serve_config:ReplicasConfig",
    "Settings of a text": "mmada.generation.settings:TextSettings",
    "Settings of an image": "mmada.generation.settings:ImageSettings",
    "Settings of an edit": "mmada.generation.settings:EditSettings",
    "Defaults of a checkpoint": "mmada.generation.requests:GenerationConfig",
}
"""heading -> the dataclass that a file fills; its sections are found by their types"""


def cli() -> str:
    """Every verb with its usage, arguments and options."""
    import typer

    from mmada.cli import app

    root: Any = typer.main.get_command(app)
    lines = ["# Command line", "", root.help or "", ""]
    for path, command in _commands(root, ("mmada",)):
        lines += [f"## {' '.join(path)}", "", _fenced(inspect.cleandoc(command.help or "")), ""]
        context: Any = typer.Context(command, info_name=" ".join(path))
        lines += ["```text", " ".join([" ".join(path), *command.collect_usage_pieces(context)]), "```", ""]
        lines += ["| | |", "|---|---|", *(_option(one, context) for one in command.params if not one.hidden), ""]
    return "\n".join(lines)


def _commands(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Commands in the order of the help, those of a group after one another."""
    if not hasattr(command, "commands"):
        yield path, command
        return
    for name, inner in command.commands.items():
        yield from _commands(inner, (*path, name))


def _fenced(text: str) -> str:
    """Lines that show a command become code."""
    return re.sub(
        r"^\s*(mmada .+(?:\n\s*mmada .+)*)",
        lambda match: f"\n```text\n{textwrap.dedent(match[0]).strip()}\n```\n",
        text,
        flags=re.MULTILINE,
    )


def _option(parameter: Any, context: Any) -> str:
    """A row of the table, from what the help prints: how it is written, and what it does with its default."""
    written, text = parameter.get_help_record(context)
    return f"| {_cell(f'`{written}`')} | {_cell(text).replace('[', chr(92) + '[')} |"


def _cell(text: str) -> str:
    """One line, with bars that do not end the cell; in code they never do."""
    return re.sub(r"(`[^`]*`)|\|", lambda match: match[1] or r"\|", " ".join(text.split()))


def configs() -> str:
    """Every section of every config, in the order in which they are met."""
    lines = ["# Configs", "", "A file of YAML and `key=value` on the command line fill these values. An unknown name is an error.", ""]
    for heading, where in CONFIGS.items():
        module, _, name = where.partition(":")
        lines += [f"## {heading}", ""]
        for path, cls in _sections(getattr(import_module(module), name)):
            lines += [f"### {path or cls.__name__}" + (f" ({cls.__name__})" if path else ""), "", inspect.cleandoc(cls.__doc__ or ""), ""]
            lines += ["| Field | Type | Default | |", "|---|---|---|---|", *_fields(cls), ""]
    return "\n".join(lines)


def _sections(cls: type, path: str = "") -> Iterator[tuple[str, type]]:
    """A dataclass, then those of its fields, with their dotted names."""
    yield path, cls
    hints = typing.get_type_hints(cls)
    for one in dataclasses.fields(cls):
        for inner in _dataclasses(hints[one.name]):
            yield from _sections(inner, f"{path}.{one.name}" if path else one.name)


def _dataclasses(hint: Any) -> list[type]:
    """Dataclasses in a type: itself, or parts of a union or a tuple."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return [hint]
    return [found for part in typing.get_args(hint) for found in _dataclasses(part)]


def _fields(cls: type) -> Iterator[str]:
    """A row for each field."""
    texts, hints = field_texts(cls) | {name: setting.help for name, setting in settings_of(cls).items()}, typing.get_type_hints(cls)
    for one in dataclasses.fields(cls):
        default = _default(one)
        yield f"| `{one.name}` | {_cell(f'`{_type(hints[one.name])}`')} | {_cell(default)} | {_cell(texts.get(one.name, ''))} |"


def field_texts(cls: type) -> dict[str, str]:
    """Field -> the text on the line under it, which Python itself does not keep; those of its bases come first."""
    texts: dict[str, str] = {}
    for base in cls.__bases__:
        texts |= field_texts(base) if dataclasses.is_dataclass(base) else {}
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(body, ast.ClassDef)
    for field, below in zip(body.body, body.body[1:], strict=False):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                texts[name] = inspect.cleandoc(text)
    return texts


def _type(hint: Any) -> str:
    """A type as it is written in the code."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return " | ".join(map(_type, typing.get_args(hint)))
    if isinstance(hint, type) and not typing.get_args(hint):
        return "None" if hint is type(None) else hint.__name__
    text = str(hint).replace("typing.", "").replace("collections.abc.", "")
    for inner in _dataclasses(hint):
        text = text.replace(f"{inner.__module__}.{inner.__qualname__}", inner.__name__)
    return text


def _default(field: dataclasses.Field[Any]) -> str:
    """What a field is if nothing is said; a section is described by a table of its own."""
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return "required"
    return "see its section" if dataclasses.is_dataclass(value) else f"`{value!r}`"


def api() -> dict[str, tuple[str, str]]:
    """Page -> (title, Markdown): the public names, then every room with its modules."""
    import mmada

    names = [name for name in mmada.__all__ if not name.startswith("__")]
    public = ["# Public names", "", "What `from mmada import ...` gives.", ""]
    for name in names:
        public += [f"::: mmada.{name}", ""]
    pages = {"reference/api/index.md": ("Public names", "\n".join(public))}
    for room in sorted(file.parent for file in PACKAGE.glob("*/__init__.py")):
        files = [file for file in sorted(room.rglob("*.py")) if not file.stem.startswith("_")]
        modules = [".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts) for file in files]
        head = [f"# mmada.{room.name}", "", f"::: mmada.{room.name}", "    options: {members: false, show_root_heading: false}", ""]
        pages[f"reference/api/{room.name}.md"] = (room.name, "\n".join([*head, *(f"::: {module}\n" for module in modules)]))
    return pages
