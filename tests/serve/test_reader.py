"""Bodies become requests, or errors that say what to do."""

from __future__ import annotations

import base64
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from mmada.canvas import Hole
from mmada.errors import ImageError, InputError
from mmada.generation.requests import Drawing
from mmada.pipeline import DESCRIBE
from mmada.serve.config import ServeConfig
from mmada.serve.outputs import ImageOutput, TextOutput
from mmada.serve.pictures import transparent_part
from mmada.serve.request_parser import RequestParser
from mmada.serve.responses import ImageResponses, TextResponses
from mmada.serve.schema import ChatBody, CompletionBody, EditForm, GenerationBody, VariationForm

from .process import png

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def parser(debug) -> RequestParser:
    return RequestParser(debug.planner, ServeConfig(), factor=debug.image_tokenizer.factor)


def data_url(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def chat(**fields: object) -> ChatBody:
    return ChatBody.model_validate({"messages": HELLO, **fields})


def test_defaults_are_the_checkpoints(parser, debug):
    parsed = parser.chat(chat())
    (engine_request,) = parsed.engine_requests
    request = engine_request.request
    assert request.params == debug.planner.text_params()
    assert (request.think, request.max_new_tokens, request.seed) == (None, None, parsed.seed)
    assert (engine_request.stop, engine_request.max_forwards, engine_request.streams, engine_request.drafts) == ((), None, False, False)


def test_fields_reach_the_recipe(parser):
    fields = {"temperature": 0.5, "top_p": 0.9, "top_k": 5, "block_length": 8, "threshold": 0.7, "steps": 8, "guidance_scale": 1.5}
    params = parser.chat(chat(**fields)).engine_requests[0].request.params
    assert {name: getattr(params, name) for name in fields} == fields


def test_a_reply_may_be_sent_back_as_it_came(parser):
    """As `messages.append(reply.choices[0].message.model_dump())` does; an answer that stayed empty says nothing."""
    reply = {"role": "assistant", "refusal": None, "annotations": None, "audio": None, "function_call": None, "tool_calls": None}
    turns = [*HELLO, {**reply, "content": "hi"}, *HELLO, {**reply, "content": "", "reasoning_content": "hm"}, *HELLO]
    (engine_request,) = parser.chat(chat(messages=turns)).engine_requests
    assert [(m.role, m.content) for m in engine_request.request.messages] == [
        ("user", HELLO[0]["content"]), ("assistant", "hi"), ("user", HELLO[0]["content"]), ("user", HELLO[0]["content"]),
    ]  # fmt: skip


def test_an_answer_that_is_null_or_left_out_is_an_empty_one(parser):
    turns = [*HELLO, {"role": "assistant", "content": None}, {"role": "assistant", "tool_calls": []}, *HELLO]
    (engine_request,) = parser.chat(chat(messages=turns)).engine_requests
    assert [m.role for m in engine_request.request.messages] == ["user", "user"]
    for role in ("system", "user", "developer"):
        with pytest.raises(ValidationError, match=f"content=null says nothing in a message of role '{role}'; give a text"):
            chat(messages=[{"role": role, "content": None}])


def test_recipes_keep_what_the_checkpoint_was_taught(debug):
    """A checkpoint that does not see ahead does not, whatever else a client changes."""
    from mmada.generation.planner import Planner

    blind = replace(debug.defaults, full_attention=False)
    planner = Planner(debug.prompts, blind, context=1024, image_tokenizer=lambda: debug.image_tokenizer)
    request = RequestParser(planner, ServeConfig(), factor=4).chat(chat(temperature=1)).engine_requests[0].request
    assert not request.params.full_attention
    assert request.params.temperature == 1


@pytest.mark.parametrize(
    ("effort", "think"), [(None, None), ("none", False), ("minimal", False), ("low", True), ("medium", True), ("high", True)]
)
def test_reasoning_effort_switches_thinking(parser, effort, think):
    assert parser.chat(chat(reasoning_effort=effort)).engine_requests[0].request.think is think


@pytest.mark.parametrize(
    ("fields", "think"),
    [
        ({"chat_template_kwargs": {"enable_thinking": True}}, True),
        ({"chat_template_kwargs": {"enable_thinking": False}}, False),
        ({"reasoning": {"effort": "high"}}, True),
        ({"reasoning": {"enabled": False}, "reasoning_effort": "none"}, False),
        ({"chat_template_kwargs": {}}, None),
    ],
)
def test_other_ways_to_ask_for_thinking(parser, fields, think):
    assert parser.chat(chat(**fields)).engine_requests[0].request.think is think


def test_wishes_that_disagree_are_refused():
    with pytest.raises(ValidationError, match="reasoning_effort=true and chat_template_kwargs disagree about thinking"):
        chat(reasoning_effort="high", chat_template_kwargs={"enable_thinking": False})


def test_a_checkpoint_that_was_taught_to_thinks_by_default(debug):
    """As `mmada chat` does."""
    from mmada.generation.planner import Planner
    from mmada.serve.outputs import OutputProcessor

    thoughtful = replace(debug.defaults, thinks_before_answering=True)
    planner = Planner(debug.prompts, thoughtful, context=1024, image_tokenizer=lambda: debug.image_tokenizer)
    parser = RequestParser(planner, ServeConfig(), factor=4)
    for fields, thinks in (({}, True), ({"reasoning_effort": "none"}, False)):
        (engine_request,) = parser.chat(chat(**fields)).engine_requests
        assert planner.thinks_first(engine_request.request) is thinks
        assert OutputProcessor(engine_request, planner, lambda _: None).text._waits is thinks
    assert parser.facts().thinks_before_answering


def test_a_clients_default_size_becomes_the_nearest(parser):
    """OpenAI's clients send 1024x1024 unasked."""
    square = parser.generation(GenerationBody(prompt="x", size="1024x1024"))
    assert square.engine_requests[0].request.size == (32, 32)
    assert square.note == "size='1024x1024' is not one that this model draws; the image has 32x32."
    wide = parser.generation(GenerationBody(prompt="x", size="1792x1024")).engine_requests[0].request.size
    assert wide == (24, 40)
    assert parser.generation(GenerationBody(prompt="x", size="32x32")).note is None
    with pytest.raises(InputError, match="1008x1008 pixels has"):
        parser.generation(GenerationBody(prompt="x", size="1008x1008"))


def test_what_is_said_of_single_tokens(parser, debug):
    params = parser.chat(chat(logit_bias={"70": -100, "71": 0}, ignore_eos=True)).engine_requests[0].request.params
    assert params.logit_bias == ((70, -100),)
    assert not params.stop_at_eos
    assert set(debug.layout.end_ids) <= set(params.suppress_tokens)
    for name in ("x", "-1", "99999999", str(debug.layout.mask_id)):
        with pytest.raises(InputError, match=r"is no id of a text token; give numbers from 0 to"):
            parser.chat(chat(logit_bias={name: 1}))


def test_choices_have_seeds_that_count_up(parser):
    parsed = parser.chat(chat(n=3, seed=7))
    assert [engine_request.request.seed for engine_request in parsed.engine_requests] == [7, 8, 9]
    assert [engine_request.request.seed for engine_request in parser.chat(chat(n=2, seed=2**63 - 1)).engine_requests] == [2**63 - 1, 0]
    assert parser.chat(chat()).seed != parser.chat(chat()).seed  # chance of a false alarm 2^-31


def test_messages_with_parts(parser, picture):
    parts = [
        {"type": "text", "text": "what"},
        {"type": "image_url", "image_url": {"url": data_url(png(picture))}},
        {"type": "text", "text": "?"},
    ]
    seen = {data_url(png(picture)): picture}
    request = (
        parser.chat(chat(messages=[{"role": "developer", "content": "be brief"}, {"role": "user", "content": parts}]), seen)
        .engine_requests[0]
        .request
    )
    assert [(m.role, m.content) for m in request.messages] == [("system", "be brief"), ("user", "what\n?")]
    assert [image.size for image in request.images] == [(32, 32)]  # brought to the model's size at once
    only = parser.chat(chat(messages=[{"role": "user", "content": parts[1:2]}]), seen).engine_requests[0].request
    assert only.messages[0].content == DESCRIBE


def test_priorities(parser):
    assert [parser.chat(chat(service_tier=tier)).priority for tier in (None, "flex", "default", "priority")] == [0, -1, 0, 1]


def test_completions_become_holes(parser):
    request = parser.completion(CompletionBody(prompt="a [MASK:3] b", suffix=" c", max_tokens=4)).engine_requests[0].request
    assert request.template == ["a [MASK:3] b", Hole(4), " c"]  # the user's text is no template
    several = parser.completion(CompletionBody(prompt=["a", "b"], n=2, seed=5))
    assert [(engine_request.request.template, engine_request.request.seed) for engine_request in several.engine_requests] == [
        (["a", Hole(16)], 5),
        (["a", Hole(16)], 6),
        (["b", Hole(16)], 7),
        (["b", Hole(16)], 8),
    ]


def test_drawings(parser, debug):
    request = (
        parser.generation(GenerationBody(prompt="a cat", size="48x24", negative_prompt="dog", steps=5, seed=1)).engine_requests[0].request
    )
    assert (request.size, request.negative_prompt, request.steps, request.seed) == ((24, 48), "dog", 5, 1)
    usual = debug.defaults.image_steps
    for quality, steps in [("auto", None), ("low", usual // 2), ("medium", None), ("high", 2 * usual), ("hd", 2 * usual)]:
        assert parser.generation(GenerationBody(prompt="x", quality=quality)).engine_requests[0].request.steps == steps
    assert parser.generation(GenerationBody(prompt="x", size="auto")).engine_requests[0].request.size is None


def test_the_best_of_several_drawings(parser):
    assert parser.generation(GenerationBody(prompt="x", best_of=4)).engine_requests[0].request.best_of == 4
    assert parser.generation(GenerationBody(prompt="x", best_of=1, stream=True, partial_images=2)).engine_requests[0].num_previews == 2
    with pytest.raises(InputError, match=r"best_of=4 for n=3 draws 12 pictures, 10 are allowed"):
        parser.generation(GenerationBody(prompt="x", n=3, best_of=4))
    with pytest.raises(InputError, match=r"partial_images=2 shows one picture .* use one of them"):
        parser.generation(GenerationBody(prompt="x", best_of=4, stream=True, partial_images=2))


def test_edits_take_the_transparent_part(parser, picture, mask, debug, first_fill):
    request = parser.edit(EditForm(prompt="x"), [picture], mask).engine_requests[0].request
    marked = np.asarray(request.mask.convert("L")) > 127
    assert marked[8:24, 8:24].all()
    assert marked.sum() == 16 * 16
    assert first_fill(debug.planner, request).num_open == 16
    cut_out = picture.copy()
    cut_out.putalpha(mask.getchannel("A"))
    assert np.array_equal(
        np.asarray(parser.edit(EditForm(prompt="x"), [cut_out], None).engine_requests[0].request.mask), np.asarray(request.mask)
    )
    with pytest.raises(ImageError, match="neither mask nor image has a transparent part"):
        parser.edit(EditForm(prompt="x"), [picture], picture)
    with pytest.raises(ImageError, match="same size"):
        parser.edit(EditForm(prompt="x"), [picture], mask.resize((20, 20)))


def test_an_image_that_was_brought_to_size_is_not_changed_again(debug, parser, picture):
    """So an answer is that of the pipeline on the original."""
    wide = picture.resize((77, 40))
    url = data_url(png(wide))
    body = chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}])
    request = parser.chat(body, {url: wide}).engine_requests[0].request
    d = debug.defaults
    expected = debug.image_tokenizer.encode_images([wide], size=(d.image_height, d.image_width), mode=d.image_mode)
    again = debug.image_tokenizer.encode_images(request.images, size=(d.image_height, d.image_width), mode=d.image_mode)
    assert again.tolist() == expected.tolist()


