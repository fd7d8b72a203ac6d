"""One record: what is given, what is learned, where it comes from. One JSON object a line:

    {"id": "clevr-17", "task": "understand",
     "messages": [{"role": "user", "content": [{"type": "image", "image": "images/17.png"}, {"type": "text", "text": "How many?"}]}],
     "think": {"text": "A cube, a ball."}, "answer": {"text": "2"}, "meta": {"license": "CC-BY-4.0", "lang": "en", "source": "clevr"}}

    task          messages                        think      answer
    text          a conversation; none: a text    may have   text                                learned: think and text
    understand    a conversation with images      may have   text                                learned: think and text
    draw          one turn of the user            none       image                               learned: image
    reason_draw   one turn of the user            must have  image, and a refined prompt as text  learned: think, text, image
    edit          one turn of the user, images    none       image                               learned: image
    restyle       the same, with two images       none       image                               learned: image, the first in the second's style
    parallel      one turn of the user, images    may have   text and image                      learned: think, text, image

formats.py makes a `Record` of such an object, or of the forms that other data sets have (format_adapters.py).
train/records.py makes training canvases of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from mmada.canvas import join_thinking
from mmada.data.addresses import DataFile, RemoteFile
from mmada.errors import ImageError, InputError

__all__ = [
    "EDIT_TASKS",
    "PART_FIELDS",
    "present",
    "ROLES",
    "TASKS",
    "Kind",
    "Meta",
    "Picture",
    "Problem",
    "Record",
    "RecordError",
    "SourceLocation",
    "TaskName",
    "Thinking",
    "Turn",
    "Verifier",
]

TaskName: TypeAlias = Literal["text", "understand", "draw", "reason_draw", "edit", "restyle", "parallel"]
TASKS: tuple[TaskName, ...] = get_args(TaskName)
EDIT_TASKS: tuple[TaskName, ...] = ("edit", "restyle", "parallel")
"""Tasks that start from images and end in one."""
ROLES = ("system", "user", "assistant")
PART_FIELDS: Mapping[str, str] = {"text": "text", "image": "image"}
"""Type of a content part -> the field that holds it."""


# What a record is.


@dataclass(frozen=True, slots=True)
class SourceLocation:
    """Where a record stands: a file, and the line (from 1), number or key in it."""

    file: str
    line: int | str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Picture:
    """An image: `name` as the record has it, for messages, and where its pixels are.

    source  a file, here or at an address, the bytes of a file, or its image codes in raster order, where they were computed before (shards.py)
    """

    name: str
    source: DataFile | bytes | tuple[int, ...] = field(repr=False)

    @property
    def is_missing(self) -> bool:
        """Whether its file is not there."""
        return not isinstance(self.source, (bytes, tuple)) and not self.source.is_file()

    @property
    def image(self) -> Path | bytes:
        """What image/ reads. What lies at an address is fetched. Raises ImageError if it cannot be, InputError for codes."""
        if isinstance(self.source, tuple):
            raise InputError(f"picture {self.name!r} is kept as codes, and its pixels are needed; give records with picture files")
        if not isinstance(self.source, RemoteFile):
            return self.source
        try:
            return self.source.read_bytes()
        except InputError as error:
            raise ImageError(f"image={self.name!r} cannot be read ({error})") from error

    @property
    def key(self) -> object:
        """What tells pictures apart: the file, or a hash of the bytes, which may be many."""
        return sha256(self.source).digest() if isinstance(self.source, bytes) else self.source


@dataclass(frozen=True, slots=True)
class Turn:
    """One message. The pictures of all turns stand before the dialogue, in order (canvas/prompts.py)."""

    role: str
    text: str
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True, slots=True)
class Verifier:
    """Who judged a thought or its answer, and how."""

    name: str
    passed: bool
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Thinking:
    """The thought before the answer, without tags. `source` says who wrote it."""

    text: str
    source: str | None = None
    verifier: Verifier | None = None


@dataclass(frozen=True, slots=True)
class Meta:
    """Where a record comes from. `extra` is for the owner of the data; it is kept, but not read."""

    license: str | None = None
    lang: str | None = None
    source: str | None = None
    extra: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A checked record: its task's rules hold, see the table above."""

    id: str
    task: TaskName
    turns: tuple[Turn, ...] = ()
    """the prompt; ends with the user's turn"""
    thinking: Thinking | None = None
    answer: str | None = None
    """the target text; for reason_draw, the refined prompt; for parallel, what is written beside the image"""
    image: Picture | None = None
    """the target image"""
    meta: Meta = field(default_factory=Meta)
    where: SourceLocation = field(default=SourceLocation("record", 0), compare=False)
    """for messages"""

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """All images: the given ones in order, then the target."""
        given = tuple(picture for turn in self.turns for picture in turn.pictures)
        return given if self.image is None else (*given, self.image)

    @property
    def target_text(self) -> str:
        """What is learned as text: "<think> thought</think> answer", or the answer alone."""
        return join_thinking(None if self.thinking is None else self.thinking.text, self.answer or "")

    def without_thinking(self) -> Record:
        """The same, answered directly: reason_draw becomes draw, with the user's prompt."""
        if self.task == "reason_draw":
            return replace(self, task="draw", thinking=None, answer=None)
        return replace(self, thinking=None)

    def to_dict(self, name_of: Callable[[Picture], str] = lambda picture: picture.name) -> dict[str, object]:
        """The JSON object that `parse` reads back; `name_of` writes the pictures."""
        think = None
        if self.thinking is not None:
            verifier = self.thinking.verifier
            judged = verifier and present(name=verifier.name, passed=verifier.passed, score=verifier.score)
            think = present(text=self.thinking.text, source=self.thinking.source, verifier=judged)
        meta = present(license=self.meta.license, lang=self.meta.lang, source=self.meta.source, extra=dict(self.meta.extra) or None)
        answer = present(text=self.answer, image=self.image and name_of(self.image))
        messages = [{"role": turn.role, "content": _content(turn, name_of)} for turn in self.turns]
        return present(id=self.id, task=self.task, messages=messages or None, think=think, answer=answer, meta=meta or None)


def present(**values: object) -> dict[str, object]:
    """The fields that have a value, as an object of our format leaves the others out."""
    return {name: value for name, value in values.items() if value is not None}


def _content(turn: Turn, name_of: Callable[[Picture], str]) -> str | list[dict[str, str]]:
    if not turn.pictures:
        return turn.text
    return [*({"type": "image", "image": name_of(picture)} for picture in turn.pictures), {"type": "text", "text": turn.text}]


# What can be wrong with one.

Kind: TypeAlias = Literal[
    "json",
    "field",
    "empty",
    "unclosed think",
    "image reference",
    "image",
    "too long",
    "not learned",
    "duplicate",
    "contradiction",
    "failed verifier",
    "looping think",
]
"""The first five make an object unusable as a record; check.py finds the others."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: which field has which value, and in `message` why that is bad and what helps."""

    where: SourceLocation
    field: str
    value: str
    kind: Kind
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.field}={self.value} {self.message}" if self.field else f"{self.where}: {self.message}"

    def to_dict(self) -> dict[str, object]:
        """As JSON: where, which field and value, the kind, and the sentence."""
        names = {"file": self.where.file, "line": self.where.line}
        return {**names, "field": self.field, "value": self.value, "kind": self.kind, "message": self.message}


class RecordError(InputError):
    """Objects that cannot be used as records; `problems` lists everything that is wrong with them."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))

    def __reduce__(self) -> tuple[type[RecordError], tuple[tuple[Problem, ...]]]:  # sent from workers
        return type(self), (self.problems,)
