"""What stands before a request: a system turn of somebody's program, or an earlier exchange. Neither changes the answer."""

from __future__ import annotations

from mmada.canvas import Message
from mmada.worlds.emoji.chooser import Chooser
from mmada.worlds.emoji.example import Example

__all__ = ["SYSTEM", "around"]

SYSTEM = (
    "You are a helpful assistant.", "You are a friendly assistant that draws emoji.", "Current date: 2026-11-29.", "Current date: {n}", "Be brief.",
    "Answer in English.", "You are MMaDA.", "Answer the user's question.", "You are a careful math tutor.", "Think step by step.", "User id: {n}",
    "You are a chat bot on a web page.", "Always be polite.", "The user is a child.", "Today is Monday.", "Session {n}. Language: en.",
    "You are an expert in pictures.", "Answer with one word or number.", "Do not use markdown.", "Keep answers short and correct.",
)  # fmt: skip
_SYSTEM, _EARLIER = 0.08, 0.07


def around(c: Chooser, earlier: Example) -> list[Message]:
    """Turns before a request, mostly none."""
    if c.chance(_SYSTEM):
        return [Message("system", c.pick(SYSTEM).format(n=c.between(1, 9999)))]
    if c.chance(_EARLIER) and earlier.answer:
        return [Message("user", earlier.prompt), Message("assistant", earlier.answer)]
    return []
