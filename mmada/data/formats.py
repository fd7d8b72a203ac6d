"""Objects become records: those in our own format, and those in the formats of other data sets.

    parse(value, where, pictures=Folder(root))                                                     our format
    parse(value, where, pictures=Folder(root), record_format=RecordFormat(adapter="llava"))        one of ADAPTERS; never guessed

Everything that is wrong with an object is reported at once, in one RecordError.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mmada.data.format_adapters import ADAPTERS
from mmada.data.native_format import record_of
from mmada.data.record_draft import PictureStore, RecordDraft
from mmada.data.records import Meta, Record, RecordError, SourceLocation
from mmada.errors import InputError, suggest

__all__ = ["RecordFormat", "parse"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordFormat:
    """How the objects of a source become records.

    adapter  a name of ADAPTERS; "record" is the form at the top of records.py
    rename   field of the adapter -> the source's own: "txt", "json.prompt", "jpg|png|webp" (the first that is there)
    meta     what is said of records that say nothing about it themselves
    prompts_only  records may lack what is learned, such as prompts of reinforcement learning whose rewards compare with nothing
    Raises InputError if the adapter, or a field of it, is unknown.
    """

    adapter: str = "record"
    rename: Mapping[str, str] = field(default_factory=dict)
    meta: Meta = field(default_factory=Meta)
    prompts_only: bool = False

    def __post_init__(self) -> None:
        if self.adapter not in ADAPTERS:
            raise InputError(f"adapter={self.adapter!r} is unknown: {suggest(self.adapter, ADAPTERS)}")
        known = ("id", *ADAPTERS[self.adapter].fields)
        for name in self.rename:
            if name not in known:
                raise InputError(f"rename={dict(self.rename)!r}: adapter {self.adapter!r} has no field {name!r}: {suggest(name, known)}")


def parse(value: object, where: SourceLocation, *, pictures: PictureStore, record_format: RecordFormat | None = None) -> Record:
    """An object as a record. Raises RecordError with everything that is wrong with it."""
    record_format = record_format or RecordFormat()
    draft = RecordDraft(where, pictures, prompts_only=record_format.prompts_only)
    adapter = ADAPTERS[record_format.adapter]
    if not isinstance(value, Mapping):
        draft.add("", value, f"the line is {_type(value)}; write one JSON object a line", "json")
        raise RecordError(draft.problems)
    if record_format.rename:
        value = _renamed(value, record_format.rename)
        draft.spelling = lambda name: f"{name} ({record_format.rename[name]})" if name in record_format.rename else name
    native = adapter.convert(value, draft)
    if draft.problems:  # what follows would only repeat them in other words
        raise RecordError(draft.problems)
    record = record_of(native, draft, record_format.meta)
    if draft.problems:
        raise RecordError(draft.problems)
    return record


def _type(value: object) -> str:
    return {list: "a list", str: "a text", type(None): "null", bool: "true or false"}.get(type(value), "a number")


def _renamed(value: Mapping[str, object], rename: Mapping[str, str]) -> dict[str, object]:
    result = dict(value)
    for name, paths in rename.items():
        found = (_at(value, path.strip()) for path in paths.split("|"))
        result[name] = next((one for one in found if one is not None), None)
    return result


def _at(value: object, path: str) -> object:
    """What lies at a.b.c; None if there is nothing. A name with dots (seg.png) comes before the path that it could be."""
    if isinstance(value, Mapping) and path in value:
        return value[path]
    name, _, rest = path.partition(".")
    return _at(value.get(name), rest) if rest and isinstance(value, Mapping) else None
