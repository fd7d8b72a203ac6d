"""Options that several verbs share, each written once. Those of a request's settings come from generation/settings.py."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from mmada.generation.settings import EditSettings, ImageSettings, TextSettings, named_settings, settings_of

__all__ = [
    "Cache",
    "Device",
    "DrawThink",
    "Dtype",
    "Force",
    "Fresh",
    "ImageTokenizerName",
    "Loading",
    "Model",
    "Output",
    "Quantize",
    "Seed",
    "Size",
    "Strict",
    "TensorParallel",
    "Think",
    "Trace",
    "check_best_of",
    "check_size",
    "parse_pixels",
    "refuse_others",
    "with_settings",
]

Model = Annotated[str, typer.Option("--model", "-m", help="Checkpoint directory, hub name, or a built-in name.", rich_help_panel="Model")]
ImageTokenizerName = Annotated[
    str | None, typer.Option("--image-tokenizer", help="Directory or hub name, if not inside the checkpoint.", rich_help_panel="Model")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps. Default: a GPU if there is one.", rich_help_panel="Model")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16, float16, or auto: as saved.", rich_help_panel="Model")]
Quantize = Annotated[
    str | None,
    typer.Option(
        metavar="int8|int4", help="Store the matrices in 8 or 4 bits: less memory, slower. Default: as saved.", rich_help_panel="Model"
    ),
]
TensorParallel = Annotated[
    int,
    typer.Option(
        min=1, help="GPUs of this machine that hold the model together, each by a process of its own.", rich_help_panel="Model", metavar="N"
    ),
]


@dataclass(frozen=True)
class Loading:
    """How a verb loads its model: an option for each field, and the arguments of `MMaDA.from_pretrained`."""

    image_tokenizer: ImageTokenizerName = None
    device: Device = None
    dtype: Dtype = "auto"
    quantize: Quantize = None
    tensor_parallel: TensorParallel = 1


Fresh = Annotated[bool, typer.Option("--fresh", help="Start again. An existing run in `out` is moved to out.1, out.2, ...")]
Force = Annotated[bool, typer.Option("--force", help="Replace files that exist. Without it, a number is appended to the name.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same result.")]
Think = Annotated[bool | None, typer.Option("--think/--no-think", help="Let the model think first, or not. Default: the checkpoint's.")]
DrawThink = Annotated[bool | None, typer.Option("--think/--no-think", help="Think before drawing, or not. Default: the checkpoint's.")]
Cache = Annotated[
    str | None, typer.Option(metavar="|".join(settings_of(TextSettings)["cache"].choices), help=settings_of(TextSettings)["cache"].help)
]
Size = Annotated[str | None, typer.Option(metavar="WIDTHxHEIGHT", help="In pixels. Default: the checkpoint's.")]
Strict = Annotated[bool, typer.Option("--strict", help="Refuse a prompt with words that the checkpoint does not know, and correct none.")]
AsWritten = Annotated[bool, typer.Option("--strict", help="Read every word as it is written: correct no misspelled ones.")]
Calculator = Annotated[
    bool | None,
    typer.Option(
        "--calculator/--no-calculator",
        help="Let rules write what is certain of a thought, such as the result of a sum that it has set up, or not. Default: the checkpoint's.",
    ),
]
Trace = Annotated[Path | None, typer.Option("--trace", help="Save how it was denoised: .gif for an animation, .png for a strip.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="File to write the image to.")]


def check_size(size: str, width: int, height: int, factor: int) -> None:
    """Raises InputError, in the words of the option, unless both sides are whole image tokens of `factor` pixels."""
    from mmada.errors import InputError

    near = [max(1, round(side / factor)) * factor for side in (width, height)]
    if near != [width, height]:
        raise InputError(f"size={size!r} must be multiples of {factor} pixels; try {near[0]}x{near[1]}")


def check_best_of(best_of: int, trace: Path | None) -> None:
    """Raises InputError if what is to be shown is not known before the end."""
    from mmada.errors import InputError

    if trace is not None and best_of > 1:
        raise InputError(
            f"--trace shows how one picture appears, and --best-of {best_of} chooses at the end; draw the seed that it names again, with --trace"
        )


def refuse_others(context: typer.Context, used: Collection[str], what: str) -> None:
    """Raises InputError if an option was given that `what` makes no use of. `used` are names of parameters."""
    from mmada.errors import InputError

    given = [p for p in context.command.params if (source := context.get_parameter_source(p.name or "")) and source.name == "COMMANDLINE"]
    if others := [f"--{(p.name or '').replace('_', '-')}" for p in given if p.name not in used]:
        raise InputError(f"{what} makes no use of {', '.join(others)}; leave out what it does not take")


def parse_pixels(name: str, value: str, separator: str, count: int) -> tuple[int, ...]:
    """`count` whole numbers out of an option such as 512x512. Raises InputError."""
    from mmada.errors import InputError

    parts = value.lower().split(separator)
    if len(parts) != count or not all(part.strip().isdecimal() for part in parts):
        example = separator.join(["64"] * count)
        raise InputError(f"{name}={value!r} must be {count} whole numbers separated by {separator!r}; try {example}")
    return tuple(int(part) for part in parts)


def with_settings(*, leave_out: Collection[str] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """For a verb whose parameters of type TextSettings, ImageSettings, EditSettings or Loading become an option for each of their fields.

    Where two kinds have a field of the same name, it is one option, and both get its value.
    leave_out  fields that the verb has no use for
    """

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(verb, eval_str=True)
        kinds = {name: parameter.annotation for name, parameter in signature.parameters.items() if parameter.annotation in _KINDS}
        parameters: dict[str, inspect.Parameter] = {}
        for name, parameter in signature.parameters.items():
            for made in _options(kinds[name]) if name in kinds else [parameter]:
                if made.name not in leave_out:
                    parameters.setdefault(made.name, made)

        @wraps(verb)
        def run(**given: Any) -> None:
            own = {
                name: kind(**{field.name: given[field.name] for field in fields(kind) if field.name in given})
                for name, kind in kinds.items()
            }
            verb(**{name: value for name, value in given.items() if name in signature.parameters}, **own)

        run.__signature__ = signature.replace(parameters=list(parameters.values()))  # type: ignore[attr-defined]
        run.__annotations__ = {name: parameter.annotation for name, parameter in parameters.items()}
        return run

    return decorate


_KINDS = (TextSettings, ImageSettings, EditSettings, Loading)


def _options(kind: type) -> Iterator[inspect.Parameter]:
    """A parameter, as typer reads it, for each field of a kind of settings."""
    defaults = kind()
    if kind is Loading:
        for name, annotation in get_type_hints(kind, include_extras=True).items():
            yield inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=getattr(defaults, name), annotation=annotation)
        return
    for name, known in settings_of(kind).items():
        default = getattr(defaults, name)
        option = typer.Option(
            f"--{name.replace('_', '-')}",
            *known.flags,
            min=known.at_least,
            max=known.at_most,
            metavar="|".join(known.choices) or None,
            help=known.help + ("" if known.checkpoint is None else " Default: the checkpoint's."),
        )
        written: Any = named_settings(kind)[name]
        given = written if default is not None else written | None
        yield inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=Annotated[given, option])
