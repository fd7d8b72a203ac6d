"""`mmada rl`: reinforcement learning of a trained model, or go on with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from mmada.worlds.emoji.rewards import Verifier

__all__ = ["rl"]


def rl(
    config: Annotated[Path, typer.Argument(help="YAML file, such as configs/emoji/max.yaml.")],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE...", help="Settings on top, such as objective.name=espo group=16.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin anew; what `out` holds is moved aside, to out.1, out.2, ...")] = False,
) -> None:
    """Improve a trained model by rewards: it answers and draws, and what is rewarded becomes likelier. Repeat the command to resume.

    mmada rl configs/rl/debug.yaml
    """
    from mmada.cli.train import begin, finish, is_main_process, progress

    is_main = is_main_process("reinforcement learning", extra="rl")
    from mmada.rl.config import load
    from mmada.rl.setup import run

    one = load(config, settings or [])
    tasks = " ".join(task.name for task in one.active)
    begin(Path(one.out), f"{one.objective.name} on {tasks or 'no task'}", fresh=fresh)
    with progress(is_main, is_shown=_is_shown) as on_step:
        outcome = run(one, on_step=on_step, load_verifier=_judge)
    finish(Path(one.out), outcome)


def _is_shown(name: str) -> bool:
    """The loss, and what each task earned in rollouts and in evaluation."""
    return name == "loss" or (name.split("/")[0] in ("reward", "eval", "kl") and name.count("/") == 1)


def _judge(path: Path) -> Verifier:
    """A network of worlds/emoji/measure/judge.py with weights of its own: train one with scripts/train_judge.py --seed 7 --out FILE."""
    from mmada.worlds.emoji.measure.judge import Judge

    return Judge.load(path).look
