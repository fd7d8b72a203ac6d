"""An object on its way to a record: checks of single values, and everything that they found wrong.

draft = RecordDraft(where, Folder(root))
draft.text(value, "answer.text", "write the answer")      the text, or "" and a `Problem` of that field
draft.picture(value, "image")                             a path, a data URL or bytes become a `Picture`
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from mmada.data.addresses import DataFile
from mmada.data.records import Kind, Picture, Problem, SourceLocation
from mmada.errors import InputError, suggest

__all__ = ["Folder", "PictureStore", "RecordDraft"]


class PictureStore(Protocol):
    """Where the image names of a record are looked up: the folder of its file, its sample of a shard, its shard of codes."""

    def find(self, name: str) -> DataFile | bytes | tuple[int, ...]:
        """Raises InputError, whose message follows "field='name' ", if there is no such image."""
        ...


@dataclass(frozen=True, slots=True)
class Folder:
    """Image names are paths below `root`. Whether a file exists is seen when it is opened."""

    root: DataFile

    def find(self, name: str) -> DataFile:
        """The path of an image, which need not exist."""
        return self.root / name


class RecordDraft:
    """An object on its way to a record: where it stands, and what was found wrong so far.

    names         native field -> the field that the user wrote
    prompts_only  what is learned may be absent
    """

    def __init__(self, where: SourceLocation, pictures: PictureStore, *, prompts_only: bool = False) -> None:
        self.where, self.pictures, self.prompts_only = where, pictures, prompts_only
        self.problems: list[Problem] = []
        self.names: dict[str, str] = {}
        self.spelling: Callable[[str], str] = str

    def add(self, field: str, value: object, message: str, kind: Kind = "field") -> None:
        """Note a problem of a field, under the name that the user wrote. Long values are cut."""
        shown = repr(value)
        shown = shown if len(shown) <= 60 else f"{shown[:40]}… ({len(shown)} characters)"
        self.problems.append(Problem(self.where, self.spelling(self.names.get(field, field)), shown, kind, message))

    def fields_of(self, value: object, field: str, known: Sequence[str], example: str) -> Mapping[str, object]:
        """The value as an object; {} if it is none. Unknown names are problems, null is the same as absent."""
        if not isinstance(value, Mapping):
            self.add(field, value, f"must be an object; write {example}")
            return {}
        for name in value:
            if name not in known and value[name] is not None:
                place = f"{field}.{name}" if field else str(name)
                self.add(place, value[name], f"is an unknown field, {suggest(str(name), known)}; notes of your own go to meta.extra")
        return {name: value[name] for name in known if value.get(name) is not None}

    def text(self, value: object, field: str, remedy: str, *, strip: bool = True) -> str:
        """A text that is not empty; "" and a problem otherwise."""
        if not isinstance(value, str):
            self.add(field, value, f"must be a text; {remedy}")
            return ""
        if not (value.strip() if strip else value):
            self.add(field, value, f"is empty; {remedy}", "empty")
            return ""
        try:
            value.encode()
        except UnicodeEncodeError:
            self.add(field, value, "has half a character (a lone surrogate), which no tokenizer takes; repair the text")
            return ""
        return value

    def optional(self, value: object, field: str) -> str | None:
        """As `text`, but None stays None."""
        return None if value is None else self.text(value, field, "leave it out if there is none")

    def picture(self, value: object, field: str) -> Picture | None:
        """An image by path, data URL, or bytes that a reader brought."""
        if isinstance(value, bytes):
            return Picture(f"{field} of {self.where}", value)
        if not isinstance(value, str) or not value:
            self.add(field, value, "must name an image: a path, or data:image/png;base64,…", "image reference")
        elif value.startswith("data:"):
            head, _, data = value.partition(",")
            try:
                if not re.fullmatch(r"data:image/[\w.+-]+;base64", head):
                    raise binascii.Error("its head is not data:image/…;base64")
                return Picture(f"{field} of {self.where}", base64.b64decode(data, validate=True))
            except binascii.Error as error:
                self.add(field, value, f"is no base64 image ({error}); write data:image/png;base64,…", "image reference")
        elif "://" in value:
            self.add(field, value, "is a URL, which is never fetched; download the image and give its path", "image reference")
        elif len(value) > 4096 or "\n" in value or "\0" in value:
            self.add(field, value, "is no path; write an encoded image as data:image/png;base64,…", "image reference")
        else:
            try:
                return Picture(value, self.pictures.find(value))
            except InputError as error:
                self.add(field, value, str(error), "image reference")
        return None
