"""A calculator for thoughts: the arithmetic that is wrong in one, and how one that has said what it computes goes on.

    completed("71 - 34: 11 - 4 = 9")            71 - 34: 11 - 4 = 7, 7 - 1 - 3 = 3 = 37                    a step, once its colon is there
    completed("19, + 5, - 3;")                  19, + 5, - 3; 19 + 5: ... = 24; 24 - 3: ... = 21           a plan, once it is closed
    completed("52, 29: 5")                      52, 29: 52 is more                                         a comparison, once it says which

What is to be computed is the model's to say. A thought of another form, or a step that thoughts cannot work out, stays as it is.
"""

from __future__ import annotations

import re

from mmada.worlds.emoji.natural.sums import is_step, result_of, worked

__all__ = ["completed"]

_STEP = re.compile(r"(\d{1,4}) ([-+*/]) (\d{1,4}):")
_PLAN = re.compile(r"(\d{1,4})((?:, [-+*/] \d{1,4})+);")
_PLANNED = re.compile(r", ([-+*/]) (\d{1,4})")
_COMPARISON = re.compile(r"(\d{1,4}), (\d{1,4}): (\d{1,4})(?: is (more|less))?")


def completed(thought: str, is_closed: bool) -> tuple[str, bool] | None:
    """A thought with its arithmetic right, as far as that is certain, and whether it ends there; None: nothing is known of it.

    is_closed  whether the thought has ended
    """
    if plan := _PLAN.match(thought):
        return _planned(plan) or _steps(thought, is_closed)
    if comparison := _COMPARISON.match(thought):
        return _compared(thought, comparison)
    return _steps(thought, is_closed)


def _planned(plan: re.Match[str]) -> tuple[str, bool] | None:
    """All of a thought whose plan is closed; None if a step of it cannot be worked out."""
    value, steps = int(plan[1]), []
    for operation, operand in _PLANNED.findall(plan[2]):
        if not is_step(operation, value, int(operand)):
            return None
        steps.append(worked(operation, value, int(operand)))
        value = result_of(operation, value, int(operand))
    return " ".join([plan[0], "; ".join(steps)]), True


def _compared(thought: str, comparison: re.Match[str]) -> tuple[str, bool] | None:
    """Which of two numbers is named is the model's to say; that it is the larger one, or the smaller, is not."""
    left, right, named, word = comparison.groups()
    if int(left) == int(right):
        return None
    larger, smaller = sorted((left, right), key=int, reverse=True)
    meant = [number for number in (left, right) if number == named] or [n for n in (left, right) if word is None and n.startswith(named)]
    if len(meant) != 1:
        meant = [{"more": larger, "less": smaller}[word]] if word is not None else []
    if not meant:
        return None
    said = f"{left}, {right}: {meant[0]} is {'more' if meant[0] == larger else 'less'}"
    if thought.startswith(f"{said};"):
        return f"{said}; {left} -> {'yes' if meant[0] == left else 'no'}", True
    return said, False


def _steps(thought: str, is_closed: bool) -> tuple[str, bool] | None:
    """The steps of a thought that has no plan, or one with names: the first that is wrong, or the last."""
    segments, before = thought.split("; "), ""
    for i, segment in enumerate(segments):
        is_last = i == len(segments) - 1
        if (step := _STEP.match(segment)) and is_step(step[2], int(step[1]), int(step[3])):
            right = worked(step[2], int(step[1]), int(step[3]))
            done = segment == right or (is_last and not is_closed and segment == f"{right};")
            if not done:
                # Digits behind the result, or words, belong to nothing.
                return before + right, segment.startswith(right)
        before += f"{segment}; "
    return None
