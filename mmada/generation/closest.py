"""The entry of a list that is spelled most like a word: get_close_matches(word, entries, 1, cutoff) of difflib, for lists that stay.

    Closest(("dog", "airplane"), cutoff=0.8).to("airplene")      "airplane"

difflib's ratio is 2 M / T: M letters stand in matching blocks, T are those of both texts. M is at most C, the number of letters in common.
Each text is a set of pairs (letter, how often it stands before), one bit each, so that C is the number of bits in common. Only entries with
enough of them are compared letter by letter, those with the most first, until no other can be better.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import SequenceMatcher
from itertools import groupby

__all__ = ["Closest"]


class Closest:
    """entries: texts; empty ones are left out. cutoff: the least ratio that counts, above 0 and at most 1."""

    def __init__(self, entries: Iterable[str], *, cutoff: float) -> None:
        self._cutoff = cutoff
        self._bits: dict[tuple[str, int], int] = {}
        sized = groupby(sorted({*entries} - {""}, key=len), key=len)
        groups = [(n, [(self._letters(entry, is_new=True), entry) for entry in some]) for n, some in sized]
        longest = groups[-1][0] if groups else 0
        self._groups = {n: tuple(_enough(n, groups, cutoff)) for n in range(int(longest * (2 / cutoff - 1)) + 2)}
        """length of a word -> T, the least C, and the entries, for each length of entries that can reach the cutoff"""

    def to(self, word: str) -> str | None:
        """The entry with the highest ratio, and of several the last in the alphabet; None if none reaches the cutoff."""
        letters, found = self._letters(word), list[tuple[float, str]]()
        for total, least, entries in self._groups.get(len(word), ()):
            found += [(2.0 * common / total, entry) for others, entry in entries if (common := (letters & others).bit_count()) >= least]
        best, matcher = (self._cutoff, ""), SequenceMatcher(None, "", word)
        for bound, entry in sorted(found, reverse=True):
            if bound < best[0]:
                break
            matcher.set_seq1(entry)
            best = max(best, (matcher.ratio(), entry))
        return best[1] or None

    def _letters(self, text: str, *, is_new: bool = False) -> int:
        """The bits of a text. is_new: of an entry, whose letters get bits; others have none in common."""
        seen: dict[str, int] = {}
        bits = 0
        for letter in text:
            seen[letter] = before = seen.get(letter, -1) + 1
            bits |= self._bits.setdefault((letter, before), 1 << len(self._bits)) if is_new else self._bits.get((letter, before), 0)
        return bits


_Entries = list[tuple[int, str]]


def _enough(length: int, groups: Iterable[tuple[int, _Entries]], cutoff: float) -> Iterator[tuple[int, int, _Entries]]:
    for n, entries in groups:
        total = n + length
        least = next((common for common in range(min(n, length) + 1) if 2.0 * common / total >= cutoff), None)
        if least is not None:
            yield total, least, entries
