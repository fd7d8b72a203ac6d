"""What a sentence demands of a picture, and whether a picture fulfils it.

A `SceneSpec` is the meaning of a caption or of a drawing prompt: which objects and how many, and nothing else. Where stated, it also
has the cell that each one fills, how two kinds lie to each other, the background and the style. `grammar.parse` reads one off a sentence,
`satisfies` judges what a classifier found in the cells of a picture.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from mmada.errors import InputError, suggest
from mmada.worlds.emoji.objects import STYLES, objects
from mmada.worlds.emoji.scenes import BACKGROUNDS, BOXES, Scene, layout_of

__all__ = ["RELATIONS", "SceneSpec", "holds", "implies", "satisfies", "spec_of"]

RELATIONS = ("above", "left of")


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneSpec:
    """A demand on a picture. Make one with `SceneSpec.of` or `SceneSpec.placed`, which put the parts in order."""

    counts: tuple[tuple[str, int], ...]
    """(object name, how many), sorted by name; the picture holds nothing else"""
    places: tuple[tuple[str, str], ...] = ()
    """(cell, object name) of every object in reading order, or nothing where places are free"""
    relation: tuple[str, str, str] | None = None
    """(object name, "above" or "left of", other object name): so lie all of the one kind to all of the other"""
    background: str | None = None
    style: str | None = None

    def __post_init__(self) -> None:
        if not self.counts or self.counts != tuple(sorted(self.counts)) or any(n < 1 for _, n in self.counts):
            raise InputError(f"counts={self.counts} must hold names with positive numbers, sorted by name; use SceneSpec.of")
        for name in dict(self.counts):
            if name not in objects():
                raise InputError(f"object {name!r} is not in the emoji world: {suggest(name, objects())}")
        if self.places and (
            layout_of(dict(self.places)) is None or tuple(sorted(Counter(name for _, name in self.places).items())) != self.counts
        ):
            raise InputError(f"places={self.places} must give each object of counts={self.counts} a cell of one layout")
        if self.relation is not None:
            one, relation, other = self.relation
            if relation not in RELATIONS or one == other or {one, other} != set(dict(self.counts)):
                raise InputError(f"relation={self.relation} must relate the two kinds of counts={self.counts} by one of {RELATIONS}")
        if self.background is not None and self.background not in BACKGROUNDS:
            raise InputError(f"background={self.background!r} is unknown: {suggest(self.background, BACKGROUNDS)}")
        if self.style is not None and self.style not in STYLES:
            raise InputError(f"style={self.style!r} is unknown: {suggest(self.style, STYLES)}")

    @classmethod
    def of(
        cls,
        counts: Mapping[str, int],
        *,
        relation: tuple[str, str, str] | None = None,
        background: str | None = None,
        style: str | None = None,
    ) -> SceneSpec:
        """So many of each object, wherever they are, or lying to each other as `relation` says."""
        return cls(counts=tuple(sorted(counts.items())), relation=relation, background=background, style=style)

    @classmethod
    def placed(cls, cells: Mapping[str, str], *, background: str | None = None, style: str | None = None) -> SceneSpec:
        """Each object in its cell; `cells` maps cell -> object name."""
        places = tuple((cell, cells[cell]) for cell in BOXES if cell in cells)
        return cls(counts=tuple(sorted(Counter(cells.values()).items())), places=places, background=background, style=style)

    @property
    def total(self) -> int:
        """Objects altogether."""
        return sum(n for _, n in self.counts)


def spec_of(scene: Scene) -> SceneSpec:
    """All that can be said of a scene: each object's cell, and the background."""
    return SceneSpec.placed(scene.cells, background=scene.background)


def holds(relation: tuple[str, str, str], cells: Mapping[str, str]) -> bool:
    """Whether every object of the one kind lies above (or left of) every object of the other kind."""
    one, name, other = relation
    axis = 1 if name == "above" else 0
    # Cells of one layout have one size, so their upper left corners compare like their centres.
    ones = [BOXES[cell][axis] for cell, found in cells.items() if found == one]
    others = [BOXES[cell][axis] for cell, found in cells.items() if found == other]
    return bool(ones) and bool(others) and max(ones) < min(others)


def implies(said: SceneSpec, demanded: SceneSpec) -> bool:
    """Whether every picture that fulfils `said` also fulfils `demanded`: more may be said, but nothing else and nothing less."""
    if said.counts != demanded.counts or (demanded.places and said.places != demanded.places):
        return False
    if demanded.relation is not None and said.relation != demanded.relation and not holds(demanded.relation, dict(said.places)):
        return False
    clauses = ((said.background, demanded.background), (said.style, demanded.style))
    return all(wanted is None or stated == wanted for stated, wanted in clauses)


def satisfies(spec: SceneSpec, cells: Mapping[str, str], *, background: str | None = None, style: str | None = None) -> bool:
    """Whether a picture fulfils a spec, given what was detected in it.

    cells       occupied cell -> object name, as seen by any classifier; a name outside the world (a rejected cell) fails
    background  the background seen, or None if it was not judged
    style       the style seen, or None if it was not judged
    """
    if tuple(sorted(Counter(cells.values()).items())) != spec.counts:
        return False
    if spec.places and dict(spec.places) != dict(cells):
        return False
    if spec.relation is not None and not holds(spec.relation, cells):
        return False
    stated_and_seen = ((spec.background, background), (spec.style, style))
    return all(stated is None or seen is None or stated == seen for stated, seen in stated_and_seen)
