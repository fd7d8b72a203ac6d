"""Arithmetic: word problems of one to three steps, and plain expressions, with every value in 0..20.

    prompt   Tom has 14 coins. Tom gives 9 to Mia. Then Tom picks up 6 more coins. How many coins does Tom have now?
    think    14 - 9: 10 1 11 2 12 3 13 4 14 5 = 5; 5 + 6: 7 1 8 2 9 3 10 4 11 5 = 11
    answer   11

Each step is counted out, one number after the other. A sum that is known by heart says nothing about one that was never met: a network that
learns results alone gives held-out sums any result but their own, which none of their numbers was ever seen with (docs/decisions.md).

A story is an opening, some events and a question; a comparison brings in a second person. Each clause is a template with its
operation, so a story and its steps grow together. Nouns of stories are no objects of the world: "three apples" in a story must not meet
the held-out numbers of apples in pictures. `gsm_symbolic` adapts a harder set of reasoning-gym, with its written solutions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module

from mmada.data.emoji.chooser import Chooser, DeadEndError
from mmada.data.emoji.example import Example, Meta
from mmada.data.emoji.split import HELD_OUT_SHARE, Combination, Split, Templates, stable_hash
from mmada.errors import InputError, MissingDependencyError

__all__ = ["ARITHMETIC", "ITEMS", "MAX_VALUE", "TABLES", "Step", "expression_of", "gsm_symbolic", "steps_in_a_row"]

MAX_VALUE = 20
_MAX_DRAWS = 40

ITEMS = ("coins", "marbles", "stickers", "stamps", "shells", "cards", "beads", "buttons", "nuts", "tickets", "photos", "pebbles")
_PEOPLE = ("Tom", "Mia", "Ana", "Ben", "Eva", "Leo", "Ida", "Max", "Zoe", "Sam", "Lily", "Noah", "Omar", "Rosa", "Kim", "Paul")

_OPENINGS = Templates(
    "opening",
    "{n} has {a} {i}.",
    "{n} starts with {a} {i}.",
    "{n} owns {a} {i}.",
    "At first {n} has {a} {i}.",
    "There are {a} {i} in the pocket of {n}.",
    "In the morning {n} has {a} {i}.",
    "{n} finds {a} {i} at home.",
    "{n} keeps {a} {i} in a drawer.",
    "{n} gets {a} {i} as a present.",
    "Today {n} counts {a} {i}.",
    "{n} wakes up one morning with {a} {i}.",
    added=(
        "{n} has {a} {i} today.",
        "This morning {n} has {a} {i}.",
        "In a bag {n} has {a} {i}.",
        "In the evening {n} counts {a} {i}.",
        "One day {n} has {a} {i}.",
        "{a} {i} belong to {n}.",
        "{n} brings {a} {i} to school.",
        "On the table of {n} there are {a} {i}.",
        "{n} has a box with {a} {i}.",
        "At home {n} has {a} {i}.",
        "Yesterday {n} had {a} {i}.",
        "The number of {i} that {n} has is {a}.",
        "{n} begins the day with {a} {i}.",
        "To begin with, {n} has {a} {i}.",
        "Before school {n} owns {a} {i}.",
    ),
)
_PRODUCTS = Templates(
    "opening *",
    "{n} has {a} bags with {b} {i} in each.",
    "{n} fills {a} jars with {b} {i} each.",
    "{n} buys {a} packs of {b} {i}.",
    "{n} lays out {a} rows of {b} {i}.",
    "There are {a} plates with {b} {i} each on the table of {n}.",
    "{n} collects {b} {i} a day for {a} days.",
    "{n} gets {a} letters with {b} {i} in each.",
    "On each of {a} shelves {n} has {b} {i}.",
    "{n} makes {a} piles of {b} {i}.",
    "In a box {n} finds {a} packs with {b} {i} each.",
    added=(
        "{n} has {a} packs of {b} {i}.",
        "{n} buys {a} bags of {b} {i}.",
        "{n} opens {a} packs with {b} {i} in each.",
        "{n} buys {a} boxes, and in each are {b} {i}.",
        "Each of {a} friends gives {b} {i} to {n}.",
        "{n} has {a} boxes of {b} {i} each.",
        "{a} packs of {b} {i} belong to {n}.",
        "{n} gets {a} bags with {b} {i} each.",
        "In each of {a} pockets {n} has {b} {i}.",
        "{n} owns {a} sets of {b} {i}.",
        "{n} finds {b} {i} in each of {a} drawers.",
        "{n} takes {a} cups with {b} {i} in each.",
        "{a} times {n} finds {b} {i}.",
    ),
)
_EVENTS: Mapping[str, Templates] = {
    "+": Templates(
        "event +",
        "{n} buys {b} more.",
        "{n} finds {b} more.",
        "{n} gets {b} {i} from {m}.",
        "{m} gives {b} {i} to {n}.",
        "{n} wins {b} {i}.",
        "Then {n} picks up {b} more {i}.",
        "{n} adds {b} {i}.",
        "Later {n} is given {b} more.",
        "{b} more {i} come in the mail for {n}.",
        "{n} trades a hat for {b} {i}.",
        added=(
            "{m} gives {n} {b} {i}.",
            "{m} gives {n} {b} more {i}.",
            "{m} hands {b} {i} to {n}.",
            "{m} hands {n} {b} more.",
            "{m} sends {b} {i} to {n}.",
            "{m} brings {n} {b} more {i}.",
            "{m} lends {b} {i} to {n}.",
            "{m} lends {n} {b} {i}.",
            "{m} sells {b} {i} to {n}.",
            "{n} takes {b} {i} from {m}.",
            "{n} buys {b} {i} from {m}.",
            "{n} receives {b} more from {m}.",
            "{n} borrows {b} {i} from {m}.",
            "{n} is given {b} {i} by {m}.",
            "{m} loses {b} {i} to {n}.",
            "{m} passes {b} of them to {n}.",
            "{m} shows up and gives {b} more {i} to {n}.",
            "Then {b} {i} are given to {n}.",
            "{n} earns {b} more.",
            "{n} makes {b} new {i}.",
            "{n} collects {b} more {i}.",
            "{m} throws {b} {i} to {n}.",
            "Later {m} returns {b} {i} to {n}.",
            "As a present {m} gives {n} {b} {i}.",
        ),
    ),
    "-": Templates(
        "event -",
        "{n} loses {b}.",
        "{n} gives {b} to {m}.",
        "{n} sells {b} {i}.",
        "{m} takes {b} {i} away from {n}.",
        "{b} of the {i} break.",
        "Then {n} drops {b} of them.",
        "{n} uses up {b} {i}.",
        "Later {n} throws {b} {i} away.",
        "{n} lends {b} {i} to {m}.",
        "{n} hides {b} {i} and cannot find them again.",
        "Then {n} lets {b} of them fall, and they break.",
        added=(
            "{n} gives {b} {i} to {m}.",
            "{n} gives {m} {b} {i}.",
            "{n} gives {m} {b} of them.",
            "{n} hands {b} {i} to {m}.",
            "{n} hands {m} {b} of the {i}.",
            "{n} sends {b} {i} to {m}.",
            "{n} brings {m} {b} of the {i}.",
            "{n} lends {m} {b} {i}.",
            "{n} sells {b} to {m}.",
            "{m} takes {b} {i} from {n}.",
            "{m} buys {b} {i} from {n}.",
            "{m} receives {b} from {n}.",
            "{m} borrows {b} {i} from {n}.",
            "{m} is given {b} {i} by {n}.",
            "{m} gets {b} {i} from {n}.",
            "{m} wins {b} {i} from {n}.",
            "{n} passes {b} of them to {m}.",
            "{n} throws {b} {i} to {m}.",
            "Then {b} of them are given to {m}.",
            "{b} of the {i} are lost.",
            "{b} of them break.",
            "{b} {i} fall and break.",
            "{n} breaks {b} {i}.",
            "{b} of the {i} go to {m}.",
            "Later {n} leaves {b} of the {i} behind.",
            "{b} of the {i} are taken away.",
            "As a present {n} gives {m} {b} {i}.",
            "Of the {i}, {b} are thrown away.",
        ),
    ),
    "*": Templates(
        "event *",
        "Then {n} gets {b} times as many.",
        "Soon {n} has {b} times as many.",
        "By luck {n} ends up with {b} times as many {i}.",
        "A trick turns them into {b} times as many {i}.",
        "After a week {n} has {b} times as many {i}.",
        "The number of {i} grows to {b} times as many.",
        "{n} trades them for {b} times as many.",
        added=(
            "The {i} become {b} times as many.",
            "Later there are {b} times as many {i}.",
            "{n} wins until there are {b} times as many.",
            "{m} trades with {n}, who has {b} times as many {i} then.",
        ),
    ),
}
_COMPARISONS: Mapping[str, Templates] = {
    "+": Templates(
        "comparison +",
        "{m} has {b} more {i} than {n}.",
        "{m} has {b} more than {n}.",
        "{m} owns {b} {i} more than {n}.",
        "{m} has as many {i} as {n} and {b} more.",
        "{m} counts {b} {i} more than {n} has.",
        "{n} has {b} fewer {i} than {m}.",
        added=(
            "{m} has {b} {i} more than {n}.",
            "{m} owns {b} more {i} than {n} does.",
            "Compared with {n}, {m} has {b} more.",
            "{n} lacks {b} {i} to have as many as {m}.",
            "{n} has {b} {i} less than {m}.",
            "{m} keeps {b} more {i} than {n}.",
            "To have as many as {m}, {n} needs {b} more {i}.",
        ),
    ),
    "-": Templates(
        "comparison -",
        "{m} has {b} fewer {i} than {n}.",
        "{m} has {b} fewer than {n}.",
        "{m} owns {b} {i} less than {n}.",
        "{m} lacks {b} {i} to have as many as {n}.",
        "{m} counts {b} {i} fewer than {n} has.",
        "{n} has {b} more {i} than {m}.",
        added=(
            "{m} has {b} {i} less than {n}.",
            "{m} owns {b} fewer {i} than {n} does.",
            "Compared with {n}, {m} has {b} fewer.",
            "{n} owns {b} {i} more than {m}.",
            "{n} has as many {i} as {m} and {b} more.",
            "{m} keeps {b} fewer {i} than {n}.",
            "To have as many as {n}, {m} needs {b} more {i}.",
        ),
    ),
    "*": Templates(
        "comparison *",
        "{m} has {b} times as many {i} as {n}.",
        "{m} has {b} times as many as {n}.",
        "{m} owns {b} times the {i} of {n}.",
        "{m} counts {b} times as many {i} as {n} has.",
        "For each one that {n} has, {m} has {b}.",
        added=(
            "{m} has {b} times the number of {i} that {n} has.",
            "{m} keeps {b} times as many {i} as {n}.",
            "Compared with {n}, {m} has {b} times as many {i}.",
        ),
    ),
}
_ASK_NOW = Templates(
    "ask now",
    "How many {i} does {n} have now?",
    "How many {i} does {n} have in the end?",
    "How many {i} does {n} finally have?",
    "How many does {n} have now?",
    "What is the number of {i} that {n} has now?",
    "How many {i} is that for {n}?",
    "With how many {i} does {n} end up?",
    "Now count the {i} of {n}. How many?",
    added=(
        "In the end, how many {i} does {n} have?",
        "How many {i} does {n} own in the end?",
        "How many {i} are there in the end?",
        "How many {i} are left with {n} now?",
        "At the end, what is the number of {i} that {n} has?",
        "And how many {i} does {n} have then?",
        "How many {i} does {n} have after that?",
        "Say how many {i} {n} has now.",
        "How many does {n} have in the end?",
        "What number of {i} does {n} have at last?",
    ),
)
_ASK_OTHER = Templates(
    "ask other",
    "How many {i} does {m} have?",
    "How many does {m} have?",
    "What is the number of {i} that {m} has?",
    "How many {i} belong to {m}?",
    "Count the {i} of {m}. How many?",
    added=(
        "How many {i} does {m} own?",
        "What number of {i} does {m} have?",
        "Say how many {i} {m} has.",
        "And {m}? How many {i}?",
    ),
)
_ASK_TOGETHER = Templates(
    "ask together",
    "How many {i} do they have together?",
    "How many {i} do {n} and {m} have in all?",
    "How many is that in all?",
    "What is the total number of {i}?",
    "How many {i} do the two have together?",
    "Count the {i} of {n} and {m} together. How many?",
    added=(
        "How many {i} is that together?",
        "How many {i} do both have together?",
        "What number of {i} do {n} and {m} have in all?",
        "Together, how many {i} are there?",
    ),
)
_COMPUTE = Templates(
    "compute",
    "What is {e}?",
    "Compute {e}.",
    "{e} = ?",
    "{e}",
    "Calculate {e}.",
    "How much is {e}?",
    "Work out {e}.",
    "Tell me what {e} is.",
    "Solve: {e}",
    "What do you get for {e}?",
    "Please evaluate {e}.",
    "Work out how much {e} is.",
    added=(
        "Work out: {e}",
        "What does {e} come to?",
        "Find {e}.",
        "Tell me the value of {e}.",
        "How many is {e}?",
        "Please work out {e} for me.",
        "What number is {e}?",
        "Give me the result of {e}.",
    ),
)
TABLES = (
    _OPENINGS,
    _PRODUCTS,
    *_EVENTS.values(),
    *_COMPARISONS.values(),
    _ASK_NOW,
    _ASK_OTHER,
    _ASK_TOGETHER,
    _COMPUTE,
)


@dataclass(frozen=True, slots=True)
class Step:
    """One operation on two numbers."""

    left: int
    operation: str
    right: int

    @property
    def result(self) -> int:
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

        A sum is counted up from the larger number; a difference down from the first, or up from the second to the first, whichever is
        shorter ("14 - 9: 10 1 11 2 12 3 13 4 14 5 = 5"); a product in steps of the larger factor ("3 * 5: 5 1 10 2 15 3 = 15").
        """
        low, high = sorted((self.left, self.right))
        if self.operation == "*":
            start, by, number = 0, high, low
        elif self.operation == "+":
            start, by, number = high, 1, low
        elif self.right <= self.result:
            start, by, number = self.left, -1, self.right
        else:
            start, by, number = self.right, 1, self.result
        way = "".join(f" {start + by * i} {i}" for i in range(1, number + 1))
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
    """Steps of a row as they are written, without results: "14 - 9 + 6"."""
    return " ".join([str(steps[0].left), *(f"{step.operation} {step.right}" for step in steps)])


