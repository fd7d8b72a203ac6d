"""What of a growing text may be sent: append-only, so that the pieces put together are the whole answer.

    tokens final so far -> text, without a character of which bytes are missing
                        -> thinking | answer, without what may still become a tag
                        -> without spaces at the ends, and without what may still become a stop string

`visible` is a function of the text alone, so where blocks end does not matter; `TextStream` sends what it adds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

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


def visible(text: str, stop: Sequence[str] = (), *, whole: bool, plain: bool = False) -> Visible:
    """Take "<think> … </think> answer" apart as prompt.split_thinking does, as far as it is certain.

    whole  nothing follows, so nothing is held back; else the text is what is final of a longer one
    plain  a text without thinking, whose spaces count: what fills a hole
    Of several stop strings that one counts that is complete first; it and what follows are left out.
    """
    if not whole:
        text = text.rstrip(_BROKEN)
    if plain:
        return Visible(None, *_until_stop(text, stop, whole=whole, plain=True))
    before, opened, rest = text.partition(_OPEN)
    if not opened:
        certain = before if whole else _without_beginning_of(before, [_OPEN])
        return Visible(None, *_until_stop(certain, stop, whole=whole))
    thinking, closed, answer = rest.partition(_CLOSE)
    if not closed:
        certain = thinking if whole else _without_beginning_of(thinking, [_CLOSE])
        return Visible(certain.strip(), *_until_stop(before, stop, whole=whole))
    return Visible(thinking.strip(), *_until_stop(before + answer, stop, whole=whole))


class TextStream:
    """Sends a growing text in pieces."""

    def __init__(self, stop: Sequence[str] = (), *, plain: bool = False) -> None:
        self._stop, self._plain = tuple(stop), plain
        self.shown = Visible(None, "", stopped=False)

    def push(self, text: str, *, whole: bool = False) -> Delta:
        """What is new, now that `text` is final; `whole` if nothing follows."""
        if self.shown.stopped:
            return Delta("", "")
        last, now = self.shown, visible(text, self._stop, whole=whole, plain=self._plain)
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
    longest = max((n for s in strings for n in range(1, len(s)) if text.endswith(s[:n])), default=0)
    return text[: len(text) - longest]
