"""Rows by index: mixture, thinking, dropped conditions, room for answers."""

from dataclasses import replace

import pytest
import torch

from mmada.canvas import Message, Style
from mmada.data.seeds import integer, uniforms
from mmada.errors import InputError
from mmada.train.recipes import named_stage
from mmada.train.source import FlowRows, Mixture, Sample

from . import tiny


class Fixed:
    """The same sample for every index."""

    def __init__(self, prompt, **parts):
        self.sample = Sample(messages=(Message("user", prompt),), **parts)

    def take(self, indices):
        return [self.sample] * len(indices)


CODES = torch.arange(tiny.NUM_CODES)


def rows(flow_name, sample, count, *, stage=None, **changes):
    stage = stage or tiny.stage(flow_name)
    flow = replace(next(flow for flow in stage.flows if flow.name == flow_name), **changes)
    return FlowRows(flow, stage, sample, tiny.prompts(), seed=0, num_image_tokens=tiny.NUM_CODES).rows(range(count))


def test_every_batch_has_the_shares_of_the_mixture():
    mixture = Mixture({"a": 0.5, "b": 0.3, "c": 0.2}, 10)
    for step in range(3):
        drawn = [mixture[position] for position in range(10 * step, 10 * step + 10)]
        assert {name: sum(flow == name for flow, _ in drawn) for name in "abc"} == {"a": 5, "b": 3, "c": 2}
        # Each flow's rows are taken in order, none left out.
        assert sorted(index for flow, index in drawn if flow == "b") == [3 * step, 3 * step + 1, 3 * step + 2]


def test_shares_that_do_not_divide_are_rounded_by_largest_remainder():
    assert Mixture({"a": 7, "b": 2, "c": 6}, 16).counts == {"a": 8, "b": 2, "c": 6}
    assert sum(Mixture({"a": 1, "b": 1, "c": 1}, 64).counts.values()) == 64


def test_each_process_gets_its_share_of_each_flow():
    mixture = Mixture({"a": 0.75, "b": 0.25}, 16)
    for rank in range(4):
        assert {mixture[position][0] for position in range(rank, 16, 4)} == {"a", "b"}


def test_a_flow_without_a_row_is_an_error():
    with pytest.raises(InputError, match=r"no row for the flows \['b'\]"):
        Mixture({"a": 0.99, "b": 0.01}, 8)


def test_a_row_is_the_same_alone_and_among_others():
    for source in tiny.sources(tiny.stage()).values():
        together = source.rows([3, 8, 5])
        for index, row in zip([3, 8, 5], together, strict=True):
            (alone,) = source.rows([index])
            assert alone.canvas.tokens.tolist() == row.canvas.tokens.tolist()


def test_the_condition_is_dropped_at_its_rate():
    drawn = rows("draw", Fixed(prompt="a red heart", drawn=CODES), 1000, drop=0.1)
    empty = tiny.prompts().t2i(CODES, "").tokens.tolist()
    dropped = sum(row.canvas.tokens.tolist() == empty for row in drawn)
    # Five standard deviations of a binomial: a false alarm in 2 million, and the draws are fixed anyway.
    assert dropped == pytest.approx(100, abs=5 * (1000 * 0.1 * 0.9) ** 0.5)


def test_reasoning_first_drops_prompt_and_thinking_and_keeps_the_image():
    sample = Fixed(prompt="one more cat than dogs", think="two cats", answer="two cats, a dog", drawn=CODES)
    (row,) = rows("make", sample, 1, drop=1.0)
    assert row.canvas.tokens.tolist() == tiny.prompts().t2i(CODES, "").tokens.tolist()
    (row,) = rows("make", sample, 1, drop=0.0)
    assert len(row.canvas.fields) == 2


def test_thinking_has_its_share_and_is_asked_for_in_the_prompt():
    sample = Fixed(prompt="1 + 2?", think="1 + 2 = 3", answer="3")
    drawn = rows("text", sample, 1000, think=0.6)
    texts = [tiny.prompts().decode(row.canvas.tokens[row.canvas.fields[0].positions]) for row in drawn]
    thinking = [text == "<think> 1 + 2 = 3</think> 3" for text in texts]
    assert sum(thinking) == pytest.approx(600, abs=5 * (1000 * 0.6 * 0.4) ** 0.5)
    assert all(thinks or text == "3" for thinks, text in zip(thinking, texts, strict=True))
    asked = ["Think." in tiny.prompts().decode(row.canvas.tokens[1:][row.canvas.tokens[1:] != tiny.LAYOUT.eot_id]) for row in drawn[:20]]
    assert asked == thinking[:20]


