"""The command line, a file for each verb; evaluate.py is `mmada eval`. Heavy imports happen inside the commands, so that `mmada --help` is
instant.

options.py    options that several verbs share
session.py    what verbs have in common while they run: a model, progress, errors, pictures
terminal.py   a conversation in the terminal
usage.py      what is said of a command line that cannot be read

Results go to files and standard output; progress and remarks to standard error. Every error of the package is one sentence on
standard error.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterable
from importlib import import_module
from typing import Annotated, Any

import typer

from mmada.cli.usage import Sentences
from mmada.errors import InputError, MMaDAError

__all__ = ["app", "command_line", "main"]

_VERBS = {
    "chat": "chat",
    "ask": "ask",
    "draw": "draw",
    "fill": "fill",
    "edit": "edit",
    "serve": "serve",
    "studio": "studio",
    "batch": "batch",
    "eval": "evaluate",
    "info": "info",
    "doctor": "doctor",
    "convert": "convert",
    "train": "train",
    "rl": "rl",
    "plan": "plan",
    "tokenize": "tokenize",
    "data": "data",
}
"""Verb, in the order of the help -> its file, which has a function of that name, or an `app` with verbs of its own."""


def _version(is_asked: bool) -> None:
    if is_asked:
        from mmada import __version__

        typer.echo(f"mmada {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and leave.")] = False,
) -> None:
    pass


def command_line(verbs: Iterable[str] = tuple(_VERBS)) -> typer.Typer:
    """The `mmada` command with some of its verbs: only their files are imported."""
    made = typer.Typer(
        name="mmada",
        cls=Sentences,
        help="Masked diffusion over text and images in one transformer: chat, understand images, draw, fill, edit.",
        no_args_is_help=True,
        epilog=(
            "Exit status: 0 done; 1 the model gave no answer, `doctor` found the core broken, or nobody read the output to its end; "
            "2 something is wrong with what was asked, and one sentence says what; 130 stopped with Ctrl-C. NO_COLOR=1 turns colors off."
        ),
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    made.callback()(_root)
    for verb in verbs:
        file = import_module(f"{__name__}.{_VERBS[verb]}")
        if hasattr(file, "app"):
            made.add_typer(file.app, name=verb)
        else:
            made.command(verb)(getattr(file, _VERBS[verb]))
    return made


def __getattr__(name: str) -> Any:
    """`app` is the command with all of its verbs, made when somebody asks for it."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals().setdefault("app", command_line())


def main() -> None:
    """Entry point of the `mmada` command."""
    # Imports make half a million objects that stay: to look for garbage among them takes a tenth of a start.
    gc.set_threshold(100_000, 20, 20)
    # A thread that waits for others by turning in a loop takes their core: on a busy machine a drawing took seven times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    first = sys.argv[1:2]
    try:
        # The files of other verbs take as long to import as the library that reads the options.
        command_line(first if first and first[0] in _VERBS else _VERBS)()
    except MMaDAError as error:
        from mmada.cli.session import report

        sys.exit(report(error))
    except OSError as error:
        from mmada.cli.session import report

        if error.filename is None:  # not about a file that somebody named
            raise
        sys.exit(report(InputError(f"{str(error.filename)!r} cannot be used: {error.strerror}; check the path and the rights")))
    except KeyboardInterrupt:
        sys.exit(130)
