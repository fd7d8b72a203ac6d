"""Stages by name: the general and published ones (stages.STAGES), and the recipes of a world, each a YAML file.

    batch: 60
    steps: 500
    optim: {name: muon, lr: 1.5e-3}
    components:
      text: {task: text, layout: chat, noise: [block], weight: 1/p, normalizer: maskable, share: 0.3}

The file's name is the stage's. Fields are those of stages.Stage and stages.MixtureComponent; without components it is an ImageStage.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmada.data.find_world import find_world
from mmada.errors import InputError, suggest
from mmada.train.stages import STAGES, ImageStage, Stage
from mmada.train.values import build, read_yaml

__all__ = ["named_stage", "read_stage"]


def read_stage(path: Path) -> Stage | ImageStage:
    """The stage of a recipe. Raises InputError for a file that cannot be read, or fields that do not fit."""
    values = {"name": path.stem, **read_yaml(path)}
    return build(Stage, values, "stage.") if "components" in values else build(ImageStage, values, "stage.")


def named_stage(name: str, world: str = "", options: Mapping[str, Any] | None = None) -> Stage | ImageStage:
    """A stage of STAGES, or else a recipe of the world. Raises InputError for a name that is neither."""
    if name in STAGES:
        return STAGES[name]
    folder = find_world(world, options).recipes if world else None
    recipes = {path.stem: path for path in folder.glob("*.yaml")} if folder else {}
    if name in recipes:
        return read_stage(recipes[name])
    hint = "" if world else "; a recipe of a world needs data.world"
    raise InputError(f"stage={name!r} is unknown: {suggest(name, {*STAGES, *recipes})}{hint}")
