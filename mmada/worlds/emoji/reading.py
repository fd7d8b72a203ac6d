"""A drawing prompt in ordinary English, read by rule: what of it the world has, in the words of the grammar.

    restated("hey, can u draw a puppy next to two zeppelins pls")      "a dog"
    restated("two hearts, one red and one blue")                       "a blue heart and a red heart"
    restated("kitten top left + fish bottom right, pink background")   "a cat at the top left and a fish at the bottom right on a pink background"

A model that was taught the grammar alone plans from this where it could not plan from the prompt itself. What is not read is left out, so a
lexicon must say it (lexicon.py).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache

from mmada.data.answers import NUMBER_WORDS
from mmada.errors import InputError
from mmada.worlds.emoji.grammar import canonical
from mmada.worlds.emoji.natural.lists import KINDS_OF_WORDS, OTHER_FORMS, SOFT, SYNONYMS, plural_of, unknown_words
from mmada.worlds.emoji.natural.spelling import english_words
from mmada.worlds.emoji.natural.voice import sections
from mmada.worlds.emoji.objects import SHAPES, noun_index, objects
from mmada.worlds.emoji.scenes import BACKGROUNDS, MAX_ITEMS
from mmada.worlds.emoji.spec import SceneSpec
from mmada.worlds.emoji.split import Split

__all__ = ["NOT_WANTED", "known_nouns", "noun_pattern", "restated", "spelled", "with_commas"]

SPLITS: tuple[Split, ...] = ("train", "test")
_SPELLING = 0.8
"""How alike a word and a name must be (difflib's ratio). They begin alike, too: a rainy day is no train."""

_NUMBERS = {"a": 1, "an": 1, "single": 1, "both": 2, "pair": 2, "couple": 2} | {word: n for n, word in enumerate(NUMBER_WORDS)}
_LIST = 3
"""Names that stand side by side without a comma, at least: two may be one thing."""
NOT_WANTED = re.compile(
    r"\b(?:no|not|without|(?:don't|dont|do not) (?:draw|want|need|show|add|paint|like)(?: me)?|instead of|but not|leave out)"
    rf"(?: (?:any|an?|the|{'|'.join(SOFT)}))*$"
)
_ABOVE, _BELOW = r"above|over|on top of|right above", r"below|under|underneath|beneath|right under"
_LEFT, _RIGHT = r"(?:on |to )?(?:the )?left (?:side )?of", r"(?:on |to )?(?:the )?right (?:side )?of"
_ENDS = r"(?=\s*(?:$|[,.!?;]|and\b|please\b|on an? ))"
_OF_IT = {
    "other: above": r"(?:above|over|on top of) it\b", "one: above": r"(?:below|under|underneath|beneath) it\b",
    "other: left of": r"left of it\b|its left\b",
    "one: left of": r"right of it\b|its right\b",
}  # fmt: skip
"""Which of two things comes first, and its relation -> how that is said of "it"."""
_PLACES = (
    (r"(?:top|upper)[ -]left", "top left"), (r"(?:top|upper)[ -]right", "top right"), (r"(?:bottom|lower)[ -]left", "bottom left"),
    (r"(?:bottom|lower)[ -]right", "bottom right"), (r"left(?! of)", "left"), (r"right(?! of)", "right"), (r"(?:at the|on the|on|up) top(?! of)", "top"),
    (rf"(?:top|upper) half|top:|above{_ENDS}", "top"), (rf"at the bottom|down below|on the bottom|(?:bottom|lower) half|bottom:|below{_ENDS}", "bottom"),
    (r"middle|cent(?:er|re)", "center"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Group:
    name: str
    number: int
    start: int
    end: int


@cache
def known_nouns() -> Mapping[str, tuple[str, bool]]:
    """Noun phrase -> (object, whether it means several): the grammar's, and other words for the same."""
    index = {noun: (name, not is_one) for noun, (name, is_one, _) in noun_index().items()}
    for name, words in SYNONYMS.items():
        for word in words:
            index |= {word: (name, False), plural_of(word): (name, True)}
    return index | dict(OTHER_FORMS) | {noun: (name, not is_one) for noun, (name, is_one, _) in noun_index().items()}


@cache
def noun_pattern() -> re.Pattern[str]:
    """Every noun phrase for an object, the longest first."""
    nouns = sorted(known_nouns(), key=len, reverse=True)
    return re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, nouns))})(?![\w-])")


