"""Records to training rows: build canvases with `mmada.canvas.prompts.Prompts`, measure them, and split long texts.

Nothing is cut. A record that does not fit raises RowError, whose `reason` can be counted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from mmada.canvas import Message, Prompts

if TYPE_CHECKING:
    from torch import Tensor

    from mmada.canvas import Canvas

from mmada.data.records import Picture, Record, RowError

__all__ = ["Lengths", "lengths_of", "split_text", "to_canvas"]


def to_canvas(
    record: Record,
    prompts: Prompts,
    codes_of_image: Callable[[Picture], Tensor],
    *,
    room: int | None = None,
    context: int | None = None,
) -> Canvas:
    """The training row of a record, clean, with its maskable positions as fields.

    codes_of_image  a picture -> its (N,) int64 codes
    room            positions for the text that is learnt, its end token and fill included; None: exactly what it takes.
                    A text without messages is all learnt: there it is the length of the row
    context         most tokens of a row; None: no limit
    Raises RowError if the record does not fit; nothing is ever cut.
    """
    text = record.learnt_text
    learns_text = record.task != "draw"
    # Plain text has a begin token, too.
    needed = len(prompts.encode(text)) + (1 if record.turns else 2) if learns_text else 0
    if learns_text and room is not None and needed > room:
        raise RowError(
            "the text to learn is longer than its room",
            f"{record.where}: the text to learn has {needed} tokens with its end, its room {room}; raise the room, or leave the record out",
        )
    num_new = needed if room is None else room
    if record.task == "draw":
        assert record.image is not None
        canvas = prompts.t2i(codes_of_image(record.image), record.turns[0].text)
    elif record.task == "reason_draw":
        assert record.image is not None
        canvas = prompts.reason_draw(record.turns[0].text, num_new, codes_of_image(record.image), answer=text)
    elif record.turns:
        turns = [Message(turn.role, turn.text) for turn in record.turns]
        images = [codes_of_image(picture) for picture in record.pictures]
        canvas = prompts.chat(turns, num_new, images=images, thinking=record.thinking is not None, answer=text)
    else:
        canvas = prompts.lm(text, length=num_new)
    if context is not None and len(canvas) > context:
        raise RowError(
            "the row is longer than the context",
            f"{record.where}: the row has {len(canvas)} tokens, the context {context}; raise the context, or leave the record out",
        )
    return canvas


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of a record's row: given, target text with its end token, target image codes."""

    given: int
    text: int
    image: int

    def row(self, room: int | None = None) -> int:
        """Tokens of the row, if the text to learn has this room."""
        return self.given + self.image + (max(self.text, room or 0) if self.text else 0)

    def reason(self, *, context: int | None = None, room: int | None = None) -> str | None:
        """Why `to_canvas` would refuse the record, or None. All records of one kind get the same words."""
        if room is not None and self.text > room:
            return "the text to learn is longer than its room"
        if context is not None and self.row(room) > context:
            return "the row is longer than the context"
        return None


def lengths_of(record: Record, prompts: Prompts, *, num_image_tokens: int) -> Lengths:
    """The lengths of a record whose pictures have num_image_tokens codes each, if they have none yet."""

    def codes_of_image(picture: Picture) -> Tensor:
        return torch.zeros(len(picture.source) if isinstance(picture.source, tuple) else num_image_tokens, dtype=torch.long)

    canvas = to_canvas(record, prompts, codes_of_image)
    image = sum(len(field.positions) for field in canvas.fields if field.ids == prompts.layout.image_ids)
    text = sum(len(field.positions) for field in canvas.fields) - image
    return Lengths(len(canvas) - text - image, text, image)


_SEPARATORS = ("\n\n", "\n", ". ", " ", "")


def split_text(record: Record, prompts: Prompts, *, context: int) -> list[Record]:
    """Split a plain text into records that fit the context: after paragraphs, else after lines, sentences or words.

    The pieces, one after another, are the text; their ids end in #0, #1, …. Other records, and texts that fit, stay as they are.
    """
    if record.turns or record.task != "text" or context < 3:
        return [record]

    def fits(text: str) -> bool:
        return len(prompts.encode(text)) + 2 <= context

    pieces = _split(record.answer or "", fits, _SEPARATORS)
    if len(pieces) == 1:
        return [record]
    return [replace(record, id=f"{record.id}#{i}", answer=piece) for i, piece in enumerate(pieces)]


def _split(text: str, fits: Callable[[str], bool], separators: Sequence[str]) -> list[str]:
    if fits(text):
        return [text]
    separator, *finer = separators
    parts = list(text) if not separator else [part for part in re.split(f"(?<={re.escape(separator)})", text) if part]
    if not finer and len(parts) == 1:  # one character that is longer than the context: to_canvas will say so
        return parts
    pieces: list[str] = []
    for part in parts:
        if pieces and fits(pieces[-1] + part):
            pieces[-1] += part
        elif fits(part) or not finer:
            pieces.append(part)
        else:
            pieces += _split(part, fits, finer)
    return pieces
