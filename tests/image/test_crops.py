"""Crop sizes, windows and sides that are multiples."""

from __future__ import annotations

import random

import numpy as np
import pytest
from PIL import Image

from mmada.errors import InputError
from mmada.image import best_crop_size, crop_sizes, crop_window, floor_to_multiple


@pytest.mark.parametrize("num_patches", [1, 3, 16])
def test_sizes_keep_to_area_and_ratio(num_patches):
    sizes = crop_sizes(num_patches)
    for width, height in sizes:
        assert width % 32 == height % 32 == 0
        assert width * height <= (32 * num_patches) ** 2
        assert max(width, height) <= 4 * min(width, height)
    assert (32 * num_patches, 32 * num_patches) in sizes
    assert sizes == sorted(sizes, key=lambda size: (-size[0], size[1]))


def test_of_two_alike_the_wider():
    assert best_crop_size(Image.new("RGB", (100, 100)), [(32, 64), (64, 32)]) == (64, 32)
    with pytest.raises(InputError, match="sizes is empty"):
        best_crop_size(Image.new("RGB", (1, 1)), [])


@pytest.fixture
def ramp():
    """A picture whose red says the column: 0 at the left, 255 at the right."""
    across = np.broadcast_to(np.linspace(0, 255, 96).astype(np.uint8)[None, :, None], (64, 96, 3))
    return Image.fromarray(np.ascontiguousarray(across))


def test_a_window_is_the_same_with_the_same_seed(ramp):
    drawn = [crop_window(ramp, (64, 64), rng=random.Random(seed)) for seed in (7, 7, 8)]
    assert drawn[0].tobytes() == drawn[1].tobytes() != drawn[2].tobytes()
    assert drawn[0].size == (64, 64)
    left = random.Random(7).randint(0, 32)
    assert drawn[0].tobytes() == ramp.crop((left, 0, left + 64, 64)).tobytes()


def test_without_a_generator_the_middle(ramp):
    assert crop_window(ramp, (64, 64)).tobytes() == ramp.crop((16, 0, 80, 64)).tobytes()


def test_twice_too_large_is_halved_by_averaging(ramp):
    halved = ramp.resize((48, 32), Image.Resampling.BOX)
    assert crop_window(ramp, (48, 32)).tobytes() == halved.tobytes()


def test_sides_are_floored(ramp):
    assert floor_to_multiple(ramp) is ramp
    assert floor_to_multiple(ramp.crop((0, 0, 95, 63))).size == (80, 48)
    with pytest.raises(InputError, match="image is 64x15"):
        floor_to_multiple(ramp.crop((0, 0, 15, 64)))


def test_arguments_are_checked():
    with pytest.raises(InputError, match="num_patches=0"):
        crop_sizes(0)
