"""`mmada eval`: measure a model on a suite of exact tasks."""

from __future__ import annotations

import json
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from mmada.cli import options
from mmada.hub.checkpoint import DEFAULT_MODEL

__all__ = ["evaluate"]


class Suite(str, Enum):
    """The suites that ship with the package."""

    emoji = "emoji"
    judge = "judge"
    speed = "speed"


_USED = {
    Suite.judge: ("suite", "num", "out", "seed"),
    Suite.speed: ("suite", "model", "out", "cache", "device", "dtype"),
}
"""Options of a suite that does not take all of them."""


def evaluate(
    context: typer.Context,
    suite: Annotated[
        Suite,
        typer.Argument(
            help="emoji: held-out tasks of the emoji world; judge: the judge of its drawings, no model; speed: seconds of a command and a call."
        ),
    ],
    model: options.Model = DEFAULT_MODEL,
    num: Annotated[int, typer.Option(min=1, help="Examples of each kind, with and without thinking.")] = 50,
    kinds: Annotated[str | None, typer.Option(help="Only these, separated by commas.")] = None,
    modes: Annotated[str, typer.Option(help="direct, think, or both.")] = "direct,think",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the results as JSON.")] = None,
    sheets: Annotated[Path | None, typer.Option(help="Write contact sheets of the drawings into this directory.")] = None,
    seed: options.Seed = 0,
    steps: options.Steps = None,
    guidance_scale: options.Guidance = None,
    best_of: options.BestOf = 1,
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Confidence at which a token of a text is committed. Default: the checkpoint's.")
    ] = None,
    cache: options.Cache = None,
    image_tokenizer: options.ImageTokenizerName = None,
    batch: Annotated[int, typer.Option(min=1, help="Requests that share forward passes.")] = 32,
    device: options.Device = None,
    dtype: options.Dtype = "auto",
) -> None:
    """Measure accuracy with 95 % intervals, forward passes and seconds; the judge of drawings is measured too.

    mmada eval emoji --num 50 -o results.json --sheets sheets
    """
    from rich.progress import Progress

    from mmada.cli.session import check_writable, load, remarks, save
    from mmada.eval import report
    from mmada.worlds.emoji.measure.benchmark import Settings, check_judge, contact_sheet, distance_of_drawings, run
    from mmada.worlds.emoji.measure.judge import the_judge

    if out is not None:
        check_writable(out, "out")
    if sheets is not None:
        check_writable(sheets / "sheet.png", "sheets")
    if suite in _USED:
        options.refuse_others(context, _USED[suite], f"mmada eval {suite.value}")
    environment = report.environment(" ".join(["mmada", *sys.argv[1:]]), device)
    if suite is Suite.speed:
        from mmada.eval import speed

        measured = speed.run(model, device=device, dtype=dtype, cache=cache, on_step=lambda case: remarks.print(case, style="dim"))
        typer.echo(json.dumps(measured, indent=1))
        if out is not None:
            report.save(out, {"suite": suite.value, "environment": environment, **measured})
        return
    wanted = {"kinds": tuple(kinds.split(","))} if kinds else {}
    settings = Settings(
        **wanted,
        num=num,
        modes=tuple(modes.split(",")),
        image_steps=steps,
        guidance_scale=guidance_scale,
        best_of=best_of,
        seed=seed,
        batch=batch,
    )
    judge = the_judge()
    settled = {"num": num, "modes": settings.modes, "steps": steps, "guidance_scale": guidance_scale, "seed": seed, "batch": batch}
    settled |= {"best_of": best_of, "threshold": threshold, "cache": cache}
    about = {"suite": suite.value, "environment": environment, "settings": settled}
    if suite is Suite.judge:
        found = check_judge(judge, None, num=max(num, 2), seed=seed)
        typer.echo(json.dumps(found, indent=1))
        if out is not None:
            report.save(out, {**about, "judge": found})
        return
    pipeline = load(model, image_tokenizer=image_tokenizer, device=device, dtype=dtype, cache=cache)
    if threshold is not None:
        pipeline.use(threshold=threshold)
    with Progress(console=remarks, transient=True, disable=not remarks.is_terminal) as bar:
        task = bar.add_task(suite.value, total=1.0)
        outcomes = run(pipeline, judge, settings, on_step=lambda share, what: bar.update(task, completed=share, description=what))
    typer.echo(f"{'kind':<16} {'mode':<7} {'right':>7}   95 % interval   forwards   seconds")
    for outcome in outcomes:
        row = outcome.to_dict()
        interval = f"{row['low']:.3f} - {row['high']:.3f}"
        numbers = f"{row['mean_forwards']:>8.1f}  {row['seconds_each']:>8.3f}"
        typer.echo(f"{row['kind']:<16} {row['mode']:<7} {row['value']:>7.3f}   {interval}   {numbers}")
    if out is not None:
        measured = {
            "judge": check_judge(judge, pipeline, num=max(num, 400)),
            "distance_drawn": distance_of_drawings(judge, outcomes),
            "outcomes": [outcome.to_dict() for outcome in outcomes],
        }
        report.save(out, {**about, "model": model, **measured})
        remarks.print(f"wrote {out}")
    if sheets is not None:
        for outcome in outcomes:
            if outcome.kind.startswith(("draw_", "reason_")):
                save(contact_sheet(outcome.samples), sheets / f"{outcome.kind}-{outcome.mode}.png")
