"""Drawing prompts that take thought before the picture.

    prompt   Draw one more cat than dogs. There is one dog.
    think    dog 1; 1 + 1 = 2; cat 2; dog 1 top right, cat 1 top left, cat 2 bottom left
    answer   a dog at the top right, a cat at the top left and a cat at the bottom left       -> picture

Thoughts say what is meant, then where each thing goes. The answer is itself a plain drawing prompt, in which nothing is left to be decided
by codes that are drawn at the same time (docs/decisions.md, 2026-11-26). `parse` reads the demand back off it, so thoughts, answer and
picture can each be judged.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from mmada.data.answers import NUMBER_WORDS
from mmada.worlds.emoji.arithmetic import Step
from mmada.worlds.emoji.chooser import Chooser, DeadEndError, Groups
from mmada.worlds.emoji.drawing import DRAWINGS, Demand, dressed, placed_anywhere
from mmada.worlds.emoji.example import Example, Meta
from mmada.worlds.emoji.grammar import PLACE_PHRASES, counted, listed, placed
from mmada.worlds.emoji.objects import SHAPES, objects
from mmada.worlds.emoji.scenes import MAX_ITEMS
from mmada.worlds.emoji.spec import SceneSpec
from mmada.worlds.emoji.split import Combination, Templates

__all__ = ["REASONED_DRAWINGS", "TABLES", "as_said", "plan_of"]

_MORE = Templates(
    "more",
    "Draw {number} {more} {ones} than {others}. There {are} {ref}.",
    "There {are} {ref}. Draw {number} {more} {ones} than {others}.",
    "A picture with {ref} and {number} {more} {ones} than {others}.",
    "Draw {ref}, and {number} {more} {ones} than {others}.",
    "I want {number} {more} {ones} than {others}. I want {ref}.",
    "Show {ref} together with {number} {more} {ones} than {others}.",
    "Paint {ref}. There should be {number} {more} {ones} than {others}.",
    "First {ref}, then {number} {more} {ones} than that: draw it all.",
    "Make a picture: {ref}, and {number} {more} {ones} than that.",
    "There should be {number} {more} {ones} than {others} in the picture, and there {are} {ref}.",
    added=(
        "Make a picture of {ref}, and of {number} {more} {ones} than that.",
        "{ref}, and {number} {more} {ones} than that, please.",
        "Make a picture: {number} {more} {ones} than {others}, and there {are} {ref}.",
        "Take {ref}. Draw them with {number} {more} {ones} than that.",
    ),
)
_TIMES = Templates(
    "times",
    "Draw {times} {ones} as {others}. There {are} {ref}.",
    "There {are} {ref}. Draw {times} {ones} as {others}.",
    "Draw {ref} and {times} {ones} as {others}.",
    "A picture with {ref} and {times} {ones}.",
    "Show {ref} with {times} {ones} as {others}.",
    "I want {ref} and {times} {ones} as that.",
    "Paint {ref}. There should be {times} {ones} as {others}.",
    "Make a picture with {times} {ones} as {others}, and with {ref}.",
    added=(
        "There {are} {ref}. Show {times} {ones}.",
        "There {are} {ref}. Paint {times} {ones} as {others}.",
        "There {are} {ref} and {times} {ones} as {others}: draw that.",
        "Take {ref}, and draw {times} {ones} as {others} with it.",
    ),
)
_REST = Templates(
    "rest",
    "Draw {total} things: {ref}, and the rest {ones}.",
    "Draw {total} things: {ref}; the others are {ones}.",
    "There are {total} things in the picture: {ref}, all others are {ones}.",
    "A picture of {total} objects, namely {ref} and else only {ones}.",
    "Show {total} objects: {ref}, and {ones} for all the others.",
    "Paint {ref} and so many {ones} that there are {total} things.",
    "Make it {total} things in all: {ref} plus {ones}.",
    "I want to see {total} things, {ref} and otherwise {ones}.",
    "Draw {ref} and enough {ones} to get {total} things.",
    "Draw {ref} plus {ones}, {total} things in all.",
    added=(
        "Make it {total} objects: {ref}, the rest {ones}.",
        "Draw {total} things in all, {ref} plus {ones} for the rest.",
        "{total} things, please: {ref}, and else {ones}.",
        "Make a picture of {total} things in all: {ref} and {ones}.",
    ),
)
_CHANGE = Templates(
    "change",
    "There {are} {before}. {change}. Draw the picture now.",
    "First there {are} {before}. Then {change}. Draw the result.",
    "Start with {before}. {change}. What is there now? Draw it.",
    "A picture has {before}. {change}. Draw the new picture.",
    "Imagine {before}. {change}. Show what is there.",
    "Take {before}. {change}. Paint the outcome.",
    "We see {before}. Now {change}. Draw what we see then.",
    "Draw this: there {are} {before}, but {change}.",
    "In the picture there {are} {before}. {change}. Draw it after that.",
    "There {are} {before}. Now {change}. The result is your picture.",
    added=(
        "First we see {before}. Then {change}. Draw what is there.",
        "First {before}. Then {change}. Paint the result.",
        "There {are} {before} at first. Then {change}. Show the result.",
        "Draw what is left or there when we begin with {before} and {change}.",
    ),
)
_SUM = Templates(
    "sum",
    "Draw {sum} {things}.",
    "Please draw {sum} {things}.",
    "Show {sum} {things}.",
    "A picture of {sum} {things}.",
    "Paint {sum} {things}.",
    "Compute {sum} and draw so many {things}.",
    "How much is {sum}? Draw that number of {things}.",
    "Draw as many {things} as {sum} is.",
    "The number of {things} is {sum}. Draw them.",
    "Make a picture with {sum} {things}.",
    added=(
        "Make a picture of {sum} {things}.",
        "Make {sum} {things}.",
        "I want a picture with {sum} {things}.",
        "Give me {sum} {things}.",
        "An image with {sum} {things}, please.",
    ),
)
_OPPOSITE = Templates(
    "opposite",
    "Draw {one} and {other} {arranged}. The {name} is not {place}.",
    "{arranged}: {one} and {other}. But the {name} is not {place}.",
    "Draw {arranged} {one} and {other}, the {name} not {place}.",
    "Show {one} and {other} {arranged}. Do not put the {name} {place}.",
    "The {name} must not be {place}. Draw {one} and {other} {arranged}.",
    "Paint {one} and {other} {arranged}, but the {name} may not be {place}.",
    "A picture of {one} and {other} {arranged}, where the {name} is not {place}.",
    "I want {one} and {other} {arranged}. {place} I do not want the {name}.",
    added=(
        "I want to see {one} and {other} {arranged}. The {name} should not be {place}.",
        "I want {one} and {other} {arranged}, and I do not want the {name} {place}.",
        "Draw {one} and {other} {arranged}, but {place} I do not want the {name}.",
        "{place} there must be no {name}: draw {one} and {other} {arranged}.",
    ),
)
_SWAP = Templates(
    "swap",
    "Draw {one} {place} and {other} {other_place}, but swap them.",
    "{one} {place} and {other} {other_place}. Swap the two and draw.",
    "There is {one} {place} and {other} {other_place}. Draw them with places exchanged.",
    "Start with {one} {place} and {other} {other_place}. They change places. Draw that.",
    "Draw {one} and {other}: not {place} and {other_place}, but the other way round.",
    "Take {one} {place} and {other} {other_place}, and draw each in the place of the other.",
    "Swap {one} {place} with {other} {other_place}, then draw.",
    "Imagine {one} {place} and {other} {other_place}. Now they trade places. Draw it.",
    added=(
        "Take {one} {place} and {other} {other_place}, and swap them.",
        "Think of {one} {place} and {other} {other_place}. Draw each where the other is.",
        "Draw {one} in the place of {other}: they stand {place} and {other_place}, but should swap.",
        "{one} {place}, {other} {other_place}: draw each of the two in the place of the other one.",
    ),
)
_CLUE = Templates(
    "clue",
    "Draw {clue}.",
    "Please draw {clue}.",
    "A picture of {clue}.",
    "Show me {clue}.",
    "Can you paint {clue}?",
    "I am thinking of {clue}. Draw it.",
    "Guess and draw: {clue}.",
    "Make an image of {clue}.",
    "What is {clue}? Draw it.",
    "Create a picture with {clue}.",
    added=(
        "A picture with {clue}.",
        "Make a picture of {clue}.",
        "I want a picture of {clue}.",
        "An image of {clue}, please.",
        "Show a picture of {clue}, please.",
        "Paint {clue}.",
        "Think of {clue}, then draw it.",
        "Here is a riddle: {clue}. Draw what it is.",
    ),
)
_TINT = Templates(
    "tint",
    "Draw {things} in the color of {source}.",
    "Draw {things} with the color of {source}.",
    "Paint {things} in the same color as {source}.",
    "Show {things} that have the color of {source}.",
    "A picture of {things}, as colored as {source}.",
    "Take the color of {source} and draw {things} in it.",
    "Which color has {source}? Draw {things} in that color.",
    "Make {things} of the color that {source} has.",
    "Draw {things} colored like {source}.",
    added=(
        "A picture of {things} in the color of {source}.",
        "A picture of {things} colored like {source}.",
        "A picture of {things}, which are as {source} is colored.",
        "Paint {things} as colored as {source}.",
        "Draw {things}, colored as {source} is.",
        "As {source} is colored, so paint {things}.",
        "{things} in the color of {source}, please.",
        "I want {things} in the color that {source} has.",
        "What color is {source}? Paint {things} of that color.",
        "Think of the color of {source}. Show {things} in it.",
        "Make a picture of {things} with the same color as {source}.",
        "Give me {things} of the color of {source}.",
    ),
)
TABLES = (_MORE, _TIMES, _REST, _CHANGE, _SUM, _OPPOSITE, _SWAP, _CLUE, _TINT)


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def _noun(name: str, number: int) -> str:
    return name if number == 1 else objects()[name].plural


def _sentences(text: str) -> str:
    """A filled template whose sentences begin with capital letters."""
    return re.sub(r"(?:^|(?<=[.?!] ))[a-z]", lambda letter: letter[0].upper(), text)


def _in_turn(names: Sequence[str], cells: Mapping[str, str]) -> dict[str, str]:
    """Cell -> object name: the cells of the first name, then those of the next."""
    return {cell: name for one in names for cell, name in cells.items() if name == one}


def _planned(cells: Mapping[str, str]) -> str:
    """Where each thing goes, counted: "cat 1 top left, cat 2 bottom left"."""
    numbers: Counter[str] = Counter()
    parts = []
    for cell, name in cells.items():
        numbers[name] += 1
        parts.append(f"{name} {numbers[name]} {cell}")
    return ", ".join(parts)


def _example(
    c: Chooser,
    kind: str,
    prompt: str,
    think: str,
    demand: Demand,
    *,
    order: Sequence[str],
    named: Sequence[str] = (),
    stated: Sequence[Combination] = (),
) -> Example:
    """Dress a demand, add its background to prompt and thoughts if it is stated, and place the objects in the order of these names."""
    spec, scene = dressed(c, demand, may_state_style=False)
    if spec.background is not None:
        prompt = f"{prompt} The background is {spec.background}."
        think = f"{think}; background {spec.background}"
    cells = _in_turn(order, scene.cells)
    return Example(
        task="reason_draw",
        kind=kind,
        prompt=_sentences(prompt),
        think=f"{think}; {_planned(cells)}",
        answer=placed(spec, cells),
        scene=scene,
        spec=spec,
        meta=Meta(named=tuple(named), stated=tuple(stated), templates=tuple(c.templates)),
    )


def _derived(c: Chooser, kind: str, prompt: str, name: str, other: str, known: int, step: Step) -> Example:
    """So many of one kind as a step says, and of another as is known."""
    think = f"{other} {known}; {step}; {name} {step.result}"
    return _example(
        c, kind, prompt, think, placed_anywhere(c, {name: step.result, other: known}), order=(other, name), stated=[step.combination]
    )


def _more(c: Chooser) -> Example:
    """More or fewer of one kind than of another, the number of which is given."""
    step = Step(*c.pick(((1, "+", 1), (1, "+", 2), (2, "-", 1), (3, "-", 2))))
    known, number = step.left, step.right
    name, other = c.groups((step.result, known))
    prompt = c.template(_MORE).format(
        number=NUMBER_WORDS[number],
        more={"+": "more", "-": "fewer"}[step.operation],
        ones=_noun(name, number),
        others=objects()[other].plural,
        are=_are(known),
        ref=counted(other, known, c.pick),
    )
    return _derived(c, "reason_more", prompt, name, other, known, step)


def _times(c: Chooser) -> Example:
    """As many, or two or three times as many, of one kind as of another."""
    known, factor = c.pick(((1, 1), (2, 1), (1, 2), (1, 3)))
    step = Step(known, "*", factor)
    name, other = c.groups((step.result, known))
    prompt = c.template(_TIMES).format(
        times={1: "as many", 2: "twice as many", 3: "three times as many"}[factor],
        ones=objects()[name].plural,
        others=objects()[other].plural,
        are=_are(known),
        ref=counted(other, known, c.pick),
    )
    return _derived(c, "reason_times", prompt, name, other, known, step)


def _rest(c: Chooser) -> Example:
    """A total, and the number of one of two kinds."""
    total, known = c.pick(((3, 1), (4, 1), (4, 2)))
    step = Step(total, "-", known)
    name, other = c.groups((step.result, known))
    prompt = c.template(_REST).format(total=NUMBER_WORDS[total], ref=counted(other, known, c.pick), ones=objects()[name].plural)
    return _derived(c, "reason_rest", prompt, name, other, known, step)


_ARRIVE = ("come", "are added", "join them", "appear")
_LEAVE = ("leave", "are taken away", "disappear", "go away")
_SINGULAR = {"come": "comes", "are": "is", "join": "joins", "appear": "appears", "leave": "leaves", "disappear": "disappears", "go": "goes"}


def _change(c: Chooser) -> Example:
    """One or two kinds, of one of which some come or leave."""
    before, after = c.pick(((1, 2), (1, 3), (2, 3), (2, 4), (3, 4), (2, 1), (3, 1), (3, 2), (4, 2), (4, 3)))
    step = Step(before, "+" if after > before else "-", abs(after - before))
    groups = c.groups((after, c.between(1, MAX_ITEMS - after)) if after < MAX_ITEMS and c.chance(0.6) else (after,))
    name = next(iter(groups))
    verb, _, particle = c.pick(_ARRIVE if after > before else _LEAVE).partition(" ")
    number = f"{NUMBER_WORDS[step.right]} more" if after > before else NUMBER_WORDS[step.right]
    change = f"{number} {_noun(name, step.right)} {_SINGULAR[verb] if step.right == 1 else verb} {particle}".rstrip()
    earlier = listed([counted(group, before if group == name else size, c.pick) for group, size in groups.items()])
    prompt = c.template(_CHANGE).format(are=_are(before), before=earlier, change=change)
    think = f"{name} {before}; {step}; " + ", ".join(f"{group} {size}" for group, size in groups.items())
    stated = [step.combination, ("number", name, str(before)), ("number", name, str(step.right))]
    return _example(c, "reason_change", prompt, think, placed_anywhere(c, groups), order=list(groups), stated=stated)


def _sum(c: Chooser) -> Example:
    """A number of objects given as a sum or a difference."""
    result = c.between(1, MAX_ITEMS)
    operation = "-" if result == 1 else c.pick("+-")
    left = c.between(1, result - 1) if operation == "+" else c.between(result + 1, 9)
    step = Step(left, operation, abs(result - left))
    if not c.allows(step.combination):
        raise DeadEndError
    groups = c.groups((result,))
    name = next(iter(groups))
    prompt = c.template(_SUM).format(sum=f"{step.left} {step.operation} {step.right}", things=objects()[name].plural)
    return _example(
        c, "reason_sum", prompt, f"{step}; {name} {result}", placed_anywhere(c, groups), order=[name], stated=[step.combination]
    )


def _pair_in_line(c: Chooser) -> tuple[str, dict[str, str]]:
    """Two different objects in a row or a stack: layout, and cell -> object name."""
    layout = c.pick(("row", "stack"))
    return layout, c.arrange(c.groups((1, 1)), layout)


def _opposite(c: Chooser) -> Example:
    """Two objects in a line, and where one of them is not."""
    layout, cells = _pair_in_line(c)
    cell, other_cell = c.shuffled(cells)
    name, other = cells[cell], cells[other_cell]
    one, another = c.shuffled([name, other])
    prompt = c.template(_OPPOSITE).format(
        one=counted(one, 1),
        other=counted(another, 1),
        arranged={"row": "side by side", "stack": "one above the other"}[layout],
        name=name,
        place=PLACE_PHRASES[other_cell][0],
    )
    stated = [("place", name, other_cell)]
    demand = (SceneSpec.placed(cells), cells)
    return _example(c, "reason_opposite", prompt, f"{name} not {other_cell}", demand, order=(name, other), stated=stated)


def _swap(c: Chooser) -> Example:
    """Two objects in places that they exchange."""
    cells = c.arrange(c.groups((1, 1)), c.layout(2))
    (cell, name), (other_cell, other) = cells.items()
    prompt = c.template(_SWAP).format(
        one=counted(name, 1), place=PLACE_PHRASES[other_cell][0], other=counted(other, 1), other_place=PLACE_PHRASES[cell][0]
    )
    think = f"before {other_cell} {name}, {cell} {other}"
    stated = [("place", name, other_cell), ("place", other, cell)]
    if not all(map(c.allows, stated)):
        raise DeadEndError
    return _example(c, "reason_swap", prompt, think, (SceneSpec.placed(cells), cells), order=(name, other), stated=stated)


def _clue(c: Chooser) -> Example:
    """An object that is described, sometimes beside one that is named."""
    group = c.groups((1,), [thing.name for thing in objects().values() if thing.clue])
    groups: Groups = group | c.groups(c.pick(((), (1,), (2,))), present=group)
    name, *others = groups
    clue = objects()[name].clue or ""
    parts = [clue, *(counted(other, groups[other], c.pick) for other in others)]
    tally = ", ".join(f"{thing} {number}" for thing, number in groups.items())
    prompt = c.template(_CLUE).format(clue=listed(parts))
    think = f"{clue} is {counted(name, 1)}; {tally}"
    return _example(c, "reason_clue", prompt, think, placed_anywhere(c, groups), order=list(groups))


def _tint(c: Chooser) -> Example:
    """Shapes in the colour of something that is named, but not drawn."""
    number = c.between(1, 3)
    groups = c.groups((number,), [thing.name for thing in objects().values() if thing.category in SHAPES])
    name = next(iter(groups))
    shape = objects()[name]
    sources = [thing.name for thing in objects().values() if thing.colour == shape.colour and thing.category not in SHAPES]
    if not sources:
        raise DeadEndError
    source = next(iter(c.groups((1,), sources, present=groups)))
    things = f"a {shape.category}" if number == 1 else f"{NUMBER_WORDS[number]} {shape.category}s"
    prompt = c.template(_TINT).format(things=things, source=counted(source, 1))
    think = f"{source} is {shape.colour}; {name} {number}"
    return _example(c, "reason_tint", prompt, think, placed_anywhere(c, groups), order=[name], named=[source])


_RESTATED: Mapping[str, float] = {
    "draw_single": 0.5,
    "draw_two": 1.0,
    "draw_count": 1.0,
    "draw_counts": 2.0,
    "draw_place": 2.0,
    "draw_relation": 3.0,
    "draw_binding": 1.5,
}
"""How often a kind of plain prompt is thought about: the more there is to decide, the more often."""


def _restate(c: Chooser) -> Example:
    """A plain drawing prompt, of which thoughts say what is where."""
    plain = DRAWINGS[c.weighted(_RESTATED)](c)
    spec, scene = plain.spec, plain.scene
    assert spec is not None
    assert scene is not None
    cells = as_said(plain.prompt, spec, scene.cells)
    return replace(plain, task="reason_draw", kind="reason_restate", think=plan_of(spec, cells), answer=placed(spec, cells))


def plan_of(spec: SceneSpec, cells: Mapping[str, str]) -> str:
    """What is thought before a drawing: what is demanded, and where each thing goes, in the order of the cells."""
    counts = Counter(cells.values())
    facts = [] if spec.places else [", ".join(f"{name} {counts[name]}" for name in dict.fromkeys(cells.values()))]
    facts += [" ".join(spec.relation)] if spec.relation else []
    facts += [f"background {spec.background}"] if spec.background else []
    facts += [f"style {spec.style}"] if spec.style else []
    return "; ".join((*facts, _planned(cells)))


def as_said(prompt: str, spec: SceneSpec, cells: Mapping[str, str]) -> dict[str, str]:
    """Cell -> object name, in the order in which a plain drawing prompt names the places, or else the objects."""
    said = prompt.lower()
    if spec.places:
        places = {cell: max(said.find(words) for words in PLACE_PHRASES[cell]) for cell in cells}
        return {cell: cells[cell] for cell in sorted(cells, key=places.__getitem__)}
    nouns = {name: re.search(rf"\b({name}|{objects()[name].plural})\b", said) for name in cells.values()}
    return _in_turn(sorted(nouns, key=lambda name: match.start() if (match := nouns[name]) else 0), cells)


REASONED_DRAWINGS: Mapping[str, Callable[[Chooser], Example]] = {
    "reason_restate": _restate,
    "reason_more": _more,
    "reason_times": _times,
    "reason_rest": _rest,
    "reason_change": _change,
    "reason_sum": _sum,
    "reason_opposite": _opposite,
    "reason_swap": _swap,
    "reason_clue": _clue,
    "reason_tint": _tint,
}
"""Kind -> what makes an example of it."""
