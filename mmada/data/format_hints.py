"""What to ask for, where a file's objects are no records as they are read: a hint for an error, never used to choose.

format_hint(reader)                      "; read it with --adapter instruction --rename instruction=prompt --rename output=completion"
format_hint(reader, as_settings=True)    "; read it with data.adapter=instruction 'data.rename={instruction: prompt, output: completion}'"
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

from mmada.data.format_adapters import ADAPTERS
from mmada.data.formats import RecordFormat, parse
from mmada.data.jsonl_reader import JsonlReader
from mmada.data.record_draft import PictureStore
from mmada.data.records import RecordError, SourceLocation
from mmada.data.table_reader import TableReader

__all__ = ["fitting_formats", "format_hint"]

_QUESTIONS = ("instruction", "prompt", "question", "query", "problem")
_ANSWERS = ("output", "completion", "response", "answer", "solution")
_CONTEXTS = ("input", "context")
"""What others call the fields of adapter `instruction`, the usual name first."""
_NUM_READ = 3


def format_hint(reader: object, *, as_settings: bool = False) -> str:
    """How the first objects of a file could be read, as the end of a sentence; "" if nothing is known, or if they are read already.

    as_settings  of a run, or else options of a command
    """
    if not isinstance(reader, (JsonlReader, TableReader)):
        return ""
    try:
        objects = [reader.read(index) for index in range(min(_NUM_READ, len(reader)))]
    except RecordError:
        return ""
    own = reader.record_format
    if _reads(own, objects, reader.pictures):
        return ""
    ways = [_words(found, as_settings) for found in fitting_formats(objects, reader.pictures, prompts_only=own.prompts_only)]
    return f"; read it with {', or '.join(ways)}" if ways else ""


def fitting_formats(
    objects: list[tuple[object, SourceLocation]], pictures: PictureStore, *, prompts_only: bool = False
) -> list[RecordFormat]:
    """Formats that read all of some objects: adapters as they are, or else "instruction" under the names that others give to its fields."""
    plain = [RecordFormat(adapter=name, prompts_only=prompts_only) for name in ADAPTERS]
    if fitting := [one for one in plain if _reads(one, objects, pictures)]:
        return fitting
    renamed = (
        RecordFormat(adapter="instruction", rename=names, prompts_only=prompts_only) for names in _renames(objects[0][0], prompts_only)
    )
    return [one for one in renamed if _reads(one, objects, pictures)][:1]


def _renames(value: object, prompts_only: bool) -> list[dict[str, str]]:
    """Names for the fields of "instruction" among those of an object, likelier ones first."""
    if not isinstance(value, Mapping):
        return []
    questions, answers, contexts = ([name for name in names if value.get(name)] for names in (_QUESTIONS, _ANSWERS, _CONTEXTS))
    pairs = product(questions, answers or ([""] if prompts_only else []), contexts or [""])
    found = [{"instruction": question, "output": answer, "input": context} for question, answer, context in pairs]
    return [{name: own for name, own in names.items() if own not in ("", name)} for names in found]


def _reads(record_format: RecordFormat, objects: list[tuple[object, SourceLocation]], pictures: PictureStore) -> bool:
    try:
        for value, where in objects:
            parse(value, where, pictures=pictures, record_format=record_format)
    except RecordError:
        return False
    return True


def _words(found: RecordFormat, as_settings: bool) -> str:
    if not as_settings:
        return " ".join([f"--adapter {found.adapter}", *(f"--rename {name}={own}" for name, own in found.rename.items())])
    names = ", ".join(f"{name}: {own}" for name, own in found.rename.items())
    return f"data.adapter={found.adapter}" + (f" 'data.rename={{{names}}}'" if names else "")
