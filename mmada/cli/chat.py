"""`mmada chat`: one answer, or a conversation in the terminal."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from mmada.cli import options
from mmada.generation.settings import TextSettings
from mmada.hub.checkpoint import DEFAULT_MODEL

if TYPE_CHECKING:
    from mmada.generation.requests import Answer

__all__ = ["chat", "show"]


@options.with_settings()
def chat(
    message: Annotated[str | None, typer.Argument(help="The message. Without one, a conversation starts.")] = None,
    model: options.Model = DEFAULT_MODEL,
    think: options.Think = None,
    seed: options.Seed = 0,
    strict: options.AsWritten = False,
    calculator: options.Calculator = None,
    settings: TextSettings = TextSettings(),
    trace: options.Trace = None,
    force: options.Force = False,
    loading: options.Loading = options.Loading(),
) -> None:
    """Talk to the model. In a conversation, /help lists the commands.

    mmada chat "Tom has 8 coins. Tom finds 5 more. How many coins does Tom have now?" --think
    """
    from mmada.cli.session import check_trace, load, watched
    from mmada.errors import InputError

    if message is not None and not message.strip():
        raise InputError("message='' is empty; write a question, or leave it out for a conversation")
    if message is None and trace is not None:
        raise InputError("--trace shows how one answer appeared; give a message, too")
    check_trace(trace)
    pipeline = load(model, loading)
    params = pipeline.planner.text_params(settings)
    if message is None:
        from mmada.cli.terminal import Terminal

        terminal = Terminal(
            pipeline, think=think, seed=seed, strict=strict, calculator=calculator, max_new_tokens=settings.max_new_tokens, params=params
        )
        terminal.run(sys.stdin)
        if terminal.num_failed and not terminal.is_shown:  # whoever reads the answers has not seen it
            raise typer.Exit(2)
        return
    with watched("answering", trace, force=force) as on_step:
        answer = pipeline.chat(
            message,
            think=think,
            seed=seed,
            strict=strict,
            calculator=calculator,
            max_new_tokens=settings.max_new_tokens,
            params=params,
            on_step=on_step,
        )
    which = [] if model == DEFAULT_MODEL else ["--model", str(model)]
    show(answer, shlex.join([*which, *(["--"] if message.startswith("-") else []), message]))


def show(answer: Answer, to_draw: str = "") -> None:
    """The answer on standard output, thinking dim on standard error. to_draw: arguments of the command that draws what was said."""
    from mmada.cli.session import printable, remarks

    if answer.thinking:
        remarks.print(printable(answer.thinking), style="dim")
    typer.echo(printable(answer.text))
    if answer.warning:
        remarks.print(f"warning: {answer.warning}", style="yellow")
    if answer.wants_picture and to_draw:
        remarks.print(printable(f"to draw it: mmada draw {to_draw}"), style="dim")
