"""Records of what should stay, to be mixed into finetuning (data.replay): a world's samples, or what the model itself answers and draws.

    export_replay(world_samples(find_world(name), num=300), Path("keep.jsonl"))
    export_replay(own_samples(model.run, questions, source="mine"), Path("keep.jsonl"))

Source: a model that rehearses what it did before forgets less (Robins 1995, "Catastrophic forgetting, rehearsal and pseudorehearsal").
Its own answers do nearly as well as the data that it once learned (Shin et al. 2017, "Continual learning with deep generative replay").
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from mmada.canvas import Message, messages_of
from mmada.data import Record
from mmada.data.records import EDIT_TASKS, TASKS, Meta, Picture, TaskName, Thinking, Turn
from mmada.data.world import SampleKey, World, WorldSample
from mmada.errors import InputError
from mmada.generation.requests import Answer, ChatRequest, DrawRequest, EmptyAnswerError, Request, Result, edit_request
from mmada.image import load_image

__all__ = ["ReplaySample", "check_target", "export_replay", "own_samples", "question_of", "world_samples"]

_BATCH = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplaySample:
    """A record on its way to a file: pictures are pixels."""

    task: TaskName
    messages: Sequence[tuple[str, str]]
    """(role, text)"""
    seen: Sequence[Image.Image] = ()
    think: str | None = None
    answer: str | None = None
    drawn: Image.Image | None = None
    source: str = ""


def world_samples(world: World, *, num: int, tasks: Sequence[str] = (), seed: int = 0) -> Iterator[ReplaySample]:
    """About `num` training samples of a world, its tasks in turn; every second one that has a thought is told without it.

    tasks  of text, understand, draw and reason_draw; empty: those that the world has
    Raises InputError for tasks that the world, or a record, does not have.
    """
    known = [task for task in TASKS if task in world.tasks]
    unknown = [task for task in tasks if task not in known]
    if unknown or not known:
        raise InputError(
            f"world {world.name!r} has no task {', '.join(unknown) or 'that records have'}; it has {', '.join(known) or 'none'}"
        )
    chosen = [task for task in known if not tasks or task in tasks]
    for index in range(num):
        turn, number = index % len(chosen), index // len(chosen)
        task = chosen[turn]
        sample = world.sample(SampleKey(task=task, split="train", seed=seed, index=number, stream="replay"))
        yield _of_world(task, sample, f"world {world.name}", is_thought=task == "reason_draw" or number % 2 == 0)


def _of_world(task: TaskName, sample: WorldSample, source: str, *, is_thought: bool) -> ReplaySample:
    draws = task in ("draw", "reason_draw")
    return ReplaySample(
        task=task,
        messages=[(message.role, message.content) for message in messages_of(sample.messages)] if sample.messages else [],
        seen=[Image.fromarray(pixels) for pixels in sample.seen],
        think=sample.think if is_thought and task != "draw" else None,
        answer=None if task == "draw" or (draws and not sample.answer) else sample.answer,
        drawn=None if sample.drawn is None else Image.fromarray(sample.drawn),
        source=source,
    )


def question_of(record: Record) -> ReplaySample:
    """What a record asks, without what it would teach. Raises ImageError for a picture that cannot be read."""
    pictures = [picture for turn in record.turns for picture in turn.pictures]
    if any(isinstance(picture.source, tuple) for picture in pictures):
        raise InputError(f"record {record.id!r} keeps its pictures as codes; a model is asked with pixels: give records with picture files")
    seen = [load_image(picture.image) for picture in pictures]
    return ReplaySample(task=record.task, messages=[(turn.role, turn.text) for turn in record.turns], seen=seen)


def own_samples(
    run: Callable[[Sequence[Request]], Sequence[Result]], questions: Sequence[ReplaySample], *, source: str, seed: int = 0
) -> Iterator[ReplaySample]:
    """What the model makes of questions: its answers, every second one thought about, and its drawings.

    What stayed empty or was cut off is left out.

    run        MMaDA.run
    questions  their answers are not read; a text without a question is left out
    source     name of the model, which goes into the records
    """
    asked = [question for question in questions if question.messages]
    requests = [_request(question, i, seed) for i, question in enumerate(asked)]
    for start in range(0, len(asked), _BATCH):
        part = requests[start : start + _BATCH]
        try:
            results = run(part)
        except EmptyAnswerError as error:
            results = error.results
        for question, result in zip(asked[start : start + _BATCH], results, strict=True):
            sample = _answered(question, result, source)
            if sample is not None:
                yield sample


def _request(question: ReplaySample, index: int, seed: int) -> Request:
    if question.task in ("draw", "reason_draw"):
        return DrawRequest(question.messages[-1][1], think=question.task == "reason_draw", seed=seed + index)
    if question.task in EDIT_TASKS:
        return edit_request(question.task, question.messages[-1][1], list(question.seen), seed=seed + index)
    messages = [Message(role, text) for role, text in question.messages]
    return ChatRequest(messages, images=list(question.seen), think=index % 2 == 0, seed=seed + index)


def _answered(question: ReplaySample, result: Result, source: str) -> ReplaySample | None:
    """The question with what the model said or drew; None if that is no whole answer."""
    if isinstance(result, Answer):
        if not result.text or result.finish_reason != "stop":
            return None
        return replace(question, think=result.thinking or None, answer=result.text, source=source)
    if result.warning is not None or (question.task == "reason_draw" and not result.thinking):
        return None
    drawn = replace(question, drawn=result.image, source=source)
    if question.task == "parallel":
        said = result.answer
        return replace(drawn, think=said.thinking or None, answer=said.text) if said is not None and said.text else None
    return replace(drawn, think=result.thinking, answer=result.prompt) if question.task == "reason_draw" else drawn


def check_target(path: Path) -> Path:
    """The folder for the pictures of a file that is to be written. Raises InputError if either is there, or the name does not fit."""
    folder = path.with_name(f"{path.stem}-images")
    if path.suffix != ".jsonl":
        raise InputError(f"output={str(path)!r} must be a .jsonl file; try {path.stem}.jsonl")
    if path.exists() or folder.exists():
        raise InputError(f"{path if path.exists() else folder} exists; remove it, or give another name")
    return folder


def export_replay(samples: Iterator[ReplaySample], path: Path, *, on_progress: Callable[[int], None] | None = None) -> int:
    """Write records to a .jsonl file, and their pictures to a folder beside it. Returns the number of records.

    Raises InputError if the file or the folder is there, or cannot be written.
    """
    folder = check_target(path)
    count, scratch = 0, path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with scratch.open("w", encoding="utf-8") as stream:
            for count, sample in enumerate(samples, 1):
                record = _record(sample, count, folder)
                stream.write(json.dumps(record.to_dict(), ensure_ascii=False) + "\n")
                if on_progress is not None:
                    on_progress(count)
        if not count:
            raise InputError("there is nothing to keep: no sample, or no answer of the model came to an end; give other prompts")
        scratch.replace(path)
    except OSError as error:
        raise InputError(f"output={str(path)!r} cannot be written ({error.strerror}); give another path") from error
    finally:
        scratch.unlink(missing_ok=True)
    return count


def _record(sample: ReplaySample, number: int, folder: Path) -> Record:
    """The record, its pictures written."""

    def picture(image: Image.Image, name: str) -> Picture:
        folder.mkdir(exist_ok=True)
        image.save(folder / name)
        return Picture(f"{folder.name}/{name}", folder / name)

    seen = tuple(picture(image, f"{number:05d}-{i}.png") for i, image in enumerate(sample.seen))
    turns = [Turn(role, text) for role, text in sample.messages]
    if seen:  # wherever they stand, all pictures come before the dialogue
        first = next(i for i, turn in enumerate(turns) if turn.role == "user")
        turns[first] = Turn("user", turns[first].text, seen)
    return Record(
        id=f"replay-{number}",
        task=sample.task,
        turns=tuple(turns),
        thinking=None if sample.think is None else Thinking(sample.think, source=sample.source),
        answer=sample.answer,
        image=None if sample.drawn is None else picture(sample.drawn, f"{number:05d}.png"),
        meta=Meta(source=sample.source),
    )
