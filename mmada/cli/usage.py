"""What typer says of a command line that cannot be read, as the one sentence that every other error is: argument, value, remedy."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Any

from typer.core import TyperGroup

from mmada.errors import InputError

__all__ = ["Sentences"]


class Sentences(TyperGroup):
    """The root of the commands. Raises InputError where a group of typer raises its own errors of usage."""

    def make_context(self, *arguments: Any, **keywords: Any) -> Any:
        """As a group of typer does. Raises InputError for options that the root does not know."""
        try:
            return super().make_context(*arguments, **keywords)
        except Exception as error:
            raise _said(error) from error

    def invoke(self, *arguments: Any, **keywords: Any) -> Any:
        """As a group of typer does. Raises InputError for a command line that its verb cannot read."""
        try:
            return super().invoke(*arguments, **keywords)
        except Exception as error:
            raise _said(error) from error


def _said(error: Exception) -> Exception:
    """The InputError for an error of usage; any other error as it is."""
    # Which class it is depends on the version: of click, or of a copy of it within typer.
    context = getattr(error, "ctx", None)
    if context is None or not hasattr(error, "format_message") or type(error).__name__ == "NoArgsIsHelpError":
        return error
    return InputError(_sentence(error, context))


def _sentence(error: Any, context: Any) -> str:
    command = _command(context)
    kind, message = type(error).__name__, error.format_message().rstrip(".")
    if kind == "NoSuchOption":
        return f"{error.option_name} is no option of {command}{_nearest(error, command)}"
    if found := re.search(r"unexpected extra arguments?\S* \((.*)\)", message):
        takes_some = any(parameter.param_type_name == "argument" for parameter in context.command.params)
        remedy = "put a text with spaces in quotes" if takes_some else f"what it takes are options ({command} --help)"
        return f"{command} makes no use of {found[1]!r}; {remedy}"
    if kind == "BadParameter":
        return f"{_value(error)}; {command} --help says more"
    if kind == "MissingParameter":
        return f"{message[0].lower()}{message[1:]}; {command} --help has an example"
    message = f"{message[0].lower()}{message[1:]}".replace(". Did you mean", "; did you mean")
    return message if message.endswith("?") else f"{message}; {command} --help lists what there is"


def _command(context: Any) -> str:
    """As a user writes it, whatever started the program."""
    names = []
    while context.parent is not None:
        names.append(context.info_name)
        context = context.parent
    return " ".join(["mmada", *reversed(names)])


def _nearest(error: Any, command: str) -> str:
    name = str(error.option_name)
    if "." in name:
        return f"; settings are written without dashes: {name.lstrip('-')}=..."
    near = get_close_matches(name, getattr(error, "possibilities", None) or (), n=1)
    return f": did you mean {near[0]!r}?" if near else f"; {command} --help lists them"


_WANTED = {
    "greater_than_equal": "at least {ge:g}",
    "greater_than": "above {gt:g}",
    "less_than_equal": "at most {le:g}",
    "less_than": "below {lt:g}",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
}
"""Kind of a mistake, as pydantic names it -> what the value must be."""


def _value(error: Any) -> str:
    """Option, value and what it must be, if typer knows; else what click says, which contains the value."""
    name = "a value" if error.param is None else str(error.param.opts[0])
    found: list[Any] = getattr(error.__cause__, "errors", list)()
    if not found:
        return f"{name}: {error.message.rstrip('.')}"
    wanted = _WANTED.get(found[0]["type"])
    shown = found[0]["msg"] if wanted is None else f"must be {wanted.format(**found[0].get('ctx', {}))}"
    return f"{name}={found[0]['input']} {shown}"
