"""What a stream sends is final, and all of it is the answer, wherever blocks end."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmada.canvas import split_thinking
from mmada.serve.stream import TextStream, visible

texts = st.lists(
    st.sampled_from(["<think>", "</think>", "<", "think", "</", ">", " ", "\n", "a", "b", "ab", "ß", "\ufffd", "."]), max_size=14
).map("".join)
stops = st.lists(st.sampled_from(["a", "ab", "ba", "b.", "<t", " a", "\n", "aab", "</think>"]), max_size=3)


def sent(text: str, cuts: list[int], stop: list[str], *, plain: bool = False, waits: bool = False) -> tuple[str, str, bool]:
    """Thinking and answer of a stream that is cut into pieces, put together again."""
    stream = TextStream(stop, plain=plain, waits=waits)
    deltas = [stream.push(text[:cut]) for cut in cuts if not stream.shown.stopped]
    deltas.append(stream.push(text, whole=True))
    return "".join(d.thinking for d in deltas), "".join(d.answer for d in deltas), stream.shown.stopped


many = settings(max_examples=10 * settings().max_examples, deadline=None)


@many
@given(texts)
def test_a_whole_text_is_taken_apart_as_offline(text):
    thought = split_thinking(text)
    shown = visible(text, whole=True)
    assert (shown.thinking, shown.answer, shown.stopped) == (thought.thinking, thought.answer, False)


@many
@given(texts, stops, st.lists(st.integers(0, 60), max_size=8), st.booleans())
def test_pieces_put_together_are_the_answer(text, stop, cuts, plain):
    whole = visible(text, stop, whole=True, plain=plain)
    pieces = sent(text, sorted(cuts), stop, plain=plain, waits=True)
    if whole.stopped:
        assert pieces[1:] == (whole.answer, True)
    else:
        assert pieces == (whole.thinking or "", whole.answer, False)


@many
@given(texts, stops, st.lists(st.integers(0, 60), max_size=8))
def test_a_stream_that_does_not_wait_differs_only_where_a_first_tag_is_missing(text, stop, cuts):
    thinking, answer, stopped = sent(text, sorted(cuts), stop)
    assert "<think>" not in answer
    assert "</think>" not in answer
    if "</think>" not in text.partition("<think>")[0]:
        whole = visible(text, stop, whole=True)
        assert (answer, stopped) == (whole.answer, whole.stopped)
        assert stopped or thinking == (whole.thinking or "")


def test_a_thought_without_its_first_tag():
    text = "3 + 4 = 7</think> 7"
    assert sent(text, [3, 9, 12, 18], [], waits=True) == ("3 + 4 = 7", "7", False)  # where thoughts were asked for
    assert sent(text, [], []) == ("3 + 4 = 7", "7", False)  # nothing was sent before
    assert sent(text, [3, 9, 12, 18], []) == ("", "3 + 4 = 7  7", False)  # what was sent cannot be taken back


@many
@given(texts, stops, st.booleans())
def test_what_is_shown_only_grows(text, stop, waits):
    shown = [visible(text[:n], stop, whole=False, waits=waits) for n in range(len(text) + 1)]
    ended = next((i for i, v in enumerate(shown) if v.stopped), len(shown))
    for earlier, later in pairwise(shown[: ended + 1]):
        assert later.answer.startswith(earlier.answer)
        assert (later.thinking or "").startswith(earlier.thinking or "")


@pytest.mark.parametrize(
    ("text", "stop", "answer"),
    [
        ("one. two", ["."], "one"),
        ("one STOP two", ["STOP"], "one"),
        ("abcd", ["abcd", "bc"], "a"),  # "bc" is complete first
        ("  \nx\ny", ["\n"], "x"),  # spaces before the answer are no part of it
        ("ends in ST", ["STOP"], "ends in ST"),
        ("<think>a.b</think> c.d", ["."], "c"),  # stop strings end the answer, not the thinking
    ],
)
def test_stop_strings(text, stop, answer):
    assert visible(text, stop, whole=True).answer == answer
    for cut in range(len(text)):
        assert sent(text, [cut], stop)[1] == answer


def test_nothing_that_may_still_change_is_sent():
    stream = TextStream(["END"])
    assert stream.push("<thi").answer == ""
    assert stream.push("<think>why</th").thinking == "why"
    assert stream.push("<think>why</think> so E").answer == "so"
    assert stream.push("<think>why</think> so EN").answer == ""
    assert stream.push("<think>why</think> so ENough").answer == " ENough"


def test_characters_of_several_tokens_arrive_whole(debug):
    prompts = debug.prompts
    text = "Grüße \U0001f600\U0001f469\u200d\U0001f680 日本 end"
    ids = prompts.encode(text)
    assert len(ids) > len(text)  # bytes: most characters are several tokens
    stream = TextStream()
    pieces = [stream.push(prompts.decode(ids[:n])).answer for n in range(len(ids))] + [stream.push(prompts.decode(ids), whole=True).answer]
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_bytes_that_never_become_a_character_are_kept(debug):
    ids = [debug.prompts.encode("é")[0], *debug.prompts.encode("x"), debug.prompts.encode("é")[0]]
    stream = TextStream()
    pieces = [stream.push(debug.prompts.decode(ids[:n])).answer for n in (1, 2, 3)] + [
        stream.push(debug.prompts.decode(ids), whole=True).answer
    ]
    assert pieces == ["", "\ufffdx", "", "\ufffd"]
