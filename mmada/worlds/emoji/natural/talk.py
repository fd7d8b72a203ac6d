"""Small talk, what the model can do and what it cannot, and questions about what it was never shown.

prompt   hey there       think   greeting     answer  Hello! What shall I draw?
prompt   write a poem    think   beyond me    answer  I cannot do that. I draw emoji and solve small sums.
prompt   what is a yak?  think   not known    answer  I do not know that word.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from mmada.worlds.emoji.chooser import Chooser, DeadEndError
from mmada.worlds.emoji.example import Example
from mmada.worlds.emoji.knowledge import KNOWLEDGE
from mmada.worlds.emoji.natural.drawing import natural_drawing
from mmada.worlds.emoji.natural.lists import DEEDS, unknown_words
from mmada.worlds.emoji.natural.voice import Voice, sections, sentences
from mmada.worlds.emoji.objects import CATEGORY_PLURALS, SHAPES, article
from mmada.worlds.emoji.questions import QUESTIONS
from mmada.worlds.emoji.split import Split

__all__ = ["ANSWERS", "natural_blind", "natural_knowledge", "natural_request", "natural_stranger", "natural_talk"]

ANSWERS: Mapping[str, tuple[str, str]] = {
    "greeting": ("greeting", "Hello! What shall I draw?"),
    "how_are_you": ("how are you", "I am fine, thank you. What shall I draw?"),
    "thanks": ("thanks", "You are welcome!"),
    "bye": ("farewell", "Goodbye!"),
    "who": ("who am I", "I am MMaDA, a small model that draws emoji."),
    "abilities": ("what can I do", "I draw emoji, answer questions about them, and solve small sums. Try: two cats and a dog."),
    "help": ("help", "Tell me what to draw, such as two cats and a dog, or ask me a sum."),
    "praise": ("praise", "Thank you! What shall I draw next?"),
    "scold": ("complaint", "I am sorry. I am a small model and make mistakes."),
    "sorry": ("apology", "No problem. What shall I draw?"),
    "known": ("what do I know", "I know 120 emoji: animals, food, vehicles, plants and clothes, and nine colors."),
    "yes_no": ("nothing asked", "Tell me what to draw, or ask me a sum."),
    "out": ("beyond me", "I cannot do that. I draw emoji and solve small sums."),
    "nonsense": ("nonsense", "I do not understand. Ask me for a picture or a sum."),
}
"""Intention -> what is thought, and what is answered. Both are short: a long answer drowns the few tokens that decide."""
_NO_PICTURE = ("picture missing", "I see no picture. Please send one, or tell me what to draw.")
_TO_DRAW = ("picture wanted", "I can only write here. Ask for it where pictures are drawn.")
_DRAWS = re.compile(r"\b(?:draw\w*|paint\w*|sketch|picture|image|illustrate|render)\b", re.IGNORECASE)
_UNKNOWN = ("not known", "I do not know that word.")
"""No thought and no answer repeats an unknown word: copying its pieces is what a small model does worst."""
_OUT = 4.0


def natural_talk(c: Chooser, split: Split) -> Example:
    """What somebody says who asks for no picture, sum or fact."""
    tables = sentences("talk")
    intention = c.weighted({name: _OUT if name == "out" else 1.0 for name in tables})
    prompt = c.pick(tables[intention])
    if intention == "out" and c.chance(0.4):
        prompt = c.pick(DEEDS).format(
            noun=c.pick(unknown_words("nouns", split)),
            adj=c.pick(unknown_words("adjectives", split)),
            verb=c.pick(unknown_words("verbs", split)),
        )
    think, answer = ANSWERS[intention]
    return _talk(prompt, think, answer)


def _talk(prompt: str, think: str, answer: str) -> Example:
    return Example(task="text", kind="natural_talk", prompt=prompt, think=think, answer=answer)


def natural_knowledge(c: Chooser, split: Split) -> Example:
    """A question about the objects, in a visitor's words."""
    voice = Voice(c.rng)
    return KNOWLEDGE[c.weighted({"category": 1, "is_a": 1, "odd_one_out": 1, "clue": 1, "keyword": 0.7})](voice)


def natural_stranger(c: Chooser, split: Split) -> Example:
    """A question about a thing that the world lacks."""
    noun = c.pick(unknown_words("nouns", split))
    if c.chance(0.3):
        noun = f"{c.pick(unknown_words('adjectives', split))} {noun}"
    category = c.pick([category for category in CATEGORY_PLURALS if category not in SHAPES])
    table = c.pick(("category", "is a"))
    prompt = c.pick(sections()[table]).format(a_thing=f"{article(noun)} {noun}", a_category=f"{article(category)} {category}")
    return _talk(prompt[0].upper() + prompt[1:], *_UNKNOWN)


def natural_request(c: Chooser, split: Split) -> Example:
    """A picture that is asked for where only words can come back."""
    prompt = natural_drawing(c, split).prompt
    if not _DRAWS.search(prompt):
        raise DeadEndError
    return _talk(prompt, *_TO_DRAW)


def natural_blind(c: Chooser, split: Split) -> Example:
    """A question about a picture that nobody sent."""
    asked = QUESTIONS[c.pick(tuple(QUESTIONS))](Voice(c.rng))
    return _talk(asked.prompt, *_NO_PICTURE)
