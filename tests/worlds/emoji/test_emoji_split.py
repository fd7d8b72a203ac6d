"""The hold-outs: fixed, of the stated share, absent from training in every role, present in every test example.

Training examples are searched anew here, picture and text, without the package's own bookkeeping: only `is_held_out` is shared.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pytest

from mmada.worlds.emoji import (
    BACKGROUNDS,
    BOXES,
    KINDS,
    STYLES,
    TEMPLATES,
    Combination,
    Example,
    combinations_of,
    held_out_in,
    is_held_out,
    objects,
    sample,
    sample_task,
)
from mmada.worlds.emoji.split import Templates

NAMES = tuple(objects())
NAME_OF = {noun: thing.name for thing in objects().values() for noun in (thing.name, thing.plural)}
NOUNS = sorted(NAME_OF, key=len, reverse=True)
# Sorted under their first letters, or the search takes minutes.
NOUN = "(" + "|".join(f"{a}(?:{'|'.join(noun[1:] for noun in NOUNS if noun[0] == a)})" for a in sorted({n[0] for n in NOUNS})) + r")\b"
NUMBERS = {"two": 2, "three": 3, "four": 4, "2": 2, "3": 3, "4": 4}
CELL = "(" + "|".join(sorted(BOXES, key=len, reverse=True)) + ")"

FINITE: dict[str, list[Combination]] = {
    "pair": [("pair", *pair) for pair in combinations(sorted(NAMES), 2)],
    "number": [("number", name, str(n)) for name in NAMES for n in (2, 3, 4)],
    "place": [("place", name, cell) for name in NAMES for cell in BOXES if cell != "center"],
    "backdrop": [("backdrop", name, background) for name in NAMES for background in BACKGROUNDS],
    "style": [("style", name, STYLES[1]) for name in NAMES],
    "sums": [("expression", f"{a} + {b}") for a in range(5, 95) for b in range(a, 100 - a)],
    "differences": [("expression", f"{a} - {b}") for a in range(5, 100) for b in range(1, a + 1)],
}


@pytest.mark.parametrize("kind", FINITE)
def test_a_tenth_is_held_out(kind: str) -> None:
    share = np.mean([is_held_out(combination) for combination in FINITE[kind]])
    assert 0.07 < share < 0.13


def test_a_held_out_paraphrase_says_nothing_in_words_that_are_never_trained() -> None:
    """A network that learns to read here cannot know a word that it never met."""
    words = {text: set(re.findall("[A-Za-z]+", re.sub("{.*?}", " ", text))) for table in TEMPLATES.values() for text in table.options}
    trained = set().union(*(words[text] for table in TEMPLATES.values() for text in table.trained))
    assert [(text, words[text] - trained) for table in TEMPLATES.values() for text in table.held_out if words[text] - trained] == []


def test_what_is_always_trained() -> None:
    for name in NAMES:
        assert not is_held_out(("number", name, "1"))
        assert not is_held_out(("place", name, "center"))
        assert not is_held_out(("style", name, STYLES[0]))
        for kind in ("number", "place", "backdrop", "style"):
            assert sum(is_held_out(combination) for combination in FINITE[kind] if combination[1] == name) <= 1
    for low in range(1, 10):
        for high in range(low, 10):
            orders = [is_held_out(("expression", f"{a} * {b}")) for a, b in ((low, high), (high, low))]
            assert not all(orders)
            assert high > 4 or not any(is_held_out(("expression", f"{high} {operation} {low}")) for operation in "+-*")
            assert is_held_out(("expression", f"{low} + {high}")) == is_held_out(("expression", f"{high} + {low}"))
    assert any(is_held_out(("expression", f"{a} * {b}")) for a in range(2, 10) for b in range(2, 10))


def test_tables_hold_out_about_a_tenth_but_not_the_plainest() -> None:
    num_fixed = 0
    for table in TEMPLATES.values():
        assert len(table.options) == len(set(table.options)) >= 5
        fixed = set(table.options) - table.added
        num_fixed += len(fixed)
        assert len(table.held_out) == (round(len(fixed) / 10) if len(fixed) >= 8 else 0)
        assert set(table.trained) | set(table.held_out) == set(table.options)
        assert table.options[0] in table.trained
        assert table.added <= set(table.trained)
    assert 0.08 < sum(len(table.held_out) for table in TEMPLATES.values()) / num_fixed < 0.12


def test_no_way_that_is_held_out_is_trained_with_other_punctuation() -> None:
    def plain(text: str) -> str:
        return " ".join(re.findall("[a-z]+|{.*?}", text.lower()))

    for table in TEMPLATES.values():
        assert not {plain(text) for text in table.held_out} & {plain(text) for text in table.trained}


def test_ways_that_are_added_hold_nothing_else_out() -> None:
    options = tuple(f"way {i} to say {{it}}" for i in range(40))
    assert Templates("said", *options[:10], added=options[10:]).held_out == Templates("said", *options[:10]).held_out


def test_the_split_has_not_moved() -> None:
    """A model is only tested fairly on the split that it was trained with. Adding objects or templates moves this on purpose."""
    held_out = [combination for group in FINITE.values() for combination in group if is_held_out(combination)]
    held_out += [(table.name, text) for table in TEMPLATES.values() for text in table.held_out]
    digest = hashlib.sha256("\n".join("\t".join(combination) for combination in held_out).encode()).hexdigest()[:16]
    assert digest == "d6dabf6e18406ce7"


def objects_named(text: str) -> set[str]:
    """Object names in a text; "orange" counts only where it is no colour."""
    text = re.sub(r"(?<!\ban )(?<!\bone )\borange\b(?! circle| square| heart)", " ", text.lower())
    return {NAME_OF[noun] for noun in re.findall(r"\b" + NOUN, text)}


def combinations_in(example: Example) -> Iterator[Combination]:
    """Every combination that can be read off the picture, the prompt, the thoughts or the answer."""
    text, think = f"{example.prompt} | {example.answer}".lower(), example.think or ""
    named = objects_named(text) | objects_named(think)
    if example.scene is not None:
        for item in example.scene.items:
            yield "place", item.name, item.cell
            yield "style", item.name, item.style
            yield "backdrop", item.name, example.scene.background
        for name, number in Counter(item.name for item in example.scene.items).items():
            yield "number", name, str(number)
        named |= {item.name for item in example.scene.items}
    if example.kind not in ("is_a", "category", "clue"):  # these speak of one object only
        yield from (("pair", *pair) for pair in combinations(sorted(named), 2))
    for number, noun in re.findall(r"(?<![-+] )\b(two|three|four|2|3|4) " + NOUN, text):
        yield "number", NAME_OF[noun], str(NUMBERS[number])
    for noun, cell in re.findall(r"\b(?:an?|one) " + NOUN + r" (?:at the|on the|in the) " + CELL, text):
        yield "place", NAME_OF[noun], cell
    for cell, noun in re.findall(r"\b" + CELL + " " + NOUN, think):
        yield "place", NAME_OF[noun], cell
    for noun, cell in re.findall(r"\b" + NOUN + r" \d " + CELL + r"(?=,|$)", think):
        yield "place", NAME_OF[noun], cell
    for part in think.split("; "):
        if re.match(CELL + r"\b", part) is None:  # a list of cells counts along, and says how many of something there were so far
            # So does a plan: "dog 2 top right" is the second of them.
            for found in re.finditer(r"\b" + NOUN + r" (\d)\b(?! " + CELL + "(?:,|$))", part):
                yield "number", NAME_OF[found[1]], found[2]
    for left, operation, right in re.findall(r"(\d+) ([-+*]) (\d+)(?: =|:)", think):
        yield "expression", f"{left} {operation} {right}"
    for left, operation, right in re.findall(r"(?<![-+*] )(?<!\d)(\d+) ([-+*]) (\d+)", example.prompt):
        yield "expression", f"{left} {operation} {right}"


@pytest.mark.parametrize("kind", KINDS)
def test_training_examples_hold_nothing_back(kind: str) -> None:
    rng = np.random.default_rng(7)
    for _ in range(250):
        example = sample(kind, rng)
        assert [combination for combination in combinations_in(example) if is_held_out(combination)] == []
        assert not any(text in TEMPLATES[table].held_out for _, table, text in example.meta.templates)
        assert example.meta.held_out == ()


def test_templates_are_noted_truly() -> None:
    """The words of a noted template stand in the prompt, so that the check on templates cannot be blind."""
    rng = np.random.default_rng(8)
    for kind in KINDS:
        for _ in range(30):
            example = sample(kind, rng)
            assert example.meta.templates
            for _, _, text in example.meta.templates:
                words = [part.strip(" .,:;?!") for part in re.split(r"\{\w*\}", text.lower())]
                assert all(word in example.prompt.lower() for word in words)


@pytest.mark.parametrize("kind", KINDS)
def test_test_examples_are_held_out(kind: str) -> None:
    rng = np.random.default_rng(9)
    for hold_out in KINDS[kind].hold_outs:
        for _ in range(20):
            example = sample(kind, rng, "test", hold_out=hold_out)
            assert {combination[0] for combination in example.meta.held_out} == {hold_out}
            assert example.meta.held_out == held_out_in(example)
            if hold_out != "template":
                found = {combination for combination in combinations_in(example) if is_held_out(combination)}
                assert set(example.meta.held_out) >= found
                assert found or "orange" in example.prompt.lower()  # a colour or a fruit: the search does not count it
            else:
                assert not any(is_held_out(combination) for combination in combinations_in(example))


def test_types_of_hold_outs_are_equally_frequent() -> None:
    rng = np.random.default_rng(10)
    found = Counter(sample("count", rng, "test").meta.held_out[0][0] for _ in range(1000))
    # Five types, 200 each; standard deviation 12.6: below 140 or above 260 about once in a million runs.
    assert set(found) == set(KINDS["count"].hold_outs)
    assert all(140 < number < 260 for number in found.values())


def test_training_covers_all_that_is_not_held_out() -> None:
    rng = np.random.default_rng(11)
    seen: set[Combination] = set()
    for task in ("understand", "draw"):
        for _ in range(4000):
            seen.update(combinations_of(sample_task(task, rng)))
    for kind in ("place", "backdrop", "style", "number"):
        free = [combination for combination in FINITE[kind] if not is_held_out(combination)]
        # An object that lacks a place in the grid cannot be there four times: two fifths of the objects, a third of the numbers.
        assert np.mean([combination in seen for combination in free]) > (0.8 if kind == "number" else 0.9), kind
