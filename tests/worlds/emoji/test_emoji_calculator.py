"""The calculator of thoughts: it agrees with every thought of training, mends what is wrong, and says nothing of what it does not know."""

import numpy as np
import pytest

from mmada.worlds.emoji.natural import NATURAL, natural_example
from mmada.worlds.emoji.natural.calculator import completed
from mmada.worlds.emoji.tasks import KINDS, sample


def thoughts(make, num):
    rng = np.random.default_rng(4)
    found = [make(rng).think for _ in range(num)]
    return [thought for thought in found if thought]


def assert_agrees(thought):
    """Of any beginning of a right thought it knows how it goes on, or nothing."""
    for stop in range(len(thought) + 1):
        known = completed(thought[:stop], False)
        if known is not None:
            text, ends = known
            assert thought.startswith(text) or text == thought[:stop], (thought, stop, text)
            assert text.startswith(thought[:stop])
            assert not ends or text == thought
    closed = completed(thought, True)
    assert closed is None or closed[0] == thought


@pytest.mark.parametrize("task", NATURAL)
def test_it_agrees_with_the_thoughts_of_ordinary_english(task):
    found = thoughts(lambda rng: natural_example(task, rng), 150)
    assert len(found) > 50
    for thought in found:
        assert_agrees(thought)


@pytest.mark.parametrize("kind", KINDS)
def test_it_agrees_with_the_thoughts_of_the_grammar(kind):
    for thought in thoughts(lambda rng: sample(kind, rng, "train"), 25):
        assert_agrees(thought)


@pytest.mark.parametrize(
    ("written", "known", "ends"),
    [
        ("71 - 34:", "71 - 34: 11 - 4 = 7, 7 - 1 - 3 = 3 = 37", False),
        ("71 - 34: 11 - 4 = 9, 7", "71 - 34: 11 - 4 = 7, 7 - 1 - 3 = 3 = 37", False),
        ("71 - 34: 11 - 4 = 7, 7 - 1 - 3 = 3 = 377", "71 - 34: 11 - 4 = 7, 7 - 1 - 3 = 3 = 37", True),
        ("8 + 3: 9 1 11", "8 + 3: 9 1 10 2 11 3 = 11", False),
        ("12 / 4: 4 1 8 2 12 3 16 4 = 4", "12 / 4: 4 1 8 2 12 3 = 3", False),
        ("19, + 5, - 3;", "19, + 5, - 3; 19 + 5: 9 + 5 = 14, 1 + 0 + 1 = 2 = 24; 24 - 3: 4 - 3 = 1, 2 - 0 = 2 = 21", True),
        ("5, * 2; 5 * 2: 5 1 10 2 = 10; 10 + 1: 11", "5, * 2; 5 * 2: 5 1 10 2 = 10", True),
        ("9, Tom: Tom - 2; 9 - 2: 8 1 6", "9, Tom: Tom - 2; 9 - 2: 8 1 7 2 = 7", False),
        ("52, 29: 5", "52, 29: 52 is more", False),
        ("52, 29: 59 is more", "52, 29: 52 is more", False),
        ("52, 29: 29 is more", "52, 29: 29 is less", False),
        ("52, 29: 52 is more; 52 -> no", "52, 29: 52 is more; 52 -> yes", True),
    ],
)
def test_what_is_wrong_is_put_right(written, known, ends):
    assert completed(written, False) == (known, ends)
    assert completed(written, True) == (known, ends)


@pytest.mark.parametrize(
    "thought",
    [
        "",
        "greeting",
        "71 - 3",
        "7 / 2: 2 1",
        "3 - 9: 2 1",
        "99 + 9: 9 + 9 = 18",
        "5, 5: 5 is more",
        "4, / 3; 4 / 3:",
        "top left dog: cat 0",
        "60, 67: 3",
    ],
)
def test_of_what_it_cannot_work_out_it_says_nothing(thought):
    assert completed(thought, False) is None
    assert completed(thought, True) is None
