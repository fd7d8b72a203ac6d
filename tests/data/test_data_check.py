"""The check: what it finds, how it says it, and with which exit status."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace

import pytest
import torch
import typer
from PIL import Image

from mmada.cli import data as data_verb
from mmada.data import JsonlReader, check_records, masked_in_words
from mmada.data.check import repetition
from mmada.errors import MMaDAError
from mmada.train.records import Learner
from mmada.train.stages import STAGES

ASK = {"role": "user", "content": "2 + 3?"}
LOOK = {"role": "user", "content": [{"type": "image", "image": "images/0.png"}, {"type": "text", "text": "What?"}]}
GOOD = [
    {"id": "a", "task": "text", "answer": {"text": "Plain text.\nTwo lines."}},
    {"id": "b", "task": "text", "messages": [ASK], "think": {"text": "2 + 3 = 5"}, "answer": {"text": "5"}},
    {"id": "c", "task": "understand", "messages": [LOOK], "answer": {"text": "A square."}},
    {"id": "d", "task": "draw", "messages": [{"role": "user", "content": "a square"}], "answer": {"image": "images/1.png"}},
]
BAD = [
    {"id": "e", "task": "draw", "messages": [{"role": "user", "content": "e"}], "answer": {"image": "images/bad.png"}},
    {"id": "f", "task": "draw", "messages": [{"role": "user", "content": "f"}], "answer": {"image": "images/none.png"}},
    {"id": "g", "task": "understand", "messages": [LOOK], "answer": {"text": "a  SQUARE."}},
    {"id": "a", "task": "text", "answer": {"text": "Another text."}},
    {"id": "h", "task": "text", "messages": [ASK], "answer": {"text": ""}},
    {"id": "i", "task": "text", "messages": [ASK], "answer": {"text": "<think>so"}},
    {"id": "j", "task": "text", "answer": {"text": "long " * 40}},
    {
        "id": "k",
        "task": "text",
        "messages": [{"role": "user", "content": "q"}],
        "think": {"text": "I am going round and round in a circle. " * 9, "verifier": {"name": "exact", "passed": False}},
        "answer": {"text": "5"},
    },
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    for i in range(2):
        Image.new("RGB", (40, 32), (100 * i, 0, 200)).save(tmp_path / f"images/{i}.png")
    stream = io.BytesIO()
    Image.new("RGB", (40, 32)).save(stream, "PNG")
    (tmp_path / "images/bad.png").write_bytes(stream.getvalue()[:50])
    write(tmp_path / "good.jsonl", GOOD)
    write(tmp_path / "all.jsonl", [*GOOD, *BAD])
    return tmp_path


def write(file, values):
    file.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")


def learner_of(debug, *, stage="finetune", context=1024, **changes):
    stage = replace(STAGES[stage], **changes)
    return Learner.of(stage, debug.prompts, debug.defaults, grid=(8, 8), context=context)


def check(debug, file, *, context=1024, answer_lengths=(256,), **options):
    learner = learner_of(debug, context=context, answer_lengths=answer_lengths)
    return check_records(JsonlReader(file), debug.prompts, grid=(8, 8), learner=learner, name=file.name, **options)


def test_good_data_have_no_problems(debug, folder):
    seen = []
    report = check(debug, folder / "good.jsonl", on_progress=seen.append)
    assert (report.num_records, report.num_usable, report.num_problems, report.problems) == (4, 4, 0, ())
    assert seen == [1, 2, 3, 4]
    assert report.tasks == {"draw": 1, "text": 2, "understand": 1}
    assert (report.num_thinking, report.num_images) == (1, 2)
    # a byte a token: "A square." [eos], and "<think> 2 + 3 = 5</think> 5" [eos]
    assert (report.lengths["text"].least, report.lengths["text"].most) == (10, 28)
    assert (report.lengths["image"].least, report.lengths["image"].most) == (64, 64)
    assert report.lengths["row"].least == 24
    assert report.longer[128] == 0


def test_every_sort_of_problem_is_found(debug, folder):
    report = check(debug, folder / "all.jsonl", context=200, limit=100)
    assert report.counts == {
        "image": 2,
        "duplicate": 2,
        "empty": 1,
        "unclosed think": 1,
        "too long": 2,
        "failed verifier": 1,
        "looping think": 1,
    }
    assert (report.num_records, report.num_usable) == (12, 6)
    said = [str(problem) for problem in report.problems]
    assert [line.split(": ")[0] for line in said] == [f"all.jsonl:{line}" for line in (5, 6, 7, 8, 9, 10, 11, 12, 12, 12)]
    expected = [
        "image='images/bad.png' is truncated or corrupt",
        "image='images/none.png' cannot be read (No such file or directory)",
        "the record 'g' says the same as all.jsonl:3; keep one of them",
        "id='a' is also that of all.jsonl:1; give each record its own",
        "answer.text='' is empty; write the answer, or leave the record out",
        "answer.text='<think>so' has a think tag",
        "the row is longer than the context: the text has 202 tokens, the row 202; context=200, answer_length=256; the record would be left out",
        "the text to learn is longer than its answer length",
        "think.verifier='exact' did not pass",
        "repeats 88% of its sequences of 8 words",
    ]
    assert all(part.replace("images/", f"{folder}/images/") in line or part in line for part, line in zip(expected, said, strict=True))
    assert report.longer[128] == 2
    assert len(check(debug, folder / "all.jsonl", context=200, limit=3).problems) == 3
    trusting = check(debug, folder / "all.jsonl", open_images=False)
    assert "image" not in trusting.counts
    assert trusting.num_images == 4


def test_two_short_answers_to_one_question_are_a_contradiction(debug, folder):
    def asked(question, answer, **more):
        return {"task": "text", "messages": [{"role": "user", "content": question}], "answer": {"text": answer}, **more}

    long = "It is a house by the sea that nobody has painted for years."
    described = {**GOOD[2], "answer": {"text": "A circle."}}
    values = [
        asked("Who bakes?", "a turtle"),
        asked("who  bakes?", "The Turtle.", think={"text": "I know."}),  # the same, in other words
        asked("Who bakes?", "an owl"),
        asked("What is it?", long),
        asked("What is it?", f"{long} {long}"),
        {**GOOD[2], "id": "1"},
        {**described, "id": "2"},
        {**GOOD[3], "id": "3", "answer": {"image": "images/0.png"}},
        {**GOOD[3], "id": "4"},
    ]
    write(folder / "twice.jsonl", values)
    report = check(debug, folder / "twice.jsonl")
    assert report.counts == {"contradiction": 2}
    assert [str(problem) for problem in report.problems] == [
        "twice.jsonl:3: answer.text='an owl' answers what twice.jsonl:1 answers with 'a turtle'; keep the right one of them",
        "twice.jsonl:7: answer.text='A circle.' answers what twice.jsonl:6 answers with 'A square.'; keep the right one of them",
    ]
    assert report.num_usable == len(values)


def test_room_limits_the_text(debug, folder):
    report = check(debug, folder / "good.jsonl", answer_lengths=(20,))
    assert report.counts == {"too long": 1}  # what is learned without a question has no room
    assert "the text to learn is longer than its answer length: the text has 28 tokens" in str(report.problems[0])
    assert [preview.id for preview in report.previews] == ["a", "c", "d"]


def test_repetition():
    assert repetition("") == repetition("only a few words") == 0
    assert repetition(" ".join(map(str, range(100)))) == 0
    assert repetition("the same eight words again and again here " * 10) > 0.8


def test_canvases_in_words(debug):
    prompts = debug.prompts
    codes = torch.zeros(64, dtype=torch.long)
    assert masked_in_words(prompts.t2i(codes, "a square"), prompts) == [
        ("given", "[t2i] [bos] a square [eos] [soi]"),
        ("masked", "(64 image codes)"),
        ("given", "[eoi]"),
    ]
    assert masked_in_words(prompts.t2i(codes, "a", text_length=9), prompts)[0] == ("padding", "[pad] x6")
    (kind, long), *_ = masked_in_words(prompts.lm("x" * 500, length=502), prompts)
    assert (kind, len(long) < 260, " … " in long) == ("masked", True, True)


def test_what_is_shown_is_what_trains(debug, folder):
    """A record to be thought about and drawn was once shown as one row, which no stage but the published ones trains."""
    plan = {**GOOD[3], "id": "p", "task": "reason_draw", "think": {"text": "one"}, "answer": {"image": "images/1.png", "text": "1 square"}}
    write(folder / "p.jsonl", [*GOOD, plan])
    report = check(debug, folder / "p.jsonl", num_previews=9)
    assert report.counts == {}
    shown = {(preview.id, preview.flow): preview.parts for preview in report.previews}
    header = "[bos] [start_header] user [end_header] ⏎{} [eot] [start_header] assistant [end_header] ⏎"
    drawn = ("masked", "(64 image codes)")
    assert shown == {
        ("a", "text"): (("masked", "[bos] Plain text.⏎Two lines. [eos]"),),
        ("b", "text"): (("given", header.format("Think. 2 + 3?")), ("masked", "<think> 2 + 3 = 5</think> 5 [eos] x5")),
        ("c", "look"): (
            ("given", "[mmu] [soi] (64 image codes) [eoi] " + header.format("What?")),
            ("masked", "A square. [eos] x7"),
        ),
        ("d", "draw"): (("given", "[t2i] [bos] a square [eos] [soi]"), drawn, ("given", "[eoi]")),
        ("p", "plan"): (("given", header.format("Think. a square")), ("masked", "<think> one</think> 1 square [eos] x4")),
        ("p", "make"): (("given", "[t2i] [bos] a square [eos] [soi]"), drawn, ("given", "[eoi]")),
    }
    assert report.lengths["row"].most == max(preview.num_tokens for preview in report.previews)


def test_another_stage_has_other_rows(debug, folder, mmada):
    write(folder / "d.jsonl", [{**GOOD[3], "id": "1"}, {**GOOD[1], "id": "2"}])
    undrawn = "{draw: {mixture_weight: 0}, plan: {mixture_weight: 0}, make: {mixture_weight: 0}}"
    (folder / "words.yaml").write_text(f"stage: {{name: finetune, components: {undrawn}}}\n")
    status, out, _ = mmada("check", "d.jsonl", "--stage", "words.yaml")
    assert status == 1
    assert "d.jsonl:1: no component of stage finetune learns task draw" in out
    assert "2 records, 1 can be used" in out
    status, out, _ = mmada("check", "d.jsonl", "--stage", "2.2")
    assert (status, "draw as t2i" in out, "text as lm_chat" in out) == (0, True, True)
    (folder / "run.yaml").write_text("stage: {name: finetune, components: {draw: {mixture_weight: 0}}}\ndata: {path: d.jsonl}\n")
    status, out, _ = mmada("check", "d.jsonl", "--stage", "run.yaml")
    assert (status, "no component of stage finetune learns task draw" in out) == (1, True)
    for stage, said in [("fintune", "did you mean 'finetune'"), ("tokenizer", "learns no records"), ("none.yaml", "cannot be read")]:
        status, _, err = mmada("check", "d.jsonl", "--stage", stage)
        assert (status, said in err) == (2, True), err


def test_previews_show_different_sorts_first(debug, folder):
    write(folder / "b.jsonl", [{**GOOD[0], "id": str(i), "answer": {"text": f"text {i}"}} for i in range(5)] + GOOD[1:])
    report = check(debug, folder / "b.jsonl", num_previews=5)
    assert [preview.id for preview in report.previews] == ["0", "b", "c", "d", "1"]
    assert report.previews[1].where == "b.jsonl:6"


# The command line, through an app of its own as in test_data_shards.


@pytest.fixture
def mmada(monkeypatch, capsys, folder):
    app = typer.Typer()
    app.add_typer(data_verb.app, name="data")

    def call(*args: str) -> tuple[int, str, str]:
        model = () if "--model" in args else ("--model", "debug")
        monkeypatch.setattr(sys, "argv", ["mmada", "data", *args, *model])
        status = 0
        try:
            app()
        except SystemExit as leave:
            status = leave.code or 0
        except MMaDAError as error:
            return 2, capsys.readouterr().out, str(error)
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return status, out, err

    return call


def test_check_for_people(mmada):
    status, out, err = mmada("check", "good.jsonl")
    assert (status, err) == (0, "")
    assert "good.jsonl: 4 records, 4 can be used" in out
    assert "problems   0\n" in out
    assert "  masked  <think> 2 + 3 = 5</think> 5 [eos]" in out
    assert "(context 1024, answer length 256)" in out
    status, out, _ = mmada("check", "all.jsonl", "--limit", "2", "--previews", "0", "--context", "200")
    assert status == 1
    assert "all.jsonl: 12 records, 6 can be used" in out
    assert "  and 8 more (--limit)" in out
    assert "masked" not in out
    # A record's text cannot steer the terminal.
    write_text = json.dumps({"task": "text", "answer": {"text": "a\x1b[2Jb"}})
    __import__("pathlib").Path("esc.jsonl").write_text(write_text + "\n")
    assert "\x1b" not in mmada("check", "esc.jsonl")[1]


def test_check_for_programs(mmada):
    status, out, _ = mmada("check", "all.jsonl", "--json", "--context", "200", "--no-open-images")
    found = json.loads(out)
    assert status == 1
    assert found["counts"]["too long"] == 2
    assert found["num_problems"] == sum(found["counts"].values())
    assert found["problems"][0] == {
        "file": "all.jsonl",
        "line": 7,
        "field": "",
        "value": "",
        "kind": "duplicate",
        "message": "the record 'g' says the same as all.jsonl:3; keep one of them",
    }
    assert found["lengths"]["image"]["median"] == 64
    assert found["previews"][0]["parts"] == [["masked", "[bos] Plain text.⏎Two lines. [eos]"]]


@pytest.mark.parametrize(
    ("content", "args", "said"),
    [
        (None, [], "does not exist"),
        ("", [], "is empty"),
        ("no json\n", [], "none of the 1 objects is a record; the first: x.jsonl:1: the line is not JSON"),
        ('{"text": "a"}\n', [], "text='a' is an unknown field"),
        ('{"text": "a"}\n', [], "; read it with --adapter text"),
        ('{"image": "a.png", "caption": "a"}\n', [], "; read it with --adapter draw, or --adapter describe"),
        ('{"text": "a"}\n', ["--adapter", "txet"], "did you mean 'text'"),
        ('{"text": "a"}\n', ["--model", "no/such/model"], "is no directory"),
    ],
)
def test_input_that_cannot_be_used_at_all(mmada, folder, content, args, said):
    if content is not None:
        (folder / "x.jsonl").write_text(content)
    status, _, err = mmada("check", "x.jsonl", *args)
    assert (status, said in err) == (2, True), err


def test_other_forms_and_formats(mmada, folder):
    (folder / "t.jsonl").write_text('{"content": "a text"}\n')
    assert mmada("check", "t.jsonl", "--adapter", "text", "--rename", "text=content")[0] == 0
    (folder / "i.jsonl").write_text('{"image": "0.png", "caption": "a square"}\n')
    status, out, _ = mmada("check", "i.jsonl", "--adapter", "draw", "--images", "images")
    assert (status, "draw 1" in out) == (0, True)
