"""Drills: what fills each gap is true, and follows from the words before it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest

from mmada.errors import InputError
from mmada.worlds.emoji import Example, arithmetic, drill, drills, is_held_out, objects, tasks
from mmada.worlds.emoji.arithmetic import MAX_VALUE, Event
from mmada.worlds.emoji.drills import DRILLS
from mmada.worlds.emoji.objects import article
from mmada.worlds.emoji.scenes import BOXES
from mmada.worlds.emoji.split import Split

SPLITS: list[Split] = ["train", "test"]


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
def test_what_is_concluded_is_what_the_thought_of_a_question_says(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Example] = []
    original = tasks.sample

    def sample(kind: str, rng: np.random.Generator, split: Split) -> Example:
        made.append(original(kind, rng, split))
        return made[-1]

    monkeypatch.setattr(drills, "sample", sample)
    rng = np.random.default_rng(16)
    learnt: dict[str, Counter[str]] = {}
    for _ in range(600):
        pieces = drill("conclude", rng, split)
        example = made[-1]
        whole = f"{example.prompt} {example.think}"
        assert whole.startswith("".join(pieces))
        assert pieces[0].startswith(example.prompt)  # of the question itself nothing is learnt
        assert all(piece.startswith(" ") and piece != " " for piece in pieces[1::2])
        learnt.setdefault(example.kind, Counter()).update(pieces[1::2])
    numbers, cells, names, yes_no = set("01234"), set(BOXES), set(objects()), {"yes", "no"}
    expected: dict[str, Callable[[str], bool]] = {
        "count": numbers.__contains__,
        "presence": numbers.__contains__,
        "count_category": numbers.__contains__,
        "total": numbers.__contains__,
        "compare": lambda text: text in numbers or re.fullmatch(r"\d [<>=] \d", text) is not None,
        "contents": lambda text: text in numbers or (text[:-2] in names and text[-1] in numbers),
        "where": (cells | numbers).__contains__,
        "what_at": (names | {"nothing"}).__contains__,
        "colour": (names | cells | numbers | {str(thing.colour) for thing in objects().values()}).__contains__,
        "relation": ({"left", "right", "top", "bottom"} | numbers | yes_no).__contains__,
        "is_a": yes_no.__contains__,
        "odd_one_out": names.__contains__,
    }
    assert set(learnt) == set(expected)
    for kind, found in learnt.items():
        assert [text for text in found if not expected[kind](text.strip())] == [], kind
        assert len(found) > 1, kind


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


@pytest.mark.parametrize("split", SPLITS)
def test_signs_and_givers_are_those_of_a_long_story(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[list[str], list[Event]]] = []

    def long_story(*args: Any) -> tuple[list[str], list[Event]]:
        made.append(arithmetic.long_story(*args))
        return made[-1]

    monkeypatch.setattr(drills, "long_story", long_story)
    rng = np.random.default_rng(20)
    learnt, lengths, forms = Counter[str](), Counter[int](), Counter[bool]()
    for _ in range(200):
        pieces = drill("signs", rng, split)
        clauses, events = made[-1]
        steps = [event.step for event in events]
        told = f"{steps[0].left}, " + ", ".join(map(str, events))
        is_plan = "".join(pieces) == " ".join([*clauses, told]).rpartition(" ")[0]
        forms[is_plan] += 1
        if not is_plan:  # each event has its sign behind it
            story = " ".join(re.sub(r"^[ .]*", "", piece) for piece in pieces[::2])
            assert all(clause.rstrip(".") in story for clause in clauses[:-1])
        signs = [piece for piece in pieces[1::2] if piece in (" +", " -", " *")]
        assert signs == [f" {step.operation}" for step in steps]
        givers = [piece.strip() for piece in pieces[1::2] if piece not in signs]
        assert set(givers) <= {event.people[0] for event in events if event.people}
        assert all(before.result == after.left for before, after in pairwise(steps))
        assert all(0 <= step.result <= MAX_VALUE for step in steps)
        assert any(is_held_out(step.combination) for step in steps) == (split == "test")
        learnt.update(signs)
        learnt["giver"] += len(givers)
        lengths[len(steps)] += 1
    assert set(learnt) == {" +", " -", " *", "giver"}
    assert set(lengths) == {4, 5, 6, 7, 8}
    assert min(forms.values()) > 50


def test_drills_of_signs() -> None:
    beside, behind = (drill("signs", np.random.default_rng([5, seed])) for seed in (1, 2))
    assert beside[:4] == (
        *("The number of stamps that Noah has is 2. Noah hands Rosa 1 of the stamps. Noah: Noah", " -"),
        *(". Noah has no use for 1 stamps, and Rosa takes them. Noah: Noah", " -"),
    )
    assert behind == (
        "Sam has 4 boxes of 3 photos each. Sam adds 3 photos to those of Noah. Sam drops 3 photos, and Noah picks them up. Noah brings Sam "
        "7 of the photos. Sam gives Noah 9 more photos. How many does Sam have in the end? 4,",
        *(" *", " 3,", " Sam", ": Sam", " -", " 3,", " Sam", ": Sam", " -", " 3,", " Noah", ": Sam", " +", " 7,", " Sam", ": Sam", " -"),
    )


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


def test_plans_are_those_of_stories_in_ordinary_english() -> None:
    rng = np.random.default_rng(23)
    learned = set()
    for _ in range(60):
        pieces = drill("plans", rng)
        story, *plan = re.split(r" (?=\d+,)", "".join(pieces))[-2:]
        assert re.fullmatch(r"\d+(, [-+*/] \d+)+|\d+(, [-+*/] \d+)*, [-+*/]", plan[-1]), pieces  # of signs alone, the last one is the end
        assert all(re.fullmatch(r" (\d+|[-+*/])", piece) for piece in pieces[1::2])
        learned |= set("".join(pieces[1::2]))
        assert story
    assert set(" +-*/") < learned


def test_the_same_state_gives_the_same_drill_and_an_unknown_skill_is_named() -> None:
    for skill in DRILLS:
        assert drill(skill, np.random.default_rng(3)) == drill(skill, np.random.default_rng(3))
    with pytest.raises(InputError, match=r"skill='sum' is unknown.*sums"):
        drill("sum", np.random.default_rng(0))
