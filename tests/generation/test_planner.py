"""The planner: which cache a drawing gets, and when its codes are committed."""

from __future__ import annotations

import pytest

from mmada.errors import InputError
from mmada.generation.requests import DrawRequest
from mmada.pipeline import MMaDA
from mmada.sampling import MaxLogitCacheConfig, fast_image


def num_evaluated(model: MMaDA, **settings: object) -> int:
    """Tokens that a drawing evaluates."""
    before = model.denoiser.num_tokens
    model.run([DrawRequest("a cat", think=False, steps=8, **settings)])
    return model.denoiser.num_tokens - before


def test_a_request_names_its_cache(debug):
    whole, cached = num_evaluated(debug), num_evaluated(debug, image_cache="max-logit")
    assert cached < whole
    few = fast_image(steps=4).with_(cache=MaxLogitCacheConfig(cache_ratio=0.5))
    assert cached < num_evaluated(debug, params=few) < num_evaluated(debug, params=few, image_cache="none")


def test_a_checkpoint_names_its_cache(debug):
    model = MMaDA.debug().use(image_cache="max-logit")
    assert num_evaluated(model) == num_evaluated(debug, image_cache="max-logit")
    assert num_evaluated(model, image_cache="none") == num_evaluated(debug)
    with pytest.raises(InputError, match="image_cache='prefix' is unknown"):
        model.use(image_cache="prefix")


def num_steps(model: MMaDA, **settings: object) -> int:
    (drawing,) = model.run([DrawRequest("a cat", think=False, steps=8, **settings)])
    return drawing.num_forwards


def test_sure_codes_end_a_drawing_sooner(debug):
    assert num_steps(debug) == num_steps(debug, image_threshold=1) == 8
    assert num_steps(debug, image_threshold=1e-9) == 1
    few = fast_image(steps=4).with_(threshold=1e-9)
    assert num_steps(debug, params=few) == 1
    assert num_steps(debug, params=few, image_threshold=1.0) == 8


def test_a_checkpoint_names_how_sure_codes_must_be(debug):
    model = MMaDA.debug().use(image_threshold=1e-9, image_steps=8)
    assert num_steps(model) == 1
    assert num_steps(model, image_threshold=1) == 8


def test_fewer_steps_than_the_checkpoint_takes_have_no_threshold_of_its_own():
    """What is not sure would be left to the last step: 54 instead of 79 % of max's drawings were right in 6 steps."""
    model = MMaDA.debug().use(image_threshold=1e-9, image_steps=9)
    assert num_steps(model) == 8
    assert num_steps(model, image_threshold=1e-9) == 1


@pytest.mark.parametrize("value", [0, -1.0, 1.5, float("nan")])
def test_a_threshold_that_is_no_probability_is_refused(debug, value):
    message = f"image_threshold={value} must be "
    with pytest.raises(InputError, match=message):
        debug.run([DrawRequest("a cat", think=False, image_threshold=value)])
    with pytest.raises(InputError, match=message):
        MMaDA.debug().use(image_threshold=value)
