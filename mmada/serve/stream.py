"""What of a growing text may be sent: append-only, so that the pieces put together are the whole answer.

    tokens final so far -> text, without a character of which bytes are missing
                        -> thinking | answer, without what may still become a tag
                        -> without spaces at the ends, and without what may still become a stop string

`visible` is a function of the text alone, so where blocks end does not matter; `TextStream` sends what it adds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mmada.canvas.prompts import around_thinking, without_tags

__all__ = ["Delta", "TextStream", "Visible", "visible"]

_OPEN, _CLOSE = "<think>", "</think>"
_BROKEN = "\ufffd"
"""What bytes that are no whole character decode to."""


@dataclass(frozen=True, slots=True)
class Visible:
    """What may be shown. thinking is None if there is none; stopped tells that a stop string ended the answer."""

    thinking: str | None
    answer: str
    stopped: bool


@dataclass(frozen=True, slots=True)
class Delta:
    """What a stream adds: a piece of thinking, a piece of the answer."""

    thinking: str
    answer: str

    def __bool__(self) -> bool:
        return bool(self.thinking or self.answer)


def visible(text: str, stop: Sequence[str] = (), *, whole: bool, plain: bool = False, waits: bool = True) -> Visible:
    """Take "<think> … </think> answer" apart as canvas.prompts.split_thinking does, as far as it is certain.

    whole  nothing follows, so nothing is held back; else the text is what is final of a longer one
    plain  a text without thinking, whose spaces count: what fills a hole
    waits  nothing is an answer before a tag or the end has come, since a lone </think> makes it a thought. False: what stands before such a tag
           is the answer, and the tag alone is left out
    Of several stop strings that one counts that is complete first; it and what follows are left out.
    """
    if not whole:
        text = text.rstrip(_BROKEN)
    if plain:
        return Visible(None, *_until_stop(text, stop, whole=whole, plain=True))
    before, opened, rest = text.partition(_OPEN)
    if _CLOSE in before:
        thinking, _, answer = text.partition(_CLOSE)
        if waits:
            return Visible(without_tags(thinking).strip(), *_until_stop(_certain(answer, whole=whole), stop, whole=whole))
        return Visible(None, *_until_stop(_certain(text, whole=whole), stop, whole=whole))
    if not opened:
        if waits and not whole:
            return Visible(None, "", stopped=False)
        return Visible(None, *_until_stop(_certain(before, whole=whole), stop, whole=whole))
    thinking, closed, answer = rest.partition(_CLOSE)
    if not closed:
        return Visible(_certain(thinking, whole=whole).strip(), *_until_stop(around_thinking(before, ""), stop, whole=whole))
    answer = around_thinking(before, answer if whole else _without_beginning_of(answer, [_OPEN, _CLOSE]))
    return Visible(without_tags(thinking).strip(), *_until_stop(answer, stop, whole=whole))


def _certain(text: str, *, whole: bool) -> str:
    """Without tags, and without what may still become one."""
    text = without_tags(text)
    return text if whole else _without_beginning_of(text, [_OPEN, _CLOSE])


class TextStream:
    """Sends a growing text in pieces.

    waits  as for `visible`: for texts that were asked to begin with a thought, and that nobody reads as they grow
    """

    def __init__(self, stop: Sequence[str] = (), *, plain: bool = False, waits: bool = False) -> None:
        self._stop, self._plain, self._waits = tuple(stop), plain, waits
        self.shown = Visible(None, "", stopped=False)

    def push(self, text: str, *, whole: bool = False) -> Delta:
        """What is new, now that `text` is final; `whole` if nothing follows."""
        if self.shown.stopped:
            return Delta("", "")
        waits = self._waits or (whole and not self.shown.answer)  # nothing was sent that might have been a thought
        last, now = self.shown, visible(text, self._stop, whole=whole, plain=self._plain, waits=waits)
        assert now.answer.startswith(last.answer)
        assert (now.thinking or "").startswith(last.thinking or "")
        self.shown = now
        return Delta((now.thinking or "")[len(last.thinking or "") :], now.answer[len(last.answer) :])


def _until_stop(text: str, stop: Sequence[str], *, whole: bool, plain: bool = False) -> tuple[str, bool]:
    """The text up to the stop string that is complete first, and whether there is one."""
    if not plain:
        text = text.lstrip()
    found = [(text.find(s) + len(s), text.find(s)) for s in stop if s in text]
    if found:
        text = text[: min(found)[1]]
    elif not whole:
        text = _without_beginning_of(text, stop)
    return (text if plain else text.rstrip()), bool(found)


def _without_beginning_of(text: str, strings: Iterable[str]) -> str:
    """Without the longest end that is the beginning of one of the strings."""
    longest = max((_overlap(text, string) for string in strings), default=0)
    return text[: len(text) - longest]


def _overlap(text: str, string: str) -> int:
    """Length of the longest end of the text that is a beginning of the string, and not all of it. Linear in the shorter of the two.

    It is the last value of the prefix function of Knuth, Morris and Pratt over string + text.
    """
    end = text[max(0, len(text) - len(string) + 1) :]
    beginning = string[: len(end)]
    if not set(end).intersection(beginning[:1]):
        return 0
    borders = [0] * len(beginning)
    """of beginning[: i + 1], the longest end that is a beginning as well"""
    length = 0
    for i, letter in enumerate(beginning[1:], 1):
        length = _longer(beginning, borders, length, letter)
        borders[i] = length
    length = 0
    for letter in end:
        length = _longer(beginning, borders, length, letter)
    return length


def _longer(beginning: str, borders: list[int], length: int, letter: str) -> int:
    """How much of the beginning ends with a letter, where `length` of it ended before."""
    while length and (length == len(beginning) or beginning[length] != letter):
        length = borders[length - 1]
    return length + (beginning[length] == letter)
