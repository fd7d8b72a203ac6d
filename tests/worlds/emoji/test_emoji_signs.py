"""Sums in signs: read where a prompt asks for nothing else, and seen to be beyond whole numbers in a row."""

import time

import pytest

from mmada.worlds.emoji.natural.calculator import completed, doubt_of
from mmada.worlds.emoji.natural.signs import expression_of, is_beyond

BEYOND = """12.5 + 3 | 1,5 + 2 | what is -3 + 5 | 5 minus -3 | 2+3*4 | (2+3)*4 | 2*(3+4) | 20% of 50 | 5! | 2^5 | square root of 16 | 1/2 + 1/4
3 plus 4 times two | two and a half plus one | 200 + 10% | three point five | the average of 4 and 8 | 5 + 3 + a half"""
WITHIN = """3 - 9 | 2 * 3 + 4 | 1,000 + 5 | 12 x 3 | Add 3, 4 and 5! | Quick, 8 plus 14! | 60 square meters | 16 percent, 3 more | 7 -3 | Hi :) 3 + 4 | a) 3 + 4
(hi) what is 3 + 4 | I ate 2-3 apples at 7:30 and 4 at 8:00 | What is 2 + 3? And what is 4 * 5? | At this point Tom has 3 | 3 point guards
on average each of 4 kids has 3 | add 3,4 | 1,2,3: sum? | Chapter 2.3 has 12 pages, I read 5 | At 7.30 I had 5 and ate 2 | halfway point of"""
OTHERS = """is 2 + 3 more than 4 | two plus two | I want 2 + 3 dogs | How much is 2 + 3? Draw that many. | My train leaves at 10:30. | Today is 12/24/2025.
12/24/2025 | open 24/7 now | My phone number is 555-1234 | The score was 3-2. How many goals in all? | I bought a 2x4. | 2 + 3 + 4kg
half of 4 + 6 | 2x + 3 + 4 | John 3:16 | 1+1+1+1+1+1+1+1+1+1+1+1+1"""


def said(lines):
    return [line.strip() for line in lines.replace("\n", "|").split("|")]


@pytest.mark.parametrize("prompt", said(BEYOND))
def test_other_than_whole_numbers_in_a_row_is_beyond_thoughts(prompt):
    assert is_beyond(prompt)


@pytest.mark.parametrize("prompt", said(WITHIN))
def test_whole_numbers_in_a_row_are_not(prompt):
    assert not is_beyond(prompt)


@pytest.mark.parametrize(
    ("prompt", "expression"),
    [
        ("what is 1,200 + 30 \u2212 4?", [("", 1200), ("+", 30), ("-", 4)]),
        ("12x3", [("", 12), ("*", 3)]),
        ("12 : 4 =", [("", 12), ("/", 4)]),
        ("Hello there! How much is 3 + 4, please?", [("", 3), ("+", 4)]),
        ("Tell me what 2 * 9 - 8 is.", [("", 2), ("*", 9), ("-", 8)]),
        ("the result of 5 + 3!", [("", 5), ("+", 3)]),
    ],
)
def test_a_sum_in_signs_is_read(prompt, expression):
    assert expression_of(prompt) == expression


@pytest.mark.parametrize(
    ("prompt", "result"),
    [
        ("add 3, four and 5", "12"),
        ("What is the sum of 3, 5, and nine?", "17"),
        ("seven times eight minus three, please", "53"),
        ("total 1, 2, 3 and 4", "10"),
    ],
)
def test_longer_sums_in_words_than_were_taught_are_read(prompt, result):
    assert completed(prompt, "3", False)[1] == result


@pytest.mark.parametrize(
    "prompt", ["add 3 and 4", "add 3, 4 and 5 to 10", "I add 3, 4 and 5 eggs", "2 + 3? And 4 plus 5 plus 6?", "sum 8 9"]
)
def test_shorter_or_other_sums_in_words_are_left_to_the_model(prompt):
    assert expression_of(prompt) is None


@pytest.mark.parametrize("prompt", said(OTHERS))
def test_what_only_looks_like_a_sum_is_left_to_the_model(prompt):
    assert expression_of(prompt) is None


@pytest.mark.parametrize("piece", ["1+", "(", "9", " ", ",", "two ", "1 : ", "hi ", "hundred ", "a hundred and "])
def test_hostile_prompts_are_read_quickly(piece):
    prompt = piece * (100_000 // len(piece))
    begun = time.perf_counter()
    completed(prompt, "12, + 4; ", False)
    doubt_of(prompt, "12, + 4; ")
    assert time.perf_counter() - begun < 0.5
