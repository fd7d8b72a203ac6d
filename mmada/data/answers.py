"""Text answers: taken apart into thoughts and answer, and brought into a plain form in which they are compared.

reading = read_answer("<think> 3 + 4 = 7</think> 7")     state "thought", think and answer apart
normalise_answer("The Seven.")                           "7"
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["NUMBER_FORMS", "NUMBER_WORDS", "Reading", "State", "normalise_answer", "read_answer"]

State: TypeAlias = Literal["direct", "thought", "unclosed", "empty", "malformed"]

_BELOW_TEN = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TEENS = ("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
NUMBER_WORDS = (*_BELOW_TEN, *_TEENS, *(f"{ten}-{unit}".removesuffix("-zero") for ten in _TENS for unit in _BELOW_TEN))
"""0..99 in words."""
_DIGITS = {word: str(number) for number, word in enumerate(NUMBER_WORDS)}
NUMBER_FORMS: Mapping[str, str] = _DIGITS | {word.replace("-", " "): number for word, number in _DIGITS.items()}
"""Number word, with or without its hyphen -> digits."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A model's text, taken apart."""

    state: State
    """direct: an answer without thoughts; thought: thoughts, then an answer; unclosed: <think> without end; empty: no answer is left;
    malformed: tags repeated or out of order"""
    think: str | None
    answer: str
    """what stands outside the thoughts; empty unless the state is "direct" or "thought" """


def read_answer(text: str) -> Reading:
    """Take thoughts and answer apart. The opening tag may be missing, as it is when the prompt already gave it."""
    opened, closed = text.count("<think>"), text.count("</think>")
    if opened > 1 or closed > 1:
        return Reading("malformed", None, "")
    if not opened and not closed:
        answer = text.strip()
        return Reading("direct" if answer else "empty", None, answer)
    before, _, after = text.rpartition("<think>")
    if before.strip() or "</think>" in before:
        return Reading("malformed", None, "")
    think, _, answer = (part.strip() for part in after.partition("</think>"))
    if not closed:
        return Reading("unclosed", think, "")
    return Reading("thought" if answer else "empty", think, answer)


def normalise_answer(text: str, forms: Mapping[str, str] = NUMBER_FORMS) -> str:
    """An answer in its plainest form: lower case, no article or final punctuation, digits for number words.

    forms  other way to say it -> plain form; a world may know more of them
    """
    plain = re.sub(r"\s+", " ", text.lower()).strip(" \"'").rstrip(" .,!?;:\"'")  # a point in front belongs to a number
    plain = forms.get(plain, plain)
    for word in ("a ", "an ", "the "):
        plain = plain.removeprefix(word)
    return forms.get(plain, plain)