def restated(prompt: str) -> str | None:
    """The plain prompt of what a prompt asks for; None if nothing of it is read, or more than a picture holds."""
    said = in_colours(spelled(prompt))
    groups = [group for match in noun_pattern().finditer(said) if (group := _group(said, match)) is not None]
    if not groups:
        return None
    if not _are_apart(said, groups):
        groups = _merged(said, groups)
    if sum(group.number for group in groups) > MAX_ITEMS:
        return None
    background = next(
        (
            colour
            for colour in BACKGROUNDS
            if re.search(rf"\b{colour} (?:background|backdrop)|background[^.]* {colour}\b|\bon {colour}\b", said)
        ),
        None,
    )
    try:
        return canonical(_spec(said, groups, background))
    except InputError:
        return None


def spelled(prompt: str) -> str:
    """A prompt in small letters, and long words that are nearly an object's name, and no other word that is known, as that name."""
    said = " ".join(prompt.lower().replace("\u2019", "'").split())
    return re.sub(r"[a-z]{5,}", lambda match: _as_spelled(match.group()), said)


@cache
def _as_spelled(word: str) -> str:
    if word in _words():
        return word
    nouns = [noun for noun in known_nouns() if " " not in noun and noun[0] == word[0] and abs(len(noun) - len(word)) <= 1]
    near = get_close_matches(word, nouns, 1, _SPELLING)
    return near[0] if near else word


@cache
def _words() -> frozenset[str]:
    """Every word of the lexicon, of the lists of unknown words, of several sections of the voices, and English ones near them: no misspellings."""
    from mmada.worlds.emoji.lexicon import lexicon

    known = lexicon()
    lists = (unknown_words(kind, split) for kind in KINDS_OF_WORDS for split in SPLITS)
    singular = {word for entry in (*known.things, *known.words) for word in entry.split()} | {word for words in lists for word in words}
    said = Counter(word for lines in sections().values() for word in set(re.findall("[a-z]{5,}", "\n".join(lines).lower())))
    several = {word for word, number in said.items() if number > 1}
    return frozenset(singular | {plural_of(word) for word in singular} | several | set(english_words()))


def with_commas(text: str) -> str:
    """A text with commas between three objects or more that stand side by side: "cake cactus pear" is a list."""
    found: list[list[re.Match[str]]] = [[]]
    lowered = text.lower()
    if len(lowered) != len(text):  # a letter such as a dotted I, which no list of ours has
        return text
    for match in noun_pattern().finditer(lowered):
        if found[-1] and text[found[-1][-1].end() : match.start()] == " ":
            found[-1].append(match)
        else:
            found.append([match])
    for match in reversed([match for row in found if len(row) >= _LIST for match in row[:-1]]):
        text = f"{text[: match.end()]},{text[match.end() :]}"
    return text


def in_colours(said: str) -> str:
    """ "two hearts, one red and one blue" as "one red heart and one blue heart", and "a heart in red" as "a red heart"."""
    colours = "|".join(sorted({thing.colour or "" for thing in objects().values() if thing.category in SHAPES}))
    for shape in SHAPES:
        said = re.sub(
            rf"\b(?:two|2) {shape}s\W+(?:the )?(?:one|first|1)?\s*(?:is )?({colours})"
            rf"\W+(?:and )?(?:the )?(?:one|second|other|1)?\s*(?:is )?({colours})\b",
            rf"one \1 {shape} and one \2 {shape}",
            said,
        )
        said = re.sub(rf"\b({colours}) and (?:a |an |one )?({colours}) {shape}\b", rf"\1 {shape} and one \2 {shape}", said)
        said = re.sub(
            rf"\b({colours}) {shape}\b([^.]*?)\b(?:an?|the|one|another|1) ({colours}) one\b", rf"\1 {shape}\2one \3 {shape}", said
        )
        said = re.sub(rf"\b{shape}s in ({colours}) and ({colours})\b", rf"one \1 {shape} and one \2 {shape}", said)
        said = re.sub(rf"\b({colours}) {shape}s\b([^.]*?)\b(two|three|2|3) ({colours}) ones\b", rf"\1 {shape}s\2\3 \4 {shape}s", said)
        said = re.sub(rf"\b({shape}s?) \(({colours})\)", r"\2 \1", said)
        said = re.sub(rf"\b({shape}s?) (?:in|that is|that are|colou?red) ({colours})\b", r"\2 \1", said)
    return said


