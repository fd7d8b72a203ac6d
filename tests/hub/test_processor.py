"""The processor as transformers users call it: one picture, several, or none."""

import pytest
import torch
from PIL import Image

from mmada.errors import InputError


@pytest.mark.parametrize("several", [False, True], ids=["one", "in a list"])
@pytest.mark.parametrize("kind", ["path", "picture"])
def test_a_picture_may_come_alone(debug, tmp_path, kind, several):
    path = tmp_path / "cat.png"
    Image.new("RGB", (32, 32), "red").save(path)
    picture = str(path) if kind == "path" else Image.open(path)
    inputs = debug.processor("What is this?", images=[picture] if several else picture)
    assert inputs["pixel_values"].shape == (1, 3, 32, 32)
    assert int((inputs["input_ids"] == debug.layout.pad_id).sum()) == 64  # room for one picture's codes


def test_without_pictures(debug):
    assert "pixel_values" not in debug.processor("What is this?", images=None)
    with pytest.raises(InputError, match="give one or the other"):
        debug.processor("What is this?", images=[Image.new("RGB", (8, 8))], image_codes=[torch.zeros(64, dtype=torch.long)])
