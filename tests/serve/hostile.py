"""What strangers send to be in the way."""

from __future__ import annotations

import io
import socket
import struct
import time
import zlib
from collections.abc import Sequence
from functools import cache

from PIL import Image

from ..processes import command_line

__all__ = [
    "gif_of_comments",
    "jpeg_of_comments",
    "jpeg_with_junk",
    "many_scans",
    "names_that_are_never_found",
    "png_of_chunks",
    "saved",
    "webp_of_frames",
]


@cache
def many_scans(count: int, *, side: int) -> bytes:
    """A progressive JPEG of side x side pixels that paints itself over `count` times more; a scan is a few bytes."""
    file = io.BytesIO()
    Image.new("L", (side, side), 128).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    last = data.rfind(b"\xff\xda")
    return data[:last] + data[last:-2] * count + data[-2:]


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_of_chunks(count: int) -> bytes:
    """A picture of one pixel and many empty chunks."""

    def chunk(name: bytes, body: bytes = b"") -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0\0"))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"teXt") * count + pixels + chunk(b"IEND")


def gif_of_comments(count: int) -> bytes:
    whole = saved(Image.new("P", (4, 4)), "GIF")
    at = 13 + (3 << (whole[10] % 8 + 1) if whole[10] & 0x80 else 0)
    return whole[:at] + b"\x21\xfe" + b"\x01x" * count + b"\0" + whole[at:]


def jpeg_of_comments(count: int) -> bytes:
    return b"\xff\xd8" + b"\xff\xfe\0\x02" * count + saved(Image.new("L", (8, 8)), "JPEG")[2:]


def jpeg_with_junk(count: int) -> bytes:
    return b"\xff\xd8\xff\xfe\0\x02" + b"\0" * count + saved(Image.new("L", (8, 8)), "JPEG")[2:]


def webp_of_frames(count: int) -> bytes:
    """An animation whose second picture comes again and again."""
    first, second = (Image.new("RGB", (4, 4), (red, 0, 0)) for red in (0, 200))
    two = saved(first, "WEBP", lossless=True, save_all=True, append_images=[second])
    last = two.rfind(b"ANMF")
    body = two[8:last] + two[last:] * (count - 1)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def names_that_are_never_found(words: Sequence[str]) -> None:
    """`mmada WORDS`, where the look-up of a name under slow.example does not end."""
    real = socket.getaddrinfo

    def look_up(host: object, *arguments: object, **options: object) -> object:
        if str(host).endswith("slow.example"):
            time.sleep(600)
        return real(host, *arguments, **options)

    socket.getaddrinfo = look_up
    command_line(words)
