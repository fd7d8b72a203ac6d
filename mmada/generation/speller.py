"""Misspelled words of a prompt, read as the words that a checkpoint was taught.

    speller = Speller({"apples": 90, "kitten": 30}, {"car", "kitchen"})
    speller.read("Sven has 6 aples and a kiten")      "Sven has 6 apples and a kitten", (("aples", "apples"), ("kiten", "kitten"))

A word is misspelled if no list has it, and one taught word is clearly the best at an edit distance of one. That is a letter too few, too many or
another one, or two neighbors exchanged (Damerau 1964). Candidates are found by what is left of both words without one letter (SymSpell, Garbe 2012).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property

__all__ = ["Correction", "Speller", "corrections_said", "edit_of", "without_a_letter"]

Correction = tuple[str, str]
"""A word as it was written, and as it was read."""

_WORD = re.compile(r"(?<![\w@#/\\.'\u2019])[^\W\d_]+(?:(?=['\u2019]s\b)|(?!['\u2019]?[\w@/\\]|\.\w))")
"""Letters that are no part of an address, a name with digits or a contraction; of a possessive, what stands before it."""
_SENTENCE_ENDS = ".!?:;\u2026\"'\u201c\u201d()[]\u2013\u2014*\n"
_LEAST_LETTERS = 4
"""Shorter words have too many neighbors."""
_CLEARLY = 1.0
"""How much likelier than the second the best candidate must be, in nats."""
_RARE_SLIP = 1.5
"""How much less likely a letter too many or another letter is than one left out, one doubled or two exchanged, in nats."""

_SHOWN = 6
"""Words that are named in a warning."""


class Speller:
    """taught: word -> how often training had it. known: other words that are no misspellings. All in lower case."""

    def __init__(self, taught: Mapping[str, int], known: Collection[str]) -> None:
        self._taught, self._known = taught, frozenset(known) | taught.keys()

    @cached_property
    def _remains(self) -> Mapping[str, list[str]]:
        """What is left of a known word -> such words. Known words compete with the taught ones, though nothing is read as them."""
        found: dict[str, list[str]] = {}
        for word in self._known:
            for rest in without_a_letter(word) if len(word) >= _LEAST_LETTERS - 1 else ():
                found.setdefault(rest, []).append(word)
        return found

    def read(self, text: str) -> tuple[str, tuple[Correction, ...]]:
        """A text with its misspelled words as they are read, and what was read otherwise than it was written, each once.

        Names stay: a word with a capital inside a sentence is one. A text most of whose words are not known is in another language, and stays.
        """
        words = [match for match in _WORD.finditer(text) if len(match.group()) >= _LEAST_LETTERS]
        strange = [match for match in words if match.group().lower() not in self._known]
        if not strange or len(strange) > max(2, len(words) // 2):
            return text, ()
        capitals = Counter(match.group() for match in strange if not match.group().islower())
        found: dict[str, str] = {}
        for match in strange:
            word = match.group()
            if word in found or not (
                word.islower() or (capitals[word] == 1 and word == word.capitalize() and _begins(text, match.start()))
            ):
                continue
            read = self._nearest(word.lower(), may_be_name=not word.islower())
            if read is not None:
                found[word] = read if word.islower() else read.capitalize()
        return _WORD.sub(lambda match: found.get(match.group(), match.group()), text), tuple(found.items())

    def _nearest(self, word: str, *, may_be_name: bool) -> str | None:
        """The taught word that is clearly meant by one that is not known; None if none is, or several are. Names differ by any letter: "Sama"."""
        near = {
            other for rest in without_a_letter(word) for other in self._remains.get(rest, ()) if other[0] == word[0] and "'" not in other
        }
        costs = {other: cost for other in near if (cost := edit_of(word, other)) is not None}
        best = sorted(((math.log(self._taught.get(other, 1)) - cost, other) for other, cost in costs.items()), reverse=True)
        if not best or (len(best) > 1 and best[0][0] - best[1][0] < _CLEARLY):
            return None
        found = best[0][1]
        return None if found not in self._taught or (may_be_name and costs[found]) else found


def corrections_said(corrections: Sequence[Correction]) -> str | None:
    """What was read otherwise than it was written, as a sentence; None if nothing was."""
    shown = ", ".join(f'"{written}" as "{read}"' for written, read in corrections[:_SHOWN])
    more = f", and {len(corrections) - _SHOWN} more" if len(corrections) > _SHOWN else ""
    return f"I read {shown}{more}." if corrections else None


def without_a_letter(word: str) -> Iterator[str]:
    """A word, and what is left of it without one letter."""
    yield word
    yield from {word[:i] + word[i + 1 :] for i in range(len(word))}


def edit_of(written: str, meant: str) -> float | None:
    """What one slip from a word to another costs, in nats; None if more than one is needed."""
    start = next((i for i, pair in enumerate(zip(written, meant, strict=False)) if pair[0] != pair[1]), min(len(written), len(meant)))
    one, other = written[start:], meant[start:]
    if len(one) + 1 == len(other):
        return 0.0 if one == other[1:] else None
    if len(one) == len(other) + 1:
        is_doubled = start > 0 and one[:1] == written[start - 1]
        return None if one[1:] != other else 0.0 if is_doubled else _RARE_SLIP
    if len(one) != len(other) or not one:
        return None
    if one[1:] == other[1:]:
        return _RARE_SLIP
    return 0.0 if one[:2] == other[1::-1] and one[2:] == other[2:] else None


def _begins(text: str, at: int) -> bool:
    """Whether a sentence begins at a letter of a text."""
    before = text[max(0, at - 4) : at].rstrip(" \u00a0")
    return not before or before[-1] in _SENTENCE_ENDS
