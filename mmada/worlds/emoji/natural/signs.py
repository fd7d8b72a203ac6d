"""Sums that prompts write in signs, longer ones in words, and sums that no thought can work out.

expression_of("what is 1,200 + 30?")    [("", 1200), ("+", 30)]
is_beyond("12.5 + 3")                   True: thoughts are about whole numbers, one step after the other
"""

from __future__ import annotations

import re

from mmada.worlds.emoji.natural.figures import LONGEST, in_digits

__all__ = ["expression_of", "is_beyond"]

_MEANT = {"+": "+", "-": "-", "*": "*", "/": "/", "x": "*", "\u00d7": "*", " : ": "/", "\u00f7": "/", "\u2212": "-"}
"""Sign -> operation. A colon without spaces is a time of day."""
_IN_SIGNS = (("multiplied by", "*"), ("divided by", "/"), ("times", "*"), ("plus", "+"), ("minus", "-"))
_MOST_TERMS = 12
_SIGN = rf"(?:\s*[{re.escape(''.join(sign for sign in _MEANT if len(sign) == 1))}]\s*| : )"
_NUMBER = r"(?:[1-9]\d{0,2}(?:,\d{3})+|0|[1-9]\d{0,8})(?!\d)"
_EXPRESSION = re.compile(rf"(?<![\w.,]){_NUMBER}(?:{_SIGN}{_NUMBER})+(?!\w)")
"""Numbers with signs between them."""
_LIST = re.compile(
    rf"\b(?:add(?: up| together)?|sum(?: up)?|(?:the )?(?:sum|total) of|total)\s+({_NUMBER}(?:\s*,\s*{_NUMBER})+\s*,?\s*(?:and|&)\s*{_NUMBER})"
)
_TAUGHT_IN_WORDS = 2
"""numbers of a sum in words that the model sets up itself"""
_DATE = re.compile(r"\d/\d+/\d|\d-\d+-\d")
_GREETED = r"(?:(?:hi|hello|hey|ok|okay|please|pls|and|so|now|then|quick|quickly|dear|there)\b[\s,!.:]*)*"
_ASKED = (
    r"(?:what(?:'?s| is| does| do you get for| number is)?|how (?:much|many)(?: is| does| are)?|calculate|compute|solve|work out|evaluate|find|"
    r"tell me(?: what)?|(?:can|could) you (?:do|calculate|compute|solve|work out|tell me)|try|do)?"
)
_IN_FRONT = re.compile(rf"\W*{_GREETED}{_ASKED}\s*(?:the (?:sum|result|value|answer)(?: of| to)?)?[\s:,]*")
"""What may stand before a sum that is asked for, whole."""
_BEHIND = re.compile(r"(?:(?:is|be|makes?|equals?|please|pls|plz|thanks?|thank you|then|now|for me|dear)\b|[\s=?.,;!])*")
"""What may follow it. "2 + 3 dogs" asks for dogs."""
_BEYOND = re.compile(
    r"(?<!chapter )(?<!section )(?<!version )(?<!at )(?<!until )(?<!\d)\d+\.\d|\d,\d{1,2}\s*[-+*/]|[-+*/]\s*\d+,\d{1,2}\b"
    r"|(?:\d\s*%|\bper ?cent) of\b|[-+*/]\s*\d+\s*%|\^|\*\*|\u221a|\bsqrt\b|\bsquared\b|\bsquare (?:root )?of\b|\bcubed\b|\bto the power\b|\bfactorial\b"
    r"|^\W*\d+!|\d point \d|(?:\b(?:and|plus)|[+]) a (?:half|third|quarter)\b|\b(?:average|mean) of\b|\bremainder (?:of|when|if)\b|\bmod(?:ulo)? \d"
    r"|(?:^|[=(]|\b(?:is|of|plus|minus|times|by|calculate|compute))\s*[-\u2212]\d"
)
"""Decimals, shares, powers, roots, negative numbers and the like."""
_BRACKETED = re.compile(rf"\d{_SIGN}[(\[]\s*\d|\d\s*[)\]]{_SIGN}\d")
"""A sign beside a bracket with a sum in it."""


def is_beyond(prompt: str) -> bool:
    """Whether a prompt asks for what is no chain of steps with whole numbers: fractions, negative numbers, powers, brackets, products in sums."""
    said = prompt.lower()[:LONGEST]
    if _BEYOND.search(in_digits(said)) or _BRACKETED.search(said):
        return True
    return any(_mixes(found[0]) for found in _EXPRESSION.finditer(_in_signs(said)))


def expression_of(prompt: str) -> list[tuple[str, int]] | None:
    """The sum that a prompt asks for in signs, or in words if that has more numbers than thoughts were taught.

    Operations and numbers; the first operation is empty. None if there is none, or anything besides: a number, a noun, a date, more terms than
    are worked out.
    """
    said = prompt.lower()
    if len(said) > LONGEST:
        return None
    in_words = _LIST.sub(lambda found: " + ".join(re.findall(_NUMBER, found[1])), _in_signs(said))
    longer = None if in_words == said else _asked_for(in_words)
    return _asked_for(said) or (longer if longer and len(longer) > _TAUGHT_IN_WORDS else None)


def _asked_for(said: str) -> list[tuple[str, int]] | None:
    """The sum in signs that a text asks for, and nothing else."""
    found = _EXPRESSION.search(said)
    if found is None or _DATE.search(found[0]):
        return None
    if not _IN_FRONT.fullmatch(said[: found.start()]) or not _BEHIND.fullmatch(said[found.end() :]):
        return None
    numbers = [int(number.replace(",", "")) for number in re.findall(_NUMBER, found[0])]
    return list(zip(["", *_operations(found[0])], numbers, strict=True)) if len(numbers) <= _MOST_TERMS else None


def _operations(expression: str) -> list[str]:
    return [_MEANT[sign if sign == " : " else sign.strip()] for sign in re.findall(_SIGN, expression)]


def _mixes(expression: str) -> bool:
    """Whether a product or a quotient follows a sum: it would come first."""
    operations = "".join(_operations(expression))
    first, last = re.search(r"[-+]", operations), max(operations.rfind("*"), operations.rfind("/"))
    return first is not None and first.start() < last


def _in_signs(said: str) -> str:
    """A text with digits and signs for number words and operations."""
    for words, sign in _IN_SIGNS:
        said = re.sub(rf"\b{words}\b", sign, said)
    return in_digits(said)
