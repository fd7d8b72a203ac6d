"""Records: what is accepted, what is said of what is not, and the rows they become."""

from __future__ import annotations

import base64
import json
import pickle
import re
from pathlib import Path

import pytest

from mmada.data import ADAPTERS, Folder, Meta, Picture, RecordError, RecordFormat, SourceLocation, lengths_of, parse, split_text
from mmada.data.format_hints import fitting_formats
from mmada.data.records import EDIT_TASKS
from mmada.errors import InputError

HERE = SourceLocation("data.jsonl", 17)
FOLDER = Folder(Path("folder"))
DATA_URL = "data:image/png;base64," + base64.b64encode(b"picture").decode()


def user(content: object) -> list[dict[str, object]]:
    return [{"role": "user", "content": content}]


def looking(image: str = "a.png", text: str = "How many?") -> list[dict[str, object]]:
    return user([{"type": "image", "image": image}, {"type": "text", "text": text}])


def read(value: object, **record_format: object):
    return parse(value, HERE, pictures=FOLDER, record_format=RecordFormat(**record_format))


GOOD = {
    "a text": {"task": "text", "answer": {"text": "Once upon a time.\n"}},
    "a line end alone is a text": {"task": "text", "answer": {"text": "\n"}},
    "chat": {"task": "text", "messages": user("2 + 3?"), "answer": {"text": "5"}},
    "turns": {
        "task": "text",
        "messages": [{"role": "system", "content": "Be brief."}, *user("Hi"), {"role": "assistant", "content": "Hello"}, *user("2 + 3?")],
        "think": {"text": "2 + 3 is 5", "source": "me", "verifier": {"name": "exact", "passed": True, "score": 1.0}},
        "answer": {"text": "5"},
    },
    "understand": {"id": "x", "task": "understand", "messages": looking(), "answer": {"text": "2"}},
    "two images": {
        "task": "understand",
        "messages": user([{"type": "image", "image": n} for n in ("a.png", "sub/b.png")] + [{"type": "text", "text": "Same?"}]),
        "answer": {"text": "no"},
    },
    "draw": {"task": "draw", "messages": user("a cat"), "answer": {"image": "a.png"}},
    "reason_draw": {
        "task": "reason_draw",
        "messages": user("a cat"),
        "think": {"text": "one"},
        "answer": {"image": "a.png", "text": "1 cat"},
    },
    "reason_draw without a prompt": {"task": "reason_draw", "messages": user("a"), "think": {"text": "b"}, "answer": {"image": "a.png"}},
    "edit": {"task": "edit", "messages": looking(text="add a hat"), "answer": {"image": "b.png"}},
    "restyle": {
        "task": "restyle",
        "messages": user([{"type": "image", "image": n} for n in ("a.png", "s.png")] + [{"type": "text", "text": "like this"}]),
        "answer": {"image": "b.png"},
    },
    "parallel": {"task": "parallel", "messages": looking(text="add a hat"), "answer": {"text": "A hat is on it.", "image": "b.png"}},
    "meta": {
        "task": "text",
        "answer": {"text": "a"},
        "meta": {"license": "CC0-1.0", "lang": "en", "source": "me", "extra": {"level": 3}},
    },
}


@pytest.mark.parametrize("value", GOOD.values(), ids=GOOD)
def test_good_records_are_read_and_written_back(value):
    record = read(value)
    assert record.id == value.get("id", "data.jsonl:17")
    assert record.to_dict() == {"id": record.id, **value}
    assert read(record.to_dict()) == record
    # Tables fill what is absent with null.
    assert read({**dict.fromkeys(("id", "messages", "think", "meta")), **value}) == record
    assert pickle.loads(pickle.dumps(record)) == record


def test_images_are_paths_data_urls_or_bytes():
    record = read({"task": "understand", "messages": looking("sub/a.png"), "answer": {"text": "2"}})
    assert record.pictures == (Picture("sub/a.png", Path("folder/sub/a.png")),)
    (picture,) = read({"task": "understand", "messages": looking(DATA_URL), "answer": {"text": "2"}}).pictures
    assert picture == Picture("messages[0].content[0].image of data.jsonl:17", b"picture")
    assert read({"image": b"picture", "caption": "a"}, adapter="draw").image.source == b"picture"


def test_an_id_may_be_a_number():
    assert read({"id": 7, "task": "text", "answer": {"text": "a"}}).id == "7"


