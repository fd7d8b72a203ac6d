"""`mmada rl`: train a model with rewards, or resume such a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmada.cli import options

if TYPE_CHECKING:
    from mmada.rl.config import RLConfig
    from mmada.rl.rollout import RemoteRollouts

__all__ = ["rl"]


def rl(
    config: Annotated[Path, typer.Argument(help="YAML file, or one that comes with the package, such as configs/rl/debug.yaml.")],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE...", help="Overrides, such as objective.name=espo group=16.")
    ] = None,
    fresh: options.Fresh = False,
) -> None:
    """Train a model with rewards (reinforcement learning). Repeat the command to resume.

    mmada rl configs/rl/debug.yaml
    """
    from mmada.cli.train import begin, check_paths, finish, is_main_process, progress, say, show_plan

    check_paths(config, settings or [])
    is_main = is_main_process("reinforcement learning", extra="rl")
    from mmada.rl.config import load
    from mmada.rl.setup import run

    one = load(config, settings or [])
    tasks = " ".join(task.name for task in one.active)
    begin(Path(one.out), f"{one.objective.name} on {tasks or 'no task'}", fresh=fresh)
    with _workers(one) as remote, progress(is_main, is_shown=_is_shown) as on_step:
        on_begin = say if is_main else None
        outcome = run(one, on_step=on_step, on_plan=show_plan if is_main else None, on_begin=on_begin, remote=remote)
    finish(Path(one.out), outcome)


@contextmanager
def _workers(config: RLConfig) -> Iterator[RemoteRollouts | None]:
    """Those of rollouts=ray, which the main process asks for all."""
    from accelerate import PartialState

    if config.rollouts == "here" or not PartialState().is_main_process:
        yield None
        return
    from mmada.scale.rollouts import ray_rollouts

    with ray_rollouts(config) as remote:
        yield remote


def _is_shown(name: str) -> bool:
    """The loss, and what each task earned in rollouts and in evaluation."""
    return name == "loss" or (name.split("/")[0] in ("reward", "eval", "kl") and name.count("/") == 1)
