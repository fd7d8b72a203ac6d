"""The command line, a file for each verb. Heavy imports happen inside the commands, so that `mmada --help` is instant.

Results go to files and standard output; progress and remarks to standard error. Every error of the package is one sentence on
standard error.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated

import typer

from mmada.cli import ask, chat, convert, data, doctor, draw, evaluate, fill, info, rl, serve, studio, tokenize, train
from mmada.errors import InputError, MMaDAError

__all__ = ["app", "main"]

app = typer.Typer(
    name="mmada",
    help="Masked diffusion over text and images in one transformer: chat, understand images, draw, fill.",
    no_args_is_help=True,
    epilog=(
        "Exit status: 0 done; 1 the model gave no answer, `doctor` found the core broken, or nobody read the output to its end; "
        "2 something is wrong with what was asked, and one sentence says what; 130 stopped with Ctrl-C. NO_COLOR=1 turns colors off."
    ),
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(is_asked: bool) -> None:
    if is_asked:
        from mmada import __version__

        typer.echo(f"mmada {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and leave.")] = False,
) -> None:
    pass


_VERBS: dict[str, Callable[..., None]] = {
    "chat": chat.chat,
    "ask": ask.ask,
    "draw": draw.draw,
    "fill": fill.fill,
    "serve": serve.serve,
    "studio": studio.studio,
    "eval": evaluate.evaluate,
    "info": info.info,
    "doctor": doctor.doctor,
    "convert": convert.convert,
    "train": train.train,
    "rl": rl.rl,
    "tokenize": tokenize.tokenize,
}
for verb, command in _VERBS.items():
    app.command(verb)(command)
app.add_typer(data.app, name="data")


def main() -> None:
    """Entry point of the `mmada` command."""
    try:
        app()
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
