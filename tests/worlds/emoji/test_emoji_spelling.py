"""The words by which misspelled ones are read: shipped as they were taught, near none that the world lacks, and good for most slips."""

import re
from collections import Counter

import numpy as np
import pytest

from mmada.generation.lexicon import LEXICON_NAME, Lexicon
from mmada.hub import checkpoint
from mmada.worlds.emoji.chooser import Chooser
from mmada.worlds.emoji.natural.lists import KINDS_OF_WORDS, plural_of, unknown_words
from mmada.worlds.emoji.natural.noise import apply
from mmada.worlds.emoji.natural.people import names
from mmada.worlds.emoji.natural.spelling import english_words, taught_words
from mmada.worlds.emoji.natural.voice import sections
from mmada.worlds.emoji.reading import spelled
from mmada.worlds.emoji.tasks import KINDS, sample


@pytest.fixture(scope="module")
def shipped():
    return Lexicon.load(checkpoint.find("mmada-emoji-chat"))


def test_checkpoints_ship_them(shipped):
    for name in ("mmada-emoji-chat", "mmada-emoji-max", "mmada-emoji-mixcot"):
        found = Lexicon.load(checkpoint.find(name))
        assert (found.taught, found.english) == (taught_words(), english_words()), "run scripts/emoji/build_lexicon.py"
        assert (checkpoint.find(name) / LEXICON_NAME).stat().st_size < 150_000


def test_words_that_the_world_lacks_stay(shipped):
    for kind in KINDS_OF_WORDS:
        for word in (*unknown_words(kind, "train"), *unknown_words(kind, "test")):
            assert shipped.speller.read(f"draw a {word}") == (f"draw a {word}", ())
            assert shipped.speller.read(f"two {plural_of(word)}")[1] == ()
    for name in (*names("train"), *names("test")):
        assert shipped.speller.read(f"{name} has two dogs")[1] == ()


@pytest.mark.parametrize("word", ["car", "moose", "coat", "boat", "bars", "rainy", "foggy", "sunny", "horse", "house", "bowl", "tanks"])
def test_english_words_are_no_misspellings(shipped, word):
    assert shipped.speller.read(f"a {word}")[1] == ()
    assert spelled(word) == word


def test_sentences_that_are_spelled_stay(shipped):
    for kind in KINDS:
        for seed in range(4):
            prompt = sample(kind, np.random.default_rng(seed), "test" if seed % 2 else "train").prompt
            assert shipped.speller.read(prompt) == (prompt, ()), prompt
    lines = [re.sub(r"\{.*?\}", "two", line) for section, found in sections().items() if section != "talk nonsense" for line in found]
    changed = [shipped.speller.read(line)[1] for line in lines]
    assert sum(map(bool, changed)) < 0.005 * len(lines)


def test_most_slips_are_read(shipped):
    """A slip in a word of every tenth sentence of the voices: what is read otherwise is seldom wrong."""
    found: Counter[str] = Counter()
    lines = [
        line for section, lines in sections().items() if section not in ("talk nonsense", "remark") for line in lines if "{" not in line
    ][::10]
    for i, line in enumerate(lines):
        slipped = apply(Chooser(np.random.default_rng([26, i])), "typo", line)
        if slipped != line:
            read, corrections = shipped.speller.read(slipped)
            found["right" if read == line else "wrong" if corrections else "kept"] += 1
    assert found.total() > 150
    assert found["right"] > 0.8 * found.total(), found
    assert found["wrong"] < 0.03 * found.total(), found