def _group(said: str, match: re.Match[str]) -> _Group | None:
    """The object of a noun phrase and its number; None where it is not wanted."""
    name, is_several = known_nouns()[match.group()]
    before = said[: match.start()].rstrip()
    if NOT_WANTED.search(before):
        return None
    words = re.findall(r"[\w']+|[,.;:!?&+]", before)[-3:]
    number = _number_behind(said[match.end() :])
    for word in reversed(words if number is None else ()):
        if not word[0].isalnum() or word in ("and", "with", "plus"):
            break
        if word in _NUMBERS or re.fullmatch(r"\d+x?", word):
            number = _NUMBERS.get(word) or int(word.rstrip("x"))
            break
    if number is None or (number == 1 and is_several and name != "fish"):
        is_one = match.group() in (*objects(), "jeans") or re.search(r"\bone (?:of )?each\b|\beach once\b", said)
        number = 2 if is_several and not is_one else 1
    return _Group(name, number, match.start(), match.end())


def _number_behind(said: str) -> int | None:
    """A number that stands behind its noun: "dogs x3", "dogs (three)", "dogs, three of them"."""
    match = re.match(r"\s*(?:x\s?(\d)\b|\((\w+)\)|,? (\w+) of (?:them|those)\b|[.,] (?:make it|make that) (\w+))", said)
    word = next(filter(None, match.groups()), "") if match else ""
    return int(word) if word.isdecimal() else _NUMBERS.get(word)


def _merged(said: str, groups: Sequence[_Group]) -> list[_Group]:
    """Groups with each object once: as it is named first, and one more where another of the kind is asked for."""
    found: dict[str, _Group] = {}
    for group in groups:
        first = found.setdefault(group.name, group)
        if first is not group and re.search(r"\b(?:another|one more|a second|a third) (?:\w+ )?$", said[: group.start]):
            found[group.name] = replace(first, number=first.number + 1)
    return list(found.values())


def _cells(said: str, groups: Sequence[_Group]) -> list[str | None]:
    """The place that is said of each group, behind it, or before it if the prompt begins with a place."""
    ends = [*(group.start for group in groups[1:]), len(said)]
    # A prompt that begins with a place has each before its thing: "on the left a tree, on the right a car".
    if _place(said[: groups[0].start]) is not None:
        parts = [(0 if i == 0 else groups[i - 1].end, group.start) for i, group in enumerate(groups)]
    else:
        parts = [(group.end, end) for group, end in zip(groups, ends, strict=True)]
    return [_place(said[start:end]) for start, end in parts]


def _are_apart(said: str, groups: Sequence[_Group]) -> bool:
    """Whether each group is one thing in a place of its own, so that a name said twice means two."""
    cells = _cells(said, groups)
    return all(cells) and len(set(cells)) == len(cells) and all(group.number == 1 for group in groups)


def _spec(said: str, groups: list[_Group], background: str | None) -> SceneSpec:
    """The demand of groups: with their places if each has one, with their relation if two have one."""
    counts = Counter({group.name: group.number for group in groups})
    if _are_apart(said, groups):
        try:
            places = zip(_cells(said, groups), groups, strict=True)
            return SceneSpec.placed({cell or "": group.name for cell, group in places}, background=background)
        except InputError:  # places of different layouts
            pass
    relation = None
    if len(groups) == 2:
        one, other = groups
        between = said[one.end : other.start]
        for name, words in _OF_IT.items():
            if re.search(rf"\b(?:{words})", f"{between} | {said[other.end :]}"):  # "a dog and above it a bee", "a dog with a bee above it"
                first, second = (other, one) if name.startswith("other") else (one, other)
                return SceneSpec.of(counts, relation=(first.name, name.split(": ")[1], second.name), background=background)
        for words, name, first, second in (
            (_ABOVE, "above", one, other), (_BELOW, "above", other, one), (_LEFT, "left of", one, other), (_RIGHT, "left of", other, one),
        ):  # fmt: skip
            if re.search(rf"\b(?:{words})\b", between):
                relation = (first.name, name, second.name)
    return SceneSpec.of(counts, relation=relation, background=background)


def _place(said: str) -> str | None:
    return next((cell for pattern, cell in _PLACES if re.search(rf"\b(?:{pattern})(?!\w)", said)), None)