class _Story:
    """Clauses and steps of a word problem, which grow together."""

    def __init__(self, c: Chooser) -> None:
        self.c = c
        n, m = c.shuffled(_PEOPLE)[:2]
        self.words = {"n": n, "m": m, "i": c.pick(ITEMS)}
        self.clauses: list[str] = []
        self.steps: list[Step] = []
        self.value = 0

    def say(self, table: Templates, **numbers: int) -> None:
        self.clauses.append(self.c.template(table).format(**self.words, **numbers))

    def take(self, step: Step) -> None:
        self.steps.append(step)
        self.value = step.result

    def open(self) -> None:
        self.value = _start(self.c)
        self.say(_OPENINGS, a=self.value)

    def open_with_product(self) -> None:
        self.take(_product(self.c))
        self.say(_PRODUCTS, a=self.steps[-1].left, b=self.steps[-1].right)

    def go_on(self, tables: Mapping[str, Templates]) -> None:
        """An event, or a comparison, with its step."""
        self.take(_next_step(self.c, self.value))
        self.say(tables[self.steps[-1].operation], b=self.steps[-1].right)

    def add_up(self, value: int) -> None:
        """What the two people have together."""
        self.take(Step(value, "+", self.value))
        if not _is_allowed(self.c, self.steps[-1]):
            raise DeadEndError


