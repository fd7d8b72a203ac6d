"""Options that several verbs share, each written once."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "BestOf",
    "Cache",
    "Device",
    "DrawThink",
    "Dtype",
    "Fresh",
    "Guidance",
    "ImageTokenizerName",
    "MaxNew",
    "Model",
    "Negative",
    "Output",
    "Seed",
    "Size",
    "Steps",
    "Think",
    "Trace",
    "check_best_of",
    "parse_pixels",
    "refuse_others",
]

Model = Annotated[str, typer.Option("--model", "-m", help="Checkpoint directory, hub name, or a built-in name.", rich_help_panel="Model")]
ImageTokenizerName = Annotated[
    str | None, typer.Option("--image-tokenizer", help="Directory or hub name, if not inside the checkpoint.", rich_help_panel="Model")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps. Default: a GPU if there is one.", rich_help_panel="Model")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16, float16, or auto: as saved.", rich_help_panel="Model")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Begin anew; what `out` holds is moved aside, to out.1, out.2, ...")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same result.")]
Think = Annotated[bool, typer.Option("--think", help="Let the model think first.")]
DrawThink = Annotated[bool | None, typer.Option("--think/--no-think", help="Think first, or draw at once. Default: the checkpoint's.")]
MaxNew = Annotated[int | None, typer.Option("--max-new-tokens", min=1, help="Room for the answer. Default: the checkpoint's.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Denoising steps. Default: the checkpoint's.")]
Guidance = Annotated[float | None, typer.Option("--guidance-scale", "-g", min=0, help="How closely to follow the prompt; 0 is off.")]
Cache = Annotated[
    str | None,
    typer.Option(
        metavar="none|prefix|dual",
        help="Keys and values of a text that are kept between the steps of a block: faster with long rows; "
        "an approximation for models that see ahead, as the published ones do. Default: the checkpoint's.",
    ),
]
BestOf = Annotated[
    int,
    typer.Option("--best-of", min=1, max=64, help="How many to draw for each picture; the one that the model finds likeliest is kept."),
]
Negative = Annotated[str, typer.Option("--negative-prompt", help="What the drawing should stay away from.")]
Size = Annotated[str | None, typer.Option(metavar="WIDTHxHEIGHT", help="In pixels. Default: the checkpoint's.")]
Trace = Annotated[Path | None, typer.Option("--trace", help="Show how it appeared: .gif for an animation, .png for a strip.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Where to write the picture.")]


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
