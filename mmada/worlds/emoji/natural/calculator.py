"""A calculator for thoughts: the arithmetic that is wrong in one, and how one that has said what it computes goes on.

    completed(prompt, "71 - 34: 11 - 4 = 9")    71 - 34: 11 - 4 = 7, 7 - 1 - 3 = 3 = 37                    a step, once its colon is there
    completed(prompt, "19, + 5, - 3;")          19, + 5, - 3; 19 + 5: ... = 24; 24 - 3: ... = 21           a plan, once it is closed
    completed(prompt, "52, 29: 5")              52, 29: 52 is more                                         a comparison, once it says which

What is to be computed is the model's to say. Of a prompt one thing alone is read: the word that asks for the larger number, or for the smaller.
A thought of another form, or a step that thoughts cannot work out, stays as it is.
"""

from __future__ import annotations

import re

from mmada.worlds.emoji.natural.sums import is_step, result_of, worked

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


def completed(prompt: str, thought: str, is_closed: bool) -> tuple[str, bool] | None:
    """A thought with its arithmetic right, as far as that is certain, and whether it ends there; None: nothing is known of it.

    prompt     what is thought about
    is_closed  whether the thought has ended
    """
    if plan := _PLAN.match(thought):
        return _planned(plan) or _steps(thought, is_closed)
    if comparison := _COMPARISON.match(thought):
        return _compared(prompt, thought, comparison)
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


def _compared(prompt: str, thought: str, comparison: re.Match[str]) -> tuple[str, bool] | None:
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
        return f"{said}; {left} -> {'yes' if meant[0] == left else 'no'}", True
    return said, False


def _asked(prompt: str) -> str | None:
    """more or less; None if a prompt has no word for it, or several that disagree."""
    said = prompt.lower()
    found = [direction for direction, words in _ASKED.items() if words.search(said)]
    return found[0] if len(found) == 1 and not _TURNED.search(said) else None


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
