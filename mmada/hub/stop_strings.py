"""`stop_strings` of `generate`: an answer ends with the token that completes one of them, as in transformers.

    stops = StopStrings.of("\\n", tokenizer)
    stops.length(prompt, answer)      tokens of an answer that stay, or None

Tokens are committed in any order, so the part that counts is the one before the first open position: nothing in it changes any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmada.errors import InputError

__all__ = ["StopStrings"]


@dataclass(frozen=True, slots=True)
class StopStrings:
    """strings  none of them empty; tokenizer  of transformers, or whatever decodes ids"""

    strings: tuple[str, ...]
    tokenizer: Any

    @classmethod
    def of(cls, strings: str | Sequence[str], tokenizer: Any) -> StopStrings | None:
        """None for no strings. Raises InputError for what is no text, and without a tokenizer."""
        found = (strings,) if isinstance(strings, str) else tuple(strings)
        if not all(isinstance(one, str) and one for one in found):
            raise InputError(f"stop_strings={strings!r} must be a text or a list of texts, none of them empty")
        if found and not hasattr(tokenizer, "decode"):
            raise InputError(f"stop_strings={list(found)} are found in the text of an answer; give the tokenizer, too: tokenizer=tokenizer")
        return cls(found, tokenizer) if found else None

    def length(self, prompt: Sequence[int], answer: Sequence[int]) -> int | None:
        """Tokens of an answer up to the one that completes a string, which may begin in the prompt; None if none is complete."""
        reach = max(len(one.encode()) for one in self.strings)
        tail = list(prompt)[-reach:]
        begin = len(self._text(tail))
        if not self._is_complete(self._text([*tail, *answer]), begin):
            return None
        return next((n for n in range(1, len(answer)) if self._is_complete(self._text([*tail, *answer[:n]]), begin)), len(answer))

    def _text(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def _is_complete(self, text: str, begin: int) -> bool:
        """Whether a string ends behind the first `begin` characters."""
        return any(text.find(one, max(0, begin - len(one) + 1)) >= 0 for one in self.strings)
