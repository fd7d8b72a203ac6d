"""The words that a checkpoint was taught to draw from, which it ships as lexicon.json: what else a prompt says, it cannot draw.

lexicon.unknown("a red car and two zeppelins")      ("zeppelins",)
lexicon.sentence(("zeppelins",))                    "I cannot draw: zeppelins. Nearest that I know: airplane, rocket."
lexicon.speller.read("a red caar")                  "a red car", (("caar", "car"),)
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path

from mmada.errors import CheckpointError
from mmada.generation.closest import Closest
from mmada.generation.speller import Correction, Speller

__all__ = ["LEXICON_NAME", "Lexicon"]

LEXICON_NAME = "lexicon.json"
_WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*|[^\w\s]")
_SPELLING = 0.8
"""How alike two words must be for one to be taken for the other, misspelled (difflib's ratio)."""

_MANY = 10
"""Phrases that make a word known by itself: "red" is taught with all that is red."""
_COMPARED = 8
"""Phrases, and words of a phrase, that are compared with every thing: a prompt of a thousand words is not worth more."""


@dataclass(frozen=True)
class Lexicon:
    """Words and phrases in lower case. Phrases match before their words, so a word may be known in a phrase alone."""

    things: tuple[str, ...]
    """what can be drawn, singular and plural"""
    words: tuple[str, ...]
    """everything else that a prompt may say"""
    near: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """word that is not known -> things that are like it; where there are none, the word is at least no misspelling"""
    taught: Mapping[str, int] = field(default_factory=dict)
    """word of any training text -> how often it is there: what a misspelled word is read as; empty: nothing is taken for misspelled"""
    english: tuple[str, ...] = ()
    """words and names that were not taught and are near words that were: no misspellings of these"""
    own: tuple[str, ...] = ()
    """words that the records of a finetuning run brought: a prompt with one of them is the model's to read, and no rule's. Colors are no such
    words, though they are known within phrases alone (`_MANY`)"""

    @classmethod
    def load(cls, directory: Path) -> Lexicon | None:
        """The lexicon of a checkpoint; None if it ships none. Raises CheckpointError if it cannot be read."""
        file = directory / LEXICON_NAME
        if not file.exists():
            return None
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            near = {word: tuple(things) for word, things in found["near"].items()}
            taught = {str(word): int(number) for word, number in found.get("taught", {}).items()}
            return cls(
                tuple(found["things"]),
                tuple(found["words"]),
                near,
                taught,
                tuple(found.get("english", "").split()),
                tuple(found.get("own", ())),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{file} is no lexicon ({error!r}); write things, words and near, or delete it") from error

    def save(self, directory: Path) -> None:
        """Write lexicon.json into a directory that exists. Raises OSError if it cannot be written."""
        record = {"things": self.things, "words": self.words, "near": self.near, "taught": self.taught, "english": " ".join(self.english)}
        record |= {"own": self.own} if self.own else {}
        (directory / LEXICON_NAME).write_text(json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")

    def new_words(self, text: str) -> set[str]:
        """The words of a text that are no entries. In lower case."""
        return {word for word in _tokens(text) if word[0].isalnum() and not word.isdecimal() and (word,) not in self._entries}

    def with_own(self, words: Iterable[str]) -> Lexicon:
        """The same, after a finetuning run whose records have these words."""
        return replace(self, own=tuple(sorted({*self.own, *words})))

    def is_own(self, text: str) -> bool:
        """Whether a text has a word that came with a finetuning run, and was not in many phrases before."""
        return bool(self.own) and not self._own.isdisjoint(_tokens(text))

    @cached_property
    def _own(self) -> frozenset[str]:
        phrases = Counter(word for entry in (*self.things, *self.words) for word in {*_tokens(entry)})
        return frozenset(word for word in self.own if phrases[word] < _MANY)

    @cached_property
    def _entries(self) -> frozenset[tuple[str, ...]]:
        return frozenset(tuple(_tokens(entry)) for entry in (*self.things, *self.words, *self.own))

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._entries), default=1)

    @cached_property
    def _closest(self) -> Closest:
        return Closest(self.things, cutoff=_SPELLING)

    @cached_property
    def speller(self) -> Speller:
        """Who reads misspelled words, all of a prompt's and not only those that are drawn."""
        known = {word for entry in self._entries for word in entry} | {form for word in self.near for form in (word, f"{word}s")}
        return Speller(self.taught, known.union(self.english) if self.taught else ())

    def unknown(self, text: str) -> tuple[str, ...]:
        """What of a text is not known, each once, in its order; words that stand side by side are one phrase."""
        tokens = _tokens(text)
        found: list[str] = []
        phrase: list[str] = []
        i = 0
        while i < len(tokens):
            known = next((n for n in range(self._longest, 0, -1) if tuple(tokens[i : i + n]) in self._entries), 0)
            is_word = tokens[i][0].isalnum() and not tokens[i].isdecimal()
            if is_word and not known:
                phrase.append(tokens[i])
                i += 1
                continue
            found += [" ".join(phrase)] if phrase else []
            phrase = []
            i += known or 1
        found += [" ".join(phrase)] if phrase else []
        return tuple(dict.fromkeys(found))

    def respelled(self, before: str, after: str) -> tuple[Correction, ...]:
        """Unknown words of a text that a rule replaced by words which are spelled like them, as in "elefant" -> "elephant"."""
        old, new = (dict.fromkeys(filter(str.isalpha, _tokens(text))) for text in (before, after))
        added = [word for word in new if word not in old]
        gone = [word for word in old if word not in new and self.unknown(word)] if added else []
        found = ((word, get_close_matches(word, added, 1, _SPELLING)) for word in gone)
        return tuple((word, like[0]) for word, like in found if like)

    def nearest(self, phrases: Sequence[str], *, most: int = 4) -> tuple[str, ...]:
        """Things that are like what is not known: by meaning, or by spelling."""
        found: dict[str, None] = {}
        for phrase in phrases[:_COMPARED]:
            found |= dict.fromkeys(self._like(phrase))
            if len(found) >= most:  # what more there is would not be shown
                break
        return tuple(found)[:most]

    def _like(self, phrase: str) -> Iterator[str]:
        for word in (phrase, *reversed(phrase.split()[-_COMPARED:])):
            own = next((form for form in (word, word.removesuffix("s")) if form in self.near), None)
            like = tuple(filter(None, [self._closest.to(word)])) if own is None else self.near[own]
            yield from like
            if like or own is not None:
                return

    def sentence(self, phrases: Sequence[str]) -> str:
        """What cannot be drawn, and what is nearest, as the command line and the server say it."""
        near = self.nearest(phrases)
        return f"I cannot draw: {', '.join(phrases)}." + (f" Nearest that I know: {', '.join(near)}." if near else "")


def _tokens(text: str) -> list[str]:
    return _WORD.findall(text.lower().replace("\u2019", "'"))
