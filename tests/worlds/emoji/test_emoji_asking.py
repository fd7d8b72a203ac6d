"""What of a prompt is asked for, and what is told beside it."""

import numpy as np
import pytest

from mmada.generation.requests import DrawRequest, NotDrawnError
from mmada.pipeline import MMaDA
from mmada.worlds.emoji.asking import asked, is_asked_for
from mmada.worlds.emoji.grammar import parse
from mmada.worlds.emoji.lexicon import lexicon
from mmada.worlds.emoji.reading import restated
from mmada.worlds.emoji.tasks import KINDS, sample


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ("I am a tailor. Show me two dresses.", "two dresses."),
        ("my sister wants a dog for her birthday card", "a dog"),
        ("two hearts, one red and one brown", "one red heart and one brown heart"),
        ("a black heart and a red one", "a black heart and one red heart"),
        ("a cat with pink behind it", "a cat on a pink background"),
        ("a bee, make the background mint green", "a bee on a mint green background"),
        ("a zeppelin and a dog for my wife", "a zeppelin and a dog"),
        ("a dog. The school bus is late.", "a dog."),
        ("bored at the airport, draw a pear and a sofa", "a pear and a sofa"),
        ("because it is Friday, we need a key", "a key"),
        ("two frogs for our club on a pink background", "two frogs on a pink background"),
        ("a doodle of four drums would be great", "four drums"),
        ("app icon idea, a key", "a key"),
        ("a lion (no rockets) would help me explain a word", "a lion (no rockets)"),
        ("We need it for the menu. a bell for grandma please", "a bell"),
        ("What a storm we had! two frogs", "two frogs"),
        ("Rainy Sunday, and mommy said I can have a heart", "a heart"),
        ("two stars on a plain white background", "two stars on a white background"),
        ("a snowman, and make the background grey.", "a snowman on a gray background."),
        ("a unicorn and everything pink behind it", "a unicorn on a pink background"),
        ("a cake, pink bg", "a cake, pink background"),
        # What belongs to the picture stays.
        ("a snail, and my bicycle", "a snail, and my bicycle"),
        ("a snail, and a tooth for me", "a snail, and a tooth"),
        ("a bed on orange for me", "a bed on orange-colored"),
        ("a hat for a dog", "a hat for a dog"),
        ("a dog and a bus. The bus is on the left.", "a dog and a bus. The bus is on the left."),
        ("a dog. I don't want cats", "a dog. I don't want cats"),
        ("a zeppelin", "a zeppelin"),
        ("a drum with an orange background", "a drum with an orange-colored background"),
    ],
)
def test_what_is_told_is_left_out(prompt, wanted):
    assert asked(prompt) == wanted


def test_sentences_of_the_grammar_stay_as_they_are():
    for kind, entry in KINDS.items():
        for seed in range(12) if entry.task in ("draw", "reason_draw") else ():
            prompt = sample(kind, np.random.default_rng(seed), "test" if seed % 2 else "train").prompt
            assert asked(prompt) == prompt


@pytest.mark.parametrize(
    ("prompt", "phrase", "surely"),
    [
        ("a zeppelin and a dog", "zeppelin", True),
        ("a dog, zeppelin and cat", "zeppelin", True),
        ("a purple cat", "purple", True),
        ("a dog that sleeps", "sleeps", False),
        ("two dogs hatching today", "hatching", False),
    ],
)
def test_what_is_counted_or_listed_or_colored_is_surely_asked_for(prompt, phrase, surely):
    assert is_asked_for(prompt, phrase) == surely


@pytest.mark.parametrize(
    ("prompt", "plain"),
    [
        ("a panda on the left and a panda on the right", "a panda on the left and a panda on the right"),
        ("two trucks without cute pandas", "two trucks"),
        ("a dog. I do not want any cats", "a dog"),
        ("quick check: an apple", "an apple"),  # a check is no chick
        ("dogs x3", "three dogs"),
        ("tulips, four of them", "four tulips"),
        ("a cat and another cat", "two cats"),
        ("hearts in red and blue", "a blue heart and a red heart"),
        ("two red squares, two blue ones", "two red squares and two blue squares"),
        ("a key with a lock to its right", "a key left of a lock"),
        ("at the top a bee and below it a rose", "a bee above a rose"),
        ("top: sun, bottom: fish", "a sun at the top and a fish at the bottom"),
    ],
)
def test_what_is_read_of_it(prompt, plain):
    assert parse(restated(asked(prompt)) or "") == parse(plain)


def test_the_words_around_a_request_are_known():
    words = lexicon()
    for prompt in (
        "a bee close to a rose",
        "a small key",
        "a purple grape bunch along with a sweet fish, thx",
        "a cat underneath a bell",
        "an american football, two baby chicks",
    ):
        assert words.unknown(prompt) == ()
    assert words.unknown("a purple cat close to a sofa") == ("purple", "sofa")


def test_a_plan_is_asked_where_a_word_may_be_told():
    chat = MMaDA.from_pretrained("mmada-emoji-chat").planner
    assert not chat.reader.asks_for_more(DrawRequest("a purple cat"), ("purple",))
    assert chat.reader.asks_for_more(DrawRequest("a dog that sleeps"), ("sleeps",))
    assert not chat.reader.asks_for_more(DrawRequest("a dog"), ())
    assert not MMaDA.from_pretrained("mmada-emoji-max").planner.reader.asks_for_more(DrawRequest("a dog that sleeps"), ("sleeps",))


def test_a_refusal_names_the_prompt_as_it_came():
    prompt = "My sister has a cold. She wants six dogs."
    with pytest.raises(NotDrawnError, match="asks for six dogs") as refused:
        MMaDA.from_pretrained("mmada-emoji-chat").draw(prompt)
    assert refused.value.results[0].problem.startswith(f"prompt={prompt!r}")
    assert refused.value.results[0].unknown == ()
