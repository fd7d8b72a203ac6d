"""Parse records: JSON objects in our own format, and in the formats of other data sets.

    parse(value, where, pictures=Folder(root))                            our format
    parse(value, where, pictures=Folder(root), form=Form(adapter="llava"))   one of ADAPTERS; never guessed

Everything that is wrong with an object is reported at once, in one RecordError.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Protocol
from zlib import crc32

from mmada.canvas import split_thinking
from mmada.data.addresses import DataFile
from mmada.data.records import (
    _PARTS,
    EDIT_TASKS,
    ROLES,
    TASKS,
    Kind,
    Meta,
    Picture,
    Problem,
    Record,
    RecordError,
    SourceLocation,
    TaskName,
    Thinking,
    Turn,
    Verifier,
    _present,
)
from mmada.errors import InputError, suggest

__all__ = ["ADAPTERS", "DESCRIBE_PROMPTS", "Adapter", "Folder", "PictureStore", "RecordFormat", "fitting_adapters", "parse"]


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
        return self.root / name


class _Draft:
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
    draft = _Draft(where, pictures, prompts_only=record_format.prompts_only)
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
    record = _record(native, draft, record_format.meta)
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


def _record(value: Mapping[str, object], draft: _Draft, meta: Meta) -> Record:
    value = draft.fields_of(value, "", ("id", "task", "messages", "think", "answer", "meta"), "")
    task = _task(value.get("task"), draft)
    name = value.get("id", str(draft.where))
    turns = _turns(value.get("messages", []), draft)
    thinking = _thinking(value.get("think"), draft)
    answer, image = _answer(value.get("answer"), task, draft)
    if not draft.problems:  # rules between fields make sense once each field does
        _check_task(task, turns, thinking, answer, image, draft)
    return Record(
        id=str(name) if isinstance(name, int) else draft.text(name, "id", "leave it out for one made of file and line"),
        task=task,
        turns=turns,
        thinking=thinking,
        answer=answer,
        image=image,
        meta=_meta(value.get("meta"), meta, draft),
        where=draft.where,
    )


def _task(value: object, draft: _Draft) -> TaskName:
    for task in TASKS:
        if value == task:
            return task
    draft.add("task", value, f"is unknown; use one of {', '.join(TASKS)}")
    return "text"


def _turns(value: object, draft: _Draft) -> tuple[Turn, ...]:
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        draft.add("messages", value, 'must be a list; write [{"role": "user", "content": "a text"}]')
        return ()
    turns = []
    for i, given in enumerate(value):
        place = f"messages[{i}]"
        message = draft.fields_of(given, place, ("role", "content"), '{"role": "user", "content": "a text"}')
        if not isinstance(given, Mapping):
            continue
        if message.get("role") not in ROLES:
            draft.add(f"{place}.role", message.get("role"), f"is unknown; use {', '.join(ROLES)}")
        turns.append(Turn(str(message.get("role")), *_parts(message.get("content"), f"{place}.content", draft)))
    if turns and not draft.problems and turns[-1].role != "user":
        last = f"messages[{len(turns) - 1}].role"
        draft.add(
            last, turns[-1].role, "must be 'user': what is learned goes to answer.text (adapter 'messages' takes it from the last turn)"
        )
    return tuple(turns)


def _parts(value: object, place: str, draft: _Draft) -> tuple[str, tuple[Picture, ...]]:
    """A content as its text, parts joined by line ends, and its pictures."""
    remedy = "write what is said in this turn"
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        return draft.text(value, place, remedy), ()
    texts, pictures = [], []
    for i, part in enumerate(value):
        at = f"{place}[{i}]"
        part = draft.fields_of(part, at, ("type", *_PARTS), '{"type": "text", "text": "…"} or {"type": "image", "image": "…"}')
        kind = part.get("type")
        if kind == "text":
            texts.append(draft.text(part.get("text"), f"{at}.text", remedy))
        elif kind == "image":
            picture = draft.picture(part.get("image"), f"{at}.image")
            pictures += [picture] if picture else []
        elif part:
            draft.add(f"{at}.type", kind, "is unknown; use 'text' or 'image'")
    if not texts and not draft.problems:
        draft.add(place, value, 'has no text; write what is asked, {"type": "text", "text": "…"}', "empty")
    return "\n".join(texts), tuple(pictures)


def _thinking(value: object, draft: _Draft) -> Thinking | None:
    if value is None:
        return None
    think = draft.fields_of(value, "think", ("text", "source", "verifier"), '{"text": "…"}')
    if not think:  # tables write an absent object as one whose fields are all null
        return None
    text = draft.text(think.get("text"), "think.text", "write the thought, or leave think out")
    if "<think>" in text or "</think>" in text:
        draft.add("think.text", text, "has a think tag; leave the tags out, they are put around it")
    verifier = None
    if think.get("verifier") is not None:
        judged = draft.fields_of(think["verifier"], "think.verifier", ("name", "passed", "score"), '{"name": "…", "passed": true}')
        name = draft.text(judged.get("name"), "think.verifier.name", "say who judged")
        passed, score = judged.get("passed"), judged.get("score")
        if not isinstance(passed, bool):
            draft.add("think.verifier.passed", passed, "must be true or false")
        if score is not None and (isinstance(score, bool) or not isinstance(score, (int, float))):
            draft.add("think.verifier.score", score, "must be a number")
            score = None
        verifier = Verifier(name, passed is True, None if score is None else float(str(score)))
    return Thinking(text, draft.optional(think.get("source"), "think.source"), verifier)


def _answer(value: object, task: TaskName, draft: _Draft) -> tuple[str | None, Picture | None]:
    if value is None:
        if not draft.prompts_only:
            draft.add("answer", value, 'is missing; write {"text": "…"} or {"image": "…"}')
        return None, None
    answer = draft.fields_of(value, "answer", ("text", "image"), '{"text": "…"} or {"image": "…"}')
    text, image = None, None
    if answer.get("text") is not None:
        # A text to learn as it is may be a single line end; an answer may not.
        text = draft.text(answer["text"], "answer.text", "write the answer, or leave the record out", strip=task != "text")
        if "<think>" in text or "</think>" in text:
            kind: Kind = "field" if "</think>" in text else "unclosed think"
            draft.add("answer.text", text, "has a think tag; write the thought to think.text, without tags", kind)
    if answer.get("image") is not None:
        image = draft.picture(answer["image"], "answer.image")
    return text, image


def _meta(value: object, default: Meta, draft: _Draft) -> Meta:
    if value is None:
        return default
    names = tuple(f.name for f in fields(Meta))
    meta = draft.fields_of(value, "meta", names, '{"license": "…", "lang": "en", "source": "…"}')
    extra = meta.get("extra", default.extra)
    if not isinstance(extra, Mapping):
        draft.add("meta.extra", extra, "must be an object")
        extra = {}
    given = {name: draft.optional(meta.get(name), f"meta.{name}") or getattr(default, name) for name in ("license", "lang", "source")}
    return Meta(**given, extra=extra)


def _check_task(
    task: TaskName, turns: Sequence[Turn], thinking: Thinking | None, answer: str | None, image: Picture | None, draft: _Draft
) -> None:
    """The table at the top of records.py."""
    draws = task in ("draw", "reason_draw")
    given = [picture for turn in turns for picture in turn.pictures]
    if task in EDIT_TASKS:
        _check_edit(task, turns, thinking, answer, image, draft)
        return
    if draws and (len(turns) != 1 or turns[0].role != "user"):
        draft.add("messages", [turn.role for turn in turns], f"must be one turn of the user for task {task!r}: what to draw")
    if draws and given:
        draft.add(
            "messages",
            given[0].name,
            f"has an image, which task {task!r} cannot start from; the image to draw is answer.image, and task 'edit' starts from one",
        )
    needed = not draft.prompts_only
    if not turns and answer is None and not needed and not draws:
        draft.add("messages", None, 'is missing; write [{"role": "user", "content": "what is asked"}]')
    if draws and image is None and needed:
        draft.add("answer.image", None, f"is missing; task {task!r} learns to draw it")
    if not draws and image is not None:
        draft.add("answer.image", image.name, f"is not learned by task {task!r}; use 'draw' or 'reason_draw'")
    if not draws and answer is None and needed:
        draft.add("answer.text", None, f"is missing; task {task!r} learns it")
    if task == "draw" and answer is not None:
        draft.add("answer.text", answer, "is not learned by task 'draw'; use 'reason_draw' with think")
    if task == "draw" and thinking is not None:
        draft.add("think", thinking.text, "is not learned by task 'draw'; use 'reason_draw'")
    if task == "reason_draw" and thinking is None and needed:
        draft.add("think", None, "is missing; use task 'draw' to draw without thinking")
    if task == "understand" and not given:
        draft.add("messages", [turn.text for turn in turns], "has no image; use task 'text', or add one as a content part")
    if task == "text" and given:
        draft.add("messages", given[0].name, "has an image; use task 'understand'")
    if task == "text" and turns == () and thinking is not None:
        draft.add("think", thinking.text, "answers no question; add messages, or leave think out")


def _check_edit(
    task: TaskName, turns: Sequence[Turn], thinking: Thinking | None, answer: str | None, image: Picture | None, draft: _Draft
) -> None:
    """The rules of edit, restyle and parallel."""
    needed = not draft.prompts_only
    if len(turns) != 1 or turns[0].role != "user":
        draft.add(
            "messages", [turn.role for turn in turns], f"must be one turn of the user for task {task!r}: how the image is to be changed"
        )
    elif not turns[0].pictures:
        draft.add("messages", turns[0].text, "has no image to change; add it as a content part, or use task 'draw'")
    elif task == "restyle" and len(turns[0].pictures) != 2:
        names = [picture.name for picture in turns[0].pictures]
        draft.add("messages", names, "must be two images for task 'restyle': what is drawn again, then the one whose style it is to have")
    if image is None and needed:
        draft.add("answer.image", None, f"is missing; task {task!r} learns to draw it")
    if task != "parallel" and answer is not None:
        draft.add("answer.text", answer, f"is not learned by task {task!r}; use 'parallel'")
    if task != "parallel" and thinking is not None:
        draft.add("think", thinking.text, f"is not learned by task {task!r}; use 'parallel'")
    if task == "parallel" and answer is None and needed:
        draft.add("answer.text", None, "is missing; task 'parallel' learns it beside the image, and task 'edit' the image alone")


# Forms that other data sets have. Each makes the native object, checks what only it knows, and notes its own names of fields.


@dataclass(frozen=True, slots=True)
class Adapter:
    """A form of objects: its fields, one line that shows it, and how it becomes the native form.

    `convert` puts what is wrong into the draft. Other fields of an object are not read, except by "record".
    """

    fields: tuple[str, ...]
    example: str
    convert: Callable[[Mapping[str, object], _Draft], Mapping[str, object]]


DESCRIBE_PROMPTS = (
    "Please describe this image in detail.",
    "Describe this picture.",
    "What does the image show?",
    "What can be seen here?",
    "Write a caption for this image.",
    "Say in words what this picture shows.",
    "Give a description of the image.",
    "Tell me what is in this picture.",
)
"""Questions that a caption answers (adapter "describe"); which one a record has depends on its caption alone."""


def _native(value: Mapping[str, object], draft: _Draft) -> Mapping[str, object]:
    return value


def _plain(value: Mapping[str, object], draft: _Draft) -> Mapping[str, object]:
    draft.names["answer.text"] = "text"
    text = draft.text(value.get("text"), "text", "leave the record out", strip=False)
    return _with_id(value, task="text", answer={"text": text})


def _drawing(value: Mapping[str, object], draft: _Draft) -> Mapping[str, object]:
    if value.get("image") is None and not draft.prompts_only:
        draft.add("image", None, "is missing; name the image")
    caption, image = _caption(value, draft), value.get("image")
    draft.names.update({"answer.image": "image", "messages[0].content": "caption"})
    answer = None if image is None and draft.prompts_only else {"image": image}
    return _with_id(value, task="draw", messages=[{"role": "user", "content": caption}], answer=answer)


def _description(value: Mapping[str, object], draft: _Draft) -> Mapping[str, object]:
    if value.get("image") is None:
        draft.add("image", None, "is missing; name the image")
    is_prompt = value.get("caption") is None and draft.prompts_only
    caption, image = "" if is_prompt else _caption(value, draft), value.get("image")
    draft.names.update({"answer.text": "caption", "messages[0].content[0].image": "image"})
    question = DESCRIBE_PROMPTS[crc32(caption.encode()) % len(DESCRIBE_PROMPTS)]
    content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
    return _with_id(
        value, task="understand", messages=[{"role": "user", "content": content}], answer=None if is_prompt else {"text": caption}
    )


def _caption(value: Mapping[str, object], draft: _Draft) -> str:
    return draft.text(value.get("caption"), "caption", "write what the image shows, or leave the record out")


def _edit(value: Mapping[str, object], draft: _Draft) -> Mapping[str, object]:
    """One source or several; with a text, it is written beside the image; with a reference, its style is learned."""
    asked = draft.text(value.get("instruction"), "instruction", "write how the image is to be changed")
    sources, reference = value.get("source"), value.get("reference")
    sources = list(sources) if isinstance(sources, (list, tuple)) else [] if sources is None else [sources]
    for name, found in (("source", sources or None), ("image", value.get("image"))):
        if found is None and not (name == "image" and draft.prompts_only):
            draft.add(name, None, "is missing; name the image")
    draft.names.update({"answer.image": "image", "answer.text": "text", "think.text": "text"})
    draft.names.update({f"messages[0].content[{i}].image": "source" for i in range(len(sources))})
    said = value.get("text")
    if reference is not None and (len(sources) != 1 or said is not None):
        draft.add("reference", reference, "is the style of one source, and nothing is written beside it; leave other sources and text out")
    draft.names.update({} if reference is None else {f"messages[0].content[{len(sources)}].image": "reference"})
    sources += [] if reference is None else [reference]
    answer, thought = (None, None) if said is None else _taken_apart(draft.text(said, "text", "leave it out"), "text", draft)
    content = [*({"type": "image", "image": source} for source in sources), {"type": "text", "text": asked}]
    return _with_id(
        value,
        task="restyle" if reference is not None else "edit" if said is None else "parallel",
        messages=[{"role": "user", "content": content}],
        think=None if thought is None else {"text": thought},
        answer=_present(text=answer, image=value.get("image")) or None,
    )


def _instruction(value: Mapping[str, object], draft: _Draft) -> Mapping[str, object]:
    asked = draft.text(value.get("instruction"), "instruction", "write the question")
    more = value.get("input")
    if isinstance(more, str) and more.strip():
        asked = f"{asked}\n{more}"
    is_prompt = value.get("output") is None and draft.prompts_only
    output = "" if is_prompt else draft.text(value.get("output"), "output", "write the answer, or leave the record out")
    answer, thought = _taken_apart(output, "output", draft)
    if value.get("think") is not None:
        if thought is not None:
            draft.add("think", value["think"], "is given, and output has <think> too; keep one of them")
        thought = draft.text(value["think"], "think", "leave it out if there is none")
    draft.names.update({"answer.text": "output", "think.text": "think" if value.get("think") else "output"})
    images = value.get("image")
    images = [] if images is None else list(images) if isinstance(images, (list, tuple)) else [images]
    content: list[object] = [{"type": "image", "image": image} for image in images]
    draft.names.update({f"messages[0].content[{i}].image": "image" for i in range(len(images))})
    content.append({"type": "text", "text": asked})
    turns = [{"role": "user", "content": content}]
    think = None if thought is None else {"text": thought}
    return _with_id(
        value, task="understand" if images else "text", messages=turns, think=think, answer=None if is_prompt else {"text": answer}
    )


def _messages(value: Mapping[str, object], draft: _Draft) -> Mapping[str, object]:
    """Turns with an answer at the end; images are taken in order, one for each place that is kept for one."""
    messages, images = value.get("messages"), value.get("images")
    waiting = [] if images is None else list(images) if isinstance(images, (list, tuple)) else [images]
    if not isinstance(messages, (list, tuple)) or not messages or not all(isinstance(m, Mapping) for m in messages):
        draft.add("messages", messages, 'must be a list of {"role": "…", "content": "…"}, at least one')
        return {}
    is_prompt = draft.prompts_only and messages[-1].get("role") == "user"
    if messages[-1].get("role") != "assistant" and not is_prompt:
        draft.add(f"messages[{len(messages) - 1}].role", messages[-1].get("role"), "must be 'assistant': the last turn is learned")
        return {}
    if waiting and not any(_num_places(message.get("content")) for message in messages):
        first = next((i for i, message in enumerate(messages) if message.get("role") == "user"), 0)
        marked = "<image>" * len(waiting) + str(messages[first].get("content"))
        messages = [{**message, "content": marked} if i == first else message for i, message in enumerate(messages)]
    num_places, num_images = sum(_num_places(message.get("content")) for message in messages), len(waiting)
    if num_places != num_images:
        draft.add(
            "images", images, f"has {num_images} images, messages has places for {num_places}; make them as many (<image>, or a part)"
        )
        return {}
    turns, task = [], "text"
    for i, message in enumerate(messages if is_prompt else messages[:-1]):
        own = f"messages[{i}].content"
        content = _filled(message.get("content"), own, waiting, num_images, draft)
        task = "understand" if any(part.get("type") == "image" for part in content) else task
        turns.append({"role": message.get("role"), "content": content})
    if is_prompt:
        return _with_id(value, task=task, messages=turns)
    own = f"messages[{len(messages) - 1}].content"
    learned = _filled(messages[-1].get("content"), own, waiting, num_images, draft)
    drawn = [part["image"] for part in learned if part.get("type") == "image"]
    if len(drawn) > 1:
        draft.add(own, messages[-1].get("content"), "has more than one image to learn; make a record of each")
    text = "\n".join(str(part.get("text")) for part in learned if part.get("type") != "image")
    answer, thought = _taken_apart(text, own, draft)
    think = None if thought is None else {"text": thought}
    draft.names.update({"answer.text": own, "think.text": own, "think": own, "answer.image": "images"})
    if drawn:
        is_edit = task == "understand"  # it starts from images
        task = ("parallel" if answer or thought else "edit") if is_edit else "draw" if thought is None else "reason_draw"
        return _with_id(value, task=task, messages=turns, think=think, answer=_present(text=answer or None, image=drawn[0]))
    return _with_id(value, task=task, messages=turns, think=think, answer={"text": answer})


def _num_places(content: object) -> int:
    """How many of the listed images a content takes."""
    if isinstance(content, str):
        return content.count("<image>")
    if not isinstance(content, (list, tuple)):
        return 0
    return sum(isinstance(part, Mapping) and part.get("type") == "image" and part.get("image") is None for part in content)


def _filled(content: object, own: str, waiting: list[object], num_images: int, draft: _Draft) -> list[dict[str, object]]:
    """A content as native parts, its places filled from `waiting`."""
    if not isinstance(content, (list, tuple)):
        if not isinstance(content, str):
            draft.add(own, content, "must be a text or a list of parts")
            return []
        places, text = content.count("<image>"), content.replace("<image>", "").strip()
        content = [{"type": "image"}] * places + ([{"type": "text", "text": text}] if text or not places else [])
    parts: list[dict[str, object]] = []
    for part in content:
        if not isinstance(part, Mapping):
            draft.add(own, part, 'must be parts such as {"type": "text", "text": "…"}')
            continue
        native = {name: one for name, one in part.items() if one is not None}
        at = f"{own}[{len(parts)}]"
        if native.get("type") == "image_url":  # as chat servers take it
            url = native.get("image_url")
            native = {"type": "image", "image": url.get("url") if isinstance(url, Mapping) else url}
        elif native.get("type") == "image" and "image" not in native:
            draft.names[f"{at}.image"] = f"images[{num_images - len(waiting)}]"
            native["image"] = waiting.pop(0)
        elif native.get("type") == "text" and len(content) == 1:
            draft.names[f"{at}.text"] = own
        parts.append(native)
    return parts


_LLAVA_ROLES = {"human": "user", "gpt": "assistant"}  # others stay; some sets of this form say user and assistant


def _llava(value: Mapping[str, object], draft: _Draft) -> Mapping[str, object]:
    turns = value.get("conversations")
    if not isinstance(turns, (list, tuple)) or not all(isinstance(turn, Mapping) for turn in turns):
        draft.add("conversations", turns, 'must be a list of {"from": "human", "value": "…"}')
        return {}
    before = draft.spelling
    draft.spelling = lambda name: before(_as_llava(name))
    if turns and turns[-1].get("from") not in ("gpt", "assistant", *(("human", "user") if draft.prompts_only else ())):
        draft.add(f"messages[{len(turns) - 1}].role", turns[-1].get("from"), "must be 'gpt': the last turn is learned")
        return {}
    messages = [{"role": _LLAVA_ROLES.get(str(turn.get("from")), turn.get("from")), "content": turn.get("value")} for turn in turns]
    return _messages({"id": value.get("id"), "messages": messages, "images": value.get("image")}, draft)


def _as_llava(name: str) -> str:
    name = re.sub(r"^messages(\[\d+\])\.role", r"conversations\1.from", name)
    name = re.sub(r"^messages(\[\d+\])\.content.*", r"conversations\1.value", name)
    return re.sub(r"^images.*", "image", re.sub(r"^messages$", "conversations", name))


def _taken_apart(text: str, own: str, draft: _Draft) -> tuple[str, str | None]:
    """An answer and what was thought before it, if it is written "<think>…</think> answer"."""
    thought = split_thinking(text)
    if thought.thinking is None:
        return text, None
    if not thought.closed:
        draft.add(own, text, "opens <think> and does not close it; add </think> and the answer, or leave the record out", "unclosed think")
    return thought.answer, thought.thinking


def _with_id(value: Mapping[str, object], **native: object) -> dict[str, object]:
    return _present(id=value.get("id"), **native)


ADAPTERS: Mapping[str, Adapter] = {
    "record": Adapter(("task", "messages", "think", "answer", "meta"), '{"task": "text", "messages": […], "answer": {…}}', _native),
    "text": Adapter(("text",), '{"text": "learned as it is"}', _plain),
    "instruction": Adapter(
        ("instruction", "input", "output", "image", "think"), '{"instruction": "…", "output": "…", "image": "a.png"}', _instruction
    ),
    "draw": Adapter(("image", "caption"), '{"image": "a.png", "caption": "…"}: the image is drawn', _drawing),
    "describe": Adapter(("image", "caption"), '{"image": "a.png", "caption": "…"}: the caption is written', _description),
    "edit": Adapter(
        ("source", "reference", "instruction", "image", "text"),
        '{"source": "a.png", "instruction": "…", "image": "b.png"}: the image is drawn',
        _edit,
    ),
    "messages": Adapter(("messages", "images"), '{"messages": [… the last is the assistant\'s], "images": ["a.png"]}', _messages),
    "llava": Adapter(
        ("conversations", "image"), '{"conversations": [{"from": "human", "value": "<image>\\n…"}, …], "image": "a.png"}', _llava
    ),
}
"""Forms by name. In messages, instruction, edit and llava, an answer "<think>…</think> …" is taken apart."""


def fitting_adapters(value: object, where: SourceLocation, pictures: PictureStore) -> list[str]:
    """Names of the adapters that could read an object: a hint for an error, never used to choose."""
    found = []
    for name in ADAPTERS:
        try:
            parse(value, where, pictures=pictures, record_format=RecordFormat(adapter=name))
        except RecordError:
            continue
        found.append(name)
    return found
