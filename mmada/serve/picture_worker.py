"""A process that decodes pictures of strangers, one after the other. `picture_decoder.py` starts it and kills it.

    python -P picture_worker.py BYTES   with so much memory at most, reads tasks from its standard input, writes replies to its standard output

    task    a line of JSON (`Task`) and the bytes of a file
    reply   a line of JSON and the pixels: {"mode", "size", "num_bytes"}, or {"error": sentence}, or {"num_pixels": more than are allowed}

It imports PIL alone and nothing of this package, so that it starts in a tenth of a second. A header says how large a picture is, and not how
much work it is. A JPEG may paint itself over a thousand times; a PNG may come in a million pieces. So the parts are counted before PIL sees them.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import io
import json
import os
import re
import signal
import sys
import warnings
from collections.abc import Iterator
from itertools import islice
from typing import Any, BinaryIO

from PIL import Image, ImageOps

__all__ = ["RefusedError", "decoded", "main"]

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
_KEPT = ("L", "RGB", "RGBA", "I", "F")
"""Modes whose pixels are sent as they are; others become RGB, as they would later."""


class RefusedError(Exception):
    """Why a picture is not decoded, as a sentence for the client."""


class TooLargeError(Exception):
    """A picture has more pixels than are left to its request."""

    def __init__(self, num_pixels: int) -> None:
        super().__init__(num_pixels)
        self.num_pixels = num_pixels


def decoded(data: bytes, *, max_pixels: int, max_scans: int, max_parts: int) -> Image.Image:
    """An upright picture, the first frame of an animation. Raises RefusedError, or TooLargeError before anything is decoded.

    max_scans  how often a progressive JPEG may paint itself over
    max_parts  chunks, blocks and segments before the last pixel of the first frame
    """
    _count_parts(data, max_scans=max_scans, max_parts=max_parts)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the limit here is lower than PIL's
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except MemoryError:
        raise
    except Exception as error:  # decoders fail with whatever type a corrupt file happens to provoke
        raise RefusedError(f"the image of {len(data)} bytes is empty, corrupt or not one of {', '.join(FORMATS)}; send another") from error
    if image.width * image.height > max_pixels:
        raise TooLargeError(image.width * image.height)
    try:
        image.load()
        upright = ImageOps.exif_transpose(image)
        if upright.has_transparency_data:
            return upright.convert("RGBA")
        return upright if upright.mode in _KEPT or upright.mode.startswith("I;16") else upright.convert("RGB")
    except MemoryError:
        raise
    except Exception as error:  # as above
        raise RefusedError(f"the image of {len(data)} bytes is truncated or corrupt; save or download it again") from error


# What a file consists of. Each walk takes a step for each part, and ends at the limit.


def _count_parts(data: bytes, *, max_scans: int, max_parts: int) -> None:
    if data.startswith(b"\xff\xd8"):
        _at_most(_bounded(_jpeg_segments(data), max_parts), max_parts, "segments")
        # Pixels never look like the mark of a scan; what a camera writes behind its picture, such as a film, does so at times.
        if data.count(b"\xff\xda") > max_scans:
            marks = list(islice(_jpeg_marks(data), max_parts + 1))
            _at_most(marks.count(0xDA), max_scans, "scans")
            _at_most(len(marks), max_parts, "segments")
    elif data.startswith(b"\x89PNG\r\n\x1a\n"):
        _at_most(_bounded(_chunks(data, 8, "big", extra=4), max_parts), max_parts, "chunks")
    elif data.startswith(b"RIFF"):
        _at_most(_bounded(_chunks(data, 12, "little", extra=0), max_parts), max_parts, "chunks")
    elif data.startswith(b"GIF8"):
        _at_most(_bounded(_gif_blocks(data), max_parts), max_parts, "blocks before its first picture")


def _at_most(count: int, most: int, what: str) -> None:
    if count > most:
        raise RefusedError(f"the image has more than {most} {what}; save it again with an ordinary program")


def _bounded(parts: Iterator[object], most: int) -> int:
    """How many there are; of too many, one more than may be."""
    count = 0
    for _ in parts:
        count += 1
        if count > most:
            break
    return count


def _jpeg_segments(data: bytes) -> Iterator[int]:
    """Places of the segments before the first scan, and of each byte between them that belongs to none."""
    at = 2
    while at >= 0 and at + 4 <= len(data) and data[at : at + 2] != b"\xff\xda":
        mark = data[at + 1]
        if data[at] != 0xFF:
            end = data.find(b"\xff", at)
            yield from range(at, len(data) if end < 0 else end)
            at = end
            continue
        yield at
        is_bare = mark in (0x00, 0x01, 0xFF) or 0xD0 <= mark <= 0xD9
        at += (1 if mark == 0xFF else 2) if is_bare else 2 + int.from_bytes(data[at + 2 : at + 4], "big")


_MARK = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
"""Those without a length stand between pixels, and are skipped with them."""


def _jpeg_marks(data: bytes) -> Iterator[int]:
    """The marks of a JPEG's own picture, from its first segment to its end."""
    at = 2
    while (found := _MARK.search(data, at)) and (mark := data[found.end() - 1]) != 0xD9:
        yield mark
        at = found.end() + max(2, int.from_bytes(data[found.end() : found.end() + 2], "big"))


