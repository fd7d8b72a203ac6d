"""Questions about pictures in ordinary English, about things that are not in the world too: of these there are none in any picture."""

from __future__ import annotations

import re
from dataclasses import replace

from mmada.worlds.emoji.chooser import Chooser
from mmada.worlds.emoji.example import Example
from mmada.worlds.emoji.natural.lists import SYNONYMS, plural_of, unknown_words
from mmada.worlds.emoji.natural.voice import Voice, sections
from mmada.worlds.emoji.objects import article, objects
from mmada.worlds.emoji.questions import QUESTIONS, seen
from mmada.worlds.emoji.split import Split
from mmada.worlds.emoji.tasks import KINDS, picture

__all__ = ["natural_question"]

_OTHER_WORDS = 0.15
_STRANGER = 0.06


def natural_question(c: Chooser, split: Split) -> Example:
    """A question about a picture, in a visitor's words."""
    if c.chance(_STRANGER):
        return _about_a_stranger(c, split)
    kind = c.weighted({kind: KINDS[kind].weight for kind in QUESTIONS})
    example = QUESTIONS[kind](Voice(c.rng))
    return replace(example, kind="natural_look", prompt=_in_other_words(c, example.prompt))


def _in_other_words(c: Chooser, prompt: str) -> str:
    """Sometimes a kitten instead of a cat: what is thought and answered keeps the world's own name."""
    named = [name for name in SYNONYMS if SYNONYMS[name] and re.search(rf"\b({name}|{objects()[name].plural})\b", prompt)]
    if not named or not c.chance(_OTHER_WORDS):
        return prompt
    name = c.pick(named)
    word = c.pick(SYNONYMS[name])
    prompt = re.sub(rf"\b(an?) {name}\b", f"{article(word)} {word}", prompt)
    prompt = re.sub(rf"\b{objects()[name].plural}\b", plural_of(word), prompt)
    return re.sub(rf"\b{name}\b", word, prompt)


def _about_a_stranger(c: Chooser, split: Split) -> Example:
    """Is something there, or how many are there, that no picture of this world has?"""
    scene = picture(c.rng)
    noun = c.pick(unknown_words("nouns", split))
    table, answer = c.pick((("presence", "no"), ("count", "0")))
    prompt = c.pick(sections()[table]).format(a_thing=f"{article(noun)} {noun}", thing=noun, things=plural_of(noun))
    return Example(task="understand", kind="natural_look", prompt=prompt, think=seen(scene, {noun: ()}), answer=answer, scene=scene)
