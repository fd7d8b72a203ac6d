"""Variations of the artwork: of the same size and nearly the same place, in colours of the same name, the same for the same generator."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mmada.worlds.emoji import STYLES, objects, render, sample, sprite
from mmada.worlds.emoji.variation import MAX_HUE, varied

SOLID = [(220, 47, 47), (245, 150, 20), (250, 205, 60), (60, 160, 80), (40, 120, 200), (150, 90, 200), (160, 100, 80)]


def small(name: str, style: str, size: int = 24) -> Image.Image:
    return sprite(name, style).resize((size, size), Image.Resampling.HAMMING)


def hues(rgb: np.ndarray) -> np.ndarray:
    """(..., 3) -> (...) degrees, as an angle around the gray axis."""
    red, green, blue = np.moveaxis(rgb.astype(float), -1, 0)
    return np.degrees(np.arctan2(np.sqrt(3) * (green - blue), 2 * red - green - blue))


def test_the_same_generator_gives_the_same_variation_and_others_differ() -> None:
    dog = small("dog", "noto")
    once, again, other = (np.array(varied(dog, np.random.default_rng(seed))) for seed in (0, 0, 1))
    assert (once == again).all()
    assert (once != other).any()


@pytest.mark.parametrize("size", [24, 48])
@pytest.mark.parametrize("style", STYLES)
def test_the_object_stays_where_it_was(style: str, size: int) -> None:
    rng = np.random.default_rng(0)
    for name in objects():
        before = small(name, style, size)
        original = before.copy()
        after = varied(before, rng)
        assert (after.size, after.mode) == (before.size, before.mode)
        assert before == original
        covered = [np.asarray(picture.getchannel("A")).mean() for picture in (before, after)]
        assert 0.6 < covered[1] / covered[0] < 1.3, name


@pytest.mark.parametrize("colour", SOLID)
def test_the_hue_turns_no_further_than_its_bound(colour: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(0)
    solid = Image.new("RGBA", (24, 24), (*colour, 255))
    for _ in range(50):
        pixels = np.array(varied(solid, rng))
        shown = pixels[pixels[..., 3] == 255][:, :3]
        shown = shown[np.ptp(shown, axis=1) > 60]  # eight bits tell the hue of a vivid colour to about a degree
        turned = (hues(shown) - hues(np.array(colour)) + 180) % 360 - 180
        assert np.abs(turned).max() < MAX_HUE + 1.5


def test_coloured_shapes_keep_the_name_of_their_colour() -> None:
    """By mean colour, the nearest of all shapes of one form."""

    def mean(picture: Image.Image) -> np.ndarray:
        pixels = np.asarray(picture, dtype=float)
        return np.average(pixels[..., :3].reshape(-1, 3), axis=0, weights=pixels[..., 3].ravel())

    rng = np.random.default_rng(0)
    known = [(name, small(name, style)) for name in objects() if name.endswith(" circle") for style in STYLES]
    means = np.array([mean(picture) for _, picture in known])
    wrong = 0
    for name, picture in known:
        for _ in range(20):
            nearest = np.square(means - mean(varied(picture, rng))).sum(-1).argmin()
            wrong += known[nearest][0] != name
    assert wrong / (20 * len(known)) < 0.01  # measured: 0.001


def test_an_empty_picture_stays_empty() -> None:
    empty = Image.new("RGBA", (24, 24))
    assert varied(empty, np.random.default_rng(0)) == empty


def test_render_varies_objects_with_a_generator_alone() -> None:
    scene = sample("caption", np.random.default_rng(0)).scene
    assert scene is not None
    plain, once, again = render(scene), render(scene, np.random.default_rng(1)), render(scene, np.random.default_rng(1))
    assert (once == again).all()
    assert (once != plain).any()
    assert (render(scene) == plain).all()
    inside = np.zeros((64, 64), dtype=bool)
    for item in scene.items:
        inside[item.y : item.y + item.size, item.x : item.x + item.size] = True
    assert (once == plain)[~inside].all()
