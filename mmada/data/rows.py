"""How long the rows of records are, and long texts in pieces. The rows themselves depend on the stage: train/records.py.

Nothing is ever cut: a record that does not fit is left out, for a reason that can be counted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from mmada.canvas import Message, Prompts
from mmada.data.records import EDIT_TASKS, Picture, Record
from mmada.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from mmada.families import Ability, Family

__all__ = ["Lengths", "lacking", "lengths_of", "split_text"]


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of a record's row: given, target text with its end token, target image codes."""

    given: int
    text: int
    image: int

    def row(self, answer_length: int | None = None) -> int:
        """Tokens of the row, if the text to learn has this room."""
        return self.given + self.image + (max(self.text, answer_length or 0) if self.text else 0)

    def reason(self, *, context: int | None = None, answer_length: int | None = None) -> str | None:
        """Why the record would be left out, in words that are the same for all of one sort; None if it fits."""
        if answer_length is not None and self.text > answer_length:
            return "the text to learn is longer than its answer length"
        if context is not None and self.row(answer_length) > context:
            return "the row is longer than the context"
        return None


def lengths_of(record: Record, prompts: Prompts, *, grid: tuple[int, int]) -> Lengths:
    """The lengths of a record whose pictures have (h, w) codes each, if they have none yet.

    What is given is measured where the record's answer is asked for. Where thinking and drawing are two rows, they count as one.
    Raises InputError for a record that these prompts cannot lay out.
    """

    def codes(picture: Picture | None) -> Tensor:
        has_codes = picture is not None and isinstance(picture.source, tuple)
        count = len(picture.source) if has_codes else grid[0] * grid[1]  # type: ignore[union-attr, arg-type]
        return prompts.shaped(torch.zeros(count, dtype=torch.long), grid)

    # Plain text may have a begin token beside its end.
    text = (
        0
        if record.task in ("draw", "edit", "restyle")
        else len(prompts.encode(record.target_text)) + 1 + (0 if record.turns else len(prompts.begin))
    )
    if not record.turns:
        return Lengths(0, text, 0)
    if record.task in ("text", "understand"):
        turns = [Message(turn.role, turn.text) for turn in record.turns]
        images = [codes(picture) for picture in record.pictures]
        asked = prompts.chat(turns, 1, images=images, thinking=record.thinking is not None)
        return Lengths(int((~asked.is_open).sum()), text, 0)
    drawn, prompt = codes(record.image), record.turns[0].text
    if record.task in EDIT_TASKS:
        sources = [codes(picture) for picture in record.turns[0].pictures]
        return _lengths_of_edit(prompt, sources, drawn, text, prompts, restyle=record.task == "restyle")
    in_one_row = record.task == "reason_draw" and prompts.layout.r2i_id is not None
    asked = prompts.reason_draw(prompt, 1, drawn) if in_one_row else prompts.draw(prompt, drawn)
    return Lengths(int((~asked.is_open).sum()), text, drawn.numel())


def _lengths_of_edit(prompt: str, images: Sequence[Tensor], drawn: Tensor, text: int, prompts: Prompts, *, restyle: bool) -> Lengths:
    """text: tokens that are written beside the image; 0: none."""
    from mmada.families import EditPrompts, ParallelPrompts

    if text and isinstance(prompts, ParallelPrompts):
        asked = prompts.parallel(prompt, images, 1, drawn)
    elif not text and isinstance(prompts, EditPrompts):
        asked = prompts.edit(prompt, images, drawn, restyle=restyle)
    else:
        raise InputError(f"{type(prompts).__name__} have no row for an image that is changed{' and written about' if text else ''}")
    return Lengths(int((~asked.is_open).sum()), text, drawn.numel())


def lacking(record: Record, family: Family) -> str | None:
    """What a record teaches that models of a family cannot do, in words that also say who can; None if they can do all of it."""
    from mmada.families import FAMILIES
    from mmada.families.family import able

    needed: list[Ability]
    if record.task in EDIT_TASKS:
        needed = ["parallel" if record.task == "parallel" else "edit"]
    else:
        looks = any(turn.pictures for turn in record.turns)
        needed = [*(["look"] if looks else []), "draw" if record.task in ("draw", "reason_draw") else "chat"]  # type: ignore[list-item]
    first = next((ability for ability in needed if ability not in family.abilities), None)
    return None if first is None else f"{family.lacks(first)} ({able(first, list(FAMILIES.values()))} can)"


_SEPARATORS = ("\n\n", "\n", ". ", " ", "")


def split_text(record: Record, prompts: Prompts, *, context: int) -> list[Record]:
    """A text to be learned as it is, as records that fit the context: cut behind paragraphs, else lines, sentences, words.

    The pieces, one after another, are the text; their ids end in #0, #1, …. Other records, and texts that fit, stay as they are.
    """
    if record.turns or record.task != "text" or context < 3:
        return [record]

    def fits(text: str) -> bool:
        return len(prompts.encode(text)) + 1 + len(prompts.begin) <= context

    pieces = _split(record.answer or "", fits, _SEPARATORS)
    if len(pieces) == 1:
        return [record]
    return [replace(record, id=f"{record.id}#{i}", answer=piece) for i, piece in enumerate(pieces)]


def _split(text: str, fits: Callable[[str], bool], separators: Sequence[str]) -> list[str]:
    if fits(text):
        return [text]
    separator, *finer = separators
    parts = list(text) if not separator else [part for part in re.split(f"(?<={re.escape(separator)})", text) if part]
    if not finer and len(parts) == 1:  # one character that is longer than the context: it will be left out
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
