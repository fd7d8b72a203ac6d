"""The calculator of thoughts: it agrees with every thought of training, mends what is wrong, and says nothing of what it does not know."""

import numpy as np
import pytest

from mmada.worlds.emoji import natural
from mmada.worlds.emoji.natural import NATURAL, natural_example
from mmada.worlds.emoji.natural.calculator import BEYOND, completed, doubt_of
from mmada.worlds.emoji.tasks import KINDS, sample


def thoughts(make, num):
    """Prompts with their thoughts and answers."""
    rng = np.random.default_rng(4)
    found = [make(rng) for _ in range(num)]
    return [(example.prompt, example.think, example.answer) for example in found if example.think]


def assert_agrees(prompt, thought, answer):
    """Of any beginning of a right thought it knows how it goes on, or nothing."""
    for stop in range(len(thought) + 1):
        known = completed(prompt, thought[:stop], False)
        if known is not None:
            text, said = known
            assert thought.startswith(text) or text == thought[:stop], (prompt, thought, stop, text)
            assert text.startswith(thought[:stop])
            assert said is None or (text, said) == (thought, answer)
    assert completed(prompt, thought, True) in (None, (thought, answer))


@pytest.mark.parametrize("task", NATURAL)
def test_it_agrees_with_the_thoughts_of_ordinary_english(task, monkeypatch):
    monkeypatch.setattr(natural, "noisy", lambda c, text: text)  # a misspelled number is read before it comes here
    found = thoughts(lambda rng: natural_example(task, rng), 150)
    assert len(found) > 50
    for example in found:
        assert_agrees(*example)


@pytest.mark.parametrize("kind", KINDS)
def test_it_agrees_with_the_thoughts_of_the_grammar(kind):
    for example in thoughts(lambda rng: sample(kind, rng, "train"), 25):
        assert_agrees(*example)


@pytest.mark.parametrize(
    ("written", "known", "answer"),
    [
        ("71 - 34:", "71 - 34: 11 - 4 = 7, 7 - 1 - 3 = 3 = 37", None),
        ("71 - 34: 11 - 4 = 9, 7", "71 - 34: 11 - 4 = 7, 7 - 1 - 3 = 3 = 37", None),
        ("71 - 34: 11 - 4 = 7, 7 - 1 - 3 = 3 = 377", "71 - 34: 11 - 4 = 7, 7 - 1 - 3 = 3 = 37", "37"),
        ("8 + 3: 9 1 11", "8 + 3: 9 1 10 2 11 3 = 11", None),
        ("12 / 4: 4 1 8 2 12 3 16 4 = 4", "12 / 4: 4 1 8 2 12 3 = 3", None),
        ("99 + 99:", "99 + 99: 9 + 9 = 18, 9 + 9 + 1 = 19 = 198", None),
        ("19, + 5, - 3;", "19, + 5, - 3; 19 + 5: 9 + 5 = 14, 1 + 0 + 1 = 2 = 24; 24 - 3: 4 - 3 = 1, 2 - 0 = 2 = 21", "21"),
        ("5, * 2; 5 * 2: 5 1 10 2 = 10; 10 + 1: 11", "5, * 2; 5 * 2: 5 1 10 2 = 10", "10"),
        ("9, Tom: Tom - 2; 9 - 2: 8 1 6", "9, Tom: Tom - 2; 9 - 2: 8 1 7 2 = 7", None),
        ("3 - 9: 2 1", "3 - 9: 9 - 3 = 6 = -6", None),
        ("7 / 2: 2 1", "7 / 2: 3 * 2 = 6, 7 - 6 = 1 = 3 1/2", None),
        ("400 / 8:", "400 / 8: 50 * 8 = 400 = 50", None),
        ("12 * 34: 1", "12 * 34: 12 * 30 = 360, 12 * 4 = 48 = 408", None),
        ("12345 + 1:", "12345 + 1: 5 + 1 = 6, 1234 + 0 = 1234 = 12346", None),
        ("2, - 5, * 3, + 1;", "2, - 5, * 3, + 1; 2 - 5: 5 - 2 = 3 = -3; -3 * 3 = -9; -9 + 1 = -8", "-8"),
        ("4, / 3, * 3;", "4, / 3, * 3; 4 / 3: 1 * 3 = 3, 4 - 3 = 1 = 1 1/3; 1 1/3 * 3 = 4", "4"),
        ("8 / 0: 0", "8 / 0", "Nothing can be divided by 0."),
        ("8, + 1, / 0;", "8, + 1, / 0; 8 + 1: 9 1 = 9; 9 / 0", "Nothing can be divided by 0."),
        ("52, 29: 5", "52, 29: 52 is more", None),
        ("52, 29: 59 is more", "52, 29: 52 is more", None),
        ("52, 29: 29 is more", "52, 29: 29 is less", None),
        ("52, 29: 52 is more; 52 -> no", "52, 29: 52 is more; 52 -> yes", "yes"),
    ],
)
def test_what_is_wrong_is_put_right(written, known, answer):
    assert completed("", written, False) == (known, answer)
    assert completed("", written, True) == (known, answer)


