"""The VQ-VAE, the crops and the painted regions of the published code, of every directory that recorded them.

Every size is read from the directory.
"""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.testing import assert_close

from mmada.image import VQVAE, PaintedRegion, best_crop_size, crop_sizes, load_vqvae, save_vqvae, to_pixels

from .recorded import DATA, GOLDEN

WITH_VQVAE = ["lumina_dimoo", "mmada_parallel_a"]
WITH_CROPS = sorted(file.parent.name for file in GOLDEN.glob("*/layouts.json"))


@pytest.fixture(scope="module", params=WITH_VQVAE)
def recorded(request, folder, tmp_path_factory) -> tuple[VQVAE, dict[str, Tensor], dict[str, int]]:
    """A tokenizer from a directory as diffusers writes it, the recorded numbers, and the small ids."""
    source = folder(request.param)
    files = tmp_path_factory.mktemp(request.param) / "vqvae"
    files.mkdir()
    shutil.copy(source / "vqvae_config.json", files / "config.json")
    shutil.copy(source / "vqvae.safetensors", files / "diffusion_pytorch_model.safetensors")
    ids = json.loads((source / "config.json").read_text())["golden_special_ids"]
    return load_vqvae(files.parent), load_file(source / "vqvae_golden.safetensors"), ids


def grid(images: VQVAE, numbers: dict[str, Tensor]) -> Tensor:
    """The recorded codes of all images, (B, h, w)."""
    height, width = numbers["pixel_values"].shape[2:]
    return numbers["codes"].long().reshape(-1, height // images.factor, width // images.factor)


def uint8_image(tensor: Tensor) -> Image.Image:
    return Image.fromarray(tensor.numpy())


def test_there_is_something_to_read():
    """Crops were recorded beside the default numbers only."""
    assert GOLDEN != DATA or WITH_CROPS


def test_codes(recorded):
    images, numbers, _ = recorded
    assert_close(images.latent(numbers["pixel_values"]), numbers["latent"], rtol=0, atol=1e-3)
    assert torch.equal(images.encode(numbers["pixel_values"]), grid(images, numbers))
    assert_close(images.quantize.vectors(grid(images, numbers)), numbers["quantized"], rtol=0, atol=1e-6)


def test_pixels(recorded):
    images, numbers, _ = recorded
    assert_close(images.decode(grid(images, numbers)), numbers["reconstruction"], rtol=0, atol=1e-3)


def test_training_pass(recorded):
    images, numbers, _ = recorded
    made = images(numbers["pixel_values"])
    assert_close(made.quantizer_loss, numbers["quantizer_loss"].squeeze(), rtol=0, atol=1e-5)
    assert_close(made.pixels, numbers["reconstruction"], rtol=0, atol=1e-3)
    assert torch.equal(made.codes, grid(images, numbers))


def test_pictures(recorded):
    """Out of a picture its ids, framed and with rows ended; out of the first codes a picture."""
    images, numbers, ids = recorded
    picture = uint8_image(numbers["image_uint8"])
    codes = images.encode_images([picture])[0] + ids["image_offset"]
    broken = torch.nn.functional.pad(codes, (0, 1), value=ids["newline"]).flatten().tolist()
    assert [ids["boi"], *broken, ids["eoi"]] == numbers["encode_with_breaks.ids"].tolist()

    (decoded,) = images.decode_images(grid(images, numbers)[:1])
    levels, recorded_levels = to_pixels([decoded]), to_pixels([uint8_image(numbers["decode_to_image_uint8"])])
    assert_close(levels, recorded_levels, rtol=0, atol=2.1 / 255)  # a level, which is 2 / 255, where rounding was close
    assert (levels != recorded_levels).float().mean() < 0.01


def test_painted_regions(recorded):
    images, numbers, ids = recorded
    picture = uint8_image(numbers["image_uint8"])
    codes = images.encode_images([picture])[0] + ids["image_offset"]
    cases = [name.split(".", 2) for name in numbers if name.startswith("paint.") and name.endswith(".ids")]
    assert cases
    for _, mode, shares in cases:
        # "0.5.0.25.ids": numbers with or without a point of their own
        height_share, width_share = _two_numbers(shares.removesuffix(".ids"))
        region = PaintedRegion(
            height=picture.height,
            width=picture.width,
            height_share=height_share,
            width_share=width_share,
            outside=mode == "outpainting",
        )
        row = codes.masked_fill(region.mask(images.factor), ids["mask"])
        row = torch.nn.functional.pad(row, (0, 1), value=ids["newline"]).flatten()
        assert row.tolist() == numbers[f"paint.{mode}.{shares}"].tolist()


def test_previews(recorded):
    """The recorded preview is that of one of the recorded pairs of shares, whichever it is."""
    _, numbers, _ = recorded
    picture = uint8_image(numbers["image_uint8"])
    for mode in ("inpainting", "outpainting"):
        recorded_preview = to_pixels([uint8_image(numbers[f"paint.{mode}.vis_uint8"])])
        shares = [
            _two_numbers(name.split(".", 2)[2].removesuffix(".ids"))
            for name in numbers
            if name.startswith(f"paint.{mode}.") and name.endswith("ids")
        ]
        regions = [
            PaintedRegion(height=picture.height, width=picture.width, height_share=h, width_share=w, outside=mode == "outpainting")
            for h, w in shares
        ]
        assert any(torch.equal(to_pixels([region.preview(picture)]), recorded_preview) for region in regions)


def test_saved_and_loaded(recorded, tmp_path):
    images, numbers, _ = recorded
    save_vqvae(images, tmp_path / "vqvae")
    again = load_vqvae(tmp_path)
    assert again.config == images.config
    assert torch.equal(again.decode(grid(images, numbers)), images.decode(grid(images, numbers)))


@pytest.mark.parametrize("family", WITH_CROPS)
def test_crops(family):
    values = json.loads((GOLDEN / family / "layouts.json").read_text())
    for side, sizes in values.get("crop_sizes", {}).items():
        assert crop_sizes(int(side) // 32) == [tuple(size) for size in sizes]
    for side, width, height, *chosen in values.get("crop_choice", []):
        image = Image.new("RGB", (width, height))
        assert best_crop_size(image, crop_sizes(side // 32)) == tuple(chosen)


def _two_numbers(text: str) -> tuple[float, float]:
    """ "1.0.2" is 1 and 0.2; "0.5.0.5" is 0.5 and 0.5: a share above 0 and below 1 has its point, 0 and 1 may have none."""
    parts = text.split(".")
    first = 2 if len(parts) == 4 or (len(parts) == 3 and parts[0] == "0" and parts[1] != "0") else 1
    return float(".".join(parts[:first])), float(".".join(parts[first:]))
