"""Drills: what fills each gap is true, and follows from the words before it."""

from __future__ import annotations

import re
from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from mmada.data.emoji import drill, is_held_out, objects
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
    for _ in range(120):
        asked, listing = "".join(drill("tally", rng, split)).split(": ")
        entries = [entry(item.rpartition(" ")[0]) for item in listing.split(", ")]
        numbers = [int(item.rpartition(" ")[2]) for item in listing.split(", ")]
        category = CATEGORIES.get(asked) if asked not in PLURALS else None
        name = PLURALS.get(asked, asked)
        is_one = [objects()[thing].is_a(category) if category else thing == name for _, thing in entries]
        assert numbers == np.cumsum(is_one).tolist()
        asked_of["category" if category else "present" if any(is_one) else "absent"] += 1
    total = sum(asked_of.values())
    assert all(asked_of[kind] > 0.15 * total for kind in ("category", "present", "absent")), asked_of


def test_no_two_names_of_a_training_list_are_held_out_together() -> None:
    rng = np.random.default_rng(17)
    for skill in ("tally", "facts"):
        for _ in range(60):
            text = "".join(drill(skill, rng))
            words = re.sub("|".join(sorted(map(re.escape, CATEGORIES), key=len, reverse=True)), "", text) if skill == "tally" else ""
            parts = re.split(r"[;:,] ", words)
            names = {PLURALS.get(part, part) for part in parts} | {entry(p.rpartition(" ")[0])[1] for p in parts if re.search(r"\d$", p)}
            found = sorted(names & set(objects()))
            assert not any(is_held_out(("pair", *pair)) for pair in combinations(found, 2)), text


@pytest.mark.parametrize("split", SPLITS)
def test_sums_are_right_and_on_their_side_of_the_split(split: Split) -> None:
    rng = np.random.default_rng(18)
    operations = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}
    for _ in range(40):
        held_out = 0
        for step in "".join(drill("sums", rng, split)).split(", "):
            expression, result = step.split(" = ")
            left, operation, right = expression.split(" ")
            assert operations[operation](int(left), int(right)) == int(result)
            held_out += is_held_out(("expression", expression))
        assert (held_out > 0) == (split == "test")


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
