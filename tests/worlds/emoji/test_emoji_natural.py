"""Ordinary English about the world: what is read of it, what is refused, and requests for training and for tests that stay apart."""

import numpy as np
import pytest
from PIL import Image

from mmada.generation.lexicon import Lexicon
from mmada.generation.requests import DrawRequest, NotDrawnError
from mmada.hub import checkpoint
from mmada.pipeline import MMaDA
from mmada.worlds.emoji.grammar import parse
from mmada.worlds.emoji.lexicon import lexicon
from mmada.worlds.emoji.measure.natural import strange, wishes
from mmada.worlds.emoji.natural import natural_example
from mmada.worlds.emoji.natural.drawing import NOTHING
from mmada.worlds.emoji.natural.frames import DRAW_FRAMES
from mmada.worlds.emoji.natural.lists import unknown_words
from mmada.worlds.emoji.plans import is_plain, problem_of
from mmada.worlds.emoji.reading import restated, spelled, with_commas
from mmada.worlds.emoji.scenes import render
from mmada.worlds.emoji.tasks import KINDS, held_out_in, picture, sample
from mmada.worlds.emoji.verify import is_correct


@pytest.fixture(scope="module")
def drawn():
    model = MMaDA.from_pretrained("mmada-emoji-max")
    return lambda prompt, **settings: model.draw(prompt, steps=2, **settings)


@pytest.mark.parametrize(
    ("prompt", "plain"),
    [
        ("hey, can u draw a puppy next to two zeppelins pls", "a dog"),
        ("two hearts, one red and one blue", "a blue heart and a red heart"),
        (
            "kitten top left + fish bottom right, pink background",
            "a cat at the top left and a fish at the bottom right on a pink background",
        ),
        ("the sun over a couple of trees", "a sun above two trees"),
        ("on the left a tree, on the right a palm tree", "a tree on the left and a palm tree on the right"),
        ("a blue and a red square", "a blue square and a red square"),
        ("t-shirt and jeans", "a t-shirt and a pair of jeans"),
        ("a cat but not a dog", "a cat"),
        ("six dogs", None),
        ("a zeppelin", None),
    ],
)
def test_what_is_read(prompt, plain):
    found = restated(prompt)
    assert (found and parse(found)) == (plain and parse(plain))


@pytest.mark.parametrize(
    ("prompt", "plan", "problem"),
    [
        ("a horse", None, "nothing in it is known"),
        ("six dogs", None, "asks for six dogs"),
        ("no dogs", None, "only what is not wanted"),
        ("a dog", "gibberish", "no plan"),
        ("a sheep and a dog", "a ship and a dog", "the plan has ship"),
        ("a dog but no cat", "a dog and a cat", "the plan has cat"),
        ("a dog above a cat", "a cat above a dog", "not what was asked for"),
        ("a puppy above a cat", "a dog above a cat", None),
        ("Draw 9 - 6 dogs.", "three dogs", None),
    ],
)
def test_plans(prompt, plan, problem):
    found = problem_of(prompt, plan)
    assert found is None if problem is None else problem in (found or "")


@pytest.mark.parametrize(
    ("prompt", "is_so"),
    [
        ("hey, can u draw a puppy pls", True),
        ("Draw a dog.", False),  # the grammar's own words serve as they are
        ("a dog, and one more cat than dogs", False),
        ("a zeppelin", False),
    ],
)
def test_plain_prompts_are_planned_in_the_words_of_the_grammar(prompt, is_so):
    assert is_plain(prompt) == is_so


def test_a_plan_is_made_of_the_plain_wording_first():
    planner = MMaDA.from_pretrained("mmada-emoji-max").planner
    request = DrawRequest("hey, can u draw a puppy pls")
    first, second = planner.reader.wordings(request)
    assert parse(first.prompt) == parse("a dog")
    assert second is request
    assert planner.reader.wordings(DrawRequest("Draw a dog."))[0].prompt == "Draw a dog."


def test_nothing_that_the_grammar_says_is_refused_or_unknown():
    known = lexicon()
    for kind, entry in KINDS.items():
        for seed in range(8) if entry.task in ("draw", "reason_draw") else ():
            example = sample(kind, np.random.default_rng(seed), "test" if seed % 2 else "train")
            assert problem_of(example.prompt, example.answer or None) is None, example
            assert known.unknown(example.prompt) == (), example.prompt


def test_natural_requests_hold_nothing_that_is_held_out():
    test_words = {word for kind in ("nouns", "adjectives", "verbs") for word in unknown_words(kind, "test")}
    for seed in range(150):
        example = natural_example("natural_draw", np.random.default_rng(seed))
        assert not held_out_in(example)
        assert not test_words & set((example.think or "").replace(",", " ").replace(";", " ").split())
        assert example.answer == NOTHING or (example.spec is not None and is_correct(example, example.answer))


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("Kick one out: Cake cactus maple leaf bus please", "Kick one out: Cake, cactus, maple leaf, bus please"),
        ("cake, cactus, pear", "cake, cactus, pear"),
        ("is an apple car a thing", "is an apple car a thing"),
        ("a dog and a cat and a car", "a dog and a cat and a car"),
    ],
)
def test_lists_get_their_commas(text, read):
    assert with_commas(text) == read


