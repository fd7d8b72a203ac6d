"""`mmada train`: start or resume a training run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmada.cli import options

if TYPE_CHECKING:
    from mmada.train.plan import RunPlan
    from mmada.train.protocols import StepReport, TrainResult

__all__ = ["begin", "check_paths", "comparison", "finish", "is_loss", "progress", "say", "show_plan", "train"]


def train(
    config: Annotated[Path, typer.Argument(help="YAML file, such as configs/debug.yaml.")],
    settings: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE...", help="Overrides, such as stage.optim.lr=1e-3.")] = None,
    fresh: options.Fresh = False,
) -> None:
    """Train a stage or a whole curriculum. Repeat the command to resume from the last save.

    mmada train configs/debug.yaml
    """
    check_paths(config, settings or [])
    is_main = is_main_process("training", extra="train")
    from mmada.train.config import load_all
    from mmada.train.setup import run

    configs = load_all(config, settings or [])
    for i, one in enumerate(configs):
        number = f"run {i + 1} of {len(configs)}: " if len(configs) > 1 else ""
        begin(Path(one.out), f"{number}stage {one.stage.name}", fresh=fresh)
        with progress(is_main) as on_step:
            outcome = run(one, on_step=on_step, on_plan=show_plan if is_main else None, on_begin=say if is_main else None)
        finish(Path(one.out), outcome)
        if outcome.reason != "done":
            return


def check_paths(config: Path, settings: list[str]) -> None:
    """Raise InputError for a file, a folder or a world that a run names and cannot use, before anything slow is imported."""
    from importlib.util import find_spec

    if find_spec("yaml") is None:
        return  # what is missing is said by `is_main_process`

    from mmada.cli.session import check_data, check_folder, check_world
    from mmada.train.values import mappings

    for run in mappings(config, settings):
        if isinstance(out := run.get("out"), str) and out:
            check_folder(Path(out), "out")
        data = run.get("data")
        named = {name: value for name, value in data.items() if isinstance(value, str) and value} if isinstance(data, dict) else {}
        for name in ("path", "eval_path", "replay"):
            if name in named:
                check_data(named[name])
        if "world" in named:
            check_world(named["world"])


def is_main_process(what: str, *, extra: str) -> bool:
    """Whether this process leads, of those that a launcher started. Called first: it also decides that there are several.

    Raises MissingDependencyError if `what` cannot be done without the extra, InputError for a plan that cannot be carried out.
    """
    from mmada.errors import MissingDependencyError
    from mmada.train import plan

    try:
        import accelerate  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(f"{what} needs accelerate; install the extra: pip install 'mmada[{extra}]'") from error
    is_main: bool = plan.begin().is_main_process
    return is_main


def show_plan(plan: RunPlan) -> None:
    """Say who holds what, and what is lost by it."""
    from mmada.cli.session import remarks

    remarks.print(str(plan))
    if plan.lost_updates is not None:
        remarks.print(f"warning: {plan.lost_updates}")


def say(words: str) -> None:
    """Which model is trained on what."""
    from mmada.cli.session import remarks

    remarks.print(words)


def begin(out: Path, what: str, *, fresh: bool) -> None:
    """Say what is about to be done, and where it goes on; `fresh` moves a run that is there aside. Every process calls it."""
    from accelerate import PartialState

    from mmada.cli.session import remarks
    from mmada.train.state import latest

    saved, is_main = latest(out / "state"), PartialState().is_main_process
    if fresh and is_main and out.exists():
        aside = _aside(out)
        out.rename(aside)
        remarks.print(f"moved {out} to {aside}")
        saved = None
    PartialState().wait_for_everyone()
    if is_main:
        where = f"going on from {saved.name}" if saved else "from the beginning"
        remarks.print(f"{what} in {out}, {where}")


def finish(out: Path, outcome: TrainResult) -> None:
    """Say what was done and written, and how to go on."""
    from accelerate import PartialState

    from mmada.cli.session import remarks

    if not PartialState().is_main_process:
        return
    remarks.print(
        f"{outcome.step} steps, {outcome.tokens:,} tokens, {outcome.seconds / 60:.1f} minutes; wrote {out / 'model'}",
        soft_wrap=True,
    )
    for line in comparison(outcome):
        remarks.print(line)
    if outcome.reason != "done":
        why = "time is up" if outcome.reason == "time" else "stopped"
        remarks.print(f"{why}: everything is saved in {out / 'state'}; repeat the command to go on")


def comparison(outcome: TrainResult) -> list[str]:
    """What was learned and what was forgotten, in lines; nothing where nothing was compared."""
    names = {"held_out": "new task, held-out records", "trained": "new task, trained records", "stay": "what should stay"}
    lines = [
        f"{names[group]}: loss {before:.3g} before, {after:.3g} after (nats a token)"
        for group, (before, after) in sorted(outcome.compared.items(), key=lambda one: one[0] == "stay")
    ]
    if not lines:
        return []
    if outcome.kept_step is not None:
        lines.append(f"kept the weights of step {outcome.kept_step}, whose held-out loss was lowest")
    if "stay" not in outcome.compared:
        lines.append("what should stay: not measured; set data.replay to a file of `mmada data export-replay` to keep it and to know")
    return lines


def _aside(out: Path) -> Path:
    """The first of out.1, out.2, ... that is not there."""
    number = 1
    while (path := out.with_name(f"{out.name}.{number}")).exists():
        number += 1
    return path


def is_loss(name: str) -> bool:
    """Losses and, where there was an evaluation, its main numbers."""
    return name.split("/")[0] in ("loss", "eval") and "@" not in name


@contextmanager
def progress(is_main: bool, is_shown: Callable[[str], bool] = is_loss) -> Iterator[Callable[[StepReport], None] | None]:
    """A bar with speed and time left on a terminal, a line for each report elsewhere.

    is_shown  whether a number, by its name, is among those of a line
    """
    from mmada.cli.session import remarks

    if not is_main:
        yield None
        return
    if not remarks.is_terminal:
        yield lambda report: remarks.print(_line(report, is_shown)) if report.values else None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns: tuple[Any, ...] = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TextColumn("{task.fields[rate]} tokens/s"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=remarks, speed_estimate_period=120) as bar:
        task = bar.add_task("", total=None, loss="-", rate="-")
        begun = False

        def show(report: StepReport) -> None:
            nonlocal begun
            if not begun:  # the time left is estimated from this session's steps alone
                bar.reset(task, total=report.steps, completed=report.step - 1)
                begun = True
            fields: dict[str, Any] = {"rate": f"{report.tokens_per_second:,.0f}"}
            if "loss" in report.values:
                fields["loss"] = f"{report.values['loss']:.4f}"
            bar.update(task, completed=report.step, **fields)

        yield show


def _line(report: StepReport, is_shown: Callable[[str], bool]) -> str:
    """The main numbers; all of them are in metrics.jsonl."""
    shown = {name: value for name, value in report.values.items() if is_shown(name)}
    numbers = "  ".join(f"{name} {value:.4g}" for name, value in shown.items())
    return f"step {report.step}/{report.steps}  {report.tokens_per_second:,.0f} tokens/s  {numbers}"
