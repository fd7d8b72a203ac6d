"""`mmada fill`: fill the holes of a text, or redraw a part of an image."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmada.cli import options
from mmada.generation.settings import ImageSettings, TextSettings, changed, settings_of
from mmada.hub.checkpoint import DEFAULT_MODEL

__all__ = ["fill"]


_ALWAYS = ("force", "model", "seed", "trace", "image_tokenizer", "device", "dtype")
_OF_TEXTS = ("template", *_ALWAYS, *settings_of(TextSettings))
_OF_IMAGES = ("image", "mask", "extend", "prompt", "output", *_ALWAYS, *settings_of(ImageSettings))


@options.with_settings(leave_out=["max_new_tokens"])
def fill(
    context: typer.Context,
    template: Annotated[str | None, typer.Argument(help="Text with holes: [MASK] is one token, [MASK:5] is five.")] = None,
    image: Annotated[Path | None, typer.Option("--image", "-i", help="Image to redraw a part of.")] = None,
    mask: Annotated[Path | None, typer.Option("--mask", help="Mask as large as the image. Its white part is redrawn.")] = None,
    extend: Annotated[str | None, typer.Option(metavar="L,T,R,B", help="Pixels to add and draw: left, top, right, bottom.")] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="What the image shows.")] = None,
    output: options.Output = Path("out.png"),
    force: options.Force = False,
    model: options.Model = DEFAULT_MODEL,
    seed: options.Seed = 0,
    drawn: ImageSettings = ImageSettings(),
    written: TextSettings = TextSettings(),
    trace: options.Trace = None,
    loading: options.Loading = options.Loading(),
) -> None:
    """Complete a text or an image.

    mmada fill "The [MASK:3] sat on the mat."

    mmada fill --image cat.png --mask hat.png --prompt "a cat with a hat" -o out.png
    """
    from mmada.cli.chat import show
    from mmada.cli.session import check_model, check_output, check_picture, check_trace, load, remarks, save, watched
    from mmada.errors import InputError

    if (template is None) == (image is None):
        raise InputError(
            f"template={template!r} with image={str(image) if image else None!r}; give a text with holes or --image, and not both"
        )
    if image is not None:
        check_output(output)
    options.check_best_of(drawn.best_of, trace)
    check_trace(trace)
    options.refuse_others(context, *((_OF_TEXTS, "a text with holes") if image is None else (_OF_IMAGES, "an image")))
    around = options.parse_pixels("extend", extend, ",", 4) if extend else (0, 0, 0, 0)
    for path in (image, mask):
        if path is not None:
            check_picture(path)
    check_model(model, loading.dtype)

    from mmada.image import load_image

    picture = load_image(image) if image is not None else None
    marks = load_image(mask) if mask is not None else None
    if picture is not None and not prompt:
        raise InputError("prompt='' is empty; say with --prompt what the picture shows")
    pipeline = load(model, loading)
    with watched("filling", trace, force=force) as on_step:
        if picture is None:
            show(pipeline.fill(template or "", params=pipeline.planner.fill_params(written), seed=seed, on_step=on_step))
            return
        drawing = pipeline.fill_image(
            picture,
            marks,
            prompt=prompt or "",
            extend=(around[0], around[1], around[2], around[3]),
            seed=seed,
            on_step=on_step,
            **changed(drawn),
        )
    if drawing.warning:
        remarks.print(f"warning: {drawing.warning}", style="yellow")
    save(drawing.image, output, force=force)
