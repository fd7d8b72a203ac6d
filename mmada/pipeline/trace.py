"""Pictures of the denoising: text and image appearing, as an animation or as a strip.

recorder = Recorder()
model.draw("a cat", on_step=recorder)
recorder.save("cat.gif")                # every round a frame; "cat.png" is a strip of up to 12 of them

+----------------+
| words, gray    |      what is committed is black, proposals are gray, open positions a dot
| until final    |
|   +--------+   |
|   | image  |   |      places without a committed code are veiled
|   +--------+   |
+----------------+
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mmada.errors import InputError
from mmada.pipeline.mmada import Progress

__all__ = ["Recorder", "frame"]

_SIDE = 256
"""Shorter side of a picture in a frame, in pixels."""
_FORMATS = (".gif", ".png")
_STRIP = 12
_FINAL, _DRAFT = "black", "#a8a8a8"


@dataclass(slots=True)
class Recorder:
    """An `on_step` that keeps a frame of every round of one request.

    request       which one of the call
    milliseconds  how long an animation shows each frame; the last one stays ten times as long
    """

    request: int = 0
    milliseconds: int = 120
    frames: list[Image.Image] = field(default_factory=list)
    _words: list[tuple[str, bool]] = field(default_factory=list)

    def __call__(self, progress: Progress) -> None:
        picture = None
        if progress.is_drawing(self.request):
            picture = _veiled(progress, self.request)
            self._words = progress.pieces(self.request) or self._words  # of a text in the same passes, or of the thought before
        else:
            self._words = progress.pieces(self.request)
        self.frames.append(frame(self._words, picture))

    @staticmethod
    def check(path: Path) -> None:
        """Raise InputError if a trace could not be written in the format of the name's ending."""
        if path.suffix.lower() not in _FORMATS:
            raise InputError(f"trace={str(path)!r} ends in {path.suffix!r}; end it in .gif for an animation or .png for a strip")

    def save(self, path: Path | str) -> None:
        """Write what was seen. Raises InputError if nothing was, or the file cannot be written."""
        path = Path(path)
        self.check(path)
        if not self.frames:
            raise InputError("the trace has no frame; give the recorder as on_step of a request")
        try:
            if path.suffix.lower() == ".gif":
                frames = _alike(self.frames)
                times = [self.milliseconds] * (len(frames) - 1) + [10 * self.milliseconds]
                frames[0].save(path, save_all=True, append_images=frames[1:], duration=times, loop=0)
            else:
                _strip(self.frames).save(path)
        except OSError as error:
            raise InputError(f"trace={str(path)!r} cannot be written ({error}); give another path") from error


def frame(words: Sequence[tuple[str, bool]], picture: Image.Image | None) -> Image.Image:
    """Text, each piece with whether it is final, above a picture; either may be missing."""
    lines = _lines(words)
    font = ImageFont.load_default(size=14)
    width = max(_SIDE if picture is None else picture.width, *(sum(font.getlength(t) for t, _ in line) for line in lines), 1)
    top = 20 * len(lines) + 12 if words else 8
    sheet = Image.new("RGB", (int(width) + 16, top + (picture.height + 8 if picture is not None else 0)), "white")
    pen = ImageDraw.Draw(sheet)
    for row, line in enumerate(lines):
        x = 8.0
        for text, is_final in line:
            pen.text((x, 6 + 20 * row), text, fill=_FINAL if is_final else _DRAFT, font=font)
            x += font.getlength(text)
    if picture is not None:
        sheet.paste(picture, (8, top))
    return sheet


def _lines(words: Sequence[tuple[str, bool]], *, columns: int = 44) -> list[list[tuple[str, bool]]]:
    """Break pieces into lines of at most `columns` characters; a longer piece stands alone."""
    lines: list[list[tuple[str, bool]]] = [[]]
    for text, is_final in words:
        for i, part in enumerate(text.split("\n")):
            if i or sum(len(t) for t, _ in lines[-1]) + len(part) > columns:
                lines.append([])
                part = part.lstrip()
            if part:
                lines[-1].append((part, is_final))
    return lines


def _veiled(progress: Progress, request: int) -> Image.Image:
    """The drawing as it looks now, enlarged, with a gray veil where codes are not committed."""
    image = progress.image(request)
    _, is_open = progress.codes(request)
    scale = max(1, _SIDE // min(image.size))
    large = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    veil = Image.fromarray(np.where(is_open.numpy(), 150, 0).astype(np.uint8)).resize(large.size, Image.Resampling.NEAREST)
    large.paste(Image.new("RGB", large.size, "#d8d8d8"), mask=veil)
    return large


def _alike(frames: Sequence[Image.Image]) -> list[Image.Image]:
    """Frames of one size, each on white."""
    size = max(f.width for f in frames), max(f.height for f in frames)
    sheets = [Image.new("RGB", size, "white") for _ in frames]
    for sheet, picture in zip(sheets, frames, strict=True):
        sheet.paste(picture, (0, 0))
    return sheets


def _strip(frames: Sequence[Image.Image]) -> Image.Image:
    """Up to 12 frames, evenly chosen, the last among them, in rows of four, each as high as its frames."""
    chosen = [frames[round(i * (len(frames) - 1) / max(1, min(_STRIP, len(frames)) - 1))] for i in range(min(_STRIP, len(frames)))]
    width, columns = max(f.width for f in chosen), min(4, len(chosen))
    rows = [chosen[i : i + columns] for i in range(0, len(chosen), columns)]
    heights = [max(f.height for f in row) for row in rows]
    sheet = Image.new("RGB", (columns * width, sum(heights)), "white")
    for i, row in enumerate(rows):
        for column, picture in enumerate(row):
            sheet.paste(picture, (column * width, sum(heights[:i])))
    return sheet
