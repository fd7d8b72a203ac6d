"""The command line, a file for each verb. Heavy imports happen inside the commands, so that `mmada --help` is instant.

Results go to files and standard output; progress and remarks to standard error. Every error of the package is one sentence on
standard error and exit status 2; an answer that stayed empty is status 1.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import typer

from mmada.cli import ask, chat, convert, data, doctor, draw, evaluate, fill, info, rl, serve, studio, tokenize, train
from mmada.errors import MMaDAError

__all__ = ["app", "main"]

app = typer.Typer(
    name="mmada",
    help="Masked diffusion over text and images in one transformer: chat, look at images, draw, fill.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
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
    except KeyboardInterrupt:
        sys.exit(130)
