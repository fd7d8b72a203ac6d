"""Check training data: read every record, measure its row, open its images, and report.

problems   what cannot be used: not a record, missing or corrupt image, too long. What should be looked at: duplicates, questions with
           two short answers, thoughts that failed their verifier or go round in circles
lengths    quantiles of the tokens that are given, learned as text, learned as image, and of whole rows
contexts   how many rows are longer than 128, 256, … tokens
previews   what will be masked: the canvas of a few records as text, as training and sampling see it

Memory: about 250 bytes per record and 150 per image, whatever their length.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from hashlib import blake2b
from itertools import groupby
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mmada.canvas import Canvas, Prompts
from mmada.data.answers import normalize_answer
from mmada.data.order import Indexed
from mmada.data.records import Kind, Picture, Problem, Record, RecordError, SourceLocation
from mmada.data.rows import lengths_of
from mmada.errors import ImageError, InputError
from mmada.image import load_image

__all__ = ["DataReport", "RecordLearner", "RowPreview", "Spread", "check_records", "masked_in_words", "repetition"]

CONTEXTS = (128, 256, 512, 1024, 1539, 2048, 4096)
"""Row lengths of the report; 1539 is the published one."""
_QUANTILES = (0.0, 0.5, 0.9, 0.99, 1.0)
_GRAM = 8
MAX_REPETITION = 0.3
"""Share of repeated 8-word sequences above which a thought counts as looping."""
_SHORT = 8
"""Words of an answer up to which another one to the same question is a contradiction. Long answers and captions may be right in many words."""


class RecordLearner(Protocol):
    """What a training stage makes of records: train.records.Learner."""

    def learns(self, task: str, /) -> bool:
        """Whether records of a task become rows."""
        ...

    def left_out(self, record: Record, /) -> str | None:
        """Why a record takes no part; None if it does."""
        ...

    def rows(self, record: Record, /) -> Mapping[str, Canvas]:
        """Kind of row -> its clean canvas. Raises InputError if the record cannot be laid out."""
        ...

    @property
    def answer_length(self) -> int | None:
        """Longest text that is learned, in tokens."""
        ...

    @property
    def context(self) -> int:
        """Longest row, in tokens."""
        ...


@dataclass(frozen=True, slots=True)
class Spread:
    """Smallest, median, 90th and 99th percentile, and largest of a count."""

    least: int
    median: int
    p90: int
    p99: int
    most: int

    @classmethod
    def of(cls, values: NDArray[np.int32]) -> Spread:
        """The spread of some counts, each of its numbers being one of them. They must not be empty."""
        return cls(*(int(value) for value in np.quantile(values, _QUANTILES, method="higher")))


@dataclass(frozen=True, slots=True)
class RowPreview:
    """A row that trains, in words."""

    id: str
    task: str
    flow: str
    """kind of row: a flow of the stage"""
    where: str
    num_tokens: int
    parts: tuple[tuple[str, str], ...]
    """("given" | "masked", words), in order"""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataReport:
    """What `check_records` found."""

    name: str
    num_records: int
    num_usable: int
    tasks: Mapping[str, int]
    num_thinking: int
    """records with a thought"""
    num_images: int
    """different images, unreadable ones included"""
    counts: Mapping[str, int]
    """problems by kind"""
    problems: tuple[Problem, ...]
    """the first of them"""
    lengths: Mapping[str, Spread]
    """tokens: given, text, image, row"""
    longer: Mapping[int, int]
    """context -> rows that are longer"""
    context: int
    answer_length: int | None
    previews: tuple[RowPreview, ...]

    @property
    def num_problems(self) -> int:
        """Of all kinds, those beyond the ones that are listed included."""
        return sum(self.counts.values())

    def to_dict(self) -> dict[str, object]:
        """As JSON."""
        found = asdict(self)
        return {**found, "num_problems": self.num_problems, "problems": [problem.to_dict() for problem in self.problems]}


def check_records(
    records: Indexed[Record],
    prompts: Prompts,
    *,
    grid: tuple[int, int],
    learner: RecordLearner,
    open_images: bool = True,
    num_previews: int = 3,
    limit: int = 20,
    name: str = "data",
    on_progress: Callable[[int], None] | None = None,
) -> DataReport:
    """Read every record once.

    grid  (h, w) codes of an image; images that are codes already keep theirs
    learner           which records take part, and the rows that they become
    open_images       decode every image: finds missing and corrupt ones, and takes the longest
    num_previews      records whose rows are shown
    limit             problems that are listed; all are counted
    """
    check = _Check(records, prompts, grid, learner, open_images, limit)
    report = on_progress or (lambda done: None)
    for index in range(len(records)):
        try:
            check.add(records[index], index)
        except RecordError as error:
            for problem in error.problems:
                check.problem(problem)
        report(index + 1)
    columns = {column: np.array(values, np.int32) for column, values in check.lengths.items()}
    learned = {column: values[values > 0] if column in ("text", "image") else values for column, values in columns.items()}
    return DataReport(
        name=name,
        num_records=len(records),
        num_usable=check.num_usable,
        tasks=dict(sorted(check.tasks.items())),
        num_thinking=check.num_thinking,
        num_images=len(check.images),
        counts=dict(check.counts.most_common()),
        problems=tuple(check.problems),
        lengths={column: Spread.of(values) for column, values in learned.items() if len(values)},
        longer={limit: int((columns["row"] > limit).sum()) for limit in sorted({*CONTEXTS, learner.context})},
        context=learner.context,
        answer_length=learner.answer_length,
        previews=tuple(
            preview for record in _chosen(check.first, num_previews) for preview in _previews(record, learner.rows(record), prompts)
        ),
    )


class _Check:
    """What is known after the records so far."""

    def __init__(
        self,
        records: Indexed[Record],
        prompts: Prompts,
        grid: tuple[int, int],
        learner: RecordLearner,
        open_images: bool,
        limit: int,
    ) -> None:
        self.records, self.prompts, self.grid = records, prompts, grid
        self.learner, self.open_images, self.limit = learner, open_images, limit
        self.tasks: Counter[str] = Counter()
        self.counts: Counter[Kind] = Counter()
        self.problems: list[Problem] = []
        self.lengths = {name: array("i") for name in ("given", "text", "image", "row")}
        self.images: dict[object, str | None] = {}  # picture -> what is wrong with it
        self.contents: dict[int, int] = {}  # hash of what is said -> index of the first record that says it
        self.ids: dict[int, int] = {}
        self.asked: dict[int, tuple[int, int]] = {}  # hash of a question -> (hash of its short answer, index of the first record with it)
        self.first: dict[tuple[str, bool], list[Record]] = {}  # by task and thinking, for the previews
        self.num_usable = self.num_thinking = 0

    def problem(self, problem: Problem) -> None:
        self.counts[problem.kind] += 1
        if len(self.problems) < self.limit:
            self.problems.append(problem)

    def add(self, record: Record, index: int) -> None:
        where = record.where
        self.tasks[record.task] += 1
        self.num_thinking += record.thinking is not None
        before = self.num_bad
        self._images(record, where)
        is_learnt = self._lengths(record, where)
        self.num_usable += self.num_bad == before
        self._twice(record, index)
        self._contradiction(record, index)
        self._thought(record, where)
        kept = self.first.setdefault((record.task, record.thinking is not None), [])
        if is_learnt and len(kept) < 8:
            kept.append(record)

    @property
    def num_bad(self) -> int:
        return self.counts["image"] + self.counts["too long"] + self.counts["not learned"]

    def _images(self, record: Record, where: SourceLocation) -> None:
        for picture in record.pictures:
            key = _content(picture)
            if key not in self.images:
                self.images[key] = _fault(picture, self.prompts.layout.codebook_size) if self.open_images else None
            fault = self.images[key]
            if fault is not None:
                self.problem(Problem(where, "", "", "image", fault))

    def _lengths(self, record: Record, where: SourceLocation) -> bool:
        """Note the lengths of a record and of its longest row; whether it is learned at all."""
        reason = self.learner.left_out(record)
        try:
            lengths = lengths_of(record, self.prompts, grid=self.grid)
        except InputError as error:  # what the vocabulary has no tokens for
            self.problem(Problem(where, "", "", "not learned", f"{reason or error}; the record would be left out"))
            return False
        for name, value in asdict(lengths).items():
            self.lengths[name].append(value)
        longest = lengths.row()
        if reason is not None:
            has = f"the text has {lengths.text} tokens, the row {longest}; context={self.learner.context}, answer_length={self.learner.answer_length}"
            kind: Kind = "too long" if self.learner.learns(record.task) else "not learned"
            self.problem(Problem(where, "", "", kind, f"{reason}: {has}; the record would be left out"))
        else:
            try:
                longest = max(len(canvas) for canvas in self.learner.rows(record).values())
            except InputError as error:
                reason = str(error)
                self.problem(Problem(where, "", "", "not learned", reason))
        self.lengths["row"].append(longest)
        return reason is None

    def _twice(self, record: Record, index: int) -> None:
        same_id = self.ids.setdefault(_hash(record.id.encode()), index)
        same = self.contents.setdefault(_hash(*_said(record)), index)
        if same_id != index:
            first = self.records[same_id].where
            self.problem(Problem(record.where, "id", repr(record.id), "duplicate", f"is also that of {first}; give each record its own"))
        elif same != index:
            said = f"the record {record.id!r} says the same as {self.records[same].where}; keep one of them"
            self.problem(Problem(record.where, "", "", "duplicate", said))

    def _contradiction(self, record: Record, index: int) -> None:
        """Two short answers to one question: whatever is learned, one of the records is wrong."""
        if not record.turns or record.image is not None or record.answer is None or len(record.answer.split()) > _SHORT:
            return
        answer = _hash(normalize_answer(record.answer).encode())
        before, first = self.asked.setdefault(_hash(*_question(record)), (answer, index))
        if answer != before:
            other = self.records[first]
            said = f"answers what {other.where} answers with {other.answer!r}; keep the right one of them"
            self.problem(Problem(record.where, "answer.text", repr(record.answer), "contradiction", said))

    def _thought(self, record: Record, where: SourceLocation) -> None:
        thinking = record.thinking
        if thinking is None:
            return
        if thinking.verifier is not None and not thinking.verifier.passed:
            judge = repr(thinking.verifier.name)
            self.problem(Problem(where, "think.verifier", judge, "failed verifier", "did not pass; leave the record out"))
        share = repetition(thinking.text)
        if share > MAX_REPETITION:
            said = f"repeats {share:.0%} of its sequences of {_GRAM} words; leave the record out"
            self.problem(Problem(where, "think.text", repr(thinking.text[:40]), "looping think", said))


def _hash(*parts: bytes) -> int:
    """64 bits. Among ten million different ones, the chance that two are equal is 1 in 400,000."""
    digest = blake2b(digest_size=8)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return int.from_bytes(digest.digest(), "little")


def _said(record: Record) -> list[bytes]:
    """What a record says, without its id and origin; capitals and spaces do not count."""
    return [*_question(record), _plain(record.target_text), *(repr(_content(picture)).encode() for picture in record.pictures)]


def _question(record: Record) -> list[bytes]:
    """What a record asks, pictures included."""
    texts = [record.task, *(part for turn in record.turns for part in (turn.role, turn.text))]
    seen = [picture for turn in record.turns for picture in turn.pictures]
    return [*map(_plain, texts), *(repr(_content(picture)).encode() for picture in seen)]


def _plain(text: str) -> bytes:
    return " ".join(text.casefold().split()).encode()


def _content(picture: Picture) -> object:
    return _hash(picture.source) if isinstance(picture.source, bytes) else picture.source


def _fault(picture: Picture, codebook_size: int) -> str | None:
    """What is wrong with a picture."""
    if isinstance(picture.source, tuple):
        top = max(picture.source, default=0)
        return (
            None if top < codebook_size else f"has the code {top}, the model {codebook_size} codes; tokenize with the model's own tokenizer"
        )
    try:
        load_image(picture.image)
    except ImageError as error:
        return str(error)
    return None


def repetition(text: str) -> float:
    """Share of a text's sequences of 8 words that it has said before, 0 to 1."""
    words = text.casefold().split()
    grams = [tuple(words[i : i + _GRAM]) for i in range(len(words) - _GRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def _chosen(first: Mapping[tuple[str, bool], list[Record]], count: int) -> list[Record]:
    """Records of as many different sorts as there are, then more of each."""
    chosen = [kept[i] for i in range(8) for kept in first.values() if i < len(kept)]
    return chosen[:count]


def _previews(record: Record, rows: Mapping[str, Canvas], prompts: Prompts) -> list[RowPreview]:
    return [
        RowPreview(record.id, record.task, flow, str(record.where), len(canvas), tuple(masked_in_words(canvas, prompts)))
        for flow, canvas in rows.items()
    ]


def masked_in_words(canvas: Canvas, prompts: Prompts, *, width: int = 200) -> list[tuple[str, str]]:
    """A clean canvas as ("given" | "masked", what stands there), run by run; long texts are shortened in the middle to `width`."""
    tokens, is_open, attend = canvas.tokens.tolist(), canvas.is_open.tolist(), canvas.attend.tolist()
    kinds = ["masked" if open_ else "given" if seen else "padding" for open_, seen in zip(is_open, attend, strict=True)]
    parts, start = [], 0
    for kind, run in groupby(kinds):
        stop = start + len(list(run))
        parts.append((kind, _in_words(tokens[start:stop], prompts, width)))
        start = stop
    return parts


def _in_words(ids: list[int], prompts: Prompts, width: int) -> str:
    layout = prompts.layout
    names = {i: f"[{name}]" for name, i in layout.special_ids.items()}
    codes = range(layout.image_offset, layout.image_offset + layout.codebook_size)  # none of a family without images

    def sort(i: int) -> str:
        return names.get(i) or ("code" if i in codes else "text")

    words = []
    for kind, run_ in groupby(ids, sort):
        run = list(run_)
        if kind == "text":
            text = str(prompts.tokenizer.decode(run))
            words.append(text if len(text) <= width else f"{text[: width // 2]} … {text[-width // 2 :]}")
        elif kind == "code":
            words.append(f"({len(run)} image codes)")
        else:
            words.append(kind if len(run) == 1 else f"{kind} x{len(run)}")
    return " ".join(re.sub(r"\n", "⏎", word) for word in words)
