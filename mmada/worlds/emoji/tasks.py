"""All kinds of examples, with their sampling weights: `sample(kind, rng)` makes one, on either side of the split.

    text          arithmetic1 arithmetic2 arithmetic3 expression | category is_a odd_one_out clue keyword
    understand    caption contents | count count_category total | presence where what_at relation | colour background | compare
    draw          draw_single draw_two draw_count draw_counts draw_place draw_relation draw_binding
    reason_draw   reason_restate | reason_more reason_times reason_rest reason_change reason_sum | reason_opposite reason_swap
                  reason_clue reason_tint

The same generator state gives the same example. Rendering is left to the caller (`scenes.render`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

import numpy as np

from mmada.errors import InputError, suggest
from mmada.worlds.emoji import arithmetic, drawing, grammar, knowledge, questions, reasoning, sentences
from mmada.worlds.emoji.chooser import Chooser, DeadEndError
from mmada.worlds.emoji.example import Example, Task
from mmada.worlds.emoji.objects import STYLES, objects
from mmada.worlds.emoji.scenes import BACKGROUNDS, LAYOUTS, Scene, jittered_item
from mmada.worlds.emoji.split import Combination, HoldOut, Split, Templates, is_held_out, pairs_among, scene_combinations

__all__ = [
    "FEWEST_ITEMS",
    "KINDS",
    "TEMPLATES",
    "Kind",
    "combinations_of",
    "description",
    "held_out_in",
    "interview",
    "lookup",
    "picture",
    "sample",
    "sample_task",
]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of example."""

    task: Task
    make: Callable[[Chooser], Example]
    weight: float
    """how often it is drawn, relative to the other kinds of its task"""
    hold_outs: tuple[HoldOut, ...]
    """the types of held-out combinations that bear on it; in the test each is equally frequent"""


_WEIGHTS_AND_HOLD_OUTS: Mapping[str, tuple[float, tuple[HoldOut, ...]]] = {
    "expression": (2.5, ("expression", "template")),
    "arithmetic1": (2.5, ("expression", "template")),
    "arithmetic2": (2.5, ("expression", "template")),
    "arithmetic3": (2.5, ("expression", "template")),
    "category": (0.6, ("template",)),
    "is_a": (0.6, ("template",)),
    "odd_one_out": (0.5, ("pair", "template")),
    "clue": (0.6, ("template",)),
    "keyword": (0.6, ("pair", "template")),
    "caption": (2.5, ("pair", "number", "place", "style", "backdrop", "template")),
    "contents": (1.5, ("pair", "number", "style", "template")),
    "count": (3.5, ("pair", "number", "place", "style", "template")),
    "count_category": (1.0, ("pair", "number", "style", "template")),
    "total": (0.5, ("pair", "number", "style", "template")),
    "presence": (2.5, ("pair", "style", "template")),
    "where": (1.5, ("pair", "place", "style", "template")),
    "what_at": (1.0, ("pair", "place", "style", "template")),
    "relation": (1.0, ("pair", "place", "template")),
    "colour": (1.0, ("pair", "place", "style", "template")),
    "background": (0.3, ("pair", "backdrop", "template")),
    "compare": (1.5, ("pair", "number", "template")),
    "draw_single": (5.0, ("backdrop", "style", "template")),
    "draw_two": (1.5, ("pair", "style", "template")),
    "draw_count": (2.5, ("number", "style", "template")),
    "draw_counts": (2.5, ("pair", "number", "template")),
    "draw_place": (9.0, ("pair", "place", "template")),
    "draw_relation": (2.0, ("pair", "number", "template")),
    "draw_binding": (2.0, ("pair", "template")),
    "reason_restate": (9.0, ("pair", "template")),
    "reason_more": (1.0, ("pair", "number", "template")),
    "reason_times": (0.7, ("pair", "number", "template")),
    "reason_rest": (0.7, ("pair", "number", "template")),
    "reason_change": (1.0, ("pair", "number", "template")),
    "reason_sum": (0.7, ("number", "template")),
    "reason_opposite": (0.7, ("pair", "template")),
    "reason_swap": (0.7, ("pair", "place", "template")),
    "reason_clue": (1.0, ("pair", "template")),
    "reason_tint": (0.7, ("pair", "template")),
}
_MAKERS: tuple[tuple[Task, Mapping[str, Callable[[Chooser], Example]]], ...] = (
    ("text", arithmetic.ARITHMETIC),
    ("text", knowledge.KNOWLEDGE),
    ("understand", questions.QUESTIONS),
    ("draw", drawing.DRAWINGS),
    ("reason_draw", reasoning.REASONED_DRAWINGS),
)
KINDS: Mapping[str, Kind] = {
    name: Kind(task, make, *_WEIGHTS_AND_HOLD_OUTS[name]) for task, makers in _MAKERS for name, make in makers.items()
}
"""Every kind by name."""

