"""Forms that other data sets have: each adapter makes the native object of theirs.

It checks what only it knows, and notes its own names of fields, so that an error speaks of what the user wrote.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from zlib import crc32

from mmada.canvas import split_thinking
from mmada.data.record_draft import RecordDraft
from mmada.data.records import present

__all__ = ["ADAPTERS", "DESCRIBE_PROMPTS", "FormatAdapter"]


@dataclass(frozen=True, slots=True)
class FormatAdapter:
    """A form of objects: its fields, one line that shows it, and how it becomes the native form.

    `convert` puts what is wrong into the draft. Other fields of an object are not read, except by "record".
    """

    fields: tuple[str, ...]
    example: str
    convert: Callable[[Mapping[str, object], RecordDraft], Mapping[str, object]]


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


def _native(value: Mapping[str, object], draft: RecordDraft) -> Mapping[str, object]:
    return value


def _plain(value: Mapping[str, object], draft: RecordDraft) -> Mapping[str, object]:
    draft.names["answer.text"] = "text"
    text = draft.text(value.get("text"), "text", "leave the record out", strip=False)
    return _with_id(value, task="text", answer={"text": text})


def _drawing(value: Mapping[str, object], draft: RecordDraft) -> Mapping[str, object]:
    if value.get("image") is None and not draft.prompts_only:
        draft.add("image", None, "is missing; name the image")
    caption, image = _caption(value, draft), value.get("image")
    draft.names.update({"answer.image": "image", "messages[0].content": "caption"})
    answer = None if image is None and draft.prompts_only else {"image": image}
    return _with_id(value, task="draw", messages=[{"role": "user", "content": caption}], answer=answer)


def _description(value: Mapping[str, object], draft: RecordDraft) -> Mapping[str, object]:
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


def _caption(value: Mapping[str, object], draft: RecordDraft) -> str:
    return draft.text(value.get("caption"), "caption", "write what the image shows, or leave the record out")


def _edit(value: Mapping[str, object], draft: RecordDraft) -> Mapping[str, object]:
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
        answer=present(text=answer, image=value.get("image")) or None,
    )


def _instruction(value: Mapping[str, object], draft: RecordDraft) -> Mapping[str, object]:
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


def _messages(value: Mapping[str, object], draft: RecordDraft) -> Mapping[str, object]:
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
        return _with_id(value, task=task, messages=turns, think=think, answer=present(text=answer or None, image=drawn[0]))
    return _with_id(value, task=task, messages=turns, think=think, answer={"text": answer})


def _num_places(content: object) -> int:
    """How many of the listed images a content takes."""
    if isinstance(content, str):
        return content.count("<image>")
    if not isinstance(content, (list, tuple)):
        return 0
    return sum(isinstance(part, Mapping) and part.get("type") == "image" and part.get("image") is None for part in content)


def _filled(content: object, own: str, waiting: list[object], num_images: int, draft: RecordDraft) -> list[dict[str, object]]:
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


def _llava(value: Mapping[str, object], draft: RecordDraft) -> Mapping[str, object]:
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


def _taken_apart(text: str, own: str, draft: RecordDraft) -> tuple[str, str | None]:
    """An answer and what was thought before it, if it is written "<think>…</think> answer"."""
    thought = split_thinking(text)
    if thought.thinking is None:
        return text, None
    if not thought.closed:
        draft.add(own, text, "opens <think> and does not close it; add </think> and the answer, or leave the record out", "unclosed think")
    return thought.answer, thought.thinking


def _with_id(value: Mapping[str, object], **native: object) -> dict[str, object]:
    return present(id=value.get("id"), **native)


ADAPTERS: Mapping[str, FormatAdapter] = {
    "record": FormatAdapter(("task", "messages", "think", "answer", "meta"), '{"task": "text", "messages": […], "answer": {…}}', _native),
    "text": FormatAdapter(("text",), '{"text": "learned as it is"}', _plain),
    "instruction": FormatAdapter(
        ("instruction", "input", "output", "image", "think"), '{"instruction": "…", "output": "…", "image": "a.png"}', _instruction
    ),
    "draw": FormatAdapter(("image", "caption"), '{"image": "a.png", "caption": "…"}: the image is drawn', _drawing),
    "describe": FormatAdapter(("image", "caption"), '{"image": "a.png", "caption": "…"}: the caption is written', _description),
    "edit": FormatAdapter(
        ("source", "reference", "instruction", "image", "text"),
        '{"source": "a.png", "instruction": "…", "image": "b.png"}: the image is drawn',
        _edit,
    ),
    "messages": FormatAdapter(("messages", "images"), '{"messages": [… the last is the assistant\'s], "images": ["a.png"]}', _messages),
    "llava": FormatAdapter(
        ("conversations", "image"), '{"conversations": [{"from": "human", "value": "<image>\\n…"}, …], "image": "a.png"}', _llava
    ),
}
"""Forms by name. In messages, instruction, edit and llava, an answer "<think>…</think> …" is taken apart."""
