"""Crop sizes, windows and sides that are multiples."""

from __future__ import annotations

import random

import numpy as np
import pytest
from PIL import Image

from mmada.errors import ImageError, InputError
from mmada.image import best_crop_size, crop_sizes, crop_window, crops_of_area, floor_to_multiple, windows


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


def test_sizes_have_the_area_of_an_image_or_less():
    assert crops_of_area(1024, 1024, factor=16) == crop_sizes(32)
    assert crops_of_area(1024, 1024, factor=16, side=512) == crop_sizes(16)
    assert crops_of_area(256, 256, factor=16, side=512) == crop_sizes(8)
    assert crops_of_area(8, 8, factor=2) == crop_sizes(2, patch_size=4)
    assert crops_of_area(1, 1, factor=2) == [(4, 4)]


def test_one_generator_draws_the_windows_of_all(ramp):
    drawn = windows([ramp, ramp], [(64, 64), (32, 64)], seed=7)
    assert [image.size for image in drawn] == [(64, 64), (32, 64)]
    rng = random.Random(7)
    assert [image.tobytes() for image in drawn] == [crop_window(ramp, image.size, rng=rng).tobytes() for image in drawn]


def test_what_is_a_window_already_stays_as_it_is(ramp):
    for size in crop_sizes(4, patch_size=16):
        (once,) = windows([ramp], [size], seed=1)
        assert best_crop_size(once, crop_sizes(4, patch_size=16)) == size
        assert windows([once], [size], seed=2)[0].tobytes() == once.tobytes()


def test_a_line_is_refused_before_it_is_scaled():
    with pytest.raises(ImageError, match=r"an image of 1x20000 scaled to cover 512x2048 has 512x10240000 pixels"):
        crop_window(Image.new("RGB", (20000, 1)), (2048, 512))