TEMPLATES: Mapping[str, Templates] = {
    table.name: table for table in chain(grammar.TABLES, questions.TABLES, knowledge.TABLES, sentences.TABLES, reasoning.TABLES)
}
"""Every table of templates by name."""

_MAX_TRIES = 3000
"""Attempts at one example. The rarest, a scarce hold-out in a demanding kind, succeeds once in about a hundred."""


def combinations_of(example: Example) -> Iterator[Combination]:
    """Every combination that an example contains, in any role; arithmetic and templates as its maker noted them."""
    named = set(example.meta.named)
    if example.scene is not None:
        yield from scene_combinations(example.scene)
        named.update(example.scene.cells.values())
    yield from pairs_among(named)
    yield from example.meta.stated
    yield from example.meta.templates


def held_out_in(example: Example) -> tuple[Combination, ...]:
    """The held-out combinations that an example contains, each once."""
    return tuple(dict.fromkeys(filter(_is_held_out, combinations_of(example))))


def _is_held_out(combination: Combination) -> bool:
    if combination[0] == "template":
        _, table, text = combination
        return text in TEMPLATES[table].held_out
    return is_held_out(combination)


def sample(kind: str, rng: np.random.Generator, split: Split = "train", *, hold_out: HoldOut | None = None) -> Example:
    """One example of a kind.

    split     "train": no held-out combination in any role; "test": at least one, all of one type, noted in `meta.held_out`
    hold_out  the type that a test example is to have; any type of the kind by default
    Raises InputError if the kind is unknown or has no such type.
    """
    if kind not in KINDS:
        raise InputError(f"kind={kind!r} is unknown: {suggest(kind, KINDS)}")
    if split not in ("train", "test"):
        raise InputError(f"split={split!r} is unknown; use 'train' or 'test'")
    entry = KINDS[kind]
    if hold_out is not None and (split == "train" or hold_out not in entry.hold_outs):
        raise InputError(
            f"hold_out={hold_out!r} with split={split!r} does not bear on kind={kind!r}; use split='test' and one of {entry.hold_outs}"
        )
    # The type is drawn once, before the attempts, so that types that are hard to meet are no rarer.
    wanted = None if split == "train" else hold_out or entry.hold_outs[int(rng.random() * len(entry.hold_outs))]
    for _ in range(_MAX_TRIES):
        example = _attempt(entry.make, Chooser(rng, wanted))
        if example is not None:
            return example
    raise AssertionError(f"no example of kind {kind!r} with a held-out {wanted} in {_MAX_TRIES} attempts")


def _attempt(make: Callable[[Chooser], Example], chooser: Chooser) -> Example | None:
    """An example that lies on the chooser's side of the split, or None."""
    try:
        example = make(chooser)
    except DeadEndError:
        return None
    held_out = held_out_in(example)
    if {combination[0] for combination in held_out} != ({chooser.wanted} if chooser.wanted else set()):
        return None
    return replace(example, meta=replace(example.meta, held_out=held_out)) if held_out else example


def sample_task(task: Task, rng: np.random.Generator, split: Split = "train") -> Example:
    """One example of a task, its kind drawn by weight."""
    weights = {name: entry.weight for name, entry in KINDS.items() if entry.task == task}
    if not weights:
        raise InputError(f"task={task!r} is unknown: {suggest(task, {entry.task for entry in KINDS.values()})}")
    return sample(Chooser(rng).weighted(weights), rng, split)


_LAYOUT_SHARES = {"single": 0.4, "row": 0.1, "stack": 0.1, "grid": 0.4}