def test_variations_redraw_a_share(parser, picture, debug, first_fill):
    engine_requests = parser.variation(VariationForm(n=2, seed=3, strength=0.25), picture, "a cat").engine_requests
    first, second = (first_fill(debug.planner, engine_request.request) for engine_request in engine_requests)
    assert first.num_open == second.num_open == 25
    assert first.init.is_open.tolist() != second.init.is_open.tolist()
    assert first_fill(debug.planner, parser.variation(VariationForm(strength=1.0), picture, "x").engine_requests[0].request).num_open == 100


LIMITS = {
    "n": (lambda r: r.chat(chat(n=11)), "n=11 generations are asked for, 10 are allowed"),
    "n of prompts": (lambda r: r.completion(CompletionBody(prompt=["x"] * 6, n=2)), "n=12"),
    "steps": (lambda r: r.chat(chat(steps=1025)), "steps=1025 is above 1024"),
    "image steps": (lambda r: r.generation(GenerationBody(prompt="x", steps=1025)), "steps=1025 is above 1024"),
    "max_nfe": (lambda r: r.chat(chat(max_nfe=5000)), "max_nfe=5000 is above 1024"),
    "size": (lambda r: r.generation(GenerationBody(prompt="x", size="33x32")), r"size='33x32' must be multiples of 4 pixels; try '32x32'"),
    "size of words": (lambda r: r.generation(GenerationBody(prompt="x", size="large")), 'must be "auto" or "WIDTHxHEIGHT"'),
    "no size": (lambda r: r.generation(GenerationBody(prompt="x", size="0x0")), "multiples"),
    "tiny size": (lambda r: r.generation(GenerationBody(prompt="x", size="4x32")), "too small to draw; give at least 8 a side"),
    "tiny image": (lambda r: r.variation(VariationForm(), Image.new("RGB", (1, 1)), "x"), "too small to draw"),
    "huge size": (lambda r: r.generation(GenerationBody(prompt="x", size="400000x400000")), "10000000000 tokens, the model's context 1024"),
    "room": (lambda r: r.chat(chat(max_tokens=10**12)), "does not fit the model's context"),
    "hole": (lambda r: r.completion(CompletionBody(prompt="x", max_tokens=10**12)), "does not fit the model's context"),
    "other digits": (lambda r: r.generation(GenerationBody(prompt="x", size="٣٢x٣٢")), 'must be "auto" or "WIDTHxHEIGHT"'),
    "a token by two names": (lambda r: r.chat(chat(logit_bias={"1": 5, "01": -5})), "logit_bias='01' is no id"),
    "an empty message": (
        lambda r: r.chat(chat(messages=[{"role": "user", "content": "a"}, {"role": "assistant"}, {"role": "user", "content": " "}])),
        "content='' of message 2 is empty",
    ),
    "two lengths": (lambda r: r.chat(chat(max_tokens=5, max_completion_tokens=6)), "disagree"),
    "two steps": (lambda r: r.generation(GenerationBody(prompt="x", steps=5, num_inference_steps=6)), "disagree"),
    "text": (lambda r: r.chat(chat(messages=[{"role": "user", "content": "x" * 70000}])), "70000 characters, 65536 are allowed"),
    "stop": (lambda r: r.chat(chat(stop="")), "stop='' is empty"),
    "previews": (lambda r: r.generation(GenerationBody(prompt="x", stream=True, partial_images=65)), "partial_images=65 is above 64"),
    "who sends images": (
        lambda r: r.chat(
            chat(
                messages=[
                    {"role": "assistant", "content": [{"type": "image_url", "image_url": {"url": data_url(png(Image.new("L", (8, 8))))}}]}
                ]
            )
        ),
        "only the user's messages may have images",
    ),
}