def test_nothing_else_gets_commas():
    for kind in KINDS:
        for seed in range(8):
            prompt = sample(kind, np.random.default_rng(seed), "test" if seed % 2 else "train").prompt
            assert with_commas(prompt) == prompt


def test_the_suites_are_not_trained():
    trained = {natural_example("natural_draw", np.random.default_rng(seed)).prompt.lower() for seed in range(300)}
    bare = {"elephant", "a horse", "hello", "six dogs", "a purple cat", "no dogs", "a bicycle", "a helicopter", "a rabbit"}
    asked = {wish.prompt.lower() for wish in (*wishes(), *strange(50, 0))}
    assert not (trained & asked) - bare  # a request of two words has no other words
    frames = {frame.partition("{}")[0].strip().lower() for frame in DRAW_FRAMES if not frame.startswith("{}")} - {""}
    assert sum(any(prompt.startswith(frame) for frame in frames if len(frame) > 12) for prompt in asked) == 0


def test_what_cannot_be_drawn_is_said(drawn):
    found = drawn("a dog and a boat")
    assert found.unknown == ("boat",)
    assert found.warning == "I cannot draw: boat. Nearest that I know: ship."
    assert parse(found.prompt) is not None
    with pytest.raises(NotDrawnError, match=r"nothing in it is known to me\. I cannot draw: helicopter") as refused:
        drawn("a helicopter")
    (blank,) = refused.value.results
    assert blank.problem
    assert blank.image.getextrema() == ((255, 255),) * 3
    with pytest.raises(ValueError, match="do not be strict"):
        MMaDA.from_pretrained("mmada-emoji-max").run([DrawRequest("a dog and a boat", strict=True)])


def test_a_plan_confirms_what_is_unknown():
    planner = MMaDA.from_pretrained("mmada-emoji-max").use(plans_name_unknown=True).planner
    request = DrawRequest("something for my girlfriend")
    assert planner.reader.confirmed(request, ("girlfriend", "yak"), "unknown: yak; dog 1; dog 1 center") == ("yak",)
    assert planner.reader.confirmed(request, ("girlfriend",), "red heart 2; red heart 1 left") == ()
    assert planner.reader.confirmed(request, ("car", "girlfriend"), "car 1; car 1 center") == ("car",)
    assert planner.reader.confirmed(request, ("yak",), "unknown: yek; dog 1; dog 1 center") == ("yak",)  # it copies badly
    assert planner.reader.confirmed(DrawRequest("a yak and a dog"), ("yak",), "dog 1; dog 1 center") == ("yak",)
    planner = MMaDA.from_pretrained("mmada-emoji-max").planner
    assert planner.reader.confirmed(request, ("girlfriend",), "red heart 2; red heart 1 left") == ("girlfriend",)


def test_a_prompt_in_capitals_is_read(drawn):
    assert drawn("AN OWL").prompt == drawn("An owl").prompt == "a large owl"


@pytest.mark.parametrize(
    ("typed", "read"), [("A Kraken And A Dog", "A kraken and a dog"), ("A DOG!", "A dog!"), ("Ann, Tom", "Ann, Tom"), ("a Dog", "a Dog")]
)
def test_a_headline_is_read_as_a_sentence(typed, read):
    planner = MMaDA.from_pretrained("mmada-emoji-max").planner
    assert planner.reader.read(DrawRequest(typed)).prompt == read


def test_checkpoints_ship_the_words_of_the_world():
    for name in ("mmada-emoji-max", "mmada-emoji-mixcot"):
        shipped = Lexicon.load(checkpoint.find(name))
        assert (shipped.things, shipped.words) == (lexicon().things, lexicon().words), "run scripts/emoji/build_lexicon.py"
        assert shipped.nearest(("boat",)) == ("ship",)
        assert shipped.nearest(("tiger",))[0] == "lion"
        assert shipped.nearest(("midget", "nerd")) == ()  # people are like no thing


def test_words_that_are_unknown_are_no_words_of_the_lexicon():
    known = lexicon()
    for kind in ("nouns", "adjectives", "verbs"):
        for word in (*unknown_words(kind, "train"), *unknown_words(kind, "test")):
            assert known.unknown(word) == (word,)
            assert spelled(word) == word


def test_pictures_of_another_kind_are_doubted():
    model = MMaDA.from_pretrained("mmada-emoji-max")
    scenes = [Image.fromarray(render(picture(np.random.default_rng(seed)))) for seed in range(12)]
    assert all(model.planner.seen([scene])[1] is None for scene in scenes)
    assert model.planner.seen([scenes[0].resize((512, 512), Image.Resampling.BICUBIC)])[1] is None  # only larger
    y, x = np.mgrid[:96, :96]
    waves = np.stack([127 + 127 * np.sin(x / 5 + y / 9 + phase) for phase in (0, 2, 4)], axis=-1)
    answer = model.chat("What is that?", images=[Image.fromarray(waves.astype(np.uint8))])
    assert answer.warning == "this picture is unlike those that I was taught, so the answer may be wrong"
    assert model.planner.seen([scenes[0], Image.fromarray(waves.astype(np.uint8))])[1].startswith("picture 2 is unlike")