def _chunks(data: bytes, at: int, order: Any, *, extra: int) -> Iterator[int]:
    """Places of the chunks of a PNG, whose length comes first, or of a RIFF file, whose length comes second and is even."""
    while at + 8 <= len(data):
        yield at
        length = int.from_bytes(data[at : at + 4] if order == "big" else data[at + 4 : at + 8], order)
        at += 8 + length + extra + (length % 2 if order == "little" else 0)


def _gif_blocks(data: bytes) -> Iterator[int]:
    """Places of the blocks of what stands before the first picture."""
    if len(data) < 13:
        return
    at = 13 + (3 << (data[10] % 8 + 1) if data[10] & 0x80 else 0)
    while at + 2 < len(data) and data[at] == 0x21:
        at += 2
        while at < len(data) and data[at]:
            yield at
            at += 1 + data[at]
        yield at
        at += 1


# The process.


def main() -> None:
    """Serve tasks until the other side closes."""
    _modest(int(sys.argv[1]))
    Image.MAX_IMAGE_PIXELS = None  # each task has a limit of its own, and its reply says how many there are
    tasks, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no reply
    while line := tasks.readline():
        task = json.loads(line)
        with _killed_after(task["seconds"]):
            _reply(replies, *_answer(task, tasks.read(task["num_bytes"])))


def _answer(task: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    try:
        if task["is_base64"]:
            data = base64.b64decode(data, validate=True)
        image = decoded(data, max_pixels=task["max_pixels"], max_scans=task["max_scans"], max_parts=task["max_parts"])
        pixels = image.tobytes()
        return {"mode": image.mode, "size": image.size, "num_bytes": len(pixels)}, pixels
    except TooLargeError as error:
        return {"num_pixels": error.num_pixels}, b""
    except RefusedError as error:
        return {"error": str(error)}, b""
    except (binascii.Error, ValueError) as error:
        return {"error": f"the data: URL of an image is not valid base64 ({error}); encode it again"}, b""
    except MemoryError:
        return {"error": f"the image of {len(data)} bytes needs too much memory; send a smaller one"}, b""


def _reply(replies: BinaryIO, head: dict[str, Any], pixels: bytes) -> None:
    replies.write(json.dumps(head).encode() + b"\n")
    replies.write(pixels)
    replies.flush()


def _modest(max_bytes: int) -> None:
    """Let everybody else go first, take no more memory than that, and end with the parent, not with the terminal's Ctrl-C."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # not on Windows
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (max_bytes, max_bytes))
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "nice"):
        os.nice(10)


@contextlib.contextmanager
def _killed_after(seconds: float) -> Iterator[None]:
    """A decoder that hangs ends even if nobody is left to kill it."""
    if not hasattr(signal, "setitimer"):
        yield
        return
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


if __name__ == "__main__":
    main()
