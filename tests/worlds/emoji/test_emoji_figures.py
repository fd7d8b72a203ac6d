"""Numbers of prompts: read in digits and words, and put in place of those that a thought misread."""

import pytest

from mmada.worlds.emoji.natural.figures import as_written, in_digits, left_over, numbers_in


@pytest.mark.parametrize(
    ("prompt", "numbers"),
    [
        ("Seventy-two pages, thirty read.", [72, 30]),
        ("17+25", [17, 25]),
        ("1,000 and 12,345,678 and 3, 4", [1000, 12345678, 3, 4]),
        ("the red one has twenty one", [21]),
        ("eighteen, eighty, eight", [18, 80, 8]),
        ("no number", []),
        ("two hundred plus a hundred and five", [200, 105]),
        ("three thousand two hundred", [3200]),
        ("5kg, 2 km, 3rd, 7pm, $4", [5, 2, 4]),
    ],
)
def test_numbers_are_read_in_digits_and_words(prompt, numbers):
    assert numbers_in(prompt) == numbers


@pytest.mark.parametrize(
    ("prompt", "thought", "meant"),
    [
        ("Seventy-two pages, thirty read", [("", "22"), (", - ", "30")], ["72", "30"]),
        ("5 feet 3 inches, in inches", [("", "5"), (", * ", "12")], ["5", "12"]),
        ("two hundred and three hundred", [("", "20"), (" + ", "300")], ["200", "300"]),
        ("13 coins and 8 more", [("", "12"), (", + ", "8")], ["13", "8"]),
        ("12 eggs and 90 cups", [("", "12"), (", + ", "4")], ["12", "4"]),
        ("what is 123 + 456", [("", "13"), (" + ", "45")], ["123", "456"]),
        ("18 eggs, half of them", [("", "18"), (", / ", "2")], ["18", "2"]),
        ("25 for me, 27 more for you, and all of it", [("", "25"), (", + ", "27"), (", + ", "25")], ["25", "27", "25"]),
        ("Me and Ray brought 12 each, 9 are gone", [("", "12"), (", * ", "2"), (", - ", "9")], ["12", "2", "9"]),
        ("nothing is said here", [("", "7")], ["7"]),
    ],
)
def test_a_number_that_the_prompt_lacks_is_the_one_most_like_it(prompt, thought, meant):
    assert as_written(prompt, thought) == meant


def test_one_number_that_is_left_is_meant_by_the_one_that_is_not_known():
    plan = [("", "12"), (", + ", "2")]
    assert as_written("13 coins and a dozen", plan, is_whole=True) == ["12", "13"]
    assert as_written("13 coins and a dozen", plan) == ["12", "2"]
    assert as_written("13 coins, 15 keys and a dozen", plan, is_whole=True) == ["12", "2"]


def test_digits_that_may_go_on_are_left_alone():
    assert as_written("45 and 13", [("", "4")], is_open=True) == ["4"]
    assert as_written("45 and 13", [("", "4")]) == ["45"]
    assert as_written("45 and 73", [("", "93")], is_open=True) == ["73"]


def test_numbers_of_earlier_turns_are_known():
    assert as_written("and 5 more?", [("", "14"), (", + ", "5")], earlier="I have 14 eggs") == ["14", "5"]
    assert as_written("and 5 more, then 3?", [("", "14")], earlier="I have 14 eggs") == ["14"]


def test_what_a_plan_leaves_out():
    assert left_over("add 3, 4 and 4", ["4", "3"]) == ["4"]
    assert in_digits("two hundred and five, twenty-one") == "205, 21"
