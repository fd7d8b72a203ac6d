import dataclasses
import math

import pytest
import torch

from mmada.diffusion.schedule import cosine, linear
from mmada.errors import InputError
from mmada.sampling import Cache, Recipe, fast_image, fast_text, infill, named_cache, published_image, published_text
from mmada.sampling.recipes import Count, compounding, even, following, linear_anneal
from mmada.sampling.score import margin, negative_entropy, probability, random_order

# reference/mmada.md, section 8.2: the temperature after each step, starting from 1.
COMPOUNDING = {
    12: [0.917, 0.764, 0.573, 0.382, 0.223, 0.111],
    15: [0.933, 0.809, 0.647, 0.475, 0.316, 0.190, 0.101, 0.047],
    20: [0.95, 0.855, 0.727, 0.581, 0.436, 0.305, 0.198, 0.119],
    50: [0.98, 0.941, 0.884, 0.814, 0.732, 0.644, 0.554, 0.465],
}


@pytest.mark.parametrize("steps", COMPOUNDING)
def test_compounding_temperatures_are_the_published_ones(steps):
    assert [compounding(k, steps) for k in range(len(COMPOUNDING[steps]))] == pytest.approx(COMPOUNDING[steps], abs=6e-4)
    naive = 1.0
    for k in range(steps):
        naive *= 1 - (k + 1) / steps
        assert compounding(k, steps) == pytest.approx(naive, abs=1e-12)


def test_linear_annealing():
    assert [linear_anneal(k, 15) for k in range(3)] == pytest.approx([0.933, 0.867, 0.8], abs=6e-4)
    assert linear_anneal(14, 15) == compounding(14, 15) == 0


def count(num_open, num_start, num_total, step, steps):
    return Count(*(torch.tensor(x) for x in (num_open, num_start, num_total, step, steps)))


def test_even_splits_what_was_open_at_the_start_of_the_block():
    steps = [even(count([9], [7], [9], [step], [3])).item() for step in range(3)]
    assert steps == [3, 2, 2]
    assert even(count([4, 4], [4, 5], [8, 8], [0, 1], [2, 2])).tolist() == [2, 2]


def test_following_leaves_what_the_schedule_says_and_nothing_at_the_end():
    committed, num_open = [], 16
    for step in range(4):
        n = following(linear)(count([num_open], [16], [16], [step], [4])).item()
        committed.append(n)
        num_open -= n
    assert committed == [4, 4, 4, 4]
    assert following(cosine)(count([16, 3], [16, 3], [16, 16], [0, 2], [2, 3])).tolist() == [16 - math.floor(16 * math.sqrt(0.5)), 3]


def test_recipes_of_equal_settings_are_equal():
    assert published_image() == published_image()
    assert fast_image(steps=9) == fast_image(steps=9)
    assert fast_image(steps=9) != fast_image(steps=10)
    assert following(cosine) is following(cosine)
    assert len({published_text(), published_text(), fast_text(), infill()}) == 3


def settings_of(recipe):
    """Everything in which a recipe differs from the default one."""
    plain = Recipe(steps=1)
    values = {f.name: getattr(recipe, f.name) for f in dataclasses.fields(Recipe)}
    return {name: value for name, value in values.items() if name == "steps" or value != getattr(plain, name)}


NAMED = {
    "published_text": (published_text(), {"steps": 256, "block_length": 128, "stop_at_eos": False, "propose_any": True}),
    "published_image": (
        published_image(),
        {
            "steps": 15,
            "quota": following(cosine),
            "temperature": 1.0,
            "score_temperature": 1.0,
            "anneal": compounding,
            "guidance_scale": 3.5,
        },
    ),
    "fast_text": (fast_text(), {"steps": None, "threshold": 0.9, "block_length": 32}),
    "fast_image": (
        fast_image(),
        {"steps": 12, "quota": following(cosine), "temperature": 1.0, "score_temperature": 1.0, "guidance_scale": 2.0},
    ),
    "infill": (infill(), {"steps": None, "threshold": 0.9, "stop_at_eos": False}),
}


@pytest.mark.parametrize("name", NAMED)
def test_the_named_recipes(name):
    recipe, expected = NAMED[name]
    assert settings_of(recipe) == expected


def test_the_default_recipe():
    recipe = Recipe(steps=1)
    assert (recipe.quota, recipe.score, recipe.anneal) == (even, probability, linear_anneal)
    assert recipe.stop_at_eos
    assert not recipe.propose_any


@pytest.mark.parametrize(
    ("recipe", "draws"),
    [
        (Recipe(steps=1), False),
        (Recipe(steps=1, score=margin), False),
        (Recipe(steps=1, top_k=4), False),
        (Recipe(steps=1, temperature=0.1), True),
        (Recipe(steps=1, score_temperature=0.1), True),
        (Recipe(steps=1, score=random_order), True),
    ],
)
def test_whether_the_seed_matters(recipe, draws):
    assert recipe.draws is draws


