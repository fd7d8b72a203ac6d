"""What a world knows for certain of a thought, as a guide of the sampler: from ids to a text, and back to ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, takewhile

from mmada.canvas import Prompts
from mmada.sampling import Guide

__all__ = ["Complete", "guide_of"]

Complete = Callable[[str, bool], tuple[str, str | None] | None]
"""A thought, and whether it is closed -> the same with what is certain, and the answer if it ends with that (`World.completed`)."""

_OPEN, _CLOSE = "<think>", "</think>"


def guide_of(prompts: Prompts, complete: Complete) -> Guide:
    """A guide of answers that begin with a thought. A tokenizer in whose tokens the certain text cannot be written leaves them as they are."""

    eos, ends = prompts.layout.eos_id, set(prompts.layout.end_ids)

    def guide(row: Sequence[int]) -> list[int] | None:
        ids = list(takewhile(lambda token: token not in ends, row))
        has_ended = len(ids) < len(row)
        pieces = [prompts.decode([token]) for token in ids]
        written = "".join(pieces)
        wanted, is_whole = _completed(written, complete, has_ended)
        if wanted is None or (written == wanted if is_whole else written.startswith(wanted)):
            return None if not is_whole or has_ended else [*ids, eos]
        kept = sum(wanted.startswith(begun) for begun in accumulate(pieces))
        rest = wanted[len("".join(pieces[:kept])) :]
        new = prompts.encode(rest)
        if "".join(prompts.decode([token]) for token in new) != rest:
            return None
        return [*ids[:kept], *new, *([eos] if is_whole else [])]

    return guide


def _completed(written: str, complete: Complete, has_ended: bool) -> tuple[str | None, bool]:
    """An answer up to where it is certain, None if nothing is; and whether that is all of it. A thought that ends the text is closed, too."""
    before, opened, rest = written.partition(_OPEN)
    thought, closed, _ = rest.partition(_CLOSE)
    begin = len(thought) - len(thought.lstrip())
    is_closed = bool(closed) or has_ended
    found = complete(thought[begin:].rstrip() if is_closed else thought[begin:], is_closed) if opened else None
    if found is None:
        return None, False
    text, answer = found
    said = "".join((before, opened, thought[:begin], text))
    return (said, False) if answer is None else (f"{said}{_CLOSE} {answer}", True)
