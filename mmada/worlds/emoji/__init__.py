"""The emoji world: pictures of one to four emoji, sentences about them, and exact verifiers; what the embedded models live in.

    rng = numpy.random.default_rng(0)
    example = sample("count", rng)              prompt, think, answer, scene      sample_task("understand", rng) draws the kind
    pixels = render(example.scene)              (64, 64, 3) uint8
    is_correct(example, "2")                    exact
    satisfies(parse("two red hearts above a dog"), {"top left": "red heart", "top right": "red heart", "bottom left": "dog"})

    objects -> scenes -> split -> chooser       what there is, how it looks, what is held out, and choices that respect it
    spec -> grammar                             meaning <-> sentence
    questions, knowledge, arithmetic, drawing, reasoning -> tasks -> verify, drills
    source                                      all of it behind the engine's protocol: `world(varied=0.5)` is what data.world finds
    asking, reading, plans, lexicon, natural/   prompts as people type them: what they ask for, in the grammar's words
    variation, showcase                         other artwork; examples for visitors
    rewards, artwork, measure/, recipes/        rewards, a verifier of drawings, suites with their judge, stages of training

Training examples (split="train") never contain a combination that is held out, test examples (split="test") always do: split.py.
Artwork: Noto Emoji and Twemoji, see ATTRIBUTION.md.
"""

from mmada.data.world import World
from mmada.worlds.emoji.arithmetic import gsm_symbolic
from mmada.worlds.emoji.chooser import Chooser
from mmada.worlds.emoji.drills import drill
from mmada.worlds.emoji.example import Example, Meta, Task
from mmada.worlds.emoji.grammar import canonical, caption, drawing_prompt, paraphrase, parse
from mmada.worlds.emoji.objects import STYLES, EmojiObject, objects, sprite
from mmada.worlds.emoji.scenes import BACKGROUNDS, BOXES, LAYOUTS, SCENE_SIZE, Item, Scene, jittered_item, render
from mmada.worlds.emoji.spec import SceneSpec, implies, satisfies, spec_of
from mmada.worlds.emoji.split import Combination, HoldOut, Split, is_held_out
from mmada.worlds.emoji.tasks import (
    KINDS,
    TEMPLATES,
    Kind,
    combinations_of,
    description,
    held_out_in,
    interview,
    lookup,
    picture,
    sample,
    sample_task,
)
from mmada.worlds.emoji.verify import is_correct, normalize_answer

__all__ = [
    "BACKGROUNDS",
    "BOXES",
    "KINDS",
    "LAYOUTS",
    "SCENE_SIZE",
    "STYLES",
    "TEMPLATES",
    "Chooser",
    "Combination",
    "EmojiObject",
    "Example",
    "HoldOut",
    "Item",
    "Kind",
    "Meta",
    "Scene",
    "SceneSpec",
    "Split",
    "Task",
    "canonical",
    "caption",
    "combinations_of",
    "description",
    "drawing_prompt",
    "drill",
    "gsm_symbolic",
    "held_out_in",
    "implies",
    "interview",
    "is_correct",
    "is_held_out",
    "jittered_item",
    "lookup",
    "normalize_answer",
    "objects",
    "paraphrase",
    "parse",
    "picture",
    "render",
    "sample",
    "sample_task",
    "satisfies",
    "spec_of",
    "sprite",
    "world",
]


def world(*, varied: float = 0.0, verifier: str = "artwork") -> World:
    """The world as the engine takes it; the options are those of source.EmojiWorld."""
    from mmada.worlds.emoji.source import EmojiWorld  # needs torch, which examples do not

    return EmojiWorld(varied=varied, verifier=verifier)
