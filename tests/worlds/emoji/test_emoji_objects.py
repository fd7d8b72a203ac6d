"""The sprite sheet and its index: complete, licensed, distinct."""

from __future__ import annotations

import re
from importlib.resources import files

import numpy as np
import pytest
from PIL import Image

from mmada.errors import InputError
from mmada.worlds.emoji.objects import CATEGORY_PLURALS, PARENT_CATEGORY, SHAPES, STYLES, article, noun_index, objects, sprite
from mmada.worlds.emoji.scenes import BACKGROUNDS

PACKAGE = files("mmada.worlds.emoji")


def test_there_are_enough_objects_in_a_small_file() -> None:
    assert len(objects()) == 120
    assert len(PACKAGE.joinpath("sprites.png").read_bytes()) <= 2_500_000
    assert {thing.colour for thing in objects().values() if thing.category == "heart"} >= {"red", "green", "black", "white"}
    assert all(sum(thing.category == shape for thing in objects().values()) == 9 for shape in SHAPES)


def test_nouns_are_plain_and_name_one_object() -> None:
    for thing in objects().values():
        assert re.fullmatch(r"[a-z]+([ -][a-z]+)*", thing.name)
        assert re.fullmatch(r"[a-z]+([ -][a-z]+)*", thing.plural)
        # Words that join or place things would make sentences ambiguous.
        assert not {"and", "with", "plus", "above", "below", "on", "at", "in"} & set(thing.name.split())
    nouns = [noun for thing in objects().values() for noun in {thing.name, thing.plural}]
    assert len(nouns) == len(set(nouns)) == len(noun_index())


def test_facts_are_consistent() -> None:
    clues = [thing.clue for thing in objects().values() if thing.clue]
    assert len(clues) == len(set(clues))
    nouns = re.compile(r"\b(" + "|".join(sorted(noun_index(), key=len, reverse=True)) + r")\b")
    for thing in objects().values():
        assert thing.category == "thing" or thing.category in CATEGORY_PLURALS
        assert thing.is_a(thing.category)
        assert thing.is_a(thing.kingdom)
        assert set(thing.faint_on) < set(BACKGROUNDS)
        # A clue that named another object would be a pair of objects, possibly a held-out one; "orange" is meant as a colour.
        assert not set(nouns.findall(thing.clue or "")) - {"orange"}
    assert set(PARENT_CATEGORY.values()) <= set(CATEGORY_PLURALS)
    assert {thing.category for thing in objects().values()} - {"thing"} == set(CATEGORY_PLURALS)


@pytest.mark.parametrize(
    ("noun", "expected"), [("dog", "a"), ("apple", "an"), ("unicorn", "a"), ("hourglass", "an"), ("orange circle", "an"), ("t-shirt", "a")]
)
def test_article(noun: str, expected: str) -> None:
    assert article(noun) == expected


def test_every_sprite_fills_its_square_and_differs_from_all_others() -> None:
    pixels = np.stack([np.asarray(sprite(name, style)) for name in objects() for style in STYLES])  # (sprites, 64, 64, 4)
    solid = pixels[..., 3] > 8
    heights, widths = solid.any(2).sum(1), solid.any(1).sum(1)
    assert np.maximum(heights, widths).min() >= 62
    assert solid.mean((1, 2)).min() > 0.1
    assert (pixels[pixels[..., 3] == 0] == 0).all()
    grey = Image.new("RGBA", (64, 64), (128, 128, 128, 255))
    shown = [Image.alpha_composite(grey, Image.fromarray(picture)).convert("RGB").resize((16, 16)) for picture in pixels]
    flat = np.stack([np.asarray(picture, dtype=np.float32).ravel() for picture in shown])
    squares = (flat**2).sum(1)
    distances = np.sqrt(np.maximum(squares[:, None] + squares[None] - 2 * flat @ flat.T, 0) / flat.shape[1])
    np.fill_diagonal(distances, np.inf)
    assert distances.min() > 5  # of 255; the nearest are one colour's shapes in the two styles


@pytest.mark.parametrize("arguments", [("dgo", "noto"), ("dog", "apple")])
def test_unknown_sprites_are_errors_that_help(arguments: tuple[str, str]) -> None:
    with pytest.raises(InputError, match=r"did you mean|known names"):
        sprite(*arguments)


def test_artists_are_named() -> None:
    text = PACKAGE.joinpath("ATTRIBUTION.md").read_text(encoding="utf-8")
    for part in ("Apache License 2.0", "CC BY 4.0", "MIT License", "Google", "Twitter", "Miles Johnson", "Changes:"):
        assert part in text
