"""Surface noise: the same words, typed by people in a hurry. Case, white space, punctuation, and a typo now and then."""

from __future__ import annotations

from mmada.worlds.emoji.chooser import Chooser

__all__ = ["NOISES", "noisy"]

NOISES = ("lower", "title", "no_punctuation", "more_punctuation", "space", "typo")
_SHARE = 0.3


def noisy(c: Chooser, text: str) -> str:
    """A text as it may be typed: seven in ten stay as they are."""
    if not c.chance(_SHARE):
        return text
    noise = c.weighted({"lower": 5, "title": 1, "no_punctuation": 3, "more_punctuation": 1, "space": 1, "typo": 1.5})
    return apply(c, noise, text).strip() or text  # of "???" nothing is left without punctuation


def apply(c: Chooser, noise: str, text: str) -> str:
    if noise == "lower":
        return text.lower()
    if noise == "title":
        return text.title().replace("'S", "'s").replace("'D", "'d")
    if noise == "no_punctuation":
        return "".join(letter for letter in text if letter not in ".,!?;")
    if noise == "more_punctuation":
        return text.rstrip(".!? ") + c.pick(("!!", "...", " !", " ?", "!!!", " :)", " ..", "??"))
    if noise == "space":
        return text.replace(" ", "  ", 1)
    return _typo(c, text)


def _typo(c: Chooser, text: str) -> str:
    """Two letters of a longer word exchanged, or one left out or doubled."""
    words = text.split(" ")
    long = [i for i, word in enumerate(words) if len(word) > 4 and word.isalpha()]
    if not long:
        return text
    i = c.pick(long)
    word, at = words[i], c.between(1, len(words[i]) - 3)
    words[i] = c.pick((word[:at] + word[at + 1] + word[at] + word[at + 2 :], word[:at] + word[at + 1 :], word[:at] + word[at] + word[at:]))
    return " ".join(words)
