"""A calculator for thoughts: the arithmetic that is wrong in one, and how one that has said what it computes goes on.

    completed(prompt, "71 - 34: 11 - 4 = 9")    71 - 34: 11 - 4 = 7, 7 - 1 - 3 = 3 = 37                    a step, once its colon is there
    completed(prompt, "19, + 5, - 3;")          19, + 5, - 3; 19 + 5: ... = 24; 24 - 3: ... = 21           a plan, once it is closed
    completed(prompt, "52, 29: 5")              52, 29: 52 is more                                         a comparison, once it says which

What is to be computed is the model's to say. Of a prompt one thing alone is read: the word that asks for the larger number, or for the smaller.
A thought of another form, or a step that thoughts cannot work out, stays as it is. The answer to a thought that is complete is its last result.
"""

from __future__ import annotations

import re

from mmada.worlds.emoji.natural.sums import MOST_MULTIPLES, result_of, worked

__all__ = ["completed"]

_STEP = re.compile(r"(\d{1,4}) ([-+*/]) (\d{1,4}):")
_PLAN = re.compile(r"(\d{1,4})((?:, [-+*/] \d{1,4})+);")
_PLANNED = re.compile(r", ([-+*/]) (\d{1,4})")
_COMPARISON = re.compile(r"(\d{1,4}), (\d{1,4}):(?: (\d{1,4})(?: is (more|less))?)?")
_ASKED = {
    "more": re.compile(
        r"\b(more|larger|bigger|greater|higher|max|maximum|most|largest|biggest|greatest|highest|above|over|exceeds?|beats?)\b(?! (small|little|low))|>"
    ),
    "less": re.compile(
        r"\b(less|smaller|lower|fewer|lesser|min|minimum|least|smallest|lowest|fewest|below|under|more (small|little|low))\b|<"
    ),
}
_TURNED = re.compile(r"\b(not|cannot|(is|are|was|does|do|wo|ca)n.?t)\b")
"""words with which a comparison may mean the opposite"""


def completed(prompt: str, thought: str, is_closed: bool) -> tuple[str, str | None] | None:
    """A thought with its arithmetic right, as far as that is certain, and the answer if it is complete; None: nothing is known of it.

    prompt     what is thought about
    is_closed  whether the thought has ended
    """
    if plan := _PLAN.match(thought):
        return _planned(plan) or _steps(thought, is_closed)
    if comparison := _COMPARISON.match(thought):
        return _compared(prompt, thought, is_closed, comparison)
    return _steps(thought, is_closed)


def _can(operation: str, left: int, right: int) -> bool:
    """Whether a step is written as thoughts write it. They were taught numbers to a hundred; larger ones are written in the same way."""
    if operation == "-":
        return left >= right
    if operation == "*":
        return right <= MOST_MULTIPLES
    return operation == "+" or (right > 0 and left % right == 0 and (right == 2 or left // right <= MOST_MULTIPLES))


def _planned(plan: re.Match[str]) -> tuple[str, str | None] | None:
    """All of a thought whose plan is closed; None if a step of it cannot be worked out."""
    value, steps = int(plan[1]), []
    for operation, operand in _PLANNED.findall(plan[2]):
        if not _can(operation, value, int(operand)):
            return None
        steps.append(worked(operation, value, int(operand)))
        value = result_of(operation, value, int(operand))
    return " ".join([plan[0], "; ".join(steps)]), str(value)


def _compared(prompt: str, thought: str, is_closed: bool, comparison: re.Match[str]) -> tuple[str, str | None] | None:
    """Which number is meant is said by the prompt, if a word of it says so, and else by the thought: the number that it names, or its word."""
    left, right, named, word = comparison.groups()
    if int(left) == int(right):
        return None
    larger, smaller = sorted((left, right), key=int, reverse=True)
    asked = _asked(prompt)
    meant = [number for number in (left, right) if number == named] or [
        n for n in (left, right) if named and not word and n.startswith(named)
    ]
    if asked or (word and len(meant) != 1):
        meant = [larger if (asked or word) == "more" else smaller]
    if len(meant) != 1:
        return None
    said = f"{left}, {right}: {meant[0]} is {'more' if meant[0] == larger else 'less'}"
    if thought.startswith(f"{said};"):
        answer = "yes" if meant[0] == left else "no"
        return f"{said}; {left} -> {answer}", answer
    return said, meant[0] if is_closed and thought == said else None


def _asked(prompt: str) -> str | None:
    """more or less; None if a prompt has no word for it, or several that disagree."""
    said = prompt.lower()
    found = [direction for direction, words in _ASKED.items() if words.search(said)]
    return found[0] if len(found) == 1 and not _TURNED.search(said) else None


def _steps(thought: str, is_closed: bool) -> tuple[str, str | None] | None:
    """The steps of a thought that has no plan, or one with names: the first that is wrong, or the last."""
    segments, before = thought.split("; "), ""
    for i, segment in enumerate(segments):
        is_last = i == len(segments) - 1
        if (step := _STEP.match(segment)) and _can(step[2], int(step[1]), int(step[3])):
            operation, left, right = step[2], int(step[1]), int(step[3])
            said = worked(operation, left, right)
            if is_last and not is_closed and segment == f"{said};":
                return None  # another step follows
            if is_last or segment != said:
                # Digits behind the result, or words, belong to nothing.
                is_complete = segment.startswith(said) and (segment != said or is_closed)
                return before + said, str(result_of(operation, left, right)) if is_complete else None
        before += f"{segment}; "
    return None
