"""Hints that can be copied: what they ask for reads the file."""

import json
import shlex

import pytest

from mmada.cli.data import open_data
from mmada.data.format_hints import format_hint
from mmada.data.formats import RecordFormat
from mmada.data.jsonl_reader import JsonlReader

QUESTION = "What is 1 plus 1?"


def file_of(tmp_path, *objects):
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in objects))
    return path


@pytest.mark.parametrize(
    "names",
    [("prompt", "completion"), ("prompt", "response"), ("question", "answer"), ("instruction", "response"), ("instruction", "output")],
)
def test_pairs_of_question_and_answer_are_read_as_the_hint_says(tmp_path, names):
    path = file_of(tmp_path, *(dict(zip(names, (QUESTION, answer), strict=True)) for answer in ("2", "3")))
    hint = format_hint(JsonlReader(path)).removeprefix("; read it with ")
    options = shlex.split(hint)
    assert options[:2] == ["--adapter", "instruction"]
    reader = open_data(str(path), None, options[1], options[3::2], None, "train")
    assert [(reader[i].turns[-1].text, reader[i].answer) for i in (0, 1)] == [(QUESTION, "2"), (QUESTION, "3")]
    assert format_hint(reader) == ""


def test_what_a_question_is_about_goes_to_the_input(tmp_path):
    path = file_of(tmp_path, {"question": QUESTION, "context": "Of numbers.", "answer": "2"})
    assert format_hint(JsonlReader(path)).endswith("--rename instruction=question --rename output=answer --rename input=context")


def test_prompts_of_rl_need_no_answer(tmp_path):
    path = file_of(tmp_path, {"prompt": QUESTION})
    assert format_hint(JsonlReader(path)) == ""
    reader = JsonlReader(path, record_format=RecordFormat(prompts_only=True))
    assert format_hint(reader, as_settings=True) == "; read it with data.adapter=instruction 'data.rename={instruction: prompt}'"


def test_no_hint_where_nothing_fits_all_lines(tmp_path):
    assert format_hint(JsonlReader(file_of(tmp_path, {"prompt": "a", "completion": "b"}, {"foo": 1}))) == ""
    assert format_hint(JsonlReader(file_of(tmp_path, {"foo": 1}))) == ""
    assert format_hint(object()) == ""
