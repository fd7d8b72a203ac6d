"""How a checkpoint reads what users type: capitals, misspelled words, what is unknown, what is told beside a request, and plans.

    prompt -> calm -> spelled -> what is asked for        by the words that it was taught, and the rules of its world

Everything here is the checkpoint's own: without a lexicon and a world, prompts are read as they are written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from mmada.canvas import messages_of
from mmada.generation.lexicon import Lexicon
from mmada.generation.requests import ChatRequest, DrawRequest, GenerationConfig
from mmada.generation.speller import Correction

__all__ = ["PromptReader"]

_NAMES_UNKNOWN = "unknown:"
"""What plans begin with where `plans_name_unknown`."""


class WorldRules(Protocol):
    """Who checks prompts and plans, and knows examples of what can be done: what a reader asks of a world (data/world.py)."""

    def check_plan(self, prompt: str, plan: str | None) -> str | None: ...
    def asked(self, prompt: str) -> str: ...
    def is_asked_for(self, prompt: str, phrase: str) -> bool: ...
    def restated(self, prompt: str) -> str | None: ...
    def with_commas(self, text: str) -> str: ...
    def completed(self, turns: Sequence[str], thought: str, is_closed: bool) -> tuple[str, str | None] | None: ...
    def doubt_of(self, prompt: str, thought: str) -> str | None: ...
    def showcase(self) -> Sequence[Any]: ...
    @property
    def limits(self) -> str: ...
    def is_plain(self, prompt: str) -> bool: ...


@dataclass(frozen=True, slots=True)
class PromptReader:
    """Reads requests by the defaults of a checkpoint, its words and its world."""

    defaults: GenerationConfig
    lexicon: Lexicon | None = None
    """the words that the checkpoint was taught to draw from; None: it ships none"""
    world: Callable[[], WorldRules] | None = None
    """the world of the checkpoint, called when a prompt is first read; None: nobody checks prompts and plans"""

    def unknown_in(self, request: DrawRequest) -> tuple[str, ...]:
        """Phrases of a prompt that the checkpoint does not know; none where it has no lexicon, or goes on from a picture."""
        return self.lexicon.unknown(request.prompt) if self.lexicon is not None and request.image is None else ()

    def unknown_as_written(self, request: DrawRequest) -> tuple[str, ...]:
        """The same of a strict request: words that only a rule would read are unknown, too."""
        return (*self.unknown_in(self.read(request)), *(written for written, _ in self.corrections(request)))

    def asks_for_more(self, request: DrawRequest, unknown: tuple[str, ...]) -> bool:
        """Whether a plan of the prompt itself must say if unknown phrases are asked for, where the drawing's plan came from other words."""
        return self.defaults.plans_name_unknown and not all(self._is_asked_for(request, phrase) for phrase in unknown)

    def _is_asked_for(self, request: DrawRequest, phrase: str) -> bool:
        return self.world is not None and self.world().is_asked_for(request.prompt, phrase)

    def confirmed(self, request: DrawRequest, unknown: tuple[str, ...], thinking: str | None) -> tuple[str, ...]:
        """Of the phrases that are not known, those that are surely asked for, and those that the plan names too.

        A checkpoint that was not taught to name them has no say: all of them count.
        A list of words cannot tell what is to be drawn from what is told beside it, as in "two hearts for my wife". A plan can. A plan that
        wants to draw such a word, as in "car 1", does not make it known. A plan that names a word which the prompt does not have agrees that
        something is unknown: copying is what a small model does worst.
        """
        if not self.defaults.plans_name_unknown or thinking is None:
            return unknown
        named = set(re.findall(r"\w+", thinking.lower()))
        found = tuple(phrase for phrase in unknown if named & set(phrase.split()) or self._is_asked_for(request, phrase))
        return unknown if not found and thinking.startswith(_NAMES_UNKNOWN) else found

    def objection(self, request: DrawRequest, plan: str | None = None) -> str | None:
        """Why a prompt, or what was made of it, cannot be drawn; None if it can, or if nobody checks."""
        if self.world is None or request.image is not None or self.defaults.reasons_in_one_row or self._is_own(request.prompt):
            return None
        return self.world().check_plan(request.prompt, plan)

    def _is_own(self, prompt: str) -> bool:
        """Whether a prompt has words of the records by which the checkpoint was finetuned, of which its world knows nothing."""
        return self.lexicon is not None and self.lexicon.is_own(prompt)

    def restated(self, request: DrawRequest) -> DrawRequest:
        """A request in the words that the checkpoint was taught, where its world can tell them."""
        plain = None if self.world is None or self._is_own(request.prompt) else self.world().restated(request.prompt)
        return request if plain is None else replace(request, prompt=plain)

    def wordings(self, request: DrawRequest) -> tuple[DrawRequest, DrawRequest]:
        """A request in the words by which a plan is made first, and in those for a second plan if that one cannot be drawn."""
        plain = self.restated(request)
        first = self.world is not None and not self._is_own(request.prompt) and self.world().is_plain(request.prompt)
        return (plain, request) if first else (request, plain)

    def read(self, request: DrawRequest) -> DrawRequest:
        """A request with its prompt as the checkpoint was taught to read: calm, spelled, and without what is told beside what is asked for."""
        prompt, _ = self._spelled(request.prompt, strict=request.strict)
        if self.world is not None and request.image is None and not self.defaults.reasons_in_one_row and not self._is_own(prompt):
            prompt = self.world().asked(prompt)
        return request if prompt == request.prompt else replace(request, prompt=prompt)

    def doubt_of(self, request: ChatRequest, thinking: str | None) -> str | None:
        """Why an answer with this thought may be wrong; None: nothing is known against it, or nobody knows."""
        turns = messages_of(request.messages)
        if self.world is None or thinking is None or request.images or not turns:
            return None
        return self.world().doubt_of(self.heard(turns[-1].content, strict=request.strict), thinking)

    def corrections(self, request: ChatRequest | DrawRequest) -> tuple[Correction, ...]:
        """What of a prompt, or of the last turn of a user, is read otherwise than it is written."""
        if isinstance(request, DrawRequest):
            spelled, corrections = self._spelled(request.prompt, strict=request.strict)
            by_rule = () if self.lexicon is None else self.lexicon.respelled(spelled, self.read(request).prompt)
            return (*corrections, *by_rule)
        asked = [turn.content for turn in messages_of(request.messages) if turn.role == "user"]
        return self._spelled(asked[-1], strict=request.strict)[1] if asked else ()

    def _spelled(self, text: str, *, strict: bool) -> tuple[str, tuple[Correction, ...]]:
        """A calm text, with misspelled words as they are read where the checkpoint ships the words that it was taught."""
        calm = self._calm(text)
        return (calm, ()) if strict or self.lexicon is None else self.lexicon.speller.read(calm)

    def heard(self, text: str, *, strict: bool) -> str:
        """A turn of a user as the checkpoint was taught to read: calm, spelled, and with the commas of its lists."""
        spelled, _ = self._spelled(text, strict=strict)
        return spelled if strict or self.world is None else self.world().with_commas(spelled)

    def _calm(self, text: str) -> str:
        """A text without the capitals of a headline, where the checkpoint was taught sentences alone: "DRAW A DOG", "Draw A Dog For Me"."""
        if not self.defaults.lowers_capitals or len(text) < 2:
            return text
        words = re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)?", text)
        is_headline = len(words) > 2 and all(word[0].isupper() for word in words)
        return text.capitalize() if text.isupper() or is_headline else text