@pytest.mark.parametrize(
    ("thought", "answer"), [("8 + 3: 9 1 10 2 11 3 = 11", "11"), ("52, 29: 52 is more", "52"), ("9, Tom: Tom - 2; 9 - 2: 8 1 7 2 = 7", "7")]
)
def test_a_thought_that_is_closed_has_an_answer(thought, answer):
    assert completed("", thought, False) == (thought, None)
    assert completed("", thought, True) == (thought, answer)


@pytest.mark.parametrize(
    "thought",
    [
        "",
        "greeting",
        "71 - 3",
        "5, 5: 5 is more",
        "top left dog: cat 0",
        "60, 67: 3",
    ],
)
def test_of_what_it_cannot_work_out_it_says_nothing(thought):
    assert completed("", thought, False) is None
    assert completed("", thought, True) is None


@pytest.mark.parametrize(
    ("prompt", "meant"),
    [
        ("Is 52 bigger than 29?", "52 is more"),
        ("52 > 29?", "52 is more"),
        ("which is the smaller one, 52 or 29", "29 is less"),
        ("is 52 below 29", "29 is less"),
        ("what is more small, 52 or 29?", "29 is less"),
    ],
)
def test_the_prompt_says_which_number_is_asked_for(prompt, meant):
    for written in ("52, 29:", "52, 29: 2", "52, 29: 52 is less", "52, 29: 29 is more"):
        assert completed(prompt, written, False) == (f"52, 29: {meant}", None)


@pytest.mark.parametrize(
    "prompt", ["52 or 29?", "Is 52 not larger than 29?", "Isn\u2019t 52 larger than 29?", "which is larger, and which smaller: 52, 29?"]
)
def test_a_prompt_that_does_not_say_so_leaves_it_to_the_model(prompt):
    assert completed(prompt, "52, 29:", False) is None
    assert completed(prompt, "52, 29: 29", False) == ("52, 29: 29 is less", None)


@pytest.mark.parametrize(
    ("prompt", "written", "known"),
    [
        ("Seventy-two pages, thirty read. How many are left?", "22, - 3", "72, - 3"),
        ("13 coins and a dozen", "12, + 3, ", "12, + 13,"),
        ("what do 123 and 456 make", "13 + 4", "123 + 4"),
        ("is 52 larger than 29?", "25, 29: 2", "52, 29: 52 is more"),
    ],
)
def test_numbers_are_those_of_the_prompt(prompt, written, known):
    assert completed(prompt, written, False) == (known, None)


@pytest.mark.parametrize(
    ("prompt", "thought", "doubt"),
    [
        ("12 eggs, 3 broke and 4 came", "12, - 3; 12 - 3: 11 1 10 2 9 3 = 9", "4 of the question is not in"),
        ("add 3, 4, 5 and 6", "3 + 4: 4 1 5 2 6 3 7 4 = 7", "5 and 6 of the question are not in"),
        ("add 3, 4 and 5", "3 + 4: 4 1 5 2 6 3 7 4 = 7; 7 + 5: 8 1 9 2 10 3 11 4 12 5 = 12", None),
        ("of the two numbers 4 and 3, the larger", "4, 3: 4 is more", None),
        ("4 cats and 2 dogs", "top left cat: cat 1", None),
        ("hello, 4", "greeting", None),
    ],
)
def test_a_number_that_a_thought_leaves_out_is_said(prompt, thought, doubt):
    found = doubt_of(prompt, thought)
    assert found is doubt if doubt is None else found.startswith(doubt)


def test_long_sums_fit_into_a_thought():
    thought, answer = completed(" + ".join(map(str, range(1, 11))), "1", False)
    assert (thought[:20], answer) == ("1 + 2 = 3; 3 + 3 = 6", "55")
    assert len(thought) < 200
    assert completed("12 * 12 * 12 * 12", "1", False)[1] == "20736"


@pytest.mark.parametrize(
    ("prompt", "thought", "answer"),
    [
        ("what is 123 + 456", "123 + 456: 3 + 6 = 9, 12 + 45 = 57 = 579", "579"),
        ("1+1+1", "1 + 1: 2 1 = 2; 2 + 1: 3 1 = 3", "3"),
        ("1,200 - 300 = ?", "1200 - 300: 0 - 0 = 0, 120 - 30 = 90 = 900", "900"),
        ("what is 8 x 2 : 4?", "8 * 2: 8 1 16 2 = 16; 16 / 4: 4 1 8 2 12 3 16 4 = 4", "4"),
        ("6 / 0", "6 / 0", "Nothing can be divided by 0."),
    ],
)
def test_a_sum_in_signs_is_certain_as_soon_as_it_is_thought_of(prompt, thought, answer):
    assert completed(prompt, "1", False) == (thought, answer)
    assert completed(prompt, "greeting", False) is None


def test_numbers_that_are_still_being_written_are_left_alone():
    assert completed("45 and 13 more", "4", False) is None
    assert completed("45 and 13 more", "45, + 1", False) is None


def test_what_no_thought_can_work_out_is_said():
    assert completed("what is 12.5 + 3", "12 + 3:", False) == BEYOND
    assert completed("a picture of 12.5 cats", "unknown", False) is None