def _problem(c: Chooser, kind: str, prompt: str, steps: list[Step]) -> Example:
    meta = Meta(stated=tuple(step.combination for step in steps), templates=tuple(c.templates))
    return Example(
        task="text", kind=kind, prompt=prompt, think="; ".join(step.counted for step in steps), answer=str(steps[-1].result), meta=meta
    )


def _word_problem(num_steps: int) -> Callable[[Chooser], Example]:
    def make(c: Chooser) -> Example:
        story = _Story(c)
        compares = c.chance(0.3)
        adds_up = compares and num_steps > 1 and c.chance(0.5)
        num_last = compares + adds_up
        if num_steps > num_last and c.chance(0.25):
            story.open_with_product()
        else:
            story.open()
        while len(story.steps) < num_steps - num_last:
            story.go_on(_EVENTS)
        mine = story.value
        if compares:
            story.go_on(_COMPARISONS)
        if adds_up:
            story.add_up(mine)
        story.say(_ASK_TOGETHER if adds_up else _ASK_OTHER if compares else _ASK_NOW)
        return _problem(c, f"arithmetic{num_steps}", " ".join(story.clauses), story.steps)

    return make


def _expression(c: Chooser) -> Example:
    """One to three operations in a row; a product only at the start, so that they are worked out from left to right."""
    steps = steps_in_a_row(c, c.between(1, 3))
    return _problem(c, "expression", c.template(_COMPUTE).format(e=expression_of(steps)), steps)


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
