"""Bodies become requests, or errors that say what to do."""

from __future__ import annotations

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from mmada.canvas import Hole
from mmada.errors import ImageError, InputError
from mmada.pipeline import DESCRIBE
from mmada.serve.config import ServeConfig
from mmada.serve.intake import Reader
from mmada.serve.pictures import Pictures, transparent_part
from mmada.serve.schema import ChatBody, CompletionBody, EditForm, GenerationBody, VariationForm

from .process import png

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def reader(debug) -> Reader:
    return Reader(debug.planner, ServeConfig(), factor=debug.image_tokenizer.factor)


def data_url(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def chat(**fields: object) -> ChatBody:
    return ChatBody.model_validate({"messages": HELLO, **fields})


def test_defaults_are_the_checkpoints(reader, debug):
    intake = reader.chat(chat())
    (order,) = intake.orders
    request = order.request
    assert request.recipe == debug.planner.text_recipe()
    assert (request.think, request.max_new_tokens, request.seed) == (False, None, intake.seed)
    assert (order.stop, order.max_forwards, order.streams, order.drafts) == ((), None, False, False)


def test_fields_reach_the_recipe(reader):
    fields = {"temperature": 0.5, "top_p": 0.9, "top_k": 5, "block_length": 8, "threshold": 0.7, "steps": 8, "guidance_scale": 1.5}
    recipe = reader.chat(chat(**fields)).orders[0].request.recipe
    assert {name: getattr(recipe, name) for name in fields} == fields


def test_a_reply_may_be_sent_back_as_it_came(reader):
    """As `messages.append(reply.choices[0].message.model_dump())` does; an answer that stayed empty says nothing."""
    reply = {"role": "assistant", "refusal": None, "annotations": None, "audio": None, "function_call": None, "tool_calls": None}
    turns = [*HELLO, {**reply, "content": "hi"}, *HELLO, {**reply, "content": "", "reasoning_content": "hm"}, *HELLO]
    (order,) = reader.chat(chat(messages=turns)).orders
    assert [(m.role, m.content) for m in order.request.messages] == [
        ("user", HELLO[0]["content"]), ("assistant", "hi"), ("user", HELLO[0]["content"]), ("user", HELLO[0]["content"]),
    ]  # fmt: skip


def test_an_answer_that_is_null_or_left_out_is_an_empty_one(reader):
    turns = [*HELLO, {"role": "assistant", "content": None}, {"role": "assistant", "tool_calls": []}, *HELLO]
    (order,) = reader.chat(chat(messages=turns)).orders
    assert [m.role for m in order.request.messages] == ["user", "user"]
    for role in ("system", "user", "developer"):
        with pytest.raises(ValidationError, match=f"content=None says nothing in a message of role '{role}'; give a text"):
            chat(messages=[{"role": role, "content": None}])


def test_recipes_keep_what_the_checkpoint_was_taught(debug):
    """A checkpoint that does not see ahead does not, whatever else a client changes."""
    from mmada.generation.planner import Planner

    blind = replace(debug.defaults, sees_ahead=False)
    planner = Planner(debug.prompts, blind, context=1024, image_tokenizer=lambda: debug.image_tokenizer)
    request = Reader(planner, ServeConfig(), factor=4).chat(chat(temperature=1)).orders[0].request
    assert not request.recipe.sees_ahead
    assert request.recipe.temperature == 1


@pytest.mark.parametrize(
    ("effort", "think"), [(None, False), ("none", False), ("minimal", False), ("low", True), ("medium", True), ("high", True)]
)
def test_reasoning_effort_switches_thinking(reader, effort, think):
    assert reader.chat(chat(reasoning_effort=effort)).orders[0].request.think is think


def test_choices_have_seeds_that_count_up(reader):
    intake = reader.chat(chat(n=3, seed=7))
    assert [order.request.seed for order in intake.orders] == [7, 8, 9]
    assert [order.request.seed for order in reader.chat(chat(n=2, seed=2**63 - 1)).orders] == [2**63 - 1, 0]
    assert reader.chat(chat()).seed != reader.chat(chat()).seed  # chance of a false alarm 2^-31


def test_messages_with_parts(reader, picture):
    parts = [
        {"type": "text", "text": "what"},
        {"type": "image_url", "image_url": {"url": data_url(png(picture))}},
        {"type": "text", "text": "?"},
    ]
    request = (
        reader.chat(chat(messages=[{"role": "developer", "content": "be brief"}, {"role": "user", "content": parts}])).orders[0].request
    )
    assert [(m.role, m.content) for m in request.messages] == [("system", "be brief"), ("user", "what\n?")]
    assert [image.size for image in request.images] == [(32, 32)]  # brought to the model's size at once
    only = reader.chat(chat(messages=[{"role": "user", "content": parts[1:2]}])).orders[0].request
    assert only.messages[0].content == DESCRIBE


def test_priorities(reader):
    assert [reader.chat(chat(service_tier=tier)).priority for tier in (None, "flex", "default", "priority")] == [0, -1, 0, 1]


def test_completions_become_holes(reader):
    request = reader.completion(CompletionBody(prompt="a [MASK:3] b", suffix=" c", max_tokens=4)).orders[0].request
    assert request.template == ["a [MASK:3] b", Hole(4), " c"]  # the user's text is no template
    several = reader.completion(CompletionBody(prompt=["a", "b"], n=2, seed=5))
    assert [(order.request.template, order.request.seed) for order in several.orders] == [
        (["a", Hole(16)], 5),
        (["a", Hole(16)], 6),
        (["b", Hole(16)], 7),
        (["b", Hole(16)], 8),
    ]


def test_drawings(reader, debug):
    request = reader.generation(GenerationBody(prompt="a cat", size="48x24", negative_prompt="dog", steps=5, seed=1)).orders[0].request
    assert (request.size, request.negative_prompt, request.steps, request.seed) == ((24, 48), "dog", 5, 1)
    usual = debug.defaults.image_steps
    for quality, steps in [("auto", None), ("low", usual // 2), ("medium", None), ("high", 2 * usual), ("hd", 2 * usual)]:
        assert reader.generation(GenerationBody(prompt="x", quality=quality)).orders[0].request.steps == steps
    assert reader.generation(GenerationBody(prompt="x", size="auto")).orders[0].request.size is None


def test_the_best_of_several_drawings(reader):
    assert reader.generation(GenerationBody(prompt="x", best_of=4)).orders[0].request.best_of == 4
    assert reader.generation(GenerationBody(prompt="x", best_of=1, stream=True, partial_images=2)).orders[0].num_previews == 2
    with pytest.raises(InputError, match=r"best_of=4 for n=3 draws 12 pictures, 10 are allowed"):
        reader.generation(GenerationBody(prompt="x", n=3, best_of=4))
    with pytest.raises(InputError, match=r"partial_images=2 shows one picture .* use one of them"):
        reader.generation(GenerationBody(prompt="x", best_of=4, stream=True, partial_images=2))


def test_edits_take_the_transparent_part(reader, picture, mask, debug):
    request = reader.edit(EditForm(prompt="x"), picture, mask).orders[0].request
    marked = np.asarray(request.mask.convert("L")) > 127
    assert marked[8:24, 8:24].all()
    assert marked.sum() == 16 * 16
    job = debug.planner.job(request)
    assert job.num_slots == 16
    cut_out = picture.copy()
    cut_out.putalpha(mask.getchannel("A"))
    assert np.array_equal(np.asarray(reader.edit(EditForm(prompt="x"), cut_out, None).orders[0].request.mask), np.asarray(request.mask))
    with pytest.raises(ImageError, match="neither mask nor image has a transparent part"):
        reader.edit(EditForm(prompt="x"), picture, picture)
    with pytest.raises(ImageError, match="same size"):
        reader.edit(EditForm(prompt="x"), picture, mask.resize((20, 20)))


def test_an_image_that_was_brought_to_size_is_not_changed_again(debug, reader, picture):
    """So an answer is that of the pipeline on the original."""
    wide = picture.resize((77, 40))
    request = (
        reader.chat(chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": data_url(png(wide))}}]}]))
        .orders[0]
        .request
    )
    d = debug.defaults
    expected = debug.image_tokenizer.encode_images([wide], size=(d.image_height, d.image_width), mode=d.image_mode)
    again = debug.image_tokenizer.encode_images(request.images, size=(d.image_height, d.image_width), mode=d.image_mode)
    assert again.tolist() == expected.tolist()


def test_variations_redraw_a_share(reader, picture, debug):
    orders = reader.variation(VariationForm(n=2, seed=3, strength=0.25), picture, "a cat").orders
    first, second = (debug.planner.job(order.request) for order in orders)
    assert first.num_slots == second.num_slots == 25
    assert first.sketch.is_open.tolist() != second.sketch.is_open.tolist()
    assert debug.planner.job(reader.variation(VariationForm(strength=1.0), picture, "x").orders[0].request).num_slots == 100


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
    "two lengths": (lambda r: r.chat(chat(max_tokens=5, max_completion_tokens=6)), "disagree"),
    "two steps": (lambda r: r.generation(GenerationBody(prompt="x", steps=5, num_inference_steps=6)), "disagree"),
    "text": (lambda r: r.chat(chat(messages=[{"role": "user", "content": "x" * 70000}])), "70000 characters, 65536 are allowed"),
    "stop": (lambda r: r.chat(chat(stop="")), "stop='' is empty"),
    "previews": (lambda r: r.generation(GenerationBody(prompt="x", stream=True, partial_images=65)), "partial_images=65 is above 64"),
    "remote": (
        lambda r: r.chat(
            chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://8.8.8.8/x.png"}}]}])
        ),
        "does not fetch images",
    ),
    "file": (
        lambda r: r.chat(chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}])),
        "is no data: URL",
    ),
    "no base64": (
        lambda r: r.chat(
            chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,?"}}]}])
        ),
        "not valid base64",
    ),
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
def test_limits(reader, name):
    read, message = LIMITS[name]
    with pytest.raises((InputError, ImageError), match=message):
        read(reader)


def test_pixels_are_counted_before_they_are_decoded():
    bomb = io.BytesIO()
    Image.new("1", (5000, 5000)).save(bomb, "PNG")  # 25 million pixels in a few kilobytes
    pictures = Pictures(ServeConfig(max_image_pixels=2**20))
    with pytest.raises(ImageError, match="1048576 are allowed"):
        pictures.from_bytes(bomb.getvalue())
    small = png(Image.new("L", (700, 700)))
    pictures = Pictures(ServeConfig(max_image_pixels=2**20))
    pictures.from_bytes(small)
    pictures.from_bytes(small)
    with pytest.raises(ImageError, match="1048576 are allowed"):
        pictures.from_bytes(small)  # together
    two = Pictures(ServeConfig(max_images=2))
    two.from_bytes(small)
    two.from_bytes(small)
    with pytest.raises(ImageError, match="more than 2 images"):
        two.from_bytes(small)


def test_damaged_images_of_every_length(picture):
    whole = png(picture)
    for end in range(0, len(whole) - 12, 37):  # the end mark alone may be missing
        with pytest.raises(ImageError, match=r"corrupt|truncated"):
            Pictures(ServeConfig()).from_bytes(whole[:end])
    assert Pictures(ServeConfig()).from_bytes(whole).tobytes() == picture.tobytes()
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"/>'
    with pytest.raises(ImageError, match="not one of PNG"):
        Pictures(ServeConfig()).from_bytes(svg)


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
    ],
)
def test_bad_configurations(values):
    with pytest.raises(InputError):
        ServeConfig(**values)


def test_keys_are_not_shown():
    assert "secret" not in repr(ServeConfig(api_keys=("secret",)))
