"""Numbers as prompts write them, and those that a thought misread or left out.

numbers_in("two hundred and five eggs, 1,200 nuts")                                [205, 1200]
as_written("Seventy-two pages, thirty read", [("", "22"), (", - ", "30")])         ["72", "30"]
left_over("add 3, 4 and 5", ["3", "4"])                                            ["5"]
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from functools import cache, partial

from mmada.data.answers import NUMBER_FORMS

__all__ = ["LONGEST", "as_written", "in_digits", "left_over", "numbers_in"]

LONGEST = 2000
"""letters of a prompt that is looked into"""
_ALIKE = 0.5
"""similarity from which a number of the prompt may be meant by another one of a thought"""
_NOT_COUNTED = ("one", "zero")
"""words that may stand for no number: "the red one\""""
_IMPLIED = {
    "half|halves?|halved": (2,), "twice|doubles?|doubled|again": (2,), "pairs?|couples?|twins|both": (2,), "same|evenly|equally|fair|as many": (2,),
    "each way|there and back|morning and night": (2,), "fifty[ -]fifty": (2,), "thrice|triples?|tripled|third": (3,), "quarters?": (4,),
    "weeks?|weekly|days?|daily": (7, 24), "dozens?|feet|foot|inch(?:es)?": (12,), "months?|years?": (12,), "hours?|minutes?|seconds?": (60, 24),
    "hundreds?|cents?|percent|cm|centimeters?|meters?": (100,), "a|an|one|next|before|after": (1,), "zero|nothing|none|no": (0,),
    "legs|wheels|corners|sides": (2, 3, 4, 6, 8),
}  # fmt: skip
"""Words -> numbers that they may stand for."""
_HALVED = (", * ", ", / ")
"""What stands in plans before a 2 that stories have in many ways: two people, both ways."""
_UNITS = r"(?:kg|g|km|cm|mm|m|l|ml|lbs?|oz|ft|h|hrs?|mins?)?"


@cache
def _numbers() -> re.Pattern[str]:
    words = "|".join(map(re.escape, sorted(NUMBER_FORMS, key=len, reverse=True)))
    plain = rf"(?:\d{{1,3}}(?:,\d{{3}})+(?!\d)|\d{{1,9}}(?!\d)|(?:{words})\b)"
    hundreds = rf"(?:{plain}|a) hundred\b(?:(?: and)? {plain}(?! hundred))?"
    thousands = rf"(?:{hundreds}|{plain}|a) thousand\b(?:(?: and)? (?:{hundreds}|{plain}))?"
    return re.compile(rf"(?<![\w.,])(?:{thousands}|{hundreds}|{plain})(?={_UNITS}(?!\w))")


def numbers_in(prompt: str) -> list[int]:
    """The numbers that a prompt names, in digits or in words, in their order."""
    said = prompt.lower()[:LONGEST]
    return [_value(found[0]) for found in _numbers().finditer(said) if found[0] not in _NOT_COUNTED]


def in_digits(said: str) -> str:
    """A text with digits for its number words."""
    return _numbers().sub(lambda found: str(_value(found[0])), said)


def _value(said: str) -> int:
    for word, worth in (("thousand", 1000), ("hundred", 100)):
        before, is_there, behind = said.partition(f" {word}")
        if is_there:
            return worth * _value(before) + (_value(behind.strip().removeprefix("and ")) if behind.strip() else 0)
    return 1 if said == "a" else int(NUMBER_FORMS.get(said, said.replace(",", "")))


def as_written(
    prompt: str, parts: Sequence[tuple[str, str]], *, is_open: bool = False, is_whole: bool = False, earlier: str = ""
) -> list[str]:
    """The numbers of a plan. One that the prompt does not name is that of the prompt which is most like it, of those that are left.

    It stays as it is if none is like it: stories have numbers in more ways than words that are known here. In a whole plan one
    alone that is not known, where one alone is left, needs no likeness.

    parts     what stands between two numbers, such as ", - ", and the number behind it, in digits
    is_open   whether digits of the last number may follow
    is_whole  whether no number follows
    earlier   what was said before the prompt
    """
    named = [str(number) for number in numbers_in(prompt)]
    known = {*named, *_implied_by(prompt.lower()[:LONGEST]), *map(str, numbers_in(earlier))}
    found = [number for _, number in parts]
    left = left_over(prompt, found)
    begun = {len(parts) - 1} if is_open and any(other.startswith(found[-1]) for other in known) else set()
    misread = [
        i for i, (between, number) in enumerate(parts) if not (number in known or (number == "2" and between in _HALVED) or i in begun)
    ]
    is_clear = is_whole and len(misread) == len(left) == 1
    for i in misread:
        meant = max(left, key=partial(_likeness, found[i]), default="")
        if is_clear or _likeness(found[i], meant) >= _ALIKE:
            found[i] = meant
            left.remove(meant)
    return found


def _likeness(number: str, other: str) -> float:
    return SequenceMatcher(a=number, b=other, autojunk=False).ratio()


def left_over(prompt: str, numbers: Sequence[str]) -> list[str]:
    """Numbers of a prompt that a plan with these numbers, in digits, does not use."""
    left = [str(number) for number in numbers_in(prompt)]
    for number in numbers:
        if number in left:
            left.remove(number)
    return left


def _implied_by(said: str) -> set[str]:
    return {str(number) for words, meant in _IMPLIED.items() if re.search(rf"\b(?:{words})\b", said) for number in meant}
