"""Verifiers by tables of good and bad answers, and on every example's own reference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mmada.data.answers import read_answer
from mmada.worlds.emoji import (
    KINDS,
    STYLES,
    Chooser,
    Example,
    SceneSpec,
    implies,
    is_correct,
    normalise_answer,
    parse,
    sample,
    satisfies,
    spec_of,
)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("2", "2"),
        ("Two.", "2"),
        ("twenty-one", "21"),
        ("Ninety nine", "99"),
        ("zero", "0"),
        ("Yes!", "yes"),
        ("the Dog", "dog"),
        ("a dog.", "dog"),
        ("An  orange", "orange"),
        ("dogs", "dog"),
        ("Top Left", "top left"),
        ("at the top left", "top left"),
        ("in the upper left.", "top left"),
        ("the middle", "center"),
        ("grey", "gray"),
        ("The same.", "same"),
        ("mice", "mouse"),
    ],
)
def test_normalising(text: str, plain: str) -> None:
    assert normalise_answer(text) == plain
    assert normalise_answer(plain) == plain


def question(kind: str, answer: str) -> Example:
    rng = np.random.default_rng(0)
    return next(example for example in iter(lambda: sample(kind, rng), None) if example.answer == answer)


@pytest.mark.parametrize(
    ("kind", "reference", "good", "bad"),
    [
        ("count", "2", ("2", "two", " Two. "), ("3", "", "22", "2 3", "no", "yes", "two three")),
        ("count", "0", ("0", "zero"), ("", "1", "no")),
        ("presence", "yes", ("yes", "Yes.", "YES"), ("no", "yes no", "", "maybe")),
        ("where", "top left", ("top left", "at the top left", "In the upper left."), ("top", "left", "top right", "")),
        ("compare", "same", ("same", "the same"), ("", "dogs", "no")),
        ("background", "sky blue", ("sky blue", "Sky blue."), ("blue", "white", "")),
        ("arithmetic2", "12", ("12", "twelve", "12."), ("21", "1 2", "12 coins", "", "-12", "120")),
    ],
)
def test_short_answers(kind: str, reference: str, good: tuple[str, ...], bad: tuple[str, ...]) -> None:
    example = question(kind, reference)
    assert all(is_correct(example, answer) for answer in good)
    assert not any(is_correct(example, answer) for answer in bad)


def about(kind: str, cells: dict[str, str]) -> Example:
    """An example of a kind about a scene with these cells: a sampled one, changed."""
    scene = Chooser(np.random.default_rng(0)).scene(cells, style=STYLES[0], background="pink")
    spec = spec_of(scene) if kind == "caption" else SceneSpec.of(scene.counts)
    return replace(sample(kind, np.random.default_rng(0)), scene=scene, spec=spec)


CELLS = {"top left": "dog", "bottom left": "cat", "bottom right": "cat"}


@pytest.mark.parametrize(
    ("kind", "answer", "expected"),
    [
        ("caption", "a dog at the top left, a cat at the bottom left and a cat at the bottom right on a pink background", True),
        (
            "caption",
            "A cat in the lower left, one dog in the top left corner, and a cat at the bottom right against a pink background.",
            True,
        ),
        ("caption", "a dog at the top left, a cat at the bottom left and a cat at the bottom right", False),
        ("caption", "a dog at the top left, a cat at the bottom left and a cat at the bottom right on a white background", False),
        ("caption", "a dog at the top right, a cat at the bottom left and a cat at the bottom right on a pink background", False),
        ("caption", "a dog and two cats on a pink background", False),
        ("caption", "", False),
        ("contents", "a dog and two cats", True),
        ("contents", "Two cats, with a dog", False),
        ("contents", "two cats with a dog", True),
        ("contents", "a dog above two cats on a pink background", True),
        ("contents", "a dog below two cats", False),
        ("contents", "two cats and a dog on a white background", False),
        ("contents", "two cats", False),
        ("contents", "two dogs and a cat", False),
        ("contents", "two cats, a dog and a bear", False),
    ],
)
def test_descriptions(kind: str, answer: str, expected: bool) -> None:
    assert is_correct(about(kind, CELLS), answer) is expected


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_reference_is_right(kind: str, split: str) -> None:
    rng = np.random.default_rng(12)
    for _ in range(60):
        example = sample(kind, rng, split)  # type: ignore[arg-type]
        assert is_correct(example, example.answer)
        reading = read_answer(f"<think> {example.think}</think> {example.answer}")
        assert (reading.state, reading.answer) == ("empty" if example.task == "draw" else "thought", example.answer)
        assert not is_correct(example, "a wug")
        if example.task in ("draw", "reason_draw"):
            assert example.spec is not None
            assert example.scene is not None
            styles = {item.style for item in example.scene.items}
            assert len(styles) == 1
            assert satisfies(example.spec, example.scene.cells, background=example.scene.background, style=styles.pop())


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("a dog and two cats", True),
        ("Two cats plus one dog.", True),
        ("a dog above two cats on a white background", True),
        ("two dogs and a cat", False),
        ("two cats", False),
        ("one more cat than dogs", False),
        ("", False),
    ],
)
def test_a_refined_prompt_must_imply_what_is_meant(answer: str, expected: bool) -> None:
    example = replace(sample("reason_more", np.random.default_rng(0)), spec=SceneSpec.of({"dog": 1, "cat": 2}))
    assert is_correct(example, answer) is expected


@pytest.mark.parametrize(
    ("said", "demanded", "expected"),
    [
        ("a dog at the top and a cat at the bottom", "a dog above a cat", True),
        ("a dog at the top left and a cat at the bottom right", "a dog above a cat", True),
        ("a dog above a cat", "a dog at the top and a cat at the bottom", False),
        ("a dog and a cat", "a dog above a cat", False),
        ("a cat above a dog", "a dog above a cat", False),
        ("a dog on a pink background", "a dog", True),
        ("a dog", "a dog on a pink background", False),
        ("a dog in noto style", "a dog in twemoji style", False),
    ],
)
def test_implies(said: str, demanded: str, expected: bool) -> None:
    one, other = parse(said), parse(demanded)
    assert one is not None
    assert other is not None
    assert implies(one, other) is expected
