"""A value of a wrong type is named at once, with what would fit."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from mmada import ChatRequest, DrawRequest, EditRequest, FillRequest, GenerationConfig, Hole, InputError, TextSettings

WRONG = {
    "messages": (lambda: ChatRequest(3), "messages=3 must be a text or a list"),
    "no messages": (lambda: ChatRequest(None), "messages=None must be a text or a list"),
    "one image": (lambda: ChatRequest("x", "out.png"), "images='out.png' must be a list"),
    "a picture": (lambda: EditRequest("x", Image.new("RGB", (8, 8))), "must be a list"),
    "half a token": (lambda: ChatRequest("x", max_new_tokens=2.5), "max_new_tokens=2.5 must be a whole number"),
    "a text": (lambda: ChatRequest("x", max_new_tokens="8"), "max_new_tokens='8' must be a whole number"),
    "yes": (lambda: ChatRequest("x", think="yes"), "think='yes' must be true or false"),
    "params": (lambda: ChatRequest("x", params={"temperature": 1}), "must be SamplingParams"),
    "seed": (lambda: DrawRequest("x", seed=0.5), "seed=0.5 must be a whole number"),
    "prompts": (
        lambda: DrawRequest(["a", "b"]),
        "prompt=['a', 'b'] must be a text; several are asked for by MMaDA.run, with a request for each",
    ),
    "size": (lambda: DrawRequest("x", size="256x256"), "size='256x256' must be 2 values, each a whole number"),
    "sides": (lambda: DrawRequest("x", size=(256,)), "size=(256,) must be 2 values"),
    "scale": (lambda: DrawRequest("x", guidance_scale="high"), "guidance_scale='high' must be a number"),
    "parts": (lambda: FillRequest(["a", 3]), "template=['a', 3] must be a text or a list, each a text or Hole"),
    "hole": (lambda: Hole(1.5), "a hole of num_tokens=1.5 must have a whole number"),
    "style": (lambda: GenerationConfig(style=3), "style=3 must be Style"),
    "flag": (lambda: GenerationConfig(full_attention="no"), "full_attention='no' must be true or false"),
    "long": (lambda: DrawRequest(b"x" * 999), "…"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_type_is_named(name):
    make, message = WRONG[name]
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        make()
    assert len(str(caught.value)) < 200


def test_what_has_always_fitted_fits():
    ChatRequest([{"role": "user", "content": "x"}], images=["a.png", Image.new("RGB", (8, 8))], max_new_tokens=np.int64(8))
    DrawRequest("x", size=[32, 32], guidance_scale=np.float32(1), seed=np.int64(3))
    DrawRequest("x", guidance_scale=1, think=None)
    FillRequest(["a", Hole(2)])
    GenerationConfig(threshold=1, guidance_scale=np.float64(2))


def test_some_settings_of_a_text_may_be_changed_and_the_rest_is_the_checkpoints(debug):
    hot = ChatRequest("x", params=TextSettings(temperature=0.7, max_new_tokens=5))
    own = debug.planner.text_params()
    assert debug.planner.params_of(hot) == own.with_(temperature=0.7)
    assert debug.planner.check_chat(hot) == 5
    assert debug.planner.params_of(ChatRequest("x", params=own)) is own
    assert debug.planner.params_of(FillRequest("[MASK]", params=TextSettings(top_k=3))).top_k == 3
    for make, message in (
        (lambda: ChatRequest("x", max_new_tokens=3, params=TextSettings(max_new_tokens=4)), "max_new_tokens=3 is in params, too, as 4"),
        (lambda: FillRequest("[MASK]", params=TextSettings(max_new_tokens=4)), "max_new_tokens=4 has no effect on holes"),
        (lambda: TextSettings(temperature="hot"), "temperature='hot' must be a number"),
    ):
        with pytest.raises(InputError, match=message):
            make()
