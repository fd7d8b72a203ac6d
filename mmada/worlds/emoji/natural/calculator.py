"""A calculator for thoughts: the arithmetic that is wrong in one, and how one that has said what it computes goes on.

    completed(prompt, "71 - 34: 11 - 4 = 9")    71 - 34: 11 - 4 = 7, 7 - 1 - 3 = 3 = 37                    a step, once its colon is there
    completed(prompt, "19, + 5, - 3;")          19, + 5, - 3; 19 + 5: ... = 24; 24 - 3: ... = 21           a plan, once it is closed
    completed(prompt, "52, 29: 5")              52, 29: 52 is more                                         a comparison, once it says which
    completed("12.5 + 3", "12")                 beyond me                                                  what no thought can work out

What is to be computed is the model's to say. Of a prompt three things are read: its numbers (figures.py), a sum that it writes out (signs.py), and the
word that asks for the larger number or the smaller. Results below zero, fractions and large products, which thoughts were not taught, are worked out
in their manner (sums.py). A thought of another form stays as it is. The answer to a thought that is complete is its last result.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fractions import Fraction

from mmada.worlds.emoji.natural.figures import as_written, left_over
from mmada.worlds.emoji.natural.signs import expression_of, is_beyond
from mmada.worlds.emoji.natural.sums import at_once, exact, is_like_taught, mixed, worked, worked_beyond

__all__ = ["BEYOND", "DIVIDED_BY_ZERO", "completed", "doubt_of"]

BEYOND = ("beyond me", "I cannot work that out. I add, subtract, multiply and divide whole numbers, one after the other.")
"""Thought and answer where a prompt asks for another kind of sum."""
DIVIDED_BY_ZERO = "Nothing can be divided by 0."
_LONGEST = 290
"""letters of steps that are counted out or done column by column: a thought has 160 tokens"""

_STEP = re.compile(r"(\d{1,9}) ([-+*/]) (\d{1,9}):")
_HEAD = re.compile(r"\d{1,9}(?:,? [-+*/] \d{1,9}|, \d{1,9})*(?=[,:; ]|$)")
_PART = re.compile(r"([-+*/, ]*)(\d+)")
_PLAN = re.compile(r"(\d{1,9})((?:, [-+*/] \d{1,9})+);")
_PLANNED = re.compile(r", ([-+*/]) (\d{1,9})")
_COMPARISON = re.compile(r"(\d{1,9}), (\d{1,9}):(?: (\d{1,9})(?: is (more|less))?)?")
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


def completed(prompt: str, thought: str, is_closed: bool, *, earlier: str = "") -> tuple[str, str | None] | None:
    """A thought with its arithmetic right, as far as that is certain, and the answer if it is complete; None: nothing is known of it.

    prompt     what is thought about
    is_closed  whether the thought has ended
    earlier    what was said before the prompt, whose numbers a thought may have, too
    """
    if thought[:1].isdigit():
        if is_beyond(prompt):
            return BEYOND
        if expression := expression_of(prompt):
            return _calculated(expression)
    read, end = _as_read(prompt, thought, is_closed, earlier)
    return _continued(prompt, read, is_closed) or (None if read == thought else (read[:end], None))


def _calculated(expression: Sequence[tuple[str, int]]) -> tuple[str, str]:
    """The thought of a sum that a prompt writes in signs, and its answer."""
    steps, answer = _in_steps(expression, _worked)
    return (steps, answer) if len(steps) <= _LONGEST else _in_steps(expression, at_once)


def _in_steps(expression: Sequence[tuple[str, int]], worked_out: Callable[[str, Fraction, int], str]) -> tuple[str, str]:
    (_, first), *others = expression
    value, steps = Fraction(first), list[str]()
    for operation, operand in others:
        if operation == "/" and operand == 0:
            return "; ".join([*steps, f"{mixed(value)} / 0"]), DIVIDED_BY_ZERO
        steps.append(worked_out(operation, value, operand))
        value = exact(operation, value, operand)
    return "; ".join(steps), mixed(value)


def _as_read(prompt: str, thought: str, is_closed: bool, earlier: str) -> tuple[str, int]:
    """A thought whose first numbers, those of its plan, are the prompt's; and how much of it is these and the sign behind them."""
    head = _HEAD.match(thought)
    if head is None:
        return thought, 0
    is_open = not is_closed and head.end() == len(thought)
    is_whole = thought[head.end() : head.end() + 1] in (":", ";")
    numbers = iter(as_written(prompt, _PART.findall(head[0]), is_open=is_open, is_whole=is_whole, earlier=earlier))
    said = re.sub(r"\d+", lambda _: next(numbers), head[0])
    return said + thought[head.end() :], len(said) + 1


def doubt_of(prompt: str, thought: str) -> str | None:
    """Which number of a prompt a plan, or a single step, leaves out, in a sentence; None: none, or the thought computes nothing."""
    head = _HEAD.match(thought)
    if head is None or " is " in thought or not re.search("[-+*/]", head[0]):
        return None
    steps = [step[3] for step in map(_STEP.match, thought.split("; ")) if step] if ", " not in head[0] else []
    left = left_over(prompt, [*re.findall(r"\d+", head[0]), *steps])
    if not left:
        return None
    return f"{' and '.join(left)} of the question {'is' if len(left) == 1 else 'are'} not in the computation, so the answer may be wrong."


def _continued(prompt: str, thought: str, is_closed: bool) -> tuple[str, str | None] | None:
    if plan := _PLAN.match(thought):
        return _planned(plan)
    if comparison := _COMPARISON.match(thought):
        return _compared(prompt, thought, is_closed, comparison)
    return _steps(thought, is_closed)


def _planned(plan: re.Match[str]) -> tuple[str, str]:
    """All of a thought whose plan is closed."""
    steps, answer = _calculated([("", int(plan[1])), *((operation, int(operand)) for operation, operand in _PLANNED.findall(plan[2]))])
    return f"{plan[0]} {steps}", answer


def _worked(operation: str, left: Fraction, right: int) -> str:
    """A step as thoughts write it. They were taught numbers to a hundred; larger ones are written in the same way."""
    if left >= 0 and left.denominator == 1 and is_like_taught(operation, int(left), right):
        return worked(operation, int(left), right)
    return worked_beyond(operation, left, right)


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
        if step := _STEP.match(segment):
            operation, left, right = step[2], int(step[1]), int(step[3])
            if operation == "/" and right == 0:
                return f"{before}{left} / 0", DIVIDED_BY_ZERO
            said = _worked(operation, Fraction(left), right)
            if is_last and not is_closed and segment == f"{said};":
                return None  # another step follows
            if is_last or segment != said:
                # Digits behind the result, or words, belong to nothing.
                is_complete = segment.startswith(said) and (segment != said or is_closed)
                return before + said, mixed(exact(operation, Fraction(left), right)) if is_complete else None
        before += f"{segment}; "
    return None