def picture(rng: np.random.Generator, split: Split = "train") -> Scene:
    """A scene without words, for the image tokenizer: every object in every style alike, and large objects, which have most detail, often."""
    names, backgrounds = tuple(objects()), tuple(BACKGROUNDS)
    c = Chooser(rng)
    while True:
        layout = c.weighted(_LAYOUT_SHARES)
        cells = LAYOUTS[layout]
        filled = [cell for cell in cells if layout != "grid" or c.chance(0.75)] or [c.pick(cells)]
        scene = Scene(layout, c.pick(backgrounds), tuple(jittered_item(c.pick(names), c.pick(STYLES), cell, rng) for cell in filled))
        if any(map(is_held_out, scene_combinations(scene))) == (split == "test"):
            return scene


def interview(scene: Scene, rng: np.random.Generator, num_questions: int) -> tuple[Example, ...]:
    """Training examples of different kinds about one trained scene, at most `num_questions`: a picture encoded once can teach more.

    Answers are less balanced than those of `sample`, which makes a scene for each question. Raises InputError if the scene itself
    contains held-out combinations.
    """
    if any(map(is_held_out, scene_combinations(scene))):
        raise InputError("scene holds combinations that are held out; give one that was sampled with split='train'")
    found: list[Example] = []
    for kind in Chooser(rng).shuffled(questions.QUESTIONS):
        example = _attempt(partial(_ask_about, scene, questions.QUESTIONS[kind]), Chooser(rng))
        if example is not None:
            found.append(example)
        if len(found) == num_questions:
            break
    return tuple(found)


_NEED_PICTURE = ("caption", "background")
_THOUGHT_SHARE = 0.6


def description(examples: Sequence[Example], rng: np.random.Generator) -> tuple[Example, ...]:
    """The same questions about one scene that is told instead of shown, as texts: what is looked up in words is learnt without a picture.

    The first prompt begins with the cells and what they hold; answers come with what is thought behind the list, or directly, six in ten
    with it. Questions that need more than the list, such as the background, are left out; there may be none left.
    """
    asked = [example for example in examples if example.kind not in _NEED_PICTURE]
    told: list[Example] = []
    for example in asked:
        assert example.scene is not None
        think = (example.think or "").removeprefix(f"{questions.seen(example.scene)}; ")
        prompt = example.prompt if told else f"{questions.seen(example.scene)}. {example.prompt}"
        # As prompt.join_thinking has it, which would bring torch along.
        answer = f"<think> {think}</think> {example.answer}" if rng.random() < _THOUGHT_SHARE else example.answer
        told.append(replace(example, task="text", prompt=prompt, think=None, answer=answer, scene=None))
    return tuple(told)


FEWEST_ITEMS = 3
"""of a list in which something is looked up"""
_QUESTION_SHARE = 0.3


def lookup(rng: np.random.Generator, split: Split = "train") -> Example:
    """A list of cells, and in one answer everything that can be looked up in it: where things are, what places hold, what is counted along.

        top left dog, top right cat, bottom left dog. cat, bottom left, top left. dog
        cat is top right, bottom left is dog, top left is dog; top left dog: dog 1, top right cat: dog 1, bottom left dog: dog 2

    Nearly every token of the answer is found by its content somewhere before, which a thought asks of two tokens or three. Most scenes hold
    different things, so that places are asked for as often as names; some are those of questions, in which there is more to count.
    """
    c = Chooser(rng)
    asked = c.chance(_QUESTION_SHARE)
    scene = None
    while scene is None or len(scene.items) < FEWEST_ITEMS:
        scene = sample_task("understand", rng, split).scene if asked else picture(rng, split)
    places = c.shuffled(scene.cells.items())[: max(1, len(questions.unique(scene)))]
    facts = c.shuffled([*questions.unique(scene).items(), *places])
    counted = c.shuffled(scene.counts)[: 1 + c.chance(0.5)]
    prompt = f"{questions.seen(scene)}. {', '.join(key for key, _ in facts)}. {', '.join(counted)}"
    answer = f"{', '.join(f'{key} is {value}' for key, value in facts)}; {questions.seen(scene, questions.each(*counted))}"
    return Example(task="text", kind="lookup", prompt=prompt, answer=answer)


def _ask_about(scene: Scene, ask: questions.Question, chooser: Chooser) -> Example:
    return ask(chooser, scene)
