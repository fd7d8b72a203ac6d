"""Rewards of texts that need no world: form, length, equality with a reference. They do not bear on drawings without thinking.

format     1: "<think> … </think> answer" where thinking was asked for, a bare answer where it was not
brevity    1 at no token, 0 at the longest answer, linear
exact      1: the answer is the reference, compared without case, articles and final punctuation
math       1: the answer means what the reference means, by math-verify; the last \\boxed{…} counts if there is one
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from typing import Any

from mmada.data.answers import normalize_answer, read_answer
from mmada.errors import MissingDependencyError
from mmada.generation.requests import EditRequest
from mmada.rl.records import Completion

__all__ = ["brevity", "exact", "math_verified", "think_format"]

_MARKED = re.compile(r"\$|\\boxed|\\\(|\\\[")
"""Signs around the LaTeX that math-verify looks for."""
_WORDS = re.compile(r"(?<!\\)\b(?!(?:sin|cos|tan|log|ln|exp|sqrt|pi)\b)[A-Za-z]{2,}")
_SECONDS = 5
"""Of one comparison at most: what is written by a model may be a tower of powers."""


def think_format(samples: Sequence[Completion]) -> list[float | None]:
    """1 for the form that was asked for, 0 for another; None for drawings without thinking."""
    return [_form(sample) if _is_text(sample) else None for sample in samples]


def brevity(samples: Sequence[Completion]) -> list[float | None]:
    """The end token counts."""
    return [max(0.0, 1 - sample.num_tokens / max(sample.answer_length, 1)) if _is_text(sample) else None for sample in samples]


def exact(samples: Sequence[Completion]) -> list[float | None]:
    """A sample without a reference has none to equal, and nothing said equals none."""
    return [
        float(bool(said := normalize_answer(sample.answer)) and said == normalize_answer(sample.prompt.reference))
        if sample.prompt.reference and _is_text(sample)
        else None
        for sample in samples
    ]


def math_verified(samples: Sequence[Completion]) -> list[float | None]:
    """Raises MissingDependencyError without math-verify."""
    try:
        from math_verify import parse, verify
    except ImportError as error:
        raise MissingDependencyError("the reward math needs math-verify, which is not installed; pip install 'mmada[rl]'") from error

    # Its limit of time is an alarm, which the main thread alone can set.
    seconds = _SECONDS if threading.current_thread() is threading.main_thread() else None

    def read(text: str) -> list[Any]:
        # A bare number or expression needs the signs; in a sentence with them every letter would be a factor.
        is_bare = not (_MARKED.search(text) or _WORDS.search(text))
        found: list[Any] = parse(f"${text}$" if is_bare else text, parsing_timeout=seconds)
        return found

    def equals(answer: str, reference: str) -> float:
        gold, said = read(reference), read(answer)
        return float(bool(gold and said) and verify(gold, said, timeout_seconds=seconds))

    return [equals(sample.answer, sample.prompt.reference) if sample.prompt.reference and _is_text(sample) else None for sample in samples]


def _is_text(sample: Completion) -> bool:
    return sample.image is None or bool(sample.text)


def _form(sample: Completion) -> float:
    request = sample.prompt.request
    assert not isinstance(request, EditRequest)  # which has no text
    if request.think:
        return float("<think>" in sample.text and read_answer(sample.text).state == "thought")
    return float(read_answer(sample.text).state == "direct")
