"""Pictures of strangers: limits of what a header tells and of what it does not, in a process that can be killed."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import os
import struct
import sys
import time
import zlib
from collections.abc import Awaitable, Callable, Iterator
from types import SimpleNamespace
from typing import TypeVar

import pytest
from PIL import Image

from mmada.errors import ImageError
from mmada.generation.scheduler import BusyError
from mmada.image import load_image
from mmada.serve.config import ServeConfig
from mmada.serve.picture_decoder import PictureDecoder, _Worker
from mmada.serve.picture_worker import RefusedError, decoded
from mmada.serve.pictures import Pictures

from .hostile import gif_of_comments, jpeg_of_comments, jpeg_with_junk, many_scans, png_of_chunks, saved, webp_of_frames
from .process import png

T = TypeVar("T")
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"/>'


@pytest.fixture(scope="module")
def run() -> Iterator[Callable[[Callable[[PictureDecoder], Awaitable[T]]], T]]:
    """Runs something with one decoder of this file."""
    with asyncio.Runner() as runner:
        decoder = PictureDecoder(ServeConfig(num_decoders=1))
        yield lambda work: runner.run(work(decoder))
        decoder.close()


def read(data: bytes, **limits: int) -> Image.Image:
    return decoded(data, **{"max_pixels": 2**24, "max_scans": 32, "max_parts": 64, **limits})


def url(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_a_picture_is_as_it_was(run, mode):
    """For the model; modes that are seen alike may have become one."""
    image = Image.radial_gradient("L").resize((40, 30)).convert("L" if mode == "I;16" else mode)
    image = Image.frombytes("I;16", image.size, image.resize((80, 30)).tobytes()) if mode == "I;16" else image
    data = png(image)
    found = run(lambda decoder: decoder.decode(data, deadline=time.monotonic() + 60, max_pixels=2**24))
    assert load_image(found).tobytes() == load_image(Image.open(io.BytesIO(data))).tobytes()
    assert found.has_transparency_data is Image.open(io.BytesIO(data)).has_transparency_data


def test_an_upright_picture_of_each_kind(run):
    image = Image.radial_gradient("L").resize((20, 30)).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind, options in (("JPEG", {"exif": exif}), ("WEBP", {"lossless": True}), ("GIF", {}), ("BMP", {})):
        data = saved(image, kind, **options)
        found = run(lambda decoder, data=data: decoder.decode(data, deadline=time.monotonic() + 60, max_pixels=2**24))
        assert found.size == ((30, 20) if kind == "JPEG" else (20, 30))
        assert load_image(found).tobytes() == load_image(data).tobytes()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("http://8.8.8.8/x.png", "does not fetch images"),
        ("file:///etc/passwd", "is no data: URL"),
        ("data:,x", "must read data:image/png;base64"),
        ("data:image/png;base64,?", "not valid base64"),
        ("data:image/png;base64,é", "not valid base64"),
        (url(SVG), "not one of PNG"),
    ],
)
def test_addresses_that_hold_no_picture(run, source, message):
    with pytest.raises(ImageError, match=message):
        run(lambda decoder: Pictures(ServeConfig(), decoder, arrived=time.monotonic()).from_address(source))


def test_pixels_are_counted_before_they_are_decoded(run):
    bomb = png(Image.new("1", (5000, 5000)))  # 25 million pixels in a few kilobytes
    small = png(Image.new("L", (700, 700)))

    async def together(decoder: PictureDecoder, config: ServeConfig, *files: bytes) -> None:
        pictures = Pictures(config, decoder, arrived=time.monotonic())
        for file in files:
            await pictures.from_bytes(file)

    config = ServeConfig(max_image_pixels=2**20)
    with pytest.raises(ImageError, match="25000000 pixels or more, 1048576 are allowed"):
        run(lambda decoder: together(decoder, config, bomb))
    run(lambda decoder: together(decoder, config, small, small))
    with pytest.raises(ImageError, match="1470000 pixels or more, 1048576 are allowed"):
        run(lambda decoder: together(decoder, config, small, small, small))
    with pytest.raises(ImageError, match="more than 2 images"):
        run(lambda decoder: together(decoder, ServeConfig(max_images=2), small, small, small))


def test_damaged_images_of_every_length(picture):
    whole = png(picture)
    for end in range(0, len(whole) - 12, 37):  # the end mark alone may be missing
        with pytest.raises(RefusedError, match=r"corrupt|truncated"):
            read(whole[:end])
    assert read(whole).tobytes() == picture.tobytes()


# What a header does not tell.


@pytest.mark.parametrize("made", [png_of_chunks, gif_of_comments, jpeg_of_comments, jpeg_with_junk, webp_of_frames])
def test_a_file_of_too_many_parts(made):
    assert read(made(16)).size[0] <= 8
    with pytest.raises(RefusedError, match=r"has more than 64 .*; save it again"):
        read(made(100))


def test_a_jpeg_of_too_many_scans():
    assert read(many_scans(10, side=16)).size == (16, 16)
    with pytest.raises(RefusedError, match="has more than 32 scans; save it again"):
        read(many_scans(40, side=16))


def test_scans_are_those_of_the_picture_itself():
    """Phones write films behind their pictures, in which the mark of a scan occurs by chance every 64 KB."""
    film = b"\xff\xda\0\x08" * 100
    assert read(saved(Image.new("L", (16, 16)), "JPEG") + film).size == (16, 16)
    assert read(many_scans(20, side=16) + film).size == (16, 16)
    with pytest.raises(RefusedError, match="has more than 32 scans"):
        read(many_scans(40, side=16) + film)
    with pytest.raises(RefusedError, match="has more than 64 segments"):
        read(many_scans(20, side=16)[:-2] + b"\xff\xfe\0\2" * 100 + film)
    begun = time.thread_time()
    read(saved(Image.new("L", (16, 16)), "JPEG")[:-2] + b"\xff\xd0" * 2_000_000 + b"\xff\xd9" + film)
    assert time.thread_time() - begun < 0.5


def test_counting_is_linear():
    """A file of a million parts is refused after as many steps as are allowed."""
    for data in (png_of_chunks(300_000), gif_of_comments(300_000), jpeg_of_comments(300_000), jpeg_with_junk(10**6)):
        begun = time.thread_time()
        with pytest.raises(RefusedError):
            read(data, max_parts=1000)
        assert time.thread_time() - begun < 0.05


# The process.

SLOW = many_scans(30_000, side=512)
"""A picture that takes seconds, where scans are not counted."""


def patient(**settings: float) -> ServeConfig:
    return ServeConfig(max_image_scans=10**6, num_decoders=1, **settings)


def test_a_decoder_that_overruns_is_killed():
    async def check() -> None:
        config = patient(decode_timeout=0.5)
        decoder = PictureDecoder(config)
        await decoder.warm_up()
        process = decoder._idle[0].start()
        begun = time.monotonic()
        with pytest.raises(ImageError, match=r"takes longer than 0\.5 seconds to decode"):
            await Pictures(config, decoder, arrived=begun).from_bytes(SLOW)
        while process.poll() is None:
            assert time.monotonic() < begun + 30
            await asyncio.sleep(0.01)
        image = await decoder.decode(png(Image.new("L", (4, 4))), deadline=time.monotonic() + 60, max_pixels=100)
        assert image.size == (4, 4)  # by another process
        decoder.close()

    asyncio.run(check())


def test_a_client_that_is_gone_frees_its_decoder():
    async def check() -> None:
        decoder = PictureDecoder(patient())
        gone = asyncio.ensure_future(decoder.decode(SLOW, deadline=time.monotonic() + 60, max_pixels=2**24))
        await asyncio.sleep(0.3)
        waiting = asyncio.ensure_future(decoder.decode(SLOW, deadline=time.monotonic() + 60, max_pixels=2**24))
        await asyncio.sleep(0)
        waiting.cancel()
        gone.cancel()
        small = png(Image.new("L", (4, 4)))
        assert (await decoder.decode(small, deadline=time.monotonic() + 60, max_pixels=100)).size == (4, 4)
        decoder.close()

    begun = time.monotonic()
    asyncio.run(check())
    assert time.monotonic() - begun < 30


def test_never_more_pictures_than_decoders():
    async def check() -> None:
        decoder = PictureDecoder(patient())
        first = asyncio.ensure_future(decoder.decode(SLOW, deadline=time.monotonic() + 60, max_pixels=2**24))
        await asyncio.sleep(0)
        with pytest.raises(BusyError, match="too many images wait"):
            await decoder.decode(png(Image.new("L", (4, 4))), deadline=time.monotonic() + 0.1, max_pixels=100)
        first.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await first
        decoder.close()

    asyncio.run(check())


def test_a_picture_far_above_the_limit_is_called_too_large(run):
    """PIL has a limit of its own, and what is above that was called corrupt."""
    huge = png(Image.new("1", (20_000, 10_000)))

    async def check(decoder: PictureDecoder) -> None:
        with pytest.raises(ImageError, match="have 200000000 pixels or more"):
            await Pictures(ServeConfig(), decoder, arrived=time.monotonic() + 60).from_bytes(huge)

    run(check)


def test_a_decoder_that_dies_in_its_reply(tmp_path, monkeypatch):
    """It was an error of ours, and the next picture was sent to the dead process."""
    script = tmp_path / "worker.py"
    script.write_text('import sys\nsys.stdin.buffer.readline()\nprint(\'{"mode": "L", "size": [4, 4], "num_bytes": 16}\\nxx\', end=\'\')')
    monkeypatch.setattr("mmada.serve.picture_decoder.picture_worker", SimpleNamespace(__file__=str(script)))
    worker = _Worker(2**30)
    with pytest.raises(ImageError, match="cannot be decoded"):
        worker.ask({}, b"")
    assert not worker.is_usable


def test_a_decoder_that_dies_is_replaced(run):
    async def check(decoder: PictureDecoder) -> None:
        await decoder.decode(png(Image.new("L", (4, 4))), deadline=time.monotonic() + 60, max_pixels=100)
        os.kill(decoder._idle[0].start().pid, 9)
        await asyncio.sleep(0.1)
        with contextlib.suppress(ImageError):
            await decoder.decode(png(Image.new("L", (4, 4))), deadline=time.monotonic() + 60, max_pixels=100)
        image = await decoder.decode(png(Image.new("L", (4, 4))), deadline=time.monotonic() + 60, max_pixels=100)
        assert image.size == (4, 4)

    run(check)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not count a process's private memory")
def test_a_decoder_has_limited_memory_and_lives_on():
    """144 million pixels of a bit each are 18 MB of zeros in a file of 18 kB, and 144 MB in PIL."""
    side = 12_000
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(side * (1 + side // 8)), 1)), (b"IEND", b""))
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )

    async def tried() -> Image.Image:
        decoder = PictureDecoder(ServeConfig(num_decoders=1, max_image_pixels=2**16, max_body_bytes=2**16))
        try:
            with pytest.raises(ImageError, match="too much memory"):
                await decoder.decode(data, deadline=time.monotonic() + 30, max_pixels=2**28)
            return await decoder.decode(png(Image.new("RGB", (8, 8), "red")), deadline=time.monotonic() + 30, max_pixels=64)
        finally:
            decoder.close()

    assert asyncio.run(tried()).getpixel((0, 0)) == (255, 0, 0)