def test_without_thinking():
    thought = read(GOOD["turns"])
    assert thought.target_text == "<think> 2 + 3 is 5</think> 5"
    assert thought.without_thinking().target_text == "5"
    drawn = read(GOOD["reason_draw"]).without_thinking()
    assert (drawn.task, drawn.target_text) == ("draw", "")
    assert drawn == read({**GOOD["draw"]})


TEXT = {"task": "text", "messages": user("q"), "answer": {"text": "a"}}
DRAW = GOOD["draw"]
EDIT = GOOD["edit"]
PLAN = GOOD["reason_draw"]
BAD = [
    (["a"], "the line is a list; write one JSON object a line"),
    ("text", "the line is a text"),
    (3, "the line is a number"),
    (None, "the line is null"),
    ({**TEXT, "anwser": 1}, "anwser=1 is an unknown field, did you mean 'answer'?"),
    ({**TEXT, "level": 3}, "notes of your own go to meta.extra"),
    ({**TEXT, "task": "vqa"}, "task='vqa' is unknown; use one of text, understand, draw, reason_draw, edit, restyle, parallel"),
    ({**TEXT, "task": None}, "task=None is unknown"),
    ({**TEXT, "id": ""}, "id='' is empty"),
    ({**TEXT, "id": 1.5}, "id=1.5 must be a text"),
    ({**TEXT, "messages": "q"}, "messages='q' must be a list"),
    ({**TEXT, "messages": ["q"]}, "messages[0]='q' must be an object"),
    ({**TEXT, "messages": [{}]}, "messages[0].role=None is unknown; use system, user, assistant"),
    ({**TEXT, "messages": [{"role": "human", "content": "q"}]}, "messages[0].role='human' is unknown"),
    ({**TEXT, "messages": [{"role": "user", "content": "q", "name": "x"}]}, "messages[0].name='x' is an unknown field"),
    ({**TEXT, "messages": user("  ")}, "messages[0].content='  ' is empty"),
    ({**TEXT, "messages": user(3)}, "messages[0].content=3 must be a text"),
    ({**TEXT, "messages": [*user("q"), {"role": "assistant", "content": "a"}]}, "messages[1].role='assistant' must be 'user'"),
    ({**TEXT, "messages": user([{"type": "text"}])}, "messages[0].content[0].text=None must be a text"),
    ({**TEXT, "messages": user([{"type": "video", "text": "q"}])}, "messages[0].content[0].type='video' is unknown"),
    ({**TEXT, "messages": user(["q"])}, "messages[0].content[0]='q' must be an object"),
    (
        {**TEXT, "messages": user([{"type": "image", "image": "a.png"}])},
        "messages[0].content=[{'type': 'image', 'image': 'a.png'}] has no text",
    ),
    ({**TEXT, "messages": looking()}, "messages='a.png' has an image; use task 'understand'"),
    ({**TEXT, "task": "understand"}, "messages=['q'] has no image; use task 'text'"),
    ({**TEXT, "answer": None}, 'answer=None is missing; write {"text": "…"} or {"image": "…"}'),
    ({**TEXT, "answer": "a"}, "answer='a' must be an object; write"),
    ({**TEXT, "answer": {}}, "answer.text=None is missing; task 'text' learns it"),
    ({**TEXT, "answer": {"text": ""}}, "answer.text='' is empty; write the answer, or leave the record out"),
    ({**TEXT, "answer": {"text": "a", "image": "a.png"}}, "answer.image='a.png' is not learned by task 'text'"),
    ({**TEXT, "answer": {"text": "\ud83d"}}, "has half a character (a lone surrogate)"),
    ({**TEXT, "answer": {"text": "<think>so</think> a"}}, "has a think tag; write the thought to think.text"),
    ({**TEXT, "think": "so"}, "think='so' must be an object"),
    ({**TEXT, "think": {"text": " "}}, "think.text=' ' is empty"),
    ({**TEXT, "think": {"text": "<think>so"}}, "think.text='<think>so' has a think tag"),
    ({**TEXT, "think": {"text": "so", "verifier": {"name": "x", "passed": "yes"}}}, "think.verifier.passed='yes' must be true or false"),
    ({**TEXT, "think": {"text": "so", "verifier": {"passed": True, "score": "1"}}}, "think.verifier.name=None must be a text"),
    ({**TEXT, "meta": {"licens": "x"}}, "meta.licens='x' is an unknown field, did you mean 'license'?"),
    ({**TEXT, "meta": {"lang": 3}}, "meta.lang=3 must be a text"),
    ({**TEXT, "meta": {"extra": 3}}, "meta.extra=3 must be an object"),
    ({"task": "text", "think": {"text": "so"}, "answer": {"text": "a"}}, "think='so' answers no question"),
    ({**DRAW, "answer": {"text": "a"}}, "answer.image=None is missing; task 'draw' learns to draw it"),
    ({**DRAW, "answer": {"text": "a", "image": "a.png"}}, "answer.text='a' is not learned by task 'draw'"),
    ({**DRAW, "think": {"text": "so"}}, "think='so' is not learned by task 'draw'; use 'reason_draw'"),
    ({**DRAW, "messages": looking()}, "messages='a.png' has an image, which task 'draw' cannot start from"),
    ({**DRAW, "messages": [*user("a"), *user("b")]}, "must be one turn of the user for task 'draw'"),
    ({**PLAN, "think": None}, "think=None is missing; use task 'draw' to draw without thinking"),
    ({**EDIT, "messages": user("add a hat")}, "messages='add a hat' has no image to change; add it as a content part, or use task 'draw'"),
    ({**EDIT, "messages": [*looking(), *looking()]}, "must be one turn of the user for task 'edit': how the image is to be changed"),
    ({**EDIT, "answer": {"text": "a"}}, "answer.image=None is missing; task 'edit' learns to draw it"),
    ({**EDIT, "answer": {"text": "a", "image": "b.png"}}, "answer.text='a' is not learned by task 'edit'; use 'parallel'"),
    ({**EDIT, "task": "restyle"}, "messages=['a.png'] must be two images for task 'restyle'"),
    ({**GOOD["restyle"], "answer": {"text": "a", "image": "b.png"}}, "answer.text='a' is not learned by task 'restyle'; use 'parallel'"),
    ({**EDIT, "think": {"text": "so"}}, "think='so' is not learned by task 'edit'; use 'parallel'"),
    ({**EDIT, "task": "parallel"}, "answer.text=None is missing; task 'parallel' learns it beside the image"),
    ({**DRAW, "answer": {"image": "https://x.org/a.png"}}, "answer.image='https://x.org/a.png' is a URL, which is never fetched"),
    ({**DRAW, "answer": {"image": "data:image/png;base64,###"}}, "is no base64 image"),
    ({**DRAW, "answer": {"image": "data:text/plain,abc"}}, "its head is not data:image/…;base64"),
    ({**DRAW, "answer": {"image": "iVBORw0" * 1000}}, "is no path; write an encoded image as data:image/png;base64,…"),
    ({**DRAW, "answer": {"image": 3}}, "answer.image=3 must name an image"),
    ({**DRAW, "answer": {"image": ""}}, "answer.image='' must name an image"),
]


