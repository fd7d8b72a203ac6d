"""Arithmetic to a hundred: how a step is worked out in a thought.

worked("+", 8, 3)      "8 + 3: 9 1 10 2 11 3 = 11"                      counted, as everywhere in this world, up to twenty
worked("+", 27, 38)    "27 + 38: 7 + 8 = 15, 2 + 3 + 1 = 6 = 65"        column by column above: units, then tens and what is carried
worked("-", 65, 38)    "65 - 38: 15 - 8 = 7, 6 - 1 - 3 = 2 = 27"
worked("*", 7, 3)      "7 * 3: 7 1 14 2 21 3 = 21"                      in steps of the first number
worked("/", 12, 4)     "12 / 4: 4 1 8 2 12 3 = 3"                       in steps of the second until the first is reached
worked("/", 46, 2)     "46 / 2: 23 + 23 = 46 = 23"                      halves of large numbers are known

What thoughts are not taught, in the same manner (`worked_beyond`):

    "3 - 9: 9 - 3 = 6 = -6"    "12 * 34: 12 * 30 = 360, 12 * 4 = 48 = 408"    "10 / 4: 2 * 4 = 8, 10 - 8 = 2 = 2 1/2"
"""

from __future__ import annotations

from fractions import Fraction

from mmada.worlds.emoji.arithmetic import MAX_VALUE, Step
from mmada.worlds.emoji.chooser import Chooser, DeadEndError

__all__ = [
    "LARGEST",
    "MOST_MULTIPLES",
    "allowed",
    "at_once",
    "exact",
    "is_like_taught",
    "is_step",
    "mixed",
    "result_of",
    "worked",
    "worked_beyond",
]

LARGEST = 100
"""No number of a problem is larger."""
MOST_MULTIPLES = 12
"""that a thought counts"""


def result_of(operation: str, left: int, right: int) -> int:
    """The result of one operation, + - * or /; a quotient without its remainder."""
    if operation == "/":
        return left // right
    return Step(left, operation, right).result


def exact(operation: str, left: Fraction, right: int) -> Fraction:
    """The result of one operation, + - * or /. Raises ZeroDivisionError for a quotient by 0."""
    if operation == "/":
        return left / right
    return left + right if operation == "+" else left - right if operation == "-" else left * right


def mixed(value: Fraction) -> str:
    """A number as it is said: 23, -6, 2 1/2."""
    whole, rest = divmod(abs(value), 1)
    parts = [str(whole)] * (whole > 0 or not rest) + [str(rest)] * (rest > 0)
    return "-" * (value < 0) + " ".join(parts)


def is_step(operation: str, left: int, right: int) -> bool:
    """Whether thoughts can work it out: whole numbers from 0 to 100, and not too many multiples."""
    if operation == "/":
        return right > 0 and left % right == 0 and left <= LARGEST and (right == 2 or left // right <= MOST_MULTIPLES)
    if operation == "*" and right > MOST_MULTIPLES:
        return False
    return max(left, right) <= LARGEST and 0 <= result_of(operation, left, right) <= LARGEST


def is_like_taught(operation: str, left: int, right: int) -> bool:
    """Whether a step, of numbers of any size, can be written in the way that thoughts were taught."""
    if operation == "-":
        return left >= right
    if operation == "*":
        return right <= MOST_MULTIPLES
    return operation == "+" or (right > 0 and left % right == 0 and (right == 2 or left // right <= MOST_MULTIPLES))


def allowed(c: Chooser, operation: str, left: int, right: int) -> None:
    """Raises DeadEndError for a step that thoughts cannot work out, or that is held out."""
    if not is_step(operation, left, right):
        raise DeadEndError
    if operation != "/" and not c.allows(Step(left, operation, right).combination):
        raise DeadEndError


def worked(operation: str, left: int, right: int) -> str:
    """A step with everything on the way to its result, which stands last."""
    result = result_of(operation, left, right)
    if operation == "/":
        if right == 2 and result > MOST_MULTIPLES:
            return f"{left} / 2: {result} + {result} = {left} = {result}"
        way = "".join(f" {right * i} {i}" for i in range(1, result + 1))
        return f"{left} / {right}:{way} = {result}"
    if operation == "*" or max(left, right, result) <= MAX_VALUE:
        return Step(left, operation, right).counted
    return f"{left} {operation} {right}: {_columns(operation, left, right)} = {result}"


def at_once(operation: str, left: Fraction, right: int) -> str:
    """A step with its result and nothing on the way."""
    return f"{mixed(left)} {operation} {right} = {mixed(exact(operation, left, right))}"


def worked_beyond(operation: str, left: Fraction, right: int) -> str:
    """A step that is not written as thoughts were taught: below zero, with a fraction, or with a large product. The result stands last."""
    if left.denominator > 1 or left < 0:
        return at_once(operation, left, right)
    said, result = f"{left} {operation} {right}", mixed(exact(operation, left, right))
    if operation == "-":
        return f"{said}: {right} - {left} = {right - left} = {result}"
    if operation == "*":
        tens, units = right - right % 10, right % 10
        return f"{said}: {', '.join(f'{left} * {part} = {left * part}' for part in (tens, units) if part)} = {result}"
    times = left // right
    rest = f", {left} - {times * right} = {left - times * right}" if left % right else ""
    return f"{said}: {times} * {right} = {times * right}{rest} = {result}"


def _columns(operation: str, left: int, right: int) -> str:
    (tens, units), (other_tens, other_units) = divmod(left, 10), divmod(right, 10)
    if operation == "+":
        both = units + other_units
        carried = " + 1" if both > 9 else ""
        return f"{units} + {other_units} = {both}, {tens} + {other_tens}{carried} = {tens + other_tens + (both > 9)}"
    borrows = units < other_units
    units += 10 * borrows
    borrowed = " - 1" if borrows else ""
    return f"{units} - {other_units} = {units - other_units}, {tens}{borrowed} - {other_tens} = {tens - borrows - other_tens}"
