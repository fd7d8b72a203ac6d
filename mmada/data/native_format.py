"""Our own format: the native object, as records.py draws it, becomes a `Record`, and the rules of its task are checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields

from mmada.data.record_draft import RecordDraft
from mmada.data.records import (
    EDIT_TASKS,
    PART_FIELDS,
    ROLES,
    TASKS,
    Kind,
    Meta,
    Picture,
    Record,
    TaskName,
    Thinking,
    Turn,
    Verifier,
)

__all__ = ["record_of"]


def record_of(value: Mapping[str, object], draft: RecordDraft, meta: Meta) -> Record:
    """The record of a native object. What is wrong goes to the draft, whose caller raises it; `meta` is for records that bring none."""
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


def _task(value: object, draft: RecordDraft) -> TaskName:
    for task in TASKS:
        if value == task:
            return task
    draft.add("task", value, f"is unknown; use one of {', '.join(TASKS)}")
    return "text"


def _turns(value: object, draft: RecordDraft) -> tuple[Turn, ...]:
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


def _parts(value: object, place: str, draft: RecordDraft) -> tuple[str, tuple[Picture, ...]]:
    """A content as its text, parts joined by line ends, and its pictures."""
    remedy = "write what is said in this turn"
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        return draft.text(value, place, remedy), ()
    texts, pictures = [], []
    for i, part in enumerate(value):
        at = f"{place}[{i}]"
        part = draft.fields_of(part, at, ("type", *PART_FIELDS), '{"type": "text", "text": "…"} or {"type": "image", "image": "…"}')
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


def _thinking(value: object, draft: RecordDraft) -> Thinking | None:
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


def _answer(value: object, task: TaskName, draft: RecordDraft) -> tuple[str | None, Picture | None]:
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


def _meta(value: object, default: Meta, draft: RecordDraft) -> Meta:
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
    task: TaskName, turns: Sequence[Turn], thinking: Thinking | None, answer: str | None, image: Picture | None, draft: RecordDraft
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
    task: TaskName, turns: Sequence[Turn], thinking: Thinking | None, answer: str | None, image: Picture | None, draft: RecordDraft
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
