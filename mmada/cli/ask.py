"""`mmada ask`: a question about an image."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmada.cli import options
from mmada.generation.settings import TextSettings
from mmada.hub.checkpoint import DEFAULT_MODEL

__all__ = ["ask"]


@options.with_settings()
def ask(
    image: Annotated[Path, typer.Argument(help="PNG, JPEG, WebP, ...")],
    question: Annotated[str | None, typer.Argument(help="Default: describe the image.")] = None,
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
    """Answer a question about an image.

    mmada ask photo.png "how many cats?" --think
    """
    from mmada.cli.chat import show
    from mmada.cli.session import check_model, check_picture, check_trace, load, watched

    check_picture(image)
    check_trace(trace)
    check_model(model, loading.dtype)

    from mmada.image import load_image
    from mmada.pipeline import DESCRIBE

    picture = load_image(image)
    pipeline = load(model, loading)
    params = pipeline.planner.text_params(settings)
    with watched("looking", trace, force=force) as on_step:
        answer = pipeline.ask(
            picture,
            question or DESCRIBE,
            think=think,
            max_new_tokens=settings.max_new_tokens,
            params=params,
            seed=seed,
            strict=strict,
            calculator=calculator,
            on_step=on_step,
        )
    show(answer)
