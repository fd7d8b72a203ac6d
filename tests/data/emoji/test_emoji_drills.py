"""Drills: what fills each gap is true, and follows from the words before it."""

from __future__ import annotations

import re
from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from mmada.data.emoji import drill, is_held_out, objects
from mmada.data.emoji.arithmetic import MAX_VALUE
from mmada.data.emoji.drills import DRILLS
from mmada.data.emoji.objects import CATEGORY_PLURALS, article
from mmada.data.emoji.scenes import BOXES
from mmada.data.emoji.split import Split
from mmada.errors import InputError

SPLITS: list[Split] = ["train", "test"]
PLURALS = {thing.plural: thing.name for thing in objects().values()}
CATEGORIES = {plural: category for category, plural in CATEGORY_PLURALS.items()}


def entry(text: str) -> tuple[str, str]:
    """Cell and name of "top left dog"."""
    cell = max((cell for cell in BOXES if text.startswith(f"{cell} ")), key=len)
    return cell, text.removeprefix(f"{cell} ")


@pytest.mark.parametrize("split", SPLITS)
def test_what_is_found_is_where_the_list_says(split: Split) -> None:
    rng = np.random.default_rng(15)
    for _ in range(60):
        pieces = drill("find", rng, split)
        given, learnt = pieces[::2], pieces[1::2]
        listing, first = given[0].split(". ")
        names = [piece.removeprefix(", ").removesuffix(" is") for piece in (first, *given[1:])]
        assert Counter(Counter(names).values()) == {2: len(listing.split(", "))}
        for name, place in zip(names, learnt, strict=True):
            assert f"{place.strip()} {name}" in listing.split(", ")


@pytest.mark.parametrize("split", SPLITS)
def test_what_is_counted_along_is_what_was_asked_for(split: Split) -> None:
    rng = np.random.default_rng(16)
    asked_of = Counter[str]()
    for _ in range(400):
        pieces = drill("tally", rng, split)
        first, *others = pieces[::2]
        cell = r"(?:(?:top|bottom) (?:left|right)|center|left|right|top|bottom)"
        found = re.fullmatch(rf"(.*?[?.!a-z]) ({cell} [a-z -]+?)", first)
        assert found is not None, first
        question, entry_text = found.groups()
        names = [entry(text.removeprefix(", "))[1] for text in (entry_text, *others)]
        numbers = [[int(n) for n in piece.split()] for piece in pieces[1::2]]
        if len(numbers[0]) == 2 or numbers == [[n] for n in range(1, len(names) + 1)]:
            asked_of["compare" if len(numbers[0]) == 2 else "all"] += 1  # everything may also be what is there alone
            continue
        # The longest noun of the question is what is asked for: a name in either number, or a category.
        nouns = {noun: thing.name for thing in objects().values() for noun in (thing.name, thing.plural)} | CATEGORIES
        found_nouns = [noun for noun in nouns if re.search(rf"\b{noun}\b", question)]
        noun = nouns[max(found_nouns, key=len)]
        is_one = [name == noun or (noun not in objects() and objects()[name].is_a(noun)) for name in names]
        assert [n for (n,) in numbers] == np.cumsum(is_one).tolist(), pieces
        asked_of["category" if noun not in objects() else "present" if any(is_one) else "absent"] += 1
    assert all(asked_of[kind] > 20 for kind in ("category", "present", "absent", "compare")), asked_of


def test_no_two_names_of_facts_are_held_out_together() -> None:
    rng = np.random.default_rng(17)
    for _ in range(60):
        given = [piece.removeprefix(", ").removesuffix(" ->").removesuffix(" is") for piece in drill("facts", rng)[::2]]
        named = sorted(set(given) & set(objects()))
        assert not any(is_held_out(("pair", *pair)) for pair in combinations(named, 2))


@pytest.mark.parametrize("split", SPLITS)
def test_sums_are_right_and_on_their_side_of_the_split(split: Split) -> None:
    rng = np.random.default_rng(18)
    operations = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}
    lengths = Counter[int]()
    for _ in range(40):
        held_out = 0
        for part in "".join(drill("sums", rng, split)).split(", "):
            expression, result = part.split(" = ")
            first, *rest = expression.split(" ")
            value = int(first)
            for operation, right in zip(rest[::2], rest[1::2], strict=True):
                held_out += is_held_out(("expression", f"{value} {operation} {right}"))
                value = operations[operation](value, int(right))
                assert 0 <= value <= MAX_VALUE
            assert value == int(result)
            lengths[len(rest) // 2] += 1
        assert (held_out > 0) == (split == "test")
    assert all(lengths[n] > 40 for n in (1, 2, 3))


def test_facts_are_those_of_the_table_of_objects() -> None:
    rng = np.random.default_rng(19)
    kinds = Counter[str]()
    parents = {(thing.category, thing.kingdom) for thing in objects().values()}
    clues = {thing.clue: thing.name for thing in objects().values() if thing.clue}
    for _ in range(60):
        pieces = drill("facts", rng)
        for given, learnt in zip(pieces[::2], pieces[1::2], strict=True):
            subject, value = given.removeprefix(", "), learnt.strip()
            if subject.endswith(" ->"):
                assert objects()[subject.removesuffix(" ->")].colour == value
                kinds["colour"] += 1
            elif not subject.endswith(" is"):
                assert objects()[subject].kingdom == value
                kinds["kingdom"] += 1
            else:
                subject, (a, value) = subject.removesuffix(" is"), value.split(" ", 1)
                assert a == article(value)
                if subject in clues:
                    assert clues[subject] == value
                    kinds["clue"] += 1
                elif subject in objects():
                    assert objects()[subject].category == value
                    kinds["category"] += 1
                else:
                    assert (subject.split(" ", 1)[1], value) in parents
                    kinds["parent"] += 1
    assert min(kinds[kind] for kind in ("colour", "kingdom", "clue", "category", "parent")) > 20


def test_the_same_state_gives_the_same_drill_and_an_unknown_skill_is_named() -> None:
    for skill in DRILLS:
        assert drill(skill, np.random.default_rng(3)) == drill(skill, np.random.default_rng(3))
    with pytest.raises(InputError, match=r"skill='tallly' is unknown.*tally"):
        drill("tallly", np.random.default_rng(0))
