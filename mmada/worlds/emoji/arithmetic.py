"""Arithmetic: word problems of one to three steps, and plain expressions, with every value in 0..20.

    prompt   Tom has 14 coins. Tom gives 9 to Mia. Then Tom picks up 6 more coins. How many coins does Tom have now?
    think    14, Tom: Tom - 9, + 6; 14 - 9: 13 1 12 2 11 3 10 4 9 5 8 6 7 7 6 8 5 9 = 5; 5 + 6: 6 1 7 2 8 3 9 4 10 5 11 6 = 11
    answer   11

To understand a story and to compute are two things. Thoughts first write the story as an expression. It is worked out from left to right,
"6 * 2" too, as a story goes on with what there is. Where two people take part, the one who gives (or has more) is named beside the one whose
things are counted: if they are the same, it gets less. Without the names a sign depends on a verb and a name at once, neither of which says
anything alone. A network then stays at chance, a hundred thousand stories long (docs/decisions.md).

Each step is counted out, one number after the other. A sum that is known by heart says nothing about one that was never met. A network that
learns results alone gives held-out sums any result but their own: none of their numbers was ever seen with it (docs/decisions.md).

A story is an opening, some events and a question; a comparison brings in a second person. Each clause is a template with its
operation, so a story and its steps grow together. Nouns of stories are no objects of the world: "three apples" in a story must not meet
the held-out numbers of apples in pictures. `gsm_symbolic` adapts a harder set of reasoning-gym, with its written solutions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module

from mmada.errors import InputError, MissingDependencyError
from mmada.worlds.emoji.chooser import Chooser, DeadEndError
from mmada.worlds.emoji.example import Example, Meta
from mmada.worlds.emoji.sentences import (
    ASK_NOW,
    ASK_OTHER,
    ASK_TOGETHER,
    COMPARISONS,
    COMPUTE,
    EVENTS,
    ITEMS,
    OPENINGS,
    PEOPLE,
    PRODUCTS,
)
from mmada.worlds.emoji.split import HELD_OUT_SHARE, Combination, Split, Templates, stable_hash

__all__ = ["ARITHMETIC", "MAX_VALUE", "Event", "Step", "expression_of", "gsm_symbolic", "long_story", "steps_in_a_row"]

MAX_VALUE = 20
_MAX_DRAWS = 40


@dataclass(frozen=True, slots=True)
class Step:
    """One operation on two numbers."""

    left: int
    operation: str
    right: int

    @property
    def result(self) -> int:
        """Of the operation; it must be +, - or *."""
        return {"+": self.left + self.right, "-": self.left - self.right, "*": self.left * self.right}[self.operation]

    @property
    def combination(self) -> Combination:
        """What the split knows the step by."""
        return ("expression", f"{self.left} {self.operation} {self.right}")

    def __str__(self) -> str:
        return f"{self.left} {self.operation} {self.right} = {self.result}"

    @property
    def counted(self) -> str:
        """The step with each number on the way, and how many there were: "8 + 3: 9 1 10 2 11 3 = 11".

        Counted from the left number up or down, the right number times. A product is counted in steps of the left one ("3 * 4: 3 1 6 2 9 3 12 4 = 12").
        The shorter way round would have to be chosen by comparing numbers, which a network gets wrong where they are close.
        """
        start, by = {"+": (self.left, 1), "-": (self.left, -1), "*": (0, self.left)}[self.operation]
        way = "".join(f" {start + by * i} {i}" for i in range(1, self.right + 1))
        return f"{self.left} {self.operation} {self.right}:{way} = {self.result}"


_OPERATIONS: Mapping[str, float] = {"+": 0.4, "-": 0.4, "*": 0.2}
_WITHOUT_PRODUCTS: Mapping[str, float] = {"+": 0.5, "-": 0.5}
_TIMES_TABLE = 9
_MAX_FACTOR = 5


def _is_allowed(c: Chooser, step: Step) -> bool:
    """Whether a step ends in 0..20 and belongs to this side of the split."""
    return 0 <= step.result <= MAX_VALUE and c.allows(step.combination)


def _allowed_step(c: Chooser, draw: Callable[[], Step]) -> Step:
    for _ in range(_MAX_DRAWS):
        step = draw()
        if _is_allowed(c, step):
            return step
    raise DeadEndError


def _product(c: Chooser) -> Step:
    """A product of the multiplication table."""
    return _allowed_step(c, lambda: Step(c.between(2, _TIMES_TABLE), "*", c.between(2, _TIMES_TABLE)))


def _next_step(c: Chooser, left: int, operations: Mapping[str, float] = _OPERATIONS) -> Step:
    """A step that begins with a known value; of nothing there is only more to get."""

    def draw() -> Step:
        operation = c.weighted(operations) if left else "+"
        if operation == "*":
            return Step(left, operation, c.between(2, _MAX_FACTOR))
        most = max(1, MAX_VALUE - left if operation == "+" else left)
        # Half of the numbers are small, as they are in life.
        return Step(left, operation, c.between(1, min(most, 9) if c.chance(0.5) else most))

    return _allowed_step(c, draw)


def _start(c: Chooser) -> int:
    return c.between(2, MAX_VALUE)


def steps_in_a_row(c: Chooser, num_steps: int) -> list[Step]:
    """Steps of an expression that is worked out from left to right: a product only at the start."""
    steps = [_product(c) if c.chance(0.25) else _next_step(c, _start(c), _WITHOUT_PRODUCTS)]
    while len(steps) < num_steps:
        steps.append(_next_step(c, steps[-1].result, _WITHOUT_PRODUCTS))
    return steps


def expression_of(steps: Sequence[Step]) -> str:
    """Steps of a row as they are written, without results: "14 - 9 + 6". It is worked out from left to right."""
    return " ".join([str(steps[0].left), *(f"{step.operation} {step.right}" for step in steps)])


@dataclass(frozen=True, slots=True)
class Event:
    """A step as thoughts tell it: "+ 6", or "Tom: Tom - 9", who gives or has more and whose things are counted, or "+ Tom", what he has."""

    step: Step
    people: tuple[str, str] | None = None
    added: str | None = None
    """whose number the step adds, which the story does not tell: it is known once the steps before are computed"""

    def __str__(self) -> str:
        names = f"{self.people[0]}: {self.people[1]} " if self.people else ""
        return f"{names}{self.step.operation} {self.added or self.step.right}"


class _Story:
    """Clauses and events of a word problem, which grow together."""

    def __init__(self, c: Chooser) -> None:
        self.c = c
        n, m = c.shuffled(PEOPLE)[:2]
        self.words = {"n": n, "m": m, "i": c.pick(ITEMS)}
        self.clauses: list[str] = []
        self.events: list[Event] = []
        self.value = 0

    @property
    def steps(self) -> list[Step]:
        return [event.step for event in self.events]

    def say(self, table: Templates, **numbers: int) -> str:
        template = self.c.template(table)
        self.clauses.append(template.format(**self.words, **numbers))
        return template

    def take(self, event: Event) -> None:
        self.events.append(event)
        self.value = event.step.result

    def open(self) -> None:
        self.value = _start(self.c)
        self.say(OPENINGS, a=self.value)

    def open_with_product(self) -> None:
        step = _product(self.c)
        self.say(PRODUCTS, a=step.left, b=step.right)
        self.take(Event(step))

    def tell(self, num_steps: int, events: Mapping[str, Templates] = EVENTS) -> None:
        """An opening, and events with so many steps in all."""
        if num_steps and self.c.chance(0.25):
            self.open_with_product()
        else:
            self.open()
        while len(self.events) < num_steps:
            self.go_on(events)

    def go_on(self, tables: Mapping[str, Templates]) -> None:
        """An event, or a comparison, with its step."""
        step = _next_step(self.c, self.value)
        template = self.say(tables[step.operation], b=step.right)
        between_two = "{m}" in template and step.operation != "*"
        own, other = self.words["n"], self.words["m"]
        self.take(Event(step, (own if step.operation == "-" else other, own) if between_two else None))

    def add_up(self, value: int) -> None:
        """What the two people have together: what was told last, and the value of the other."""
        step = Step(self.value, "+", value)
        if not _is_allowed(self.c, step):
            raise DeadEndError
        self.take(Event(step, added=self.words["n"]))

    @property
    def plan(self) -> str:
        return ", ".join([str(self.steps[0].left), *map(str, self.events)])


def long_story(c: Chooser, num_steps: int, events: Mapping[str, Templates] = EVENTS) -> tuple[list[str], list[Event]]:
    """The clauses of a story, its question last, and its events; in three of ten stories the last is a comparison."""
    story = _Story(c)
    compares = c.chance(0.3)
    story.tell(num_steps - compares, events)
    if compares:
        story.go_on(COMPARISONS)
    story.say(ASK_OTHER if compares else ASK_NOW)
    return story.clauses, story.events


def _problem(c: Chooser, kind: str, prompt: str, steps: Sequence[Step], *, plan: str = "") -> Example:
    meta = Meta(stated=tuple(step.combination for step in steps), templates=tuple(c.templates))
    think = "; ".join([*([plan] if plan else []), *(step.counted for step in steps)])
    return Example(task="text", kind=kind, prompt=prompt, think=think, answer=str(steps[-1].result), meta=meta)


def _word_problem(num_steps: int) -> Callable[[Chooser], Example]:
    def make(c: Chooser) -> Example:
        story = _Story(c)
        compares = c.chance(0.3)
        adds_up = compares and num_steps > 1 and c.chance(0.5)
        story.tell(num_steps - compares - adds_up)
        mine = story.value
        if compares:
            story.go_on(COMPARISONS)
        if adds_up:
            story.add_up(mine)
        story.say(ASK_TOGETHER if adds_up else ASK_OTHER if compares else ASK_NOW)
        return _problem(c, f"arithmetic{num_steps}", " ".join(story.clauses), story.steps, plan=story.plan)

    return make


def _expression(c: Chooser) -> Example:
    """One to three operations in a row; a product only at the start, so that they are worked out from left to right."""
    steps = steps_in_a_row(c, c.between(1, 3))
    return _problem(c, "expression", c.template(COMPUTE).format(e=expression_of(steps)), steps)


ARITHMETIC: Mapping[str, Callable[[Chooser], Example]] = {
    "expression": _expression,
    "arithmetic1": _word_problem(1),
    "arithmetic2": _word_problem(2),
    "arithmetic3": _word_problem(3),
}
"""Kind -> what makes an example of it."""


def gsm_symbolic(num_examples: int, *, seed: int, split: Split = "train") -> Iterator[Example]:
    """Grade-school problems of reasoning-gym (100 templates after GSM8K) with written solutions: harder, with larger numbers.

    Every tenth problem, by the hash of its text, belongs to the test. Raises MissingDependencyError without reasoning-gym.
    """
    if num_examples < 1:
        raise InputError(f"num_examples={num_examples} must be at least 1")
    try:
        create_dataset = import_module("reasoning_gym").create_dataset
    except ImportError as error:
        raise MissingDependencyError("gsm_symbolic needs the package reasoning-gym; run pip install reasoning-gym") from error
    made = 0
    # The data set is made item by item, so a size that is never reached costs nothing.
    for entry in create_dataset("gsm_symbolic", seed=seed, size=1000 + 40 * num_examples):
        question = entry["question"].removesuffix(" Give the result as your final answer. Do not include units.")
        if (split == "test") != (stable_hash("gsm_symbolic", question) < HELD_OUT_SHARE):
            continue
        solution = entry["metadata"]["answer_cot"].rsplit("####", 1)[0].strip()
        yield Example(task="text", kind="gsm_symbolic", prompt=question, think=solution, answer=entry["answer"])
        made += 1
        if made == num_examples:
            return
