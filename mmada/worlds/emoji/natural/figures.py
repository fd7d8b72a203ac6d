"""Numbers as prompts write them, and what of them a thought may have misread.

as_written("Seventy-two pages, thirty read. pages to go?", [("", "22"), (", - ", "30")])    ["72", "30"]
is_beyond("12.5 + 3")    True: thoughts are about whole numbers, one step after the other
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from functools import cache

from mmada.data.answers import NUMBER_FORMS

__all__ = ["as_written", "expression_of", "is_beyond", "numbers_in"]

_NOT_COUNTED = ("one", "zero")
"""words that may stand for no number: "the red one\""""
_IMPLIED = {
    "half|halves?|halved": (2,), "twice|doubles?|doubled|again": (2,), "pairs?|couples?|twins|both": (2,), "same|evenly|equally|fair|as many": (2,),
    "each way|there and back|morning and night": (2,), "fifty[ -]fifty": (2,), "thrice|triples?|tripled|third": (3,), "quarters?": (4,),
    "weeks?|weekly|days?|daily": (7, 24), "dozens?": (12,), "months?|years?": (12,), "hours?|minutes?|seconds?": (60, 24),
    "hundreds?|cents?|percent|cm|centimeters?|meters?": (100,), "a|an|one|next|before|after": (1,), "zero|nothing|none|no": (0,),
}  # fmt: skip
"""Words -> numbers that they may stand for."""
_HALVED = (", * ", ", / ")
"""What stands in plans before a 2 that stories have in many ways: two people, both ways."""
_BEYOND = re.compile(
    r"\d[.,]\d(?!\d\d\b)|(?:\d\s*%|\bper ?cent) of\b|\^|\*\*|\u221a|\bsqrt\b|\bsquared\b|\bsquare (?:root )?of\b|\bcubed\b|\bto the power\b|\bfactorial\b"
    r"|\band a (?:half|third|quarter)\b|\bpoint\b \w+|\baverage\b|\bmean of\b|\bremainder\b|\bmodulo\b|\bprime\b"
    r"|^\W*\d+!|(?:^|[=(]|\b(?:is|of|plus|minus|times|by|calculate|compute))\s*[-\u2212]\d"
)
_SIGN = r"[-+*/x:\u00d7\u00f7\u2212]"
_NUMBER = r"(?:\d{1,3}(?:,\d{3})+|\d{1,9})"
_MEANT = {"x": "*", "\u00d7": "*", ":": "/", "\u00f7": "/", "\u2212": "-"}
_SIGNS = re.compile(rf"\d\s*({_SIGN})\s*(?=\d)")
_EXPRESSION = re.compile(rf"(?<![\w.,]){_NUMBER}(?:\s*{_SIGN}\s*{_NUMBER})+(?![\w])")
_BEHIND = re.compile(r"\s*(?:$|[^\w\s]|(?:is|be|makes?|equals?|please|pls|plz|thanks?|then|now|for me|dear)\b)")
"""What may follow a sum that is asked for. "2 + 3 dogs" asks for dogs."""
_DRAWS = re.compile(r"\b(?:draw|paint|sketch|picture|image)")
_BRACKETED = re.compile(rf"[()\[\]][^()\[\]]*\d\s*{_SIGN}\s*\d|\d\s*{_SIGN}\s*[(\[]\s*\d")
_IN_SIGNS = (("multiplied by", "*"), ("divided by", "/"), ("times", "*"), ("plus", "+"), ("minus", "-"))


@cache
def _numbers() -> re.Pattern[str]:
    words = sorted(NUMBER_FORMS, key=len, reverse=True)
    return re.compile(rf"(?<![\w.,])(?:(\d{{1,3}}(?:,\d{{3}})+)|(\d+)|({'|'.join(map(re.escape, words))}))(?![\w])")


def numbers_in(prompt: str) -> list[int]:
    """The numbers that a prompt names, in digits or in words, in their order."""
    found = []
    for grouped, digits, word in _numbers().findall(f" {prompt.lower()}"):
        if word not in _NOT_COUNTED:
            found.append(int(grouped.replace(",", "") or digits or NUMBER_FORMS[word]))
    return found


def as_written(prompt: str, parts: Sequence[tuple[str, str]], *, is_open: bool = False, earlier: str = "") -> list[str]:
    """The numbers of a plan. One that the prompt does not name is that of the prompt which is most like it, of those that are left.

    parts    what stands between two numbers, such as ", - ", and the number behind it, in digits
    is_open  whether digits of the last number may follow
    earlier  what was said before the prompt
    """
    left = list(named := [str(number) for number in numbers_in(prompt)])
    known = {*named, *_implied_by(prompt.lower()), *map(str, numbers_in(earlier))}
    found = [number for _, number in parts]
    for number in found:
        if number in left:
            left.remove(number)
    for i, (between, number) in enumerate(parts):
        begins = is_open and i == len(parts) - 1 and any(other.startswith(number) for other in known)
        is_said = number in known or (number == "2" and between in _HALVED)
        if not is_said and not begins and left:
            found[i] = max(left, key=lambda other: SequenceMatcher(a=number, b=other, autojunk=False).ratio())
            left.remove(found[i])
    return found


def _implied_by(said: str) -> set[str]:
    return {str(number) for words, meant in _IMPLIED.items() if re.search(rf"\b(?:{words})\b", said) for number in meant}


def is_beyond(prompt: str) -> bool:
    """Whether a prompt asks for what is no chain of steps with whole numbers: fractions, negative numbers, powers, brackets, products in sums."""
    said = prompt.lower()
    signs = "".join(_SIGNS.findall(_in_signs(said)))
    return bool(_BEYOND.search(said) or _BRACKETED.search(said) or re.search(r"[-+\u2212].*[*x/:\u00d7\u00f7]", signs))


def _in_signs(said: str) -> str:
    """A text with digits and signs for number words and operations."""
    for words, sign in _IN_SIGNS:
        said = re.sub(rf"\b{words}\b", sign, said)
    return _numbers().sub(lambda match: NUMBER_FORMS.get(match[0], match[0]), said)


def expression_of(prompt: str) -> list[tuple[str, int]] | None:
    """The sum that a prompt writes in signs: signs and numbers, the first sign is empty. None if it has none, or numbers or a noun besides.

    expression_of("what is 1,200 + 30?")    [("", 1200), ("+", 30)]
    """
    said = prompt.lower()
    found = _EXPRESSION.search(said)
    if (
        found is None
        or _DRAWS.search(said)
        or numbers_in(f"{said[: found.start()]} {said[found.end() :]}")
        or not _BEHIND.match(said[found.end() :])
    ):
        return None
    signs = ["", *(_MEANT.get(sign, sign) for sign in _SIGNS.findall(found[0]))]
    return list(zip(signs, (int(number.replace(",", "")) for number in re.findall(_NUMBER, found[0])), strict=True))
