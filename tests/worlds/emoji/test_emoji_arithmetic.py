"""Word problems: every step is true, follows from the prompt, and stays within two digits."""

from __future__ import annotations

import importlib.util
import re
from collections import Counter

import numpy as np
import pytest

from mmada.errors import InputError, MissingDependencyError
from mmada.worlds.emoji import Example, gsm_symbolic, objects, sample
from mmada.worlds.emoji.arithmetic import MAX_VALUE, Step
from mmada.worlds.emoji.sentences import ITEMS, TABLES

STEP = re.compile(r"(\d+) ([-+*]) (\d+):((?: \d+ \d+)*) = (\d+)")
EVENT = re.compile(r"(?:(\w+): (\w+) )?([-+*]) (\w+)")
EXAMPLES = 1500


def steps_of(example: Example) -> list[tuple[int, str, int, int]]:
    assert example.think is not None
    return [(int(a), operation, int(b), int(c)) for a, operation, b, _, c in STEP.findall(example.think)]


@pytest.mark.parametrize(("kind", "num_steps"), [("arithmetic1", 1), ("arithmetic2", 2), ("arithmetic3", 3)])
def test_steps_are_true_and_follow_from_the_story(kind: str, num_steps: int) -> None:
    rng = np.random.default_rng(num_steps)
    operations = set()
    for _ in range(EXAMPLES):
        example = sample(kind, rng)
        steps = steps_of(example)
        assert len(steps) == num_steps
        known = [int(number) for number in re.findall(r"\d+", example.prompt)]
        # The story gives one number more than it has steps; adding up two people's sums takes none.
        assert len(known) in (num_steps, num_steps + 1)
        for left, operation, right, result in steps:
            assert {"+": left + right, "-": left - right, "*": left * right}[operation] == result
            assert 0 <= result <= MAX_VALUE
            assert left in known
            assert right in known
            known.append(result)
            operations.add(operation)
        assert example.answer == str(steps[-1][3])
        assert (example.think or "").split("; ")[1:] == [step.group() for step in STEP.finditer(example.think or "")]
    assert operations == {"+", "-", "*"}


def test_steps_are_counted_out_one_number_after_the_other() -> None:
    rng = np.random.default_rng(7)
    for _ in range(300):
        for a, operation, b, way, c in STEP.findall(sample("expression", rng).think or ""):
            left, right, result = int(a), int(b), int(c)
            numbers, counts = [int(n) for n in way.split()[::2]], [int(n) for n in way.split()[1::2]]
            assert counts == list(range(1, len(counts) + 1))
            start, by = {"+": (left, 1), "-": (left, -1), "*": (0, left)}[operation]
            assert numbers == [start + by * n for n in counts]
            assert [start, *numbers][-1] == result
            assert len(counts) == right


@pytest.mark.parametrize(
    ("step", "counted"),
    [
        (Step(8, "+", 3), "8 + 3: 9 1 10 2 11 3 = 11"),
        (Step(0, "+", 5), "0 + 5: 1 1 2 2 3 3 4 4 5 5 = 5"),
        (Step(14, "-", 3), "14 - 3: 13 1 12 2 11 3 = 11"),
        (Step(14, "-", 9), "14 - 9: 13 1 12 2 11 3 10 4 9 5 8 6 7 7 6 8 5 9 = 5"),
        (Step(3, "-", 3), "3 - 3: 2 1 1 2 0 3 = 0"),
        (Step(3, "*", 5), "3 * 5: 3 1 6 2 9 3 12 4 15 5 = 15"),
    ],
)
def test_a_step_that_is_counted_out(step: Step, counted: str) -> None:
    assert step.counted == counted


