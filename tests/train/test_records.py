"""Records as rows: one builder for training and for what `mmada data check` shows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mmada.canvas import Message, split_thinking
from mmada.data import Epochs, Folder, SourceLocation, lengths_of, parse
from mmada.errors import InputError
from mmada.train.records import Learner, settled
from mmada.train.source import ComponentRows, RecordExamples
from mmada.train.stages import STAGES

FINETUNE = STAGES["finetune"]


def user(*content: object) -> list[dict[str, object]]:
    return [{"role": "user", "content": content[0] if len(content) == 1 else list(content)}]


IMAGE = {"type": "image", "image": "a.png"}
RECORDS = {
    "a text": {"task": "text", "answer": {"text": "Once upon a time.\n"}},
    "chat": {"task": "text", "messages": user("2 + 3?"), "answer": {"text": "5"}},
    "turns": {
        "task": "text",
        "messages": [{"role": "system", "content": "Be brief."}, *user("Hi"), {"role": "assistant", "content": "Hello"}, *user("2 + 3?")],
        "think": {"text": "2 + 3 is 5"},
        "answer": {"text": "5"},
    },
    "two images": {"task": "understand", "messages": user(IMAGE, IMAGE, {"type": "text", "text": "Same?"}), "answer": {"text": "no"}},
    "draw": {"task": "draw", "messages": user("a cat"), "answer": {"image": "a.png"}},
    "reason_draw": {"task": "reason_draw", "messages": user("a cat"), "think": {"text": "one"}, "answer": {"image": "a.png", "text": "1"}},
}


def read(value: object):
    return parse(value, SourceLocation("data.jsonl", 17), pictures=Folder(Path()))


@pytest.fixture(scope="module")
def learner(debug) -> Learner:
    return Learner.of(FINETUNE, debug.prompts, debug.defaults, grid=(8, 8), context=1024)


@pytest.mark.parametrize("value", RECORDS.values(), ids=RECORDS)
def test_what_is_learnt_is_what_is_open(debug, learner, value):
    record, prompts = read(value), debug.prompts
    assert learner.left_out(record) is None
    rows = learner.rows(record)
    assert set(rows) == {component.name for component in FINETUNE.components if component.task == record.task}
    for canvas in rows.values():
        open_ids = canvas.tokens[canvas.is_open].tolist()
        given = prompts.tokenizer.decode([i for i in canvas.tokens[~canvas.is_open].tolist() if i < prompts.layout.image_offset])
        assert all(turn.text in given for turn in record.turns)
        if open_ids[0] in prompts.layout.image_ids:
            assert len(open_ids) == 64
            assert all(i in prompts.layout.image_ids for i in open_ids)
            continue
        assert open_ids[-1] == prompts.layout.eos_id
        assert prompts.decode(open_ids) == record.target_text
        thought = split_thinking(prompts.decode(open_ids))
        assert thought.thinking == (record.thinking.text if record.thinking else None)
        needed = lengths_of(record, prompts, grid=(8, 8)).text
        assert 0 <= len(open_ids) - needed < debug.defaults.block_length


@pytest.mark.parametrize("value", RECORDS.values(), ids=RECORDS)
def test_training_builds_the_same_rows(debug, learner, value):
    """Of many rows that training draws for a record, those without a dropped prompt are the one that is shown."""
    record = read(value)
    samples = RecordExamples(Epochs([record]), lambda _: torch.zeros(64, dtype=torch.long))
    stage = settled(FINETUNE, debug.defaults)
    for component in stage.components:
        if component.task != record.task:
            continue
        rows = ComponentRows(component, stage, samples, debug.prompts, seed=3, num_image_tokens=64).rows(range(40))
        dropped = debug.prompts.t2i(torch.zeros(64, dtype=torch.long), "")
        for row in rows:
            if not (component.cond_dropout_prob and torch.equal(row.canvas.tokens, dropped.tokens)):
                assert torch.equal(row.canvas.tokens, learner.rows(record)[component.name].tokens)
                assert torch.equal(row.canvas.is_open, learner.rows(record)[component.name].is_open)


def test_inference_asks_as_training_does(debug, learner):
    (canvas,) = learner.rows(read(RECORDS["turns"])).values()
    turns = [Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "2 + 3?")]
    asked = debug.prompts.chat(turns, int(canvas.is_open.sum()), thinking=True)
    assert torch.equal(asked.is_open, canvas.is_open)
    assert torch.equal(asked.tokens[~asked.is_open], canvas.tokens[~canvas.is_open])


def test_what_does_not_fit_is_left_out_for_a_reason(debug, learner):
    long = {**RECORDS["chat"], "answer": {"text": "x" * 256}}
    assert learner.left_out(read(long)) == "the text to learn is longer than its answer length"
    near = replace(learner, context=50)
    assert near.left_out(read(RECORDS["reason_draw"])) == "the row is longer than the context"
    text_only = replace(
        FINETUNE, name="words", components=tuple(component for component in FINETUNE.components if component.task == "text")
    )
    words = Learner.of(text_only, debug.prompts, debug.defaults, grid=(8, 8), context=1024)
    assert words.left_out(read(RECORDS["draw"])) == "no component of stage words learns task draw"
    assert words.rows(read(RECORDS["draw"])) == {}
    published = Learner.of(STAGES["2.2"], debug.prompts, debug.defaults, grid=(8, 8), context=1024)
    assert published.left_out(read(long)) is None  # the published layouts cut
    with pytest.raises(InputError, match="layout mmu has room for one image, the sample shows 2"):
        published.rows(read(RECORDS["two images"]))


def test_a_users_text_never_becomes_a_special_token(debug, learner):
    (canvas,) = learner.rows(read({"task": "text", "messages": user("<|eot_id|> x"), "answer": {"text": "<|endoftext|>"}})).values()
    assert (canvas.tokens == debug.layout.eot_id).sum() == 1
    assert (canvas.tokens[canvas.is_open] == debug.layout.eos_id).sum() < debug.defaults.block_length
