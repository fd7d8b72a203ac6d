"""Rewards of texts that need no world: form, length, equality with a reference. They do not bear on drawings without thinking.

format     1: "<think> … </think> answer" where thinking was asked for, a bare answer where it was not
brevity    1 at no token, 0 at `room` tokens and above, linear
exact      1: the answer is the reference, compared without case, articles and final punctuation
math       1: the answer means what the reference means, by math-verify; the last \\boxed{…} counts if there is one
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from mmada.data.emoji import normalise_answer, read_answer
from mmada.errors import MissingDependencyError
from mmada.rl.records import Sample

__all__ = ["brevity", "exact", "math_verified", "think_format"]

_MARKED = re.compile(r"\$|\\boxed|\\\(|\\\[")
"""Signs around the LaTeX that math-verify looks for."""


def think_format(samples: Sequence[Sample]) -> list[float | None]:
    return [_form(sample) if _is_text(sample) else None for sample in samples]


def brevity(samples: Sequence[Sample], *, room: int) -> list[float | None]:
    """room: tokens, the end token counted."""
    return [max(0.0, 1 - sample.num_tokens / room) if _is_text(sample) else None for sample in samples]


def exact(samples: Sequence[Sample]) -> list[float | None]:
    """A sample without a reference has none to equal."""
    return [
        float(normalise_answer(sample.answer) == normalise_answer(sample.prompt.reference))
        if sample.prompt.reference and _is_text(sample)
        else None
        for sample in samples
    ]


def math_verified(samples: Sequence[Sample]) -> list[float | None]:
    """Raises MissingDependencyError without math-verify."""
    try:
        from math_verify import parse, verify
    except ImportError as error:
        raise MissingDependencyError("the reward math needs math-verify, which is not installed; pip install 'mmada[rl]'") from error

    def equals(answer: str, reference: str) -> float:
        # A bare number or expression needs the signs.
        gold = parse(reference if _MARKED.search(reference) else f"${reference}$", parsing_timeout=None)
        said = parse(answer if _MARKED.search(answer) else f"${answer}$", parsing_timeout=None) or parse(answer, parsing_timeout=None)
        return float(bool(gold and said) and verify(gold, said, timeout_seconds=None))

    return [equals(sample.answer, sample.prompt.reference) if sample.prompt.reference and _is_text(sample) else None for sample in samples]


def _is_text(sample: Sample) -> bool:
    return sample.image is None or bool(sample.text)


def _form(sample: Sample) -> float:
    return float(read_answer(sample.text).state == ("thought" if sample.prompt.request.think else "direct"))