def test_the_room_is_the_smallest_that_fits_unless_spare():
    sample = Fixed(prompt="hello", answer="1234567")  # 7 bytes and an end token
    stage = tiny.stage("text", rooms=(4, 8, 16, 32), spare_room=0.0)
    count = {"noise": ("count",)}
    lengths = {len(row.canvas.fields[0].positions) for row in rows("text", sample, 50, stage=stage, **count)}
    assert lengths == {8}
    drawn = rows("text", sample, 300, stage=replace(stage, spare_room=1.0), **count)
    assert {len(row.canvas.fields[0].positions) for row in drawn} == {8, 16, 32}
    answer = drawn[0].canvas.tokens[drawn[0].canvas.fields[0].positions].tolist()
    assert answer[7:] == [tiny.LAYOUT.eos_id] * (len(answer) - 7)


def test_an_answer_that_fits_no_room_is_an_error_that_names_the_rooms():
    with pytest.raises(InputError, match=r"an answer of 101 tokens fits none of stage.rooms=\(4, 8\)"):
        rows("text", Fixed(prompt="hello", answer="x" * 100), 1, stage=tiny.stage("text", rooms=(4, 8)), noise=("count",))


def test_blocks_give_an_answer_the_fewest_that_hold_it():
    for length, room in ((6, 8), (7, 8), (8, 16)):  # with an end token
        (row,) = rows("text", Fixed(prompt="hello", answer="1" * length), 1, stage=tiny.stage("text", block_length=8))
        assert len(row.canvas.fields[0].positions) == room


def test_thinking_before_a_drawing_is_asked_for_in_its_own_words():
    stage = replace(named_stage("mixcot", "shapes"), block_length=16)
    (flow,) = (flow for flow in stage.flows if flow.name == "plan")
    sample = Fixed(prompt="one more cat than dogs", think="two cats", answer="two cats, a dog", drawn=CODES)
    speech = replace(tiny.prompts(), style=Style(thinking="Think. ", draw_thinking="Plan. "))
    (row,) = FlowRows(flow, stage, sample, speech, seed=0, num_image_tokens=tiny.NUM_CODES).rows([0])
    expected = speech.chat([Message("user", "Plan. one more cat than dogs")], len(row.canvas.fields[0].positions))
    assert row.canvas.masked(tiny.LAYOUT.mask_id).tokens.tolist() == expected.tokens.tolist()


def test_extra_weights_lie_on_the_answer_behind_thinking_and_on_the_fill():
    sample = Fixed(prompt="1 + 2?", think="1 + 2 = 3", answer="3")
    (row,) = rows("text", sample, 1, think=1.0, answer_weight=4.0, fill_weight=0.5, stage=tiny.stage("text", spare_room=0.0))
    at = row.canvas.fields[0].positions
    text = "<think> 1 + 2 = 3</think>"
    factors = row.factor[at].tolist()
    assert factors[: len(text)] == [1.0] * len(text)
    assert factors[len(text) : len(text) + 3] == [4.0] * 3  # " 3" and the first end token
    assert factors[len(text) + 3 :] == [0.5] * (len(at) - len(text) - 3)
    assert (row.factor[: at[0]] == 1).all()


def test_without_extra_weights_there_are_no_factors():
    (row,) = rows("text", Fixed(prompt="1 + 2?", answer="3"), 1, answer_weight=4.0, fill_weight=1.0)
    assert row.factor is None


def test_published_layouts_have_the_published_lengths():
    stage = replace(tiny.stage(), text_length=200)
    sample = Fixed(prompt="what is it?", answer="a dog", drawn=CODES, seen=(CODES,))
    for name, layout in (("text", "lm"), ("text", "lm_chat"), ("look", "mmu"), ("draw", "t2i")):
        flow = replace(next(flow for flow in stage.flows if flow.name == name), layout=layout)
        (row,) = FlowRows(flow, stage, sample, tiny.prompts(), seed=0, num_image_tokens=tiny.NUM_CODES).rows([0])
        assert len(row.canvas) == 200 + tiny.NUM_CODES + 3, layout


def test_numbers_depend_on_the_whole_key():
    keys = [("a", 1), ("a", 2), ("b", 1), ("a1",), ("a", 1, 0)]
    assert len({integer(*key) for key in keys}) == len(keys)
    drawn = [uniforms(4, *key) for key in keys]
    assert len(set(drawn)) == len(keys)
    assert all(0 <= x < 1 for row in drawn for x in row)
    assert uniforms(4, "a", 1) == uniforms(4, "a", 1)


def test_a_sample_without_messages_is_plain_text_all_of_it_to_be_learnt():
    class Plain:
        def take(self, indices):
            return [Sample(answer="once upon a time")] * len(indices)

    for layout, length in (("chat", 18), ("lm_chat", 200 + tiny.NUM_CODES + 3)):
        (row,) = rows("text", Plain(), 1, stage=tiny.stage("text", text_length=200), layout=layout)
        assert row.canvas.is_open.all()
        assert len(row.canvas) == length
