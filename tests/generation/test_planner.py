"""The planner: which cache a drawing gets."""

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
