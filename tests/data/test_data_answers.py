"""Answers are taken apart and compared in a plain form."""

import pytest

from mmada.data.answers import NUMBER_WORDS, State, normalise_answer, read_answer


@pytest.mark.parametrize(
    ("text", "state", "think", "answer"),
    [
        ("2", "direct", None, "2"),
        (" a large dog ", "direct", None, "a large dog"),
        ("<think> dog 1, dog 2 -> 2</think> 2", "thought", "dog 1, dog 2 -> 2", "2"),
        ("dog 1 -> 1</think> 1", "thought", "dog 1 -> 1", "1"),
        ("\n<think></think>yes\n", "thought", "", "yes"),
        ("<think> dog 1, dog", "unclosed", "dog 1, dog", ""),
        ("<think> dog 1</think>  ", "empty", "dog 1", ""),
        ("   ", "empty", None, ""),
        ("", "empty", None, ""),
        ("yes <think> dog </think> no", "malformed", None, ""),
        ("<think> a </think> 1 <think> b </think> 2", "malformed", None, ""),
        ("<think> a </think> 1 </think> 2", "malformed", None, ""),
        ("a </think> 1 <think> b", "malformed", None, ""),
    ],
)
def test_reading(text: str, state: State, think: str | None, answer: str) -> None:
    reading = read_answer(text)
    assert (reading.state, reading.think, reading.answer) == (state, think, answer)


@pytest.mark.parametrize(
    ("text", "plain"),
    [("7", "7"), ("The Seven.", "7"), ("Twenty one", "21"), ("an  orange!", "orange"), (".5", ".5"), ("0.5.", "0.5"), ("a the b", "b")],
)
def test_normalising(text, plain):
    assert normalise_answer(text) == plain
    assert normalise_answer(plain) == plain


def test_a_world_may_know_more_forms():
    assert normalise_answer("the middle", {"middle": "center"}) == "center"
    assert (NUMBER_WORDS[0], NUMBER_WORDS[42], len(NUMBER_WORDS)) == ("zero", "forty-two", 100)
