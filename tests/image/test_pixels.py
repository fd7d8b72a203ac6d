import zlib
from base64 import b64encode
from io import BytesIO
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import torch
from PIL import Image

from mmada.errors import ImageError, InputError
from mmada.image import fit, load_image, psnr, to_images, to_pixels
from mmada.image import pixels as module

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))


def stripes(width, height, colors, *, vertical=True):
    """Bands of equal size, left to right or top to bottom."""
    image = Image.new("RGB", (width, height))
    for i, color in enumerate(colors):
        if vertical:
            image.paste(color, (i * width // len(colors), 0, (i + 1) * width // len(colors), height))
        else:
            image.paste(color, (0, i * height // len(colors), width, (i + 1) * height // len(colors)))
    return image


def encoded(image, kind="PNG", **options):
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def assert_color(image, x, y, color, tolerance=0):
    assert max(abs(a - b) for a, b in zip(image.getpixel((x, y)), color, strict=True)) <= tolerance, image.getpixel((x, y))


@pytest.mark.parametrize("kind", ["path", "str", "bytes", "pil"])
def test_every_source_gives_the_same_image(tmp_path, kind):
    image = stripes(6, 4, [RED, GREEN, BLUE])
    path = tmp_path / "image.png"
    image.save(path)
    source = {"path": path, "str": str(path), "bytes": path.read_bytes(), "pil": image}[kind]
    loaded = load_image(source)
    assert loaded.mode == "RGB"
    assert loaded.tobytes() == image.tobytes()


def test_transparency_is_composited_on_white():
    image = Image.new("RGBA", (3, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (255, 0, 0, 0))
    image.putpixel((2, 0), (0, 0, 0, 128))
    loaded = load_image(encoded(image))
    assert_color(loaded, 0, 0, RED)
    assert_color(loaded, 1, 0, WHITE)
    assert_color(loaded, 2, 0, (127, 127, 127))


def test_transparent_palette_and_grey_are_composited_on_white():
    palette = Image.new("P", (2, 1))
    palette.putpalette([*RED, *BLUE])
    palette.putpixel((1, 0), 1)
    loaded = load_image(encoded(palette, transparency=1))
    assert_color(loaded, 0, 0, RED)
    assert_color(loaded, 1, 0, WHITE)
    assert_color(load_image(Image.new("LA", (1, 1), (0, 0))), 0, 0, WHITE)


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show after a quarter turn clockwise
    loaded = load_image(encoded(stripes(30, 10, [RED, GREEN, BLUE]), "JPEG", exif=exif, quality=95, subsampling=0))
    assert loaded.size == (10, 30)
    assert_color(loaded, 5, 5, RED, 8)
    assert_color(loaded, 5, 25, BLUE, 8)


def test_sixteen_bit_grey_keeps_its_range():
    levels = np.array([[0, 0x8000, 0xFFFF]], dtype=np.uint16)
    loaded = load_image(encoded(Image.fromarray(levels)))
    assert [loaded.getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (4, 4), color) for color in (RED, BLUE)]
    loaded = load_image(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert_color(loaded, 0, 0, RED)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty, corrupt or not an image"),
        (b"just some text, no picture", "not an image"),
        (b"\x89PNG\r\n\x1a\n" + bytes(20), "corrupt"),
        (encoded(NOISE, "JPEG")[:-500], "truncated"),
        (encoded(NOISE)[:2000], "truncated"),
    ],
)
def test_unreadable_bytes_and_files_are_one_error(tmp_path, data, reason):
    with pytest.raises(ImageError, match=reason):
        load_image(data)
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"picture\.png"):
        load_image(path)


def test_missing_file_and_directory_name_the_path(tmp_path):
    with pytest.raises(ImageError, match=r"nowhere\.png.*No such file"):
        load_image(tmp_path / "nowhere.png")
    with pytest.raises(ImageError, match="directory"):
        load_image(tmp_path)
    with pytest.raises(ImageError, match="cannot be read"):
        load_image("a\0b.png")


@pytest.mark.parametrize(
    ("address", "remedy"),
    [
        ("https://example.com/a.png", "download it"),
        ("HTTP://example.com/a.png", "download it"),
        ("s3://bucket/a.png", "download it"),
        ("file:///tmp/a%20b.png", "give the path /tmp/a b.png"),
        (Path("https://example.com/a.png"), "download it"),
    ],
)
def test_addresses_are_repeated_as_they_were_given_and_not_fetched(address, remedy):
    with pytest.raises(ImageError, match=r"is an address, and addresses are not fetched") as error:
        load_image(address)
    assert f"image={str(address)!r}" in str(error.value)
    assert remedy in str(error.value)


def test_data_addresses_are_read():
    picture = Image.new("RGB", (3, 2), (10, 20, 30))
    text = b64encode(encoded(picture)).decode()
    for address in (f"data:image/png;base64,{text}", f"DATA:;BASE64,{text[:20]}\n{text[20:]}", f"data:image/png;base64,{quote(text)}"):
        assert np.array_equal(load_image(address), picture)
    for address in ("data:image/png;base64", "data:image/png;base64,***", "data:image/png;base64," + "*" * 5000):
        with pytest.raises(ImageError, match="is no data address that can be read") as error:
            load_image(address)
        assert address[:200] in str(error.value)
        assert len(str(error.value)) < 500
    with pytest.raises(ImageError, match="is empty, corrupt or not an image"):
        load_image("data:,hello")


def test_a_picture_whose_file_was_closed_says_so(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as closed:
        pass
    with pytest.raises(ImageError, match=r"image of 8x8 pixels: its file was closed before its pixels were read; .* or give the path"):
        load_image(closed)
    with Image.open(tmp_path / "a.png") as read:
        read.load()
    assert load_image(read).size == (8, 8)
    cut = Image.open(BytesIO(encoded(NOISE)[:2000]))
    with pytest.raises(ImageError, match=r"is truncated or corrupt \(.+\)"):
        load_image(cut)


def test_decompression_bombs_are_refused_before_decoding():
    header = bytearray(encoded(Image.new("RGB", (1, 1))))
    for side in (9_000, 30_000):  # ours, then PIL's own limit
        ihdr = b"IHDR" + side.to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
        header[12:33] = ihdr + zlib.crc32(ihdr).to_bytes(4, "big")
        with pytest.raises(ImageError, match="pixels"):
            load_image(bytes(header))


def test_modes_without_a_range_and_other_types_are_refused():
    with pytest.raises(ImageError, match="mode 'F'"):
        load_image(Image.new("F", (2, 2)))
    with pytest.raises(InputError, match="type int"):
        load_image(3)
    with pytest.raises(ImageError, match="0x5"):
        load_image(Image.new("RGB", (5, 0)))


@pytest.mark.parametrize("mode", ["crop", "squash", "pad"])
@pytest.mark.parametrize("size", [(40, 10), (10, 40), (17, 17), (1, 1), (33, 31)])
@pytest.mark.parametrize("target", [(16, 16), (8, 24), (32, 16)])
def test_fit_gives_exactly_the_target(mode, size, target):
    assert fit(Image.new("RGB", size), height=target[0], width=target[1], mode=mode).size == target[::-1]


def test_crop_keeps_the_middle_of_the_longer_side():
    image = fit(stripes(90, 30, [RED, GREEN, BLUE]), height=15, width=15, mode="crop")
    assert_color(image, 7, 7, GREEN)
    assert_color(image, 2, 2, GREEN)
    tall = fit(stripes(30, 90, [RED, GREEN, BLUE], vertical=False), height=15, width=15, mode="crop")
    assert_color(tall, 7, 7, GREEN)
    assert_color(tall, 12, 12, GREEN)


def test_crop_rounds_as_published():
    # 10 x 13 to 5: the longer side is int(5 * 13 / 10) = 6, the offset round(0.5) = 0
    image = stripes(13, 10, [RED, GREEN, BLUE])
    expected = image.resize((6, 5), Image.Resampling.BICUBIC).crop((0, 0, 5, 5))
    assert fit(image, height=5, width=5, mode="crop").tobytes() == expected.tobytes()


def test_squash_keeps_everything_in_proportion():
    image = fit(stripes(90, 30, [RED, GREEN, BLUE]), height=30, width=30, mode="squash")
    assert [image.getpixel((x, 15)) for x in (4, 15, 25)] == [RED, GREEN, BLUE]


def test_pad_centres_on_white():
    image = fit(stripes(90, 30, [RED, GREEN, BLUE]), height=30, width=30, mode="pad")
    assert [image.getpixel((x, 15)) for x in (4, 15, 25)] == [RED, GREEN, BLUE]
    assert [image.getpixel((15, y)) for y in (0, 6, 23, 29)] == [WHITE] * 4
    assert_color(image, 15, 12, GREEN)
    assert_color(image, 15, 17, GREEN)
    wide = fit(stripes(30, 30, [RED, GREEN, BLUE]), height=30, width=60, mode="pad")
    assert [wide.getpixel((x, 15)) for x in (5, 20, 30, 40, 55)] == [WHITE, RED, GREEN, BLUE, WHITE]


@pytest.mark.parametrize("mode", ["crop", "squash", "pad"])
def test_an_image_of_the_target_size_is_unchanged(mode):
    image = stripes(12, 8, [RED, GREEN, BLUE])
    assert fit(image, height=8, width=12, mode=mode).tobytes() == image.tobytes()


def test_fit_refuses_what_it_cannot_do(monkeypatch):
    image = Image.new("RGB", (4, 4))
    with pytest.raises(InputError, match="did you mean 'crop'"):
        fit(image, height=4, width=4, mode="corp")
    with pytest.raises(InputError, match="height=0"):
        fit(image, height=0, width=4, mode="pad")
    with pytest.raises(InputError, match="load_image"):
        fit(image.convert("RGBA"), height=4, width=4, mode="crop")
    monkeypatch.setattr(module, "MAX_PIXELS", 1000)
    sliver = Image.new("RGB", (1, 900))
    with pytest.raises(ImageError, match="'pad' or 'squash'"):
        fit(sliver, height=8, width=8, mode="crop")
    with pytest.raises(ImageError, match="'crop' or 'squash'"):
        fit(sliver, height=8, width=8, mode="pad")
    assert fit(sliver, height=8, width=8, mode="squash").size == (8, 8)


def test_pixels_are_channels_first_in_minus_one_to_one():
    pixels = to_pixels([stripes(6, 2, [RED, GREEN, BLUE]), Image.new("RGB", (6, 2), (0, 51, 255))])
    assert pixels.shape == (2, 3, 2, 6)
    assert pixels.dtype == torch.float32
    assert pixels[0, :, 0, 0].tolist() == [1, -1, -1]
    assert pixels[0, :, 1, 5].tolist() == [-1, -1, 1]
    torch.testing.assert_close(pixels[1, :, 1, 3], torch.tensor([-1.0, -0.6, 1.0]))


def test_pixels_and_back_lose_at_most_one_level():
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2))
    (back,) = to_images(to_pixels([ramp]))
    lost = np.asarray(ramp).astype(int) - np.asarray(back)
    assert set(np.unique(lost)) <= {0, 1}
    assert back.getpixel((0, 0)) == (0, 0, 0)
    assert back.getpixel((15, 15)) == WHITE


def test_images_are_clamped_and_truncated():
    values = torch.tensor([-3.0, -1.0, 0.0, 0.999, 1.0, 7.0]).expand(1, 3, 1, 6)
    (image,) = to_images(values)
    assert [image.getpixel((x, 0))[0] for x in range(6)] == [0, 0, 127, 254, 255, 255]
    assert [image.getpixel((x, 0))[0] for x in range(6)] == [to_images(values.double())[0].getpixel((x, 0))[0] for x in range(6)]


def test_tensor_boundaries_are_checked():
    with pytest.raises(InputError, match="empty"):
        to_pixels([])
    with pytest.raises(InputError, match="load_image"):
        to_pixels([Image.new("L", (2, 2))])
    with pytest.raises(ImageError, match=r"\(2, 4\)"):
        to_pixels([Image.new("RGB", (2, 2)), Image.new("RGB", (4, 2))])
    for wrong in (torch.zeros(3, 2, 2), torch.zeros(1, 1, 2, 2), torch.zeros(1, 3, 2, 2, dtype=torch.uint8)):
        with pytest.raises(InputError, match="floating point"):
            to_images(wrong)


def test_psnr():
    black, gray = (Image.new("RGB", (4, 3), (level,) * 3) for level in (0, 51))
    assert psnr(black, black) == 100
    assert psnr(black, gray) == pytest.approx(20 * np.log10(255 / 51))
    with pytest.raises(InputError, match="one size"):
        psnr(black, Image.new("RGB", (3, 4)))
