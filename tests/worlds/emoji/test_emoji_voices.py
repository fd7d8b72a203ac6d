"""What the voices say in training: sentences that fit their headings, sums that are right, nothing that is held out, nothing that strangers ask."""

import re

import numpy as np
import pytest

from mmada.canvas import Message
from mmada.data.world import SampleKey
from mmada.worlds.emoji.measure.strangers import FITTING, asked_lines, strangers_wishes
from mmada.worlds.emoji.natural import natural_example
from mmada.worlds.emoji.natural.people import names
from mmada.worlds.emoji.natural.sums import is_step, result_of, worked
from mmada.worlds.emoji.natural.talk import ANSWERS
from mmada.worlds.emoji.natural.voice import sections, sentences
from mmada.worlds.emoji.source import EmojiWorld
from mmada.worlds.emoji.tasks import TEMPLATES, held_out_in
from mmada.worlds.emoji.verify import is_correct

FIELDS = {table: set(re.findall(r"\{(\w+)\}", " ".join(TEMPLATES[table].options))) for table in TEMPLATES} | {"draw": {""}, "remark": set()}


def _fields(line):
    return set(re.findall(r"\{(\w*)\}", line))


def test_sentences_fit_their_headings():
    assert sum(map(len, sections().values())) > 5000
    for section, lines in sections().items():
        kind, _, said = section.partition(" ")
        for line in lines:
            if kind in ("problem", "sum"):
                letters = set(re.findall(r"\b[abc]\b", said))
                assert letters <= _fields(line) <= letters | ({"n", "m", "i"} if kind == "problem" else set()), line
            elif kind == "talk":
                assert said in ANSWERS, section
                assert not _fields(line)
            elif section == "presence":
                assert len(_fields(line)) == 1
                assert _fields(line) <= FIELDS[section]
            else:
                assert _fields(line) == FIELDS[section], line


@pytest.mark.parametrize(
    ("step", "thought"),
    [
        (("+", 8, 3), "8 + 3: 9 1 10 2 11 3 = 11"),
        (("+", 27, 38), "27 + 38: 7 + 8 = 15, 2 + 3 + 1 = 6 = 65"),
        (("+", 64, 36), "64 + 36: 4 + 6 = 10, 6 + 3 + 1 = 10 = 100"),
        (("-", 65, 38), "65 - 38: 15 - 8 = 7, 6 - 1 - 3 = 2 = 27"),
        (("-", 100, 7), "100 - 7: 10 - 7 = 3, 10 - 1 - 0 = 9 = 93"),
        (("*", 7, 3), "7 * 3: 7 1 14 2 21 3 = 21"),
        (("/", 12, 4), "12 / 4: 4 1 8 2 12 3 = 3"),
        (("/", 46, 2), "46 / 2: 23 + 23 = 46 = 23"),
    ],
)
def test_steps_are_worked_out(step, thought):
    assert worked(*step) == thought


def test_every_step_to_a_hundred_comes_out_right():
    for left in range(101):
        for right in range(101):
            for operation in "+-*/":
                if not is_step(operation, left, right):
                    continue
                text, result = worked(operation, left, right), result_of(operation, left, right)
                assert text.endswith(f"= {result}")
                assert 0 <= result <= 100
                for sum_ in re.findall(r"(\d+(?: [+-] \d+)+) = (\d+)", text):
                    assert sum(int(n) for n in re.findall(r"[+-]?\d+", sum_[0].replace(" ", ""))) == int(sum_[1]), text


def _value_of_plan(think):
    """What the expression at the head of a thought comes to, from left to right."""
    first, *others = think.partition(";")[0].split(", ")
    value = int(first)
    for other in others:
        match = re.search(r"([-+*/]) (\d+)$", other)
        if match is None:  # what somebody has, whose number follows from the story
            return None
        value = result_of(match[1], value, int(match[2]))
    return value


def test_texts_hold_what_is_true_and_nothing_that_is_held_out():
    held_back = set(names("test"))
    kinds = set()
    for seed in range(400):
        example = natural_example("natural_text", np.random.default_rng(seed))
        kinds.add(example.kind)
        assert not held_out_in(example)
        assert not held_back & set(re.findall(r"\w+", example.prompt))
        if example.kind == "natural_problem" and (value := _value_of_plan(example.think)) is not None:
            assert example.answer == str(value)
        if example.kind == "natural_talk":
            assert example.answer[0].isupper()
            assert example.answer[-1] in ".!?"
        assert is_correct(example, example.answer)
    assert {"natural_problem", "natural_sum", "natural_talk"} <= kinds


def test_questions_about_pictures_have_their_answers():
    for seed in range(150):
        example = natural_example("natural_look", np.random.default_rng(seed))
        assert example.scene is not None
        assert not held_out_in(example)
        assert is_correct(example, example.answer)


def test_system_turns_and_earlier_turns_come_before_some():
    world = EmojiWorld()
    found = [world.sample(SampleKey(task="natural_text", split="train", seed=0, index=i, stream="test")) for i in range(150)]
    roles = {tuple(message.role for message in sample.messages) for sample in found}
    assert roles == {("user",), ("system", "user"), ("user", "assistant", "user")}
    assert all(isinstance(message, Message) and message.content.strip() for sample in found for message in sample.messages)


def test_strangers_were_not_trained_on():
    trained = {line.lower().strip(" .!?") for lines in sections().values() for line in lines}
    asked = [line.partition(" | ")[2] or line for lines in asked_lines().values() for line in lines]
    assert len(asked) > 300
    assert not {line.lower().strip(" .!?") for line in asked} & trained
    assert min(map(len, asked_lines().values())) >= 2
    assert set(FITTING) == set(ANSWERS) == set(sentences("talk"))
    assert len(strangers_wishes()) == 160
