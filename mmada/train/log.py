"""Numbers of a run: `metrics.jsonl`, a line for each report, and the same for TensorBoard where it is installed, and for services that are named.

{"step": 100, "loss": 1.93, "loss/draw": 3.1, "lr": 0.004, "tokens_per_second": 4100, ...}
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmada.errors import MissingDependencyError

__all__ = ["TRACKERS", "Log"]

TRACKERS = ("wandb", "mlflow")
"""Services that accelerate has a tracker for, and that are tested here."""


class Log:
    """Appends reports of a run; those of steps that a resumed run will do again are dropped first.

    start     the number of steps that the run goes on from
    trackers  of TRACKERS; they find their account in the environment. Raises MissingDependencyError for one that is not installed
    """

    def __init__(self, directory: Path, *, start: int, trackers: Sequence[str] = ()) -> None:
        self._trackers = [_tracker(name, directory) for name in dict.fromkeys(trackers)]
        directory.mkdir(parents=True, exist_ok=True)
        self._file = directory / "metrics.jsonl"
        if self._file.exists():
            lines = self._file.read_text(encoding="utf-8").splitlines(keepends=True)
            # A line that a crash cut short is dropped with the later ones.
            kept = [line for line in lines if line.endswith("}\n") and json.loads(line)["step"] <= start]
            scratch = self._file.with_suffix(".partial")
            scratch.write_text("".join(kept), encoding="utf-8")
            scratch.replace(self._file)
        self._board = None
        if find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(directory / "tensorboard"), purge_step=start + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append the numbers of a step to metrics.jsonl, and hand them to TensorBoard and the services."""
        with self._file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, **values}) + "\n")
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
            self._board.flush()
        for tracker in self._trackers:
            tracker.log(dict(values), step=step)

    def close(self) -> None:
        """End the runs of the services; metrics.jsonl needs no end."""
        for tracker in self._trackers:
            tracker.finish()
        if self._board is not None:
            self._board.close()


def _tracker(name: str, directory: Path) -> Any:
    """One of accelerate's, begun: a project, or an experiment, of the run's folder."""
    if find_spec(name) is None:
        raise MissingDependencyError(f"loop.trackers={name!r} needs {name}, which is not installed; pip install {name}")
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    tracker: Any = LOGGER_TYPE_TO_CLASS[name](directory.resolve().name)
    tracker.start()
    return tracker