@pytest.mark.parametrize("kind", ["arithmetic1", "arithmetic2", "arithmetic3"])
def test_a_plan_says_who_gives_and_is_worked_out_from_left_to_right(kind: str) -> None:
    rng = np.random.default_rng(8)
    named, added = Counter[bool](), 0
    for _ in range(EXAMPLES):
        example = sample(kind, rng)
        first, *events = (example.think or "").split("; ")[0].split(", ")
        value = int(first)
        before = 0
        for (left, operation, right, result), event in zip(steps_of(example), events, strict=True):
            found = EVENT.fullmatch(event)
            assert found is not None
            giver, own, sign, number = found.groups()
            if number.isdigit():
                assert (left, operation, right) == (value, sign, int(number))
            else:  # what that person had before the comparison
                assert (left, sign, right) == (value, "+", before)
                assert number in example.prompt
                added += 1
            before = left
            named[giver is not None] += 1
            if giver is not None:
                assert {giver, own} <= set(re.findall(r"\w+", example.prompt))
                assert (giver == own) == (sign == "-")
            value = result
        assert str(value) == example.answer
    assert min(named[True], named[False]) > EXAMPLES / 10
    assert (added > 0) == (kind != "arithmetic1")


def test_only_the_order_of_names_tells_giving_from_taking() -> None:
    """A verb alone says nothing: what two people do is told in both directions in the same words."""
    tables = {table.name: set(table.options) for table in TABLES}
    swap = str.maketrans("nm", "mn")

    def told(name: str) -> set[str]:
        return {text for text in tables[name] if "{n}" in text and "{m}" in text}

    def swapped(name: str) -> set[str]:
        return {re.sub(r"\{[nm]\}", lambda person: person.group().translate(swap), text) for text in told(name)}

    assert swapped("comparison +") == told("comparison -")
    assert told("event -") <= swapped("event +")
    held_out = {text for table in TABLES for text in table.held_out}
    assert swapped("event +") - told("event -") == {"{n} gives {b} {i} to {m}."}
    assert told("event +") & held_out == {"{m} gives {b} {i} to {n}."}  # and so in neither direction


def test_expressions_have_their_usual_value() -> None:
    rng = np.random.default_rng(4)
    for _ in range(EXAMPLES):
        example = sample("expression", rng)
        found = re.search(r"\d+( [-+*] \d+)+", example.prompt)
        assert found is not None
        assert str(eval(found.group())) == example.answer  # digits and operators only
        assert all(0 <= result <= MAX_VALUE for *_, result in steps_of(example))


def test_answers_are_spread_out() -> None:
    rng = np.random.default_rng(5)
    answers = [int(sample("arithmetic2", rng).answer) for _ in range(EXAMPLES)]
    shares = np.histogram(answers, bins=5, range=(0, MAX_VALUE + 1))[0] / EXAMPLES
    assert shares.min() > 0.1
    assert shares.max() < 0.4
    assert len(set(answers)) > MAX_VALUE - 3


def test_stories_count_nothing_that_pictures_show() -> None:
    nouns = {noun for thing in objects().values() for noun in (thing.name, thing.plural)}
    assert not nouns & set(ITEMS)
    words = {word for table in TABLES for text in table.options for word in re.findall(r"[a-z]+", text)}
    assert not nouns & words


def test_no_placeholder_is_left() -> None:
    rng = np.random.default_rng(6)
    for kind in ("arithmetic1", "arithmetic2", "arithmetic3", "expression"):
        for split in ("train", "test"):
            assert all(not set("{}") & set(sample(kind, rng, split).prompt) for _ in range(200))


def test_gsm_symbolic() -> None:
    if importlib.util.find_spec("reasoning_gym") is None:
        with pytest.raises(MissingDependencyError, match="reasoning-gym"):
            next(gsm_symbolic(1, seed=0))
        return
    train, test = (list(gsm_symbolic(30, seed=0, split=split)) for split in ("train", "test"))
    assert train == list(gsm_symbolic(30, seed=0))
    assert len(train) == len(test) == 30
    assert not {example.prompt for example in train} & {example.prompt for example in test}
    assert all(example.think and float(example.answer) >= 0 and "####" not in example.think for example in train + test)


def test_gsm_symbolic_checks_its_size() -> None:
    with pytest.raises(InputError, match="num_examples=0"):
        next(gsm_symbolic(0, seed=0))