@pytest.mark.parametrize("name", LIMITS)
def test_limits(parser, name):
    read, message = LIMITS[name]
    with pytest.raises((InputError, ImageError), match=message):
        read(parser)


def test_transparency(picture, mask):
    assert transparent_part(picture) is None
    assert transparent_part(mask).getbbox() == (8, 8, 24, 24)


def test_unknown_fields_name_the_nearest():
    with pytest.raises(ValidationError, match="did you mean 'temperature'"):
        chat(temprature=1)
    with pytest.raises(ValidationError, match="did you mean 'include_usage'"):
        chat(stream_options={"include_usge": True})


@pytest.mark.parametrize(
    "values",
    [
        {"max_queue": 0},
        {"request_timeout": 0},
        {"max_n": 20, "max_queue": 10},
        {"api_keys": ("",)},
        {"api_keys": ("käse",)},
        {"api_keys": ("key ",)},
        {"api_keys": ("a\nb",)},
        {"allow_origins": ("example.com",)},
        {"allow_origins": ("https://example.com/page",)},
    ],
)
def test_bad_configurations(values):
    with pytest.raises(InputError):
        ServeConfig(**values)


def test_keys_are_not_shown():
    assert "secret" not in repr(ServeConfig(api_keys=("secret",)))


def test_a_reply_has_a_warning_where_there_is_something_to_warn_of():
    """A thought that is too long to be drawn from is not dropped in silence; other bodies stay as they are."""
    drawing = Drawing(Image.new("RGB", (8, 8)), torch.zeros(2, 2, dtype=torch.long), "hm", "a cat", 3)
    items = [ImageOutput(replace(drawing, warning=warning), 5, 4, 2) for warning in (None, "too long")]
    replies = ImageResponses(GenerationBody(prompt="a cat"), seed=0, prefix="image_generation")
    plain, warned = replies.whole(items)["data"]
    assert set(warned) - set(plain) == {"warning"}
    assert warned["warning"] == "too long"
    assert b'"warning":"too long"' in replies.completed(0, items[1])
    assert b"warning" not in replies.completed(0, items[0])
    (item,) = replies.whole([ImageOutput(replace(drawing, unknown=("zeppelin",)), 5, 4, 2)])["data"]
    assert set(item) - set(plain) == {"unknown"}
    assert item["unknown"] == ["zeppelin"]


@pytest.mark.parametrize(("extension", "value"), [("warning", "read otherwise"), ("wants_picture", True)])
def test_a_choice_of_a_chat_has_extensions_where_there_is_something_to_say(extension, value):
    plain = TextOutput("4", None, "stop", (5,), num_prompt_tokens=3, num_new_tokens=1, num_thinking_tokens=0, num_forwards=1)
    said = replace(plain, **{extension: value})
    replies = TextResponses(ChatBody(messages=[{"role": "user", "content": "2 + 2"}]), "m", seed=0)
    (bare,), (more,) = (replies.whole([output])["choices"] for output in (plain, said))
    assert {name: more[name] for name in set(more) - set(bare)} == {extension: value}
    (bare,), (more,) = (replies.last(0, output) for output in (plain, said))
    assert {name: more[name] for name in set(more) - set(bare)} == {extension: value}
