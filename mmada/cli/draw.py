"""`mmada draw`: an image from a prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmada.cli import options
from mmada.generation.settings import ImageSettings, changed
from mmada.hub.checkpoint import DEFAULT_MODEL

__all__ = ["draw"]


@options.with_settings()
def draw(
    prompt: Annotated[str, typer.Argument(help="What to draw.")],
    output: options.Output = Path("out.png"),
    force: options.Force = False,
    model: options.Model = DEFAULT_MODEL,
    seed: options.Seed = 0,
    num: Annotated[
        int, typer.Option("--num", "-n", min=1, max=64, help="Number of images. Seeds count up from --seed; file names get a number.")
    ] = 1,
    settings: ImageSettings = ImageSettings(),
    size: options.Size = None,
    think: options.DrawThink = None,
    strict: options.Strict = False,
    trace: options.Trace = None,
    loading: options.Loading = options.Loading(),
) -> None:
    """Draw an image.

    mmada draw "two red hearts above a dog" --seed 3 --steps 12 -o out.png
    """
    from mmada.cli.session import check_model, check_output, check_trace, load, printable, remarks, save, watched

    check_output(output)
    check_trace(trace)
    options.check_best_of(settings.best_of, trace)
    pixels = options.parse_pixels("size", size, "x", 2)[::-1] if size else None
    check_model(model, loading.dtype)

    from mmada.generation.requests import Drawing, DrawRequest

    pipeline = load(model, loading)
    if size and pixels:
        options.check_size(size, pixels[1], pixels[0], pipeline.image_tokenizer.decode_factor)
    requests = [
        DrawRequest(
            prompt,
            size=(pixels[0], pixels[1]) if pixels else None,
            think=think,
            seed=seed + i,
            strict=strict,
            **changed(settings),
        )
        for i in range(num)
    ]
    with watched("drawing", trace, force=force) as on_step:
        drawings = [result for result in pipeline.run(requests, on_step=on_step) if isinstance(result, Drawing)]
    for i, drawing in enumerate(drawings):
        if settings.best_of > 1:
            remarks.print(f"the best of {settings.best_of} has seed {drawing.seed}", style="dim")
        if drawing.warning:
            remarks.print(f"warning: {drawing.warning}", style="yellow")
        if drawing.thinking:
            remarks.print(printable(drawing.thinking), style="dim")
        save(drawing.image, output if num == 1 else output.with_stem(f"{output.stem}-{i}"), force=force)
