"""Painted regions: which codes they mask."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from mmada.errors import InputError
from mmada.image import PaintedRegion


def region(**values) -> PaintedRegion:
    return PaintedRegion(**{"height": 64, "width": 96, "height_share": 0.5, "width_share": 0.5, **values})


def test_more_than_half_of_a_code_must_be_masked():
    inner = region().mask(16)  # columns 24 to 72: codes 1 and 4 are masked to one half exactly
    assert inner.nonzero().tolist() == [[1, 2], [1, 3], [2, 2], [2, 3]]
    outer = region(outside=True).mask(16)
    assert not (inner & outer).any()
    assert outer.sum() == 24 - 2 * 4
    assert torch.equal(region(outside=True).mask(8), ~region().mask(8))  # where no code is cut in half


def test_all_and_nothing():
    assert region(height_share=1, width_share=1).mask(16).all()
    assert not region(height_share=0).mask(16).any()


def test_preview_shows_the_mask_in_gray():
    white = Image.new("RGB", (96, 64), "white")
    shown = region(outside=True).preview(white)
    assert shown.getpixel((0, 0)) == (127, 127, 127)
    assert shown.getpixel((48, 32)) == (255, 255, 255)
    assert region().preview(white).getpixel((48, 32)) == (127, 127, 127)
    assert white.getpixel((48, 32)) == (255, 255, 255)


def test_arguments_are_checked():
    with pytest.raises(InputError, match=r"height_share=1\.5"):
        region(height_share=1.5)
    with pytest.raises(InputError, match="width=0"):
        region(width=0)
    with pytest.raises(InputError, match="factor=10"):
        region().mask(10)
