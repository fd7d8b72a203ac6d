"""Which family a checkpoint is of.

Most families share their tensor names, and id 126084 is the begin of an image in one and a line break in another. So two readings must agree: of the
class name and of the vocabulary. Where two families are equal in both, the name of the checkpoint decides, and otherwise the first in the list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mmada.errors import CheckpointError, InputError, suggest
from mmada.families.dream import DREAM
from mmada.families.family import Facts, Family
from mmada.families.illada import ILLADA
from mmada.families.llada import LLADA
from mmada.families.llada_moe import LLADA_MOE
from mmada.families.lumina_dimoo import LUMINA_DIMOO
from mmada.families.mmada import MMADA
from mmada.families.mmada_parallel_a import MMADA_PARALLEL_A
from mmada.families.mmada_parallel_m import MMADA_PARALLEL_M
from mmada.families.sdar import SDAR

__all__ = ["FAMILIES", "choose", "fitting", "named", "settled"]

FAMILIES: Mapping[str, Family] = {
    family.name: family for family in (MMADA, LLADA, MMADA_PARALLEL_M, LUMINA_DIMOO, MMADA_PARALLEL_A, ILLADA, DREAM, SDAR, LLADA_MOE)
}


def named(name: str) -> Family:
    """The family of that name. Raises InputError."""
    if name not in FAMILIES:
        raise InputError(f"family={name!r} is unknown: {suggest(name, FAMILIES)}")
    return FAMILIES[name]


def choose(facts: Facts) -> Family:
    """The family of a checkpoint, with its layout settled.

    Raises CheckpointError, with both readings, if there is none; and for files that are not as the family has them.
    """
    return settled(fitting(facts), facts)


def fitting(facts: Facts) -> Family:
    """The family that a checkpoint is of by its class and vocabulary. Raises CheckpointError, with both readings, if there is none."""
    by_class = [f for f in FAMILIES.values() if facts.class_name is None or facts.class_name in f.classes]
    by_vocabulary = [f for f in FAMILIES.values() if not f.differences(facts)]
    both = [f for f in by_class if f in by_vocabulary]
    if not both:
        raise CheckpointError(
            f"no family fits: its class {facts.class_name!r} reads as {_titles(by_class)}, its vocabulary as {_titles(by_vocabulary)}; "
            f"{_why(by_class, facts)}give family= if this is a checkpoint of one of them"
        )
    own = [f for f in both if _goes_by(f, facts.names)]
    exact = [f for f in both if facts.rows == f.layout.vocab_size]
    return (own or exact or both)[0]


def settled(family: Family, facts: Facts, *, any_size: bool = False, any_constants: bool = False) -> Family:
    """The family with the layout and the defaults that the files of a checkpoint give it.

    any_size       sizes are not compared with those that are published
    any_constants  nor is what is the same for every size
    Raises CheckpointError for files that are not as it says.
    """
    if differences := family.differences(facts):
        raise CheckpointError(
            f"this is no checkpoint of {family.title}: {'; '.join(differences)}; use the files that were published together"
        )
    if not any_constants and (differences := family.other_constants(facts)):
        raise CheckpointError(
            f"config.json is not that of {family.title}: {'; '.join(differences)}; copy the published one, or add "
            f'"family": "{family.name}" to it if the model was trained so'
        )
    if not any_size and (differences := family.other_sizes(facts)):
        raise CheckpointError(
            f"config.json is not that of {family.title}: {'; '.join(differences)}; copy the published one, or give "
            f"family={family.name!r} if the model is of another size"
        )
    config = {**family.config, **family.config_of.get(facts.class_name or "", {})}
    return replace(family, layout=family.settle(family.layout, facts), defaults={**family.defaults, **family.read(facts)}, config=config)


def _goes_by(family: Family, names: Sequence[str]) -> bool:
    """Whether a checkpoint has a name of the family, as a hub name or the last part of a path."""
    own = {name.split("/")[-1].lower() for name in family.hub_names}
    return any(name.rstrip("/").replace("\\", "/").split("/")[-1].lower() in own for name in names)


def _titles(families: Sequence[Family]) -> str:
    return " or ".join(f.title for f in families) or "none that is known"


def _why(families: Sequence[Family], facts: Facts) -> str:
    """What is not as the families of its class have it."""
    return "".join(f"as {f.title}, {'; '.join(f.differences(facts))}; " for f in families if facts.class_name is not None)
