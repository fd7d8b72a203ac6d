"""A setting is declared once, in generation/settings.py: command line, server, studio and reference have every one of them, with its words."""

from __future__ import annotations

from typing import get_args

import pytest
import typer

from mmada.canvas.prompts import Style
from mmada.cli import app
from mmada.errors import InputError
from mmada.generation.requests import GenerationConfig, Order
from mmada.generation.settings import (
    CACHE_NAMES,
    ORDER_NAMES,
    EditSettings,
    ImageSettings,
    TextSettings,
    changed,
    named_settings,
    settings_of,
)
from mmada.sampling.params import CACHES, SamplingParams
from mmada.serve.config import ServeConfig
from mmada.serve.request_parser import RequestParser
from mmada.serve.schema import ChatBody, CompletionBody, EditForm, GenerationBody, VariationForm

KINDS = {"text": TextSettings, "image": ImageSettings, "edit": EditSettings}
VERBS = {"chat": "text", "ask": "text", "draw": "image"}
BODIES = {ChatBody: "text", CompletionBody: "text", GenerationBody: "image", EditForm: "image", VariationForm: "image"}


@pytest.fixture(scope="module")
def commands():
    return typer.main.get_command(app).commands


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_has_an_option_for_every_setting(commands, verb):
    options = {option.name: option for option in commands[verb].params}
    for name, setting in settings_of(KINDS[VERBS[verb]]).items():
        assert options[name].help.startswith(setting.help)
        assert f"--{name.replace('_', '-')}" in options[name].opts
        assert set(setting.flags) <= set(options[name].opts)


def test_fill_has_both_kinds_but_no_length(commands):
    names = {option.name for option in commands["fill"].params}
    assert names >= ({*settings_of(TextSettings), *settings_of(ImageSettings)} - {"max_new_tokens"})
    assert "max_new_tokens" not in names


def test_edit_has_the_settings_of_images_and_of_edits_but_no_candidates(commands):
    names = {option.name for option in commands["edit"].params}
    assert names >= ({*settings_of(EditSettings), *settings_of(ImageSettings)} - {"negative_prompt", "best_of"})
    assert not names & {"negative_prompt", "best_of"}


def test_a_form_of_an_edit_has_its_settings():
    found = EditForm.model_json_schema()["properties"]
    for name, setting in settings_of(EditSettings).items():
        assert setting.help in found["max_completion_tokens" if name == "max_new_tokens" else name]["description"]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
def test_a_body_has_a_field_for_every_setting(body):
    found = body.model_json_schema()["properties"]
    for name, setting in settings_of(KINDS[BODIES[body]]).items():
        if name == "max_new_tokens":  # OpenAI calls it otherwise
            continue
        assert setting.help in found[name]["description"]
        bounds = found[name]["anyOf"][0]
        assert bounds.get("minimum") == setting.at_least
        assert bounds.get("exclusiveMinimum") == setting.above
        assert bounds.get("maximum") == setting.at_most


def test_the_studio_is_told_of_every_setting(debug):
    facts = RequestParser(debug.planner, ServeConfig(max_n=4, max_steps=9), factor=8).facts()
    text = {one.name: one for one in facts.text_settings}
    image = {one.name: one for one in facts.image_settings}
    assert [*text] == ["max_completion_tokens" if name == "max_new_tokens" else name for name in settings_of(TextSettings)]
    assert [*image] == [*settings_of(ImageSettings)]
    assert (text["threshold"].default, text["cache"].choices, text["top_p"].exclusive_minimum) == (0.9, list(CACHE_NAMES), 0)
    assert (image["steps"].default, image["steps"].slider, image["best_of"].maximum) == (8, (1, 9, 1), 4)


def test_the_reference_has_every_setting():
    from docs._site.reference import configs

    page = configs()
    for kind in KINDS.values():
        for setting in settings_of(kind).values():
            assert setting.help.replace("|", r"\|") in page


def test_defaults_and_parameters_have_the_names_that_settings_stand_for():
    assert tuple(CACHES) == CACHE_NAMES
    assert get_args(Order) == ORDER_NAMES
    for kind in KINDS.values():
        for setting in settings_of(kind).values():
            assert setting.checkpoint is None or hasattr(GenerationConfig(style=Style()), setting.checkpoint)
    assert {*settings_of(TextSettings)} - {"max_new_tokens"} <= {*SamplingParams.__dataclass_fields__}


def test_settings_reach_the_parameters(debug):
    given = TextSettings(
        max_new_tokens=3, temperature=0.5, top_p=0.5, top_k=4, block_length=8, threshold=0.6, guidance_scale=1, cache="dual"
    )
    params = debug.planner.text_params(given)
    assert (params.temperature, params.top_p, params.top_k, params.cache) == (0.5, 0.5, 4, CACHES["dual"])
    assert (params.block_length, params.threshold, params.guidance_scale) == (8, 0.6, 1)
    assert debug.planner.text_params() == debug.planner.text_params(TextSettings(max_new_tokens=9))
    assert debug.planner.fill_params(TextSettings(threshold=0.5)).threshold == 0.5


def test_only_what_was_given_changes_anything():
    assert changed(TextSettings()) == {} == changed(ImageSettings(best_of=1))
    assert changed(ImageSettings(steps=4, negative_prompt="x")) == {"steps": 4, "negative_prompt": "x"}
    known = {"negative_prompt": str, "steps": int, "guidance_scale": float, "image_cache": str, "image_threshold": float, "best_of": int}
    assert named_settings(ImageSettings) == known


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (TextSettings, {"temperature": -1}, "temperature=-1 must be at least 0, and finite"),
        (TextSettings, {"temperature": float("nan")}, "temperature=nan must be at least 0, and finite"),
        (TextSettings, {"top_p": 0}, "top_p=0 must be above 0"),
        (TextSettings, {"threshold": 1.5}, "threshold=1.5 must be at most 1"),
        (TextSettings, {"cache": "dua"}, "cache='dua' is unknown: did you mean 'dual'?"),
        (ImageSettings, {"image_cache": "max-logits"}, "image_cache='max-logits' is unknown: did you mean 'max-logit'?"),
        (ImageSettings, {"best_of": 0}, "best_of=0 must be at least 1, and finite"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused(kind, values, message):
    with pytest.raises(InputError) as caught:
        kind(**values)
    assert str(caught.value) == message
