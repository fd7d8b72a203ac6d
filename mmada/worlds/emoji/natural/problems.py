"""Word problems about anybody and anything, and sums in words and signs, to a hundred.

    prompt   My granny baked 14 rolls yesterday and 9 today. How many is that?
    think    14, + 9; 14 + 9: 4 + 9 = 13, 1 + 0 + 1 = 2 = 23
    answer   23

A line of the voices says what is to be computed (`[problem a + b]`), from left to right. Thoughts first write the story as an expression, as
those of the grammar do. Stories of the grammar itself come with other names and things.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache

from mmada.data.answers import NUMBER_FORMS, NUMBER_WORDS
from mmada.worlds.emoji.arithmetic import ARITHMETIC, MAX_VALUE
from mmada.worlds.emoji.chooser import Chooser, DeadEndError
from mmada.worlds.emoji.example import Example, Meta
from mmada.worlds.emoji.natural.people import THINGS, names
from mmada.worlds.emoji.natural.sums import LARGEST, MOST_MULTIPLES, allowed, result_of, worked
from mmada.worlds.emoji.natural.voice import Voice, sentences
from mmada.worlds.emoji.objects import noun_index
from mmada.worlds.emoji.sentences import ITEMS, PEOPLE
from mmada.worlds.emoji.split import Combination, Split, pairs_among

__all__ = ["natural_expression", "natural_problem", "natural_story", "natural_sum", "problem_of", "sum_of"]

_FEWEST = 2
"""of anything in a story: nouns are plural"""
_IN_WORDS = 0.28
_SMALL = 0.6
"""share of the problems that stay within twenty"""


def natural_problem(c: Chooser, split: Split, voices: tuple[str, ...] = ()) -> Example:
    """A word problem of some voices, by default of all."""
    tables = sentences("problem", voices)
    expression = c.weighted({name: len(lines) ** 0.5 for name, lines in tables.items()})
    return problem_of(c, split, expression, lambda: c.pick(tables[expression]))


def problem_of(c: Chooser, split: Split, expression: str, template: Callable[[], str]) -> Example:
    """A word problem that a sentence tells and an expression works out. Raises DeadEndError if its steps are held out, or none of ours.

    template  gives the sentence, with fields, once numbers, people and things are chosen
    """
    first, *rest = expression.split(" ")
    pairs = list(zip(rest[::2], rest[1::2], strict=True))
    numbers = _numbers(c, expression)
    values = [_value(word, numbers) for word in (first, *(word for _, word in pairs))]
    operations = [operation for operation, _ in pairs]
    think = _worked_in_a_row(c, values, operations)
    own, other = c.shuffled(names(split))[:2]
    fields = _said(c, numbers) | {"n": own, "m": other, "i": c.pick(THINGS)}
    prompt = template().format(**fields)
    return Example(
        task="text",
        kind="natural_problem",
        prompt=prompt[0].upper() + prompt[1:],
        think=think[0],
        answer=str(think[1]),
        meta=Meta(stated=_combinations(prompt)),
    )


@cache
def _nouns() -> re.Pattern[str]:
    nouns = sorted(noun_index(), key=len, reverse=True)
    return re.compile(rf"(?:(\w+) )?\b({'|'.join(map(re.escape, nouns))})\b")


def _combinations(prompt: str) -> tuple[Combination, ...]:
    """Pairs and numbers of objects of the world that a story happens to name: none that is held out may be trained."""
    found = [(number, noun_index()[noun][0]) for number, noun in _nouns().findall(prompt.lower())]
    numbers = (("number", name, NUMBER_FORMS.get(number, number)) for number, name in found)
    return (*numbers, *pairs_among({name for _, name in found}))


def _numbers(c: Chooser, expression: str) -> dict[str, int]:
    """Letter -> number, likely to make whole steps."""
    most = MAX_VALUE if c.chance(_SMALL) else LARGEST
    letters = sorted(set(re.findall(r"\b[abc]\b", expression)))
    found = {letter: c.between(_FEWEST, max(3, most if letter == "a" else most // 2)) for letter in letters}
    if "a / b" in expression:
        found["b"] = c.between(2, 10)
        found["a"] = found["b"] * c.between(2, MOST_MULTIPLES)
    elif "a * b" in expression:
        found |= {"a": c.between(2, MOST_MULTIPLES), "b": c.between(2, MOST_MULTIPLES)}
    elif "a / 2" in expression:
        found["a"] = 2 * c.between(1, most // 2)
    return found


def _value(word: str, numbers: Mapping[str, int]) -> int:
    return numbers[word] if word in numbers else int(word)


def _worked_in_a_row(c: Chooser, values: Sequence[int], operations: Sequence[str]) -> tuple[str, int]:
    """The thought of an expression, and its value. Raises DeadEndError if a step is none, or held out."""
    value = values[0]
    steps = []
    for operation, operand in zip(operations, values[1:], strict=True):
        allowed(c, operation, value, operand)
        steps.append(worked(operation, value, operand))
        value = result_of(operation, value, operand)
    plan = ", ".join([str(values[0]), *(f"{operation} {operand}" for operation, operand in zip(operations, values[1:], strict=True))])
    return "; ".join([plan, *steps]), value


def _said(c: Chooser, numbers: Mapping[str, int]) -> dict[str, str]:
    """Letter -> its number as it is written: in digits, or all in words."""
    in_words = c.chance(_IN_WORDS)
    return {letter: NUMBER_WORDS[number] if in_words and number < LARGEST else str(number) for letter, number in numbers.items()}


_COMPARED = {"a > b": "more", "a < b": "less", "max(a, b)": "more", "min(a, b)": "less"}


def natural_sum(c: Chooser, split: Split, voices: tuple[str, ...] = ()) -> Example:
    """A sum, a product, a quotient or a comparison of two numbers, in words or signs, of some voices, by default of all."""
    tables = sentences("sum", voices)
    kind = c.weighted({name: 3.0 if name in ("a + b", "a - b") else 1.5 if name in ("a * b", "a / b") else 1.0 for name in tables})
    return sum_of(c, kind, lambda: c.pick(tables[kind]))


def sum_of(c: Chooser, kind: str, template: Callable[[], str]) -> Example:
    """A sum or a comparison that a sentence asks for, which `template` gives once the numbers are chosen.

    Raises DeadEndError if it is held out, or none of ours.
    """
    most = MAX_VALUE if c.chance(0.35) else LARGEST
    numbers = {"a": c.between(1, most), "b": c.between(1, most)}
    if kind in _COMPARED:
        think, answer = _compared(kind, numbers)
    else:
        numbers |= _numbers(c, kind) if "*" in kind or "/" in kind else {}
        left, operation, right = kind.split(" ")
        think, answer = _worked_once(c, operation, _value(left, numbers), _value(right, numbers))
    letters = set(re.findall(r"\b[ab]\b", kind))
    prompt = template().format(**_said(c, {letter: numbers[letter] for letter in letters}))
    return Example(task="text", kind="natural_sum", prompt=prompt, think=think, answer=answer)


def _compared(kind: str, numbers: Mapping[str, int]) -> tuple[str, str]:
    a, b = numbers["a"], numbers["b"]
    if a == b:
        raise DeadEndError
    word = _COMPARED[kind]
    found = max(a, b) if word == "more" else min(a, b)
    if kind in ("max(a, b)", "min(a, b)"):
        return f"{a}, {b}: {found} is {word}", str(found)
    answer = "yes" if found == a else "no"
    return f"{a}, {b}: {found} is {word}; {a} -> {answer}", answer


def _worked_once(c: Chooser, operation: str, left: int, right: int) -> tuple[str, str]:
    allowed(c, operation, left, right)
    return worked(operation, left, right), str(result_of(operation, left, right))


_SIGNS = (
    "{a}{o}{b}", "{a} {o} {b}", "{a}{o}{b}=", "{a} {o} {b} =", "{a}{o}{b}=?", "{a} {o} {b} = ?", "what is {a} {o} {b}", "What's {a} {o} {b}?",
    "What is {a}{o}{b}?", "calculate {a} {o} {b}", "compute {a}{o}{b}", "How much is {a} {o} {b}?", "solve {a} {o} {b}", "{a} {o} {b} please",
    "hi, what is {a} {o} {b}?", "can you work out {a} {o} {b}", "the result of {a} {o} {b}", "tell me {a} {o} {b}", "whats {a}{o}{b}",
)  # fmt: skip
_WRITTEN = {"+": ("+",), "-": ("-",), "*": ("*", "x", "*"), "/": ("/", ":", "/")}


def natural_expression(c: Chooser, split: Split) -> Example:
    """A sum in signs."""
    operation = c.weighted({"+": 3.0, "-": 3.0, "*": 1.5, "/": 1.0})
    numbers = {"a": c.between(0, LARGEST), "b": c.between(0, LARGEST)}
    if operation in "*/":
        numbers |= _numbers(c, f"a {operation} b")
    think, answer = _worked_once(c, operation, numbers["a"], numbers["b"])
    prompt = c.pick(_SIGNS).format(a=numbers["a"], b=numbers["b"], o=c.pick(_WRITTEN[operation]))
    return Example(task="text", kind="natural_sum", prompt=prompt, think=think, answer=answer)


_NAMED = re.compile(r"\b[A-Z]\w+: [A-Z]\w+ (?=[-+*])")


def natural_story(c: Chooser, split: Split) -> Example:
    """A story of the grammar about other people and other things. Its thought names nobody: the numbers go from one to the next."""
    voice = Voice(c.rng)
    example = ARITHMETIC[c.weighted({"arithmetic1": 1, "arithmetic2": 1.5, "arithmetic3": 1})](voice)
    people = dict(zip(PEOPLE, c.shuffled(names(split)), strict=False))
    things = dict(zip(ITEMS, c.shuffled(THINGS), strict=False))
    other = people | things
    pattern = re.compile(rf"\b({'|'.join(other)})\b")
    think = _NAMED.sub("", example.think or "")
    if re.search("[A-Za-z]", think):
        raise DeadEndError  # what somebody has is added, whom the numbers do not name

    def told(text: str | None) -> str:
        return pattern.sub(lambda match: other[match.group()], text or "")

    prompt = told(example.prompt)
    return replace(
        example,
        kind="natural_problem",
        prompt=prompt,
        think=think,
        meta=replace(example.meta, stated=(*example.meta.stated, *_combinations(prompt))),
    )
