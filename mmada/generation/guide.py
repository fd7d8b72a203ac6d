"""What a world knows for certain of a thought, as a guide of the sampler: from ids to a text, and back to ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

from mmada.canvas import Prompts
from mmada.sampling import Guide

__all__ = ["Complete", "guide_of"]

Complete = Callable[[str, bool], tuple[str, bool] | None]
"""A thought, and whether it is closed -> the same with what is certain, and whether it ends with that (`World.completed`)."""

_OPEN, _CLOSE = "<think>", "</think>"


def guide_of(prompts: Prompts, complete: Complete) -> Guide:
    """A guide of answers that begin with a thought. A tokenizer in whose tokens the certain text cannot be written leaves them as they are."""

    def guide(ids: Sequence[int]) -> list[int] | None:
        pieces = [prompts.decode([token]) for token in ids]
        written = "".join(pieces)
        wanted = _completed(written, complete)
        if wanted is None or written.startswith(wanted):
            return None
        shared = next((i for i, (a, b) in enumerate(zip(written, wanted, strict=False)) if a != b), min(len(written), len(wanted)))
        ends = [end for end in accumulate(map(len, pieces)) if end <= shared]
        rest = prompts.encode(wanted[ends[-1] if ends else 0 :])
        kept = list(ids[: len(ends)])
        return [*kept, *rest] if "".join(map(prompts.decode, ([token] for token in [*kept, *rest]))) == wanted else None

    return guide


def _completed(written: str, complete: Complete) -> str | None:
    """An answer up to where its thought is certain; None if nothing is."""
    before, opened, rest = written.partition(_OPEN)
    thought, closed, _ = rest.partition(_CLOSE)
    begin = len(thought) - len(thought.lstrip())
    found = complete(thought[begin:].rstrip() if closed else thought[begin:], bool(closed)) if opened else None
    if found is None:
        return None
    text, ends = found
    return "".join((before, opened, thought[:begin], text, _CLOSE if ends else ""))
