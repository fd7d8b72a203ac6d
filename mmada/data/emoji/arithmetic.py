"""Arithmetic: word problems of one to three steps, and plain expressions, with every value in 0..20.

    prompt   Tom has 14 coins. Tom gives 9 to Mia. Then Tom picks up 6 more coins. How many coins does Tom have now?
    think    14 - 9 + 6; 14 - 9: 10 1 11 2 12 3 13 4 14 5 = 5; 5 + 6: 7 1 8 2 9 3 10 4 11 5 = 11
    answer   11

To understand a story and to compute are two things: thoughts write a story of several steps as an expression first. It is worked out from
left to right, "6 + 3 * 2" too, as a story goes on with what there is.

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

__all__ = ["ARITHMETIC", "ITEMS", "MAX_VALUE", "TABLES", "Step", "expression_of", "gsm_symbolic", "long_story", "steps_in_a_row"]

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
        "In the afternoon {n} has {a} {i}.",
        "In the pocket of {n} are {a} {i}.",
        "First {n} has {a} {i}.",
        "{n} has {a} {i} to begin with.",
        "{a} {i} are what {n} has at first.",
        "The day begins, and {n} has {a} {i}.",
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
_TRANSFERS = (
    "{giver} gives {taker} {b} {i}.",
    "{giver} gives {taker} {b} more {i}.",
    "{giver} gives {taker} {b} of them.",
    "{giver} hands {b} {i} to {taker}.",
    "{giver} hands {taker} {b} more.",
    "{giver} hands {taker} {b} of the {i}.",
    "{giver} sends {b} {i} to {taker}.",
    "{giver} sends {taker} {b} {i} in the mail.",
    "{giver} brings {taker} {b} more {i}.",
    "{giver} brings {taker} {b} of the {i}.",
    "{giver} lends {taker} {b} {i}.",
    "{giver} sells {b} {i} to {taker}.",
    "{giver} sells {b} to {taker}.",
    "{giver} loses {b} {i} to {taker}.",
    "{giver} passes {b} of them to {taker}.",
    "{giver} throws {b} {i} to {taker}.",
    "{giver} lets {taker} have {b} {i}.",
    "{giver} leaves {b} {i} behind for {taker}.",
    "{giver} adds {b} {i} to those of {taker}.",
    "{giver} shows up and gives {b} more {i} to {taker}.",
    "{giver} drops {b} {i}, and {taker} picks them up.",
    "{giver} has no use for {b} {i}, and {taker} takes them.",
    "{taker} takes {b} {i} from {giver}.",
    "{taker} buys {b} {i} from {giver}.",
    "{taker} receives {b} from {giver}.",
    "{taker} receives {b} more from {giver}.",
    "{taker} borrows {b} {i} from {giver}.",
    "{taker} wins {b} {i} from {giver}.",
    "{taker} earns {b} {i} from {giver}.",
    "{taker} collects {b} {i} from {giver}.",
    "{taker} picks up {b} {i} that {giver} drops.",
    "{taker} shows up and gets {b} more {i} from {giver}.",
    "{taker} asks {giver} for {b} {i} and gets them.",
    "{taker} is given {b} {i} by {giver}.",
    "{taker} is sent {b} {i} by {giver}.",
    "{b} {i} are handed to {taker} by {giver}.",
    "{b} {i} are sold by {giver} to {taker}.",
    "{b} {i} are taken from {giver} by {taker}.",
    "{b} of the {i} of {giver} go to {taker}.",
    "From {giver}, {taker} gets {b} {i}.",
    "To {taker}, {giver} gives {b} {i}.",
    "Then {giver} gives {b} {i} back to {taker}.",
    "Later {giver} returns {b} {i} to {taker}.",
    "As a present {giver} gives {taker} {b} {i}.",
)
"""Either direction in the same words: only who gives to whom tells more from less."""


def _between(texts: tuple[str, ...], **people: str) -> tuple[str, ...]:
    """Templates with the roles of the two people filled: {n}, whose story it is, and {m}."""
    for role, person in people.items():
        texts = tuple(text.replace(f"{{{role}}}", person) for text in texts)
    return texts


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
            *_between(_TRANSFERS, giver="{m}", taker="{n}"),
            "{m} lends {b} {i} to {n}.",
            "{n} takes {b} {i} away from {m}.",
            "Then {b} {i} are given to {n}.",
            "{b} more {i} go to {n}.",
            "{n} earns {b} more.",
            "{n} makes {b} new {i}.",
            "{n} collects {b} more {i}.",
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
            *_between(_TRANSFERS, giver="{n}", taker="{m}"),
            "{n} gives {b} {i} to {m}.",
            "{m} gets {b} {i} from {n}.",
            "Then {b} of them are given to {m}.",
            "{b} of the {i} go to {m}.",
            "{n} trades {b} {i} for a hat.",
            "{b} of the {i} are lost.",
            "{b} of them break.",
            "{b} {i} fall and break.",
            "{n} breaks {b} {i}.",
            "Later {n} leaves {b} of the {i} behind.",
            "{b} of the {i} are taken away.",
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
            "Then there are {b} times as many {i}.",
            "{n} comes back with {b} times as many {i}.",
            "Soon {n} has {b} times the {i}.",
        ),
    ),
}
_DIFFERENCES = (
    "{high} has {b} {i} more than {low}.",
    "{high} has more {i} than {low}, {b} more.",
    "{high} owns {b} more {i} than {low} does.",
    "{high} keeps {b} more {i} than {low}.",
    "{high} would have as many {i} as {low} without {b} of them.",
    "The {i} of {high} are {b} more than those of {low}.",
    "Compared with {low}, {high} has {b} more.",
    "{b} more {i} than {low}: that is what {high} has.",
    "{low} has {b} {i} less than {high}.",
    "{low} has fewer {i} than {high}, {b} fewer.",
    "{low} owns {b} fewer {i} than {high} does.",
    "{low} keeps {b} fewer {i} than {high}.",
    "{low} needs {b} {i} to have as many as {high}.",
    "The {i} of {low} are {b} fewer than those of {high}.",
    "Compared with {high}, {low} has {b} fewer.",
    "To have as many as {high}, {low} needs {b} more {i}.",
    "With {b} more, {low} would have as many {i} as {high}.",
    "{b} fewer {i} than {high}: that is what {low} has.",
)
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
            *_between(_DIFFERENCES, high="{m}", low="{n}"),
            "{n} has {b} fewer than {m}.",
            "{n} owns {b} {i} less than {m}.",
            "{n} lacks {b} {i} to have as many as {m}.",
            "{n} counts {b} {i} fewer than {m} has.",
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
            *_between(_DIFFERENCES, high="{n}", low="{m}"),
            "{n} has {b} more than {m}.",
            "{n} owns {b} {i} more than {m}.",
            "{n} has as many {i} as {m} and {b} more.",
            "{n} counts {b} {i} more than {m} has.",
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
            "{m} owns {b} times as many {i} as {n} does.",
            "{n} has some {i}, and {m} has {b} times as many.",
            "For each of the {i} of {n}, {m} has {b}.",
            "The {i} of {m} are {b} times as many as those of {n}.",
            "The number of {i} that {m} has is {b} times that of {n}.",
            "To have as many as {m}, {n} needs {b} times the {i}.",
            "With {b} times the {i}, {n} would have as many as {m}.",
            "{b} times as many {i} as {n}: that is what {m} has.",
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
        "Now how many {i} does {n} have?",
        "How many of the {i} does {n} have in the end?",
        "What is the number of {i} of {n} in the end?",
        "Tell me how many {i} {n} has now.",
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
        "How many of the {i} belong to {m}?",
        "What is the number of {i} of {m}?",
        "Tell me how many {i} {m} has.",
        "{m} has how many {i}?",
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
        "How many {i} do {n} and {m} own together?",
        "In all, how many {i} do they have?",
        "How many {i} are there in all?",
        "Tell me how many {i} the two have in all.",
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
    """Steps of a row as they are written, without results: "14 - 9 + 6". It is worked out from left to right."""
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

    def tell(self, num_steps: int) -> None:
        """An opening, and events with so many steps in all."""
        if num_steps and self.c.chance(0.25):
            self.open_with_product()
        else:
            self.open()
        while len(self.steps) < num_steps:
            self.go_on(_EVENTS)

    def go_on(self, tables: Mapping[str, Templates]) -> None:
        """An event, or a comparison, with its step."""
        self.take(_next_step(self.c, self.value))
        self.say(tables[self.steps[-1].operation], b=self.steps[-1].right)

    def add_up(self, value: int) -> None:
        """What the two people have together: what was told last, and the value of the other."""
        self.take(Step(self.value, "+", value))
        if not _is_allowed(self.c, self.steps[-1]):
            raise DeadEndError


def long_story(c: Chooser, num_steps: int) -> tuple[str, list[Step]]:
    """A story without its question, and its steps: events, in three of ten stories a comparison at last."""
    story = _Story(c)
    compares = c.chance(0.3)
    story.tell(num_steps - compares)
    if compares:
        story.go_on(_COMPARISONS)
    return " ".join(story.clauses), story.steps


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
            story.go_on(_COMPARISONS)
        if adds_up:
            story.add_up(mine)
        story.say(_ASK_TOGETHER if adds_up else _ASK_OTHER if compares else _ASK_NOW)
        plan = expression_of(story.steps) if num_steps > 1 else ""
        return _problem(c, f"arithmetic{num_steps}", " ".join(story.clauses), story.steps, plan=plan)

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