@pytest.mark.parametrize(
    ("block_length", "num_open", "steps", "blocks", "steps_in_block"),
    [(None, 9, 4, 1, 4), (3, 9, 6, 3, 2), (4, 9, 6, 3, 2), (100, 9, 5, 1, 5), (1, 3, 3, 3, 1), (4, 9, None, 3, None)],
)
def test_blocks_and_their_steps(block_length, num_open, steps, blocks, steps_in_block):
    recipe = Recipe(steps=steps, threshold=0.5, block_length=block_length)
    assert recipe.num_blocks(num_open) == blocks
    assert recipe.steps_in_block(num_open) == steps_in_block


def test_with_changes_some_settings():
    recipe = published_image().with_(steps=7, score=margin)
    assert (recipe.steps, recipe.score, recipe.anneal) == (7, margin, compounding)
    with pytest.raises(InputError, match="steps=0 must be at least 1"):
        recipe.with_(steps=0)
    with pytest.raises(TypeError, match="stepps"):
        recipe.with_(stepps=3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "steps=None needs a threshold; give steps=N, threshold=0.9, or both"),
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"steps": 4, "block_length": 0}, "block_length=0 must be at least 1"),
        ({"steps": 4, "top_k": 0}, "top_k=0 must be at least 1"),
        ({"steps": 4, "temperature": -0.5}, "temperature=-0.5 must be at least 0"),
        ({"steps": 4, "score_temperature": -1}, "score_temperature=-1 must be at least 0"),
        ({"steps": 4, "guidance_scale": -1}, "guidance_scale=-1 must be at least 0"),
        ({"steps": 4, "top_p": 0}, r"top_p=0 must lie in \(0, 1\]"),
        ({"steps": 4, "top_p": 1.5}, r"top_p=1.5 must lie in \(0, 1\]"),
        ({"steps": 4, "score": negative_entropy, "score_temperature": 1.0}, "score_temperature=1.0 needs a positive score"),
        ({"steps": 4, "guidance_scale": math.nan}, "guidance_scale=nan must be at least 0, and finite"),
        ({"steps": 4, "temperature": math.inf}, "temperature=inf must be at least 0, and finite"),
        ({"threshold": 90}, "threshold=90 is never reached by the score, which is at most 1; try 0.9"),
        ({"threshold": math.nan}, "threshold=nan is never reached"),
        ({"threshold": 0.5, "score": negative_entropy}, "threshold=0.5 is never reached by the score, which is at most 0; try -0.1"),
        ({"threshold": 0.5, "score_temperature": 1.0}, "score_temperature=1.0 is annealed over the steps; give steps=N"),
        ({"threshold": 0.9, "score": random_order}, "threshold=0.9 says how sure a proposal must be, and score=random_order does not know"),
        ({"threshold": 0.0, "steps": 4, "score": random_order}, "threshold=0.0 says how sure"),
        ({"threshold": 0.5, "propose_any": True}, "steps=None with propose_any=True may never end"),
    ],
)
def test_refused(values, message):
    with pytest.raises(InputError, match=message):
        Recipe(**values)


@pytest.mark.parametrize("recipe", [fast_text(), infill()])
def test_a_changed_recipe_is_checked_as_a_new_one(recipe):
    """Recipes of checkpoints have a threshold, and a request changes single settings."""
    with pytest.raises(InputError, match="use score=probability, or give steps=N and threshold=None"):
        recipe.with_(score=random_order)
    assert recipe.with_(score=random_order, steps=8, threshold=None).draws


@pytest.mark.parametrize(("steps", "num_open", "remedy"), [(7, 9, 6), (2, 9, 3), (8, 9, 6), (1, 200, 50)])
def test_steps_must_divide_into_the_blocks(steps, num_open, remedy):
    recipe = Recipe(steps=steps, block_length=4)
    blocks = -(-num_open // 4)
    message = (
        f"steps={steps} must be a multiple of the {blocks} blocks that {num_open} open positions make at block_length=4; try steps={remedy}"
    )
    with pytest.raises(InputError, match=message):
        recipe.steps_in_block(num_open)
    assert recipe.with_(steps=remedy).steps_in_block(num_open) == remedy // blocks


@pytest.mark.parametrize(("name", "cache"), [("none", None), ("prefix", Cache(before=0, after=None)), ("dual", Cache(before=0, after=0))])
def test_caches_have_names(name, cache):
    assert named_cache(name) == cache


def test_bad_caches_are_refused():
    with pytest.raises(InputError, match="cache='duall' is unknown: did you mean 'dual'"):
        named_cache("duall")
    for field, least in (("before", 0), ("after", 0), ("refresh", 1)):
        with pytest.raises(InputError, match=f"{field}={least - 1} must be at least {least}"):
            Cache(**{field: least - 1})
