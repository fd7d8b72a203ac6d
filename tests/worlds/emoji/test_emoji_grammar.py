"""Whatever the grammar says, it understands; and it understands only what it says."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmada.worlds.emoji import (
    BACKGROUNDS,
    LAYOUTS,
    STYLES,
    Chooser,
    Scene,
    SceneSpec,
    canonical,
    caption,
    drawing_prompt,
    implies,
    jittered_item,
    objects,
    paraphrase,
    parse,
    satisfies,
    spec_of,
)
from mmada.worlds.emoji.grammar import CAPTION_FRAMES, DRAW_FRAMES
from mmada.worlds.emoji.spec import holds

many = settings(max_examples=5 * settings().max_examples, deadline=None)

NAMES = tuple(objects())
SEEDS = st.integers(0, 2**32 - 1)


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    layout = draw(st.sampled_from(sorted(LAYOUTS)))
    known = LAYOUTS[layout]
    cells = draw(st.lists(st.sampled_from(known), min_size=1, unique=True)) if layout == "grid" else known
    # Few names, so that equal ones are common.
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3))
    rng = np.random.default_rng(draw(SEEDS))
    items = [jittered_item(draw(st.sampled_from(names)), draw(st.sampled_from(STYLES)), cell, rng) for cell in known if cell in cells]
    return Scene(layout, draw(st.sampled_from(sorted(BACKGROUNDS))), tuple(items))


@st.composite
def specs(draw: st.DrawFn) -> tuple[SceneSpec, Scene]:
    """A demand of any form, with a scene that fulfils it."""
    scene = draw(scenes())
    background = draw(st.sampled_from((None, scene.background)))
    style = draw(st.sampled_from((None, *STYLES)))
    counts = scene.counts
    relations = [
        (a, relation, b) for a in counts for b in counts for relation in ("above", "left of") if holds((a, relation, b), scene.cells)
    ]
    form = draw(st.sampled_from(("placed", "counted", "related" if relations and len(counts) == 2 else "counted")))
    if form == "placed":
        return SceneSpec.placed(scene.cells, background=background, style=style), scene
    relation = draw(st.sampled_from(relations)) if form == "related" else None
    return SceneSpec.of(counts, relation=relation, background=background, style=style), scene


@many
@given(scenes())
def test_a_caption_is_understood_as_its_scene(scene: Scene) -> None:
    assert parse(caption(scene)) == spec_of(scene)
    assert satisfies(spec_of(scene), scene.cells, background=scene.background)


@many
@given(specs(), SEEDS)
def test_every_way_to_say_it_means_the_same(demand: tuple[SceneSpec, Scene], seed: int) -> None:
    spec, scene = demand
    assert parse(canonical(spec)) == spec
    chooser = Chooser(np.random.default_rng(seed))
    assert parse(paraphrase(spec, chooser)) == spec
    assert parse(drawing_prompt(spec, chooser)) == spec
    assert satisfies(spec, scene.cells, background=scene.background)
    assert implies(spec, spec)
    if spec.style is None:
        assert implies(spec_of(scene), spec)


@pytest.mark.parametrize("frame", [*DRAW_FRAMES.options, *CAPTION_FRAMES.options])
def test_every_frame_is_understood(frame: str) -> None:
    for body in ("a dog", "two red hearts above a dog on a pink background", "a large orange in twemoji style"):
        assert parse(frame.format(body)) == parse(body) is not None
        assert parse(frame.format(body).upper()) == parse(body)


def test_a_scene_has_many_captions() -> None:
    spec = parse("two red hearts and a dog on a gray background")
    assert spec is not None
    chooser = Chooser(np.random.default_rng(0))
    assert len({paraphrase(spec, chooser) for _ in range(100)}) > 60
    assert len({drawing_prompt(spec, chooser) for _ in range(100)}) > 80


HEARTS = {"dog": 1, "red heart": 2}


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("draw two red hearts above a dog", SceneSpec.of(HEARTS, relation=("red heart", "above", "dog"))),
        ("Draw a dog under 2 red hearts!", SceneSpec.of(HEARTS, relation=("red heart", "above", "dog"))),
        ("a dog to the right of two red hearts", SceneSpec.of(HEARTS, relation=("red heart", "left of", "dog"))),
        ("a dog and two red hearts", SceneSpec.of(HEARTS)),
        ("Two red hearts and a dog, please.", SceneSpec.of(HEARTS)),
        ("two red hearts, a cat, and one dog", SceneSpec.of(HEARTS | {"cat": 1})),
        ("dog", SceneSpec.of({"dog": 1})),
        ("a large dog", SceneSpec.placed({"center": "dog"})),
        ("a dog in the middle on a sky blue background", SceneSpec.placed({"center": "dog"}, background="sky blue")),
        ("a dog on the left and an apple on the right", SceneSpec.placed({"left": "dog", "right": "apple"})),
        ("two fish side by side in twemoji style", SceneSpec.placed({"left": "fish", "right": "fish"}, style="twemoji")),
        ("a fish, one above the other", None),
        ("one fish", SceneSpec.of({"fish": 1})),
        ("five dogs", SceneSpec.of({"dog": 5})),
        ("a cat in twemoji style on a pink background", SceneSpec.of({"cat": 1}, background="pink", style="twemoji")),
        ("two dog", None),
        ("a dogs", None),
        ("zero dogs", None),
        ("a dog and a dog", None),
        ("a dog at the top left and a cat at the top left", None),
        ("a dog at the top left and a cat on the right", None),
        ("a dog above a dog", None),
        ("a dog at the top left and two cats", None),
        ("a wug", None),
        ("draw", None),
        ("", None),
    ],
)
def test_table_of_sentences(sentence: str, expected: SceneSpec | None) -> None:
    assert parse(sentence) == expected


@many
@given(
    st.lists(
        st.sampled_from(("a", "two", "dog", "cats", "above", "at the top", "and", ",", "on a pink background", "draw", "7", "large")),
        max_size=8,
    )
)
def test_nothing_makes_the_parser_fail(words: list[str]) -> None:
    spec = parse(" ".join(words))
    if spec is not None:
        assert parse(canonical(spec)) == spec


CELLS = {"top left": "red heart", "top right": "red heart", "bottom left": "dog"}


@pytest.mark.parametrize(
    ("sentence", "cells", "background", "expected"),
    [
        ("two red hearts above a dog", CELLS, None, True),
        ("two red hearts above a dog on a pink background", CELLS, "pink", True),
        ("two red hearts above a dog on a pink background", CELLS, "white", False),
        ("two red hearts above a dog on a pink background", CELLS, None, True),
        ("a dog above two red hearts", CELLS, None, False),
        ("two red hearts to the left of a dog", CELLS, None, False),
        ("two red hearts and a dog", CELLS, None, True),
        ("two red hearts", CELLS, None, False),
        ("two red hearts above a dog", CELLS | {"bottom right": "cat"}, None, False),
        ("two red hearts above a dog", CELLS | {"bottom left": "rejected"}, None, False),
        ("two red hearts above a dog", {"top left": "red heart", "bottom right": "red heart", "bottom left": "dog"}, None, False),
        ("a large dog", {"center": "dog"}, None, True),
        ("a large dog", {"top left": "dog"}, None, False),
        ("a dog", {"top left": "dog"}, None, True),
        ("a dog", {}, None, False),
        ("a dog above a cat", {"top": "dog", "bottom": "cat"}, None, True),
        ("a dog on the left and a cat on the right", {"left": "dog", "right": "cat"}, None, True),
        ("a dog on the left and a cat on the right", {"left": "cat", "right": "dog"}, None, False),
    ],
)
def test_table_of_pictures(sentence: str, cells: dict[str, str], background: str | None, expected: bool) -> None:
    spec = parse(sentence)
    assert spec is not None
    assert satisfies(spec, cells, background=background) is expected


def test_a_stated_style_is_judged_where_it_is_seen() -> None:
    spec = SceneSpec.of({"dog": 1}, style="twemoji")
    assert [satisfies(spec, {"center": "dog"}, style=style) for style in ("twemoji", "noto", None)] == [True, False, True]


@settings(deadline=None)
@given(scenes(), SEEDS)
def test_one_changed_cell_breaks_a_full_demand(scene: Scene, seed: int) -> None:
    rng = np.random.default_rng(seed)
    cell = list(scene.cells)[int(rng.integers(len(scene.cells)))]
    other = next(name for name in NAMES if name != scene.cells[cell])
    assert not satisfies(spec_of(scene), scene.cells | {cell: other})
    assert not satisfies(spec_of(scene), {place: name for place, name in scene.cells.items() if place != cell})
    assert Counter(scene.cells.values()) == Counter(dict(spec_of(scene).counts))