@pytest.mark.parametrize(("value", "said"), BAD, ids=[said[:50] for _, said in BAD])
def test_bad_records_say_field_value_and_remedy(value, said):
    with pytest.raises(RecordError) as caught:
        read(value)
    assert said in str(caught.value)
    assert str(caught.value).startswith("data.jsonl:17: ")
    assert isinstance(caught.value, InputError)


def test_everything_that_is_wrong_is_said_at_once():
    value = {"task": "understand", "messages": looking("s3://b/a.png", ""), "anwser": {}, "think": {"text": ""}}
    with pytest.raises(RecordError) as caught:
        read(value)
    problems = caught.value.problems
    assert [problem.field for problem in problems] == [
        "anwser",
        "messages[0].content[0].image",
        "messages[0].content[1].text",
        "think.text",
        "answer",
    ]
    assert [problem.kind for problem in problems] == ["field", "image reference", "empty", "empty", "field"]
    assert problems[0].to_dict()["line"] == 17
    assert pickle.loads(pickle.dumps(caught.value)).problems == problems


def test_an_unclosed_thought_has_its_own_kind():
    for value, record_format in [
        ({**TEXT, "answer": {"text": "<think>so"}}, {}),
        ({"instruction": "q", "output": "<think>so"}, {"adapter": "instruction"}),
        ({"messages": [*user("q"), {"role": "assistant", "content": "<think>so"}]}, {"adapter": "messages"}),
    ]:
        with pytest.raises(RecordError) as caught:
            read(value, **record_format)
        assert [problem.kind for problem in caught.value.problems] == ["unclosed think"]


