"""`mmada eval`: measure a model on a suite of a world."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmada.cli import options
from mmada.generation.settings import ImageSettings, TextSettings
from mmada.hub.checkpoint import DEFAULT_MODEL

if TYPE_CHECKING:
    from mmada.data.world import Suite

__all__ = ["evaluate"]


_OTHERS = (
    *("negative_prompt", "image_cache", "max_new_tokens", "temperature", "top_p", "top_k", "min_p", "block_length"),
    *("repetition_penalty", "frequency_penalty", "presence_penalty"),
)
"""settings that a suite chooses itself"""


@options.with_settings(leave_out=_OTHERS)
def evaluate(
    context: typer.Context,
    suite: Annotated[str, typer.Argument(help="Name of a suite. Most worlds have one of their own name. `list` shows all.")],
    world: Annotated[
        str | None, typer.Option(help="World that has the suite, or package.module:object. Default: search all worlds.")
    ] = None,
    model: options.Model = DEFAULT_MODEL,
    num: Annotated[int, typer.Option(min=1, help="Examples of each kind and mode.")] = 50,
    kinds: Annotated[str | None, typer.Option(help="Only these kinds, separated by commas.")] = None,
    modes: Annotated[str, typer.Option(help="direct, think, or both.")] = "direct,think",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the results as JSON.")] = None,
    sheets: Annotated[Path | None, typer.Option(help="Write contact sheets of the drawings into this directory.")] = None,
    force: options.Force = False,
    seed: options.Seed = 0,
    drawn: ImageSettings = ImageSettings(),
    written: TextSettings = TextSettings(),
    batch: Annotated[int, typer.Option(min=1, help="Number of requests that share a forward pass.")] = 32,
    loading: options.Loading = options.Loading(),
) -> None:
    """Run a suite. Most report accuracy with 95 % intervals, forward passes and seconds.

    mmada eval shapes --num 50 -o results.json
    """
    from rich.progress import Progress

    from mmada.cli.session import check_model, check_writable, free, load, remarks, save, wrote

    if out is not None:
        check_writable(out, "out")
    if sheets is not None:
        check_writable(sheets / "sheet.png", "sheets")
    check_model(model, loading.dtype)

    from mmada.data.world import SuiteSettings
    from mmada.eval import report

    if suite == "list":
        for name, brought_by in _names(world).items():
            typer.echo(f"{name:<16} world {brought_by}")
        return
    chosen = _find(suite, world)
    options.refuse_others(
        context,
        ("suite", "world", "out", "force", *(("quantize", "tensor_parallel") if chosen.needs_model else ()), *chosen.options),
        f"mmada eval {suite}",
    )
    environment = report.environment(" ".join(["mmada", *sys.argv[1:]]), loading.device)
    settings = SuiteSettings(
        num=num,
        kinds=tuple(kinds.split(",")) if kinds else (),
        modes=tuple(modes.split(",")),
        seed=seed,
        steps=drawn.steps,
        guidance_scale=drawn.guidance_scale,
        best_of=drawn.best_of,
        threshold=written.threshold,
        image_threshold=drawn.image_threshold,
        cache=written.cache,
        batch=batch,
        model=model,
        device=loading.device,
        dtype=loading.dtype,
        detailed=out is not None,
    )
    pipeline = None
    if chosen.needs_model:
        pipeline = load(model, loading, cache=written.cache)
        thresholds = {"threshold": written.threshold, "image_threshold": drawn.image_threshold}
        pipeline.use(**{name: value for name, value in thresholds.items() if value is not None})
    with Progress(console=remarks, transient=True, disable=not remarks.is_terminal) as bar:
        task = bar.add_task(suite, total=1.0)
        measured = chosen.run(pipeline, settings, lambda share, what: bar.update(task, completed=share, description=what))
    for line in measured.lines:
        typer.echo(line)
    if out is not None:
        target = free(out, force=force)
        report.save(target, {"suite": suite, "environment": environment, **measured.values})
        wrote(target, out, "JSON")
    if sheets is not None:
        for stem, sheet in measured.sheets.items():
            save(sheet(), sheets / f"{stem}.png", force=force)


def _find(suite: str, world: str | None) -> Suite:
    """The suite of a name. Raises InputError if no world brings it."""
    from mmada.data.find_world import find_world
    from mmada.errors import InputError, suggest
    from mmada.eval.exact import suites_of

    names = _names(world)
    if suite not in names:
        raise InputError(f"suite={suite!r} is unknown: {suggest(suite, names)}")
    return suites_of(find_world(names[suite]))[suite]


def _names(world: str | None) -> dict[str, str]:
    """Suite -> the world that brings it. A world's own name comes before another's suite of that name."""
    from mmada.data.find_world import find_world, installed_worlds
    from mmada.eval.exact import suites_of

    worlds = (world,) if world else installed_worlds()
    found = [(suite, name) for name in worlds for suite in suites_of(find_world(name))]
    return dict(sorted(found, key=lambda pair: pair[0] == pair[1]))
