"""`mmada edit`: images changed by an instruction, with or without a text about it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmada.cli import options
from mmada.generation.settings import EditSettings, ImageSettings
from mmada.hub.checkpoint import DEFAULT_MODEL

if TYPE_CHECKING:
    from mmada.families import Family

__all__ = ["edit"]


@options.with_settings(leave_out=["negative_prompt", "best_of"])
def edit(
    images: Annotated[list[Path], typer.Argument(help="Source images. With --restyle: the content, then the style.", show_default=False)],
    instruction: Annotated[str, typer.Argument(help="What is to be changed.")],
    output: options.Output = Path("out.png"),
    force: options.Force = False,
    model: options.Model = DEFAULT_MODEL,
    seed: options.Seed = 0,
    drawn: ImageSettings = ImageSettings(),
    edits: EditSettings = EditSettings(),
    restyle: Annotated[bool, typer.Option("--restyle", help="Give the first of two images the style of the second.")] = False,
    think: Annotated[
        bool | None,
        typer.Option("--think/--no-think", help="Write a text, too, or not. Default: only if the model edits in no other way."),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="WIDTHxHEIGHT", help="In pixels. Default: that of the first image, as the model takes it."),
    ] = None,
    trace: options.Trace = None,
    loading: options.Loading = options.Loading(),
) -> None:
    """Change images by an instruction. The built-in models cannot; `mmada fill --image` redraws a part of a picture with them.

    mmada edit photo.png "Add a hat." --image-guidance-scale 4 -m Alpha-VLLM/Lumina-DiMOO -o out.png

    mmada edit photo.png drawing.png "Make it look like that." --restyle -m Alpha-VLLM/Lumina-DiMOO

    mmada edit photo.png "Turn day into night." --think --order text_first -m tyfeld/MMaDA-Parallel-A
    """
    from mmada.cli.chat import show
    from mmada.cli.session import check_model, check_output, check_picture, check_trace, load, remarks, save, watched
    from mmada.errors import InputError

    if not instruction.strip():
        raise InputError("instruction='' is empty; say what is to be changed")
    check_output(output)
    check_trace(trace)
    pixels = options.parse_pixels("size", size, "x", 2)[::-1] if size else None
    for path in images:
        check_picture(path)
    check_model(model, loading.dtype)

    from mmada.generation.edits import instructed_edit
    from mmada.generation.requests import Drawing

    family = _family(model)
    _check(family)
    request = instructed_edit(
        family,
        instruction,
        images,
        drawn=drawn,
        edits=edits,
        think=think,
        restyle=restyle,
        size=(pixels[0], pixels[1]) if pixels else None,
        seed=seed,
    )
    pipeline = load(model, loading)
    if size and pixels:
        options.check_size(size, pixels[1], pixels[0], pipeline.image_tokenizer.decode_factor)
    with watched("editing", trace, force=force) as on_step:
        (drawing,) = pipeline.run([request], on_step=on_step)
    assert isinstance(drawing, Drawing)
    if drawing.warning:
        remarks.print(f"warning: {drawing.warning}", style="yellow")
    if drawing.answer is not None and drawing.answer.problem is None:
        show(drawing.answer)
    elif drawing.answer is not None:
        remarks.print(f"warning: there is no text: {drawing.answer.problem}", style="yellow")
    save(drawing.image, output, force=force)


def _family(model: str) -> Family:
    """Of a checkpoint, by its small files: weights take long to load, and some cannot edit."""
    from mmada.families.mmada import MMADA
    from mmada.hub import checkpoint
    from mmada.hub.adapters import base_of
    from mmada.hub.family import family_of

    return MMADA if model == "debug" else family_of(base_of(checkpoint.find(model, patterns=["*.json"])), names=[model])


def _check(family: Family) -> None:
    """Raises InputError, which says who can, for a family that follows no instructions."""
    from mmada.errors import InputError
    from mmada.families import FAMILIES

    if family.abilities & {"edit", "parallel"}:
        return
    who = ", ".join(other.title for other in FAMILIES.values() if other.abilities & {"edit", "parallel"})
    instead = ", and `mmada fill --image` redraws a part that a mask marks" if "inpaint" in family.abilities else ""
    raise InputError(f"{family.title} cannot edit by an instruction; {who} can{instead}")