def assistant(content: object) -> dict[str, object]:
    return {"role": "assistant", "content": content}


ANSWERED = {"task": "understand", "messages": looking(text="What?"), "answer": {"text": "a"}}
PLACE = {"type": "image"}
ASK = {"type": "text", "text": "What?"}
ADAPTED = [
    ("text", {"text": " as it is\n", "url": "ignored"}, {"task": "text", "answer": {"text": " as it is\n"}}),
    ("draw", {"image": "a.png", "caption": "a cat"}, {"task": "draw", "messages": user("a cat"), "answer": {"image": "a.png"}}),
    ("instruction", {"instruction": "q", "input": "", "output": "a"}, TEXT),
    ("instruction", {"instruction": "Add.", "input": "2, 3", "output": "5"}, {**TEXT, "messages": user("Add.\n2, 3"), "answer": {"text": "5"}}),
    ("instruction", {"instruction": "q", "output": "<think> so </think> a"}, {**TEXT, "think": {"text": "so"}}),
    ("instruction", {"instruction": "q", "output": "a", "think": "so"}, {**TEXT, "think": {"text": "so"}}),
    ("instruction", {"instruction": "What?", "output": "a", "image": "a.png"}, ANSWERED),
    ("messages", {"messages": [*user("q"), assistant("a")], "images": []}, TEXT),
    ("messages", {"messages": [*user("q"), assistant("<think>so</think>a")]}, {**TEXT, "think": {"text": "so"}}),
    ("messages", {"messages": [*user("<image>\nWhat?"), assistant("a")], "images": ["a.png"]}, ANSWERED),
    ("messages", {"messages": [*user("What?"), assistant("a")], "images": ["a.png"]}, ANSWERED),
    ("messages", {"messages": [*user([PLACE, ASK]), assistant("a")], "images": ["a.png"]}, ANSWERED),
    ("messages", {"messages": [*user([{**PLACE, "image": "a.png"}, ASK]), assistant([{"type": "text", "text": "a"}])]}, ANSWERED),
    ("messages", {"messages": [*user([{"type": "image_url", "image_url": {"url": "a.png"}}, ASK]), assistant("a")]}, ANSWERED),
    ("messages", {"messages": [*user("a cat"), assistant([PLACE])], "images": ["a.png"]}, GOOD["draw"]),
    ("messages", {"messages": [*user("a cat"), assistant("<think>one</think> 1 cat <image>")], "images": ["a.png"]}, GOOD["reason_draw"]),
    ("messages", {"messages": [*user("<image>add a hat"), assistant([PLACE])], "images": ["a.png", "b.png"]}, EDIT),
    ("messages", {"messages": [*user("<image>add a hat"), assistant("A hat is on it.<image>")], "images": ["a.png", "b.png"]}, GOOD["parallel"]),
    ("edit", {"source": "a.png", "instruction": "add a hat", "image": "b.png"}, EDIT),
    ("edit", {"source": ["a.png"], "instruction": "add a hat", "image": "b.png", "text": "A hat is on it."}, GOOD["parallel"]),
    ("edit", {"source": "a.png", "reference": "s.png", "instruction": "like this", "image": "b.png"}, GOOD["restyle"]),
    (
        "edit",
        {"source": "a.png", "instruction": "add a hat", "image": "b.png", "text": "<think>so</think> Done."},
        {**GOOD["parallel"], "think": {"text": "so"}, "answer": {"text": "Done.", "image": "b.png"}},
    ),
    ("llava", {"image": "a.png", "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "a"}]}, ANSWERED),
    ("llava", {"conversations": [{"from": "user", "value": "q"}, {"from": "assistant", "value": "a"}]}, TEXT),
    ("llava", {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, TEXT),
]  # fmt: skip


@pytest.mark.parametrize(("adapter", "value", "native"), ADAPTED)
def test_adapters_give_the_native_record(adapter, value, native):
    assert read(value, adapter=adapter) == read(native)


def test_describe_asks_a_question_that_depends_on_the_caption_alone():
    one = read({"image": "a.png", "caption": "a cat"}, adapter="describe")
    assert (one.task, one.answer, one.pictures[0].name) == ("understand", "a cat", "a.png")
    assert one == read({"image": "a.png", "caption": "a cat"}, adapter="describe")
    asked = {read({"image": "a.png", "caption": f"cat {i}"}, adapter="describe").turns[0].text for i in range(50)}
    assert len(asked) > 4


NOT_ADAPTED = [
    ("text", {"text": ""}, "text='' is empty"),
    ("text", {"txt": "a"}, "text=None must be a text"),
    ("draw", {"caption": "a"}, "image=None is missing"),
    ("draw", {"image": "a.png", "caption": " "}, "caption=' ' is empty"),
    ("draw", {"image": "http://x/a.png", "caption": "a"}, "image='http://x/a.png' is a URL"),
    ("describe", {"image": "http://x/a.png", "caption": "a"}, "image='http://x/a.png' is a URL"),
    ("edit", {"instruction": "q", "image": "b.png"}, "source=None is missing"),
    ("edit", {"source": "http://x/a.png", "instruction": "q", "image": "b.png"}, "source='http://x/a.png' is a URL"),
    ("edit", {"source": "a.png", "instruction": "q"}, "image=None is missing"),
    (
        "edit",
        {"source": ["a.png", "c.png"], "reference": "s.png", "instruction": "q", "image": "b.png"},
        "reference='s.png' is the style of one source",
    ),
    (
        "edit",
        {"source": "a.png", "reference": "http://x/s.png", "instruction": "q", "image": "b.png"},
        "reference='http://x/s.png' is a URL",
    ),
    ("edit", {"source": "a.png", "instruction": "q", "image": "b.png", "text": ""}, "text='' is empty"),
    ("instruction", {"instruction": "q", "output": ""}, "output='' is empty"),
    ("instruction", {"instruction": "q", "output": "<think>x</think>y", "think": "z"}, "keep one of them"),
    ("instruction", {"instruction": "q", "output": "<think>x</think>"}, "output='' is empty"),
    ("messages", {"messages": []}, "messages=[] must be a list"),
    ("messages", {"messages": user("q")}, "messages[0].role='user' must be 'assistant': the last turn is learned"),
    ("messages", {"messages": [*user("<image>q"), assistant("a")], "images": ["a", "b"]}, "has 2 images, messages has places for 1"),
    ("messages", {"messages": [*user("<image>q"), assistant("a")]}, "images=None has 0 images, messages has places for 1"),
    ("messages", {"messages": [*user("<image>q"), assistant("a")], "images": ["s3://a"]}, "images[0]='s3://a' is a URL"),
    ("messages", {"messages": [*user("q"), assistant("")]}, "messages[1].content='' is empty"),
    ("messages", {"messages": [*user(""), assistant("a")]}, "messages[0].content='' is empty"),
    ("messages", {"messages": [*user("q"), assistant([PLACE, PLACE])], "images": ["a", "b"]}, "more than one image to learn"),
    ("llava", {"conversations": [{"from": "human", "value": ""}, {"from": "gpt", "value": "a"}]}, "conversations[0].value='' is empty"),
    (
        "llava",
        {"conversations": [{"from": "robot", "value": "q"}, {"from": "gpt", "value": "a"}]},
        "conversations[0].from='robot' is unknown",
    ),
    (
        "llava",
        {"conversations": [{"from": "gpt", "value": "q"}, {"from": "human", "value": "a"}]},
        "conversations[1].from='human' must be 'gpt': the last turn is learned",
    ),
    ("llava", {"text": "a"}, "conversations=None must be a list"),
]


@pytest.mark.parametrize(("adapter", "value", "said"), NOT_ADAPTED)
def test_adapters_name_the_fields_that_the_user_wrote(adapter, value, said):
    with pytest.raises(RecordError, match=r"data\.jsonl:17") as caught:
        read(value, adapter=adapter)
    assert said in str(caught.value)
    assert len(caught.value.problems) == 1


def test_rename_finds_fields_by_path_and_by_choice():
    record_format = {"adapter": "draw", "rename": {"caption": "json.prompt|txt", "image": "png|jpg"}}
    for value in ({"jpg": "a.png", "json": {"prompt": "a cat"}}, {"jpg": "a.png", "txt": "a cat", "json": {}}):
        assert read(value, **record_format) == read(GOOD["draw"])
    assert read({"seg.png": "a.png", "caption": "a cat"}, adapter="draw", rename={"image": "seg.png"}) == read(GOOD["draw"])
    with pytest.raises(RecordError, match=r"caption \(json.prompt\|txt\)=None must be a text"):
        read({"jpg": "a.png"}, **record_format)
    with pytest.raises(InputError, match="adapter='drow' is unknown: did you mean 'draw'"):
        RecordFormat(adapter="drow")
    with pytest.raises(InputError, match="adapter 'draw' has no field 'capton': did you mean 'caption'"):
        RecordFormat(adapter="draw", rename={"capton": "txt"})


def test_a_source_says_what_its_records_do_not():
    record_format = RecordFormat(meta=Meta(license="CC0-1.0", source="mine"))
    assert parse(TEXT, HERE, pictures=FOLDER, record_format=record_format).meta == Meta(license="CC0-1.0", source="mine")
    own = parse({**TEXT, "meta": {"license": "MIT"}}, HERE, pictures=FOLDER, record_format=record_format).meta
    assert own == Meta(license="MIT", source="mine")


def test_fitting_adapters():
    def fitting(value: object) -> list[str]:
        return [found.adapter for found in fitting_formats([(value, HERE)], FOLDER)]

    assert fitting(TEXT) == ["record"]
    assert fitting({"image": "a.png", "caption": "a"}) == ["draw", "describe"]
    assert fitting({"foo": 1}) == []
    for adapter, value, _ in ADAPTED:
        assert adapter in fitting(value)
    assert {adapter for adapter, _, _ in ADAPTED} | {"record", "describe"} == set(ADAPTERS)


# Lengths of rows; the rows themselves are tested in tests/train/test_records.py.


@pytest.mark.parametrize("value", [value for value in GOOD.values() if value["task"] not in EDIT_TASKS])
def test_lengths_say_what_does_not_fit(debug, value):
    record, prompts = read(value), debug.prompts
    lengths = lengths_of(record, prompts, grid=(8, 8))
    assert lengths.image == (64 if record.image else 0)
    assert lengths.text == (len(prompts.encode(record.target_text)) + (1 if record.turns else 2) if record.task != "draw" else 0)
    assert lengths.row() == lengths.given + lengths.text + lengths.image
    assert lengths.row(lengths.text + 7) == lengths.row() + (7 if lengths.text else 0)
    assert lengths.reason(context=lengths.row(), answer_length=lengths.text) is None
    assert lengths.reason(context=lengths.row() - 1) == "the row is longer than the context"
    if lengths.text:
        assert lengths.reason(answer_length=lengths.text - 1) == "the text to learn is longer than its answer length"


def test_pictures_that_are_codes_need_no_encoder(debug):
    record = parse(GOOD["draw"], HERE, pictures=type("Codes", (), {"find": lambda self, name: (1, 2, 3, 4)})())
    assert lengths_of(record, debug.prompts, grid=(8, 8)).image == 4


@pytest.mark.parametrize("context", [16, 40, 1000])
def test_split_text_loses_nothing_and_fits(debug, context):
    text = "One. Two is a longer sentence.\n\n" * 3 + "x" * 100 + "\nÄÖÜ wörd\n\n\n\n" + "word " * 30
    record = read({"id": "t", "task": "text", "answer": {"text": text}})
    pieces = split_text(record, debug.prompts, context=context)
    assert "".join(piece.answer for piece in pieces) == text
    assert all(lengths_of(piece, debug.prompts, grid=(8, 8)).row() <= context for piece in pieces)
    assert pieces == [record] if context == 1000 else pieces[1].id == "t#1"
    if context == 40:
        assert pieces[0].answer == "One. Two is a longer sentence.\n\n"
    assert split_text(read(TEXT), debug.prompts, context=3) == [read(TEXT)]


def test_the_example_of_the_module_is_a_record():
    import mmada.data.records as module

    lines = module.__doc__.splitlines()
    start = next(i for i, line in enumerate(lines) if line.strip().startswith('{"id"'))
    value = json.loads(" ".join(lines[start : start + 3]))
    assert read(value).task == "understand"


def test_the_examples_of_the_docs_are_records():
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    values = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL)]
    assert [read(value).task for value in values] == ["text", "text", "understand", "draw", "reason_draw", "edit", "restyle", "parallel"]
    assert set(re.findall(r"^\| `(\w+)` \| ", text.partition("## Other formats")[2].partition("## Check")[0], re.MULTILINE)) == set(
        ADAPTERS
    )
