"""What strangers send to be in the way."""

from __future__ import annotations

import io
from functools import cache

from PIL import Image

__all__ = ["many_scans"]


@cache
def many_scans(count: int, *, side: int) -> bytes:
    """A progressive JPEG of side x side pixels that paints itself over `count` times more; a scan is a few bytes."""
    file = io.BytesIO()
    Image.new("L", (side, side), 128).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    last = data.rfind(b"\xff\xda")
    return data[:last] + data[last:-2] * count + data[-2:]
