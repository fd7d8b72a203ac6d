"""Numbers of prompts: read in digits and words, put in place of those that a thought misread, and seen to be beyond whole numbers."""

import pytest

from mmada.worlds.emoji.natural.figures import as_written, expression_of, is_beyond, numbers_in


@pytest.mark.parametrize(
    ("prompt", "numbers"),
    [
        ("Seventy-two pages, thirty read.", [72, 30]),
        ("17+25", [17, 25]),
        ("1,000 and 12,345,678 and 3, 4", [1000, 12345678, 3, 4]),
        ("the red one has twenty one", [21]),
        ("eighteen, eighty, eight", [18, 80, 8]),
        ("no number", []),
    ],
)
def test_numbers_are_read_in_digits_and_words(prompt, numbers):
    assert numbers_in(prompt) == numbers


@pytest.mark.parametrize(
    ("prompt", "thought", "meant"),
    [
        ("Seventy-two pages, thirty read", [("", "22"), (", - ", "30")], ["72", "30"]),
        ("13 coins and a dozen", [("", "12"), (", + ", "2")], ["12", "13"]),
        ("what is 123 + 456", [("", "13"), (" + ", "45")], ["123", "456"]),
        ("18 eggs, half of them", [("", "18"), (", / ", "2")], ["18", "2"]),
        ("25 for me, 27 more for you, and all of it", [("", "25"), (", + ", "27"), (", + ", "25")], ["25", "27", "25"]),
        ("Me and Ray brought 12 each, 9 are gone", [("", "12"), (", * ", "2"), (", - ", "9")], ["12", "2", "9"]),
        ("nothing is said here", [("", "7")], ["7"]),
    ],
)
def test_a_number_that_the_prompt_lacks_is_the_one_most_like_it(prompt, thought, meant):
    assert as_written(prompt, thought) == meant


def test_digits_that_may_go_on_are_left_alone():
    assert as_written("45 and 13", [("", "4")], is_open=True) == ["4"]
    assert as_written("45 and 13", [("", "4")]) == ["45"]
    assert as_written("45 and 13", [("", "7")], is_open=True) == ["45"]


def test_a_sum_in_signs_is_read_where_the_prompt_has_no_other_number():
    assert expression_of("what is 1,200 + 30 \u2212 4?") == [("", 1200), ("+", 30), ("-", 4)]
    assert expression_of("12x3:4") == [("", 12), ("*", 3), ("/", 4)]
    assert expression_of("is 2 + 3 more than 4") is None
    assert expression_of("two plus two") is None
    assert expression_of("I want 2 + 3 dogs") is None
    assert expression_of("How much is 2 + 3? Draw that many.") is None


def test_numbers_of_earlier_turns_are_known():
    assert as_written("and 5 more?", [("", "14"), (", + ", "5")], earlier="I have 14 eggs") == ["14", "5"]
    assert as_written("and 5 more, then 3?", [("", "14")], earlier="I have 14 eggs") == ["14"]


@pytest.mark.parametrize(
    "prompt",
    [
        "12.5 + 3",
        "1,5 + 2",
        "what is -3 + 5",
        "5 minus -3",
        "2+3*4",
        "(2+3)*4",
        "2*(3+4)",
        "20% of 50",
        "5!",
        "2^5",
        "square root of 16",
        "1/2 + 1/4",
        "3 plus 4 times two",
        "two and a half plus one",
    ],
)
def test_other_than_whole_numbers_in_a_row_is_beyond_thoughts(prompt):
    assert is_beyond(prompt)


@pytest.mark.parametrize(
    "prompt",
    ["3 - 9", "2 * 3 + 4", "1,000 + 5", "12 x 3", "Add 3, 4 and 5!", "Quick, 8 plus 14!", "60 square meters", "16 percent, 3 more", "7 -3"],
)
def test_whole_numbers_in_a_row_are_not(prompt):
    assert not is_beyond(prompt)
