"""One example of a task: what the user says, what is thought, what is answered, and the picture."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from mmada.worlds.emoji.scenes import Scene
from mmada.worlds.emoji.spec import SceneSpec
from mmada.worlds.emoji.split import Combination

__all__ = ["Example", "Meta", "Task"]

Task: TypeAlias = Literal["text", "understand", "draw", "reason_draw"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Meta:
    """Where an example comes from, as far as the split is concerned."""

    named: tuple[str, ...] = ()
    """objects that the text names; those of the scene may be left out"""
    stated: tuple[Combination, ...] = ()
    """further combinations that the text states: arithmetic steps, numbers and places that the picture does not have"""
    templates: tuple[Combination, ...] = ()
    """the templates that it was made with"""
    held_out: tuple[Combination, ...] = ()
    """its held-out combinations, all of one type; empty in training"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One example, fit for every component: leave out `think` for a direct answer.

    text         prompt                -> think, answer
    understand   scene, prompt         -> think, answer
    draw         prompt                -> scene
    reason_draw  prompt                -> think, answer (a plain drawing prompt), scene
    """

    task: Task
    kind: str
    """name of its entry in `tasks.KINDS`"""
    prompt: str
    """the user's turn"""
    think: str | None = None
    """reasoning that leads to the answer, without tags"""
    answer: str = ""
    """the reference answer, or the plain drawing prompt of reason_draw; empty for draw"""
    scene: Scene | None = None
    """the picture: given in understand, to be made in draw and reason_draw"""
    spec: SceneSpec | None = None
    """the meaning that is demanded of the picture (draw, reason_draw) or of the answer (a caption)"""
    meta: Meta = field(default_factory=Meta)
