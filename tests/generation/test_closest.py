"""The closest entry is that of difflib, which compares with each."""

from difflib import get_close_matches

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmada.generation.closest import Closest
from mmada.generation.lexicon import Lexicon
from mmada.hub import checkpoint

CUTOFF = 0.8


def by_difflib(word, entries, cutoff=CUTOFF):
    return next(iter(get_close_matches(word, entries, 1, cutoff)), None)


@pytest.fixture(scope="module")
def lexicon():
    return Lexicon.load(checkpoint.find(checkpoint.DEFAULT_MODEL))


def test_the_words_of_training_and_slips_in_names(lexicon):
    closest = Closest(lexicon.things, cutoff=CUTOFF)
    words = [*lexicon.taught][::10]
    words += [f"{thing[:i]}{letter}{thing[i + 1 :]}" for thing in lexicon.things[::4] for i, letter in enumerate("ex")]
    assert sum(closest.to(word) is not None for word in words) > 100
    assert [closest.to(word) for word in words] == [by_difflib(word, lexicon.things) for word in words]


@pytest.mark.slow
def test_every_word_that_is_known(lexicon):
    closest = Closest(lexicon.things, cutoff=CUTOFF)
    for word in (*lexicon.taught, *lexicon.near, *lexicon.english, *lexicon.words):
        assert closest.to(word) == by_difflib(word, lexicon.things)


@given(st.text("abé ", max_size=9), st.lists(st.text("abé ", min_size=1, max_size=9)), st.sampled_from([0.5, 0.8, 1.0]))
def test_any_words(word, entries, cutoff):
    assert Closest(entries, cutoff=cutoff).to(word) == by_difflib(word, entries, cutoff)
