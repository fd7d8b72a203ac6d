"""Every field of a body is honoured or refused: nothing that is asked for is dropped in silence."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pydantic import BaseModel, ValidationError

from mmada.generation.requests import DrawRequest
from mmada.serve.config import ServeConfig
from mmada.serve.request_parser import ParsedRequest, RequestParser
from mmada.serve.schema import ChatBody, CompletionBody, EditBody, EditForm, GenerationBody, StreamOptions, VariationForm
from mmada.serve.strict_body import IGNORED, UNSUPPORTED

CHAT = {"messages": [{"role": "user", "content": "hello"}], "seed": 1}
COMPLETION = {"prompt": "a", "seed": 1}
DRAWING = {"prompt": "a cat", "seed": 1}
PLAIN: dict[type[BaseModel], dict[str, object]] = {
    ChatBody: CHAT,
    CompletionBody: COMPLETION,
    GenerationBody: DRAWING,
    VariationForm: DRAWING,
}
STREAMED = {"stream": True}
TRACED = {"stream": True, "include_trace": True}

TEXTS: dict[str, object] = {
    "n": 2,
    "seed": 2,
    "stream": True,
    "service_tier": "priority",
    "temperature": 0.5,
    "top_p": 0.5,
    "stop": ["x"],
    "top_k": 3,
    "block_length": 8,
    "threshold": 0.5,
    "steps": 8,
    "max_nfe": 5,
    "guidance_scale": 1.5,
    "cache": "dual",
    "min_p": 0.2,
    "repetition_penalty": 1.2,
    "frequency_penalty": 0.5,
    "presence_penalty": -1,
    "logit_bias": {"70": -100},
}
IMAGES: dict[str, object] = {
    "n": 2,
    "seed": 2,
    "service_tier": "flex",
    "prompt": "a dog",
    "size": "24x24",
    "quality": "low",
    "partial_images": 2,
    "include_trace": True,
    "top_logprobs": 2,
    "negative_prompt": "a dog",
    "guidance_scale": 1.5,
    "num_inference_steps": 5,
    "steps": 5,
    "best_of": 2,
    "image_cache": "max-logit",
    "image_threshold": 0.001,
}
HONOURED: dict[type[BaseModel], dict[str, object]] = {
    ChatBody: {
        **TEXTS,
        "messages": [{"role": "user", "content": "bye"}],
        "max_completion_tokens": 7,
        "max_tokens": 7,
        "reasoning_effort": "low",
        "reasoning": {"effort": "low"},
        "chat_template_kwargs": {"enable_thinking": True},
        "ignore_eos": True,
        "strict": True,
        "calculator": False,
    },
    CompletionBody: {**TEXTS, "prompt": "b", "suffix": "c", "max_tokens": 3},
    GenerationBody: {**IMAGES, "thinking": True, "strict": True},
    VariationForm: {**IMAGES, "strength": 0.2},
}
"""Values that change what is asked of the engine."""
OF_REPLIES = {"model", "stream", "stream_options", "response_format", "output_format", "output_compression", "background"}
"""Fields that change how it is answered; `background` and `model` have one value."""
NEUTRAL = {CompletionBody: {"ignore_eos"}}
"""Fields that a body has in common with others and that change nothing of it: what fills a hole has no end token."""
FILES = {"image", "images", "mask"}

ASKED = {
    "annotations": [{"type": "url_citation"}],
    "tool_calls": [{"id": "1"}],
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "tool_choice": "required",
    "functions": [{"name": "f"}],
    "function_call": {"name": "f"},
    "response_format": {"type": "json_object"},
    "logprobs": True,
    "top_logprobs": 2,
    "logit_bias": {"50256": -100},
    "frequency_penalty": 0.5,
    "presence_penalty": -2,
    "continuous_usage_stats": True,
    "ignore_eos": True,
    "chat_template_kwargs": {"enable_thinking": True},
    "chat_template": "{{ messages }}",
    "include_reasoning": False,
    "verbosity": "low",
    "store": True,
    "modalities": ["text", "audio"],
    "audio": {"voice": "alloy"},
    "prediction": {"type": "content", "content": "x"},
    "web_search_options": {},
    "echo": True,
    "best_of": 2,
    "moderation": "strict",
    "input_fidelity": "high",
    "style": "natural",
    "complexity": "high",
    "markup": "x",
    "svg": True,
    "frame_count": 2,
    "frame_duration_ms": 5,
    "name": "Ann",
    "refusal": "no",
    "detail": "high",
    "include_obfuscation": True,
}
"""Values of fields that this server does not have."""


@pytest.fixture(scope="module")
def parser(debug) -> RequestParser:
    return RequestParser(debug.planner, ServeConfig(), factor=debug.image_tokenizer.factor)


@pytest.fixture(scope="module")
def read(parser, picture):
    def read(body: BaseModel) -> ParsedRequest:
        if isinstance(body, ChatBody):
            return parser.chat(body)
        if isinstance(body, CompletionBody):
            return parser.completion(body)
        return parser.generation(body) if isinstance(body, GenerationBody) else parser.variation(body, picture, body.prompt or "it")

    return read


def facts(parsed: ParsedRequest) -> object:
    """An intake that can be compared: pictures by their bytes."""
    engine_requests = []
    for order in parsed.engine_requests:
        request, pixels = order.request, None
        if isinstance(request, DrawRequest) and request.image is not None:
            pixels = request.image.tobytes(), request.mask.tobytes()
            request = replace(request, image=None, mask=None)
        engine_requests.append((replace(order, request=request), pixels))
    return engine_requests, parsed.seed, parsed.priority


def test_the_tables_have_every_field():
    for body, values in HONOURED.items():
        assert set(values) | OF_REPLIES | NEUTRAL.get(body, set()) >= set(body.model_fields), body
        assert set(values) - {"stream"} <= set(body.model_fields), body
    instructed = {"thinking", "restyle", "image_guidance_scale", "order", "text_steps", "max_completion_tokens"}  # test_instructions
    assert set(EditForm.model_fields) <= {*IMAGES, *OF_REPLIES, *instructed}
    assert set(EditBody.model_fields) <= {*IMAGES, *OF_REPLIES, *FILES, *instructed}
    assert set(ASKED) == set(UNSUPPORTED)
    assert not IGNORED & set(UNSUPPORTED)


@pytest.mark.parametrize(("body", "name"), [(body, name) for body, values in HONOURED.items() for name in values])
def test_a_field_is_honoured(read, body, name):
    also = STREAMED if name in ("partial_images", "include_trace") else TRACED if name == "top_logprobs" else {}
    plain = body.model_validate({**PLAIN[body], "guidance_scale": 1.0, **also})
    changed = body.model_validate({**PLAIN[body], "guidance_scale": 1.0, **also, name: HONOURED[body][name]})
    assert facts(read(plain)) == facts(read(plain))
    assert facts(read(changed)) != facts(read(plain))


@pytest.mark.parametrize("body", PLAIN)
def test_what_asks_for_nothing_passes(read, body):
    own = set(body.model_fields)
    plain = facts(read(body.model_validate(PLAIN[body])))
    assert facts(read(body.model_validate({**PLAIN[body], **dict.fromkeys(IGNORED, "whatever")}))) == plain
    for value in (lambda values: None, lambda values: values[0] if values else None, lambda values: values[-1] if values else None):
        neutral = {name: value(values) for name, values in UNSUPPORTED.items() if name not in own}
        assert facts(read(body.model_validate({**PLAIN[body], **neutral}))) == plain
    assert facts(read(body.model_validate({**PLAIN[body], "logit_bias": {"7": 0}}))) == plain


@pytest.mark.parametrize("body", PLAIN)
@pytest.mark.parametrize("name", ASKED)
def test_what_cannot_be_done_is_refused(body, name):
    if name in body.model_fields:
        return
    with pytest.raises(ValidationError, match=rf"{name}=.* is not supported by this server; leave it out") as caught:
        body.model_validate({**PLAIN[body], name: ASKED[name]})
    assert caught.value.errors()[0]["loc"] == (name,)


@pytest.mark.parametrize(
    ("body", "values", "message"),
    [
        (
            ChatBody,
            {"stream_options": {"include_usage": True}},
            r'stream_options=\{"include_usage": true\} is for streams; give stream=true',
        ),
        (GenerationBody, {"partial_images": 2}, "partial_images=2 is for streams; give stream=true"),
        (GenerationBody, {"response_format": "url", "stream": True}, 'response_format="url" is not for streams'),
        (GenerationBody, {"output_compression": 50}, "output_compression=50 is for jpeg and webp"),
        (GenerationBody, {"quality": "high", "steps": 3}, 'quality="high" stands for a number of steps, which is given as well'),
        (
            ChatBody,
            {"messages": [{"role": "user", "content": "x", "name": "Ann"}]},
            'name="Ann" is not supported .* write it into the content',
        ),
        (StreamOptions, {"include_obfuscation": True}, "include_obfuscation=true is not supported"),
    ],
)
def test_fields_that_would_do_nothing_together_are_refused(body, values, message):
    with pytest.raises(ValidationError, match=message):
        body.model_validate({**PLAIN.get(body, {}), **values})


def test_the_error_has_openais_form(client):
    import openai

    for fields, param in [
        ({"logprobs": True}, "logprobs"),
        ({"verbosity": "low"}, "verbosity"),
        ({"messages": [{"role": "user", "content": "x", "name": "Ann"}]}, "messages.0.name"),
    ]:
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(**{"model": "debug", "messages": CHAT["messages"], **fields})
        error = caught.value.body
        assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, None)
        assert "is not supported by this server; leave it out" in error["message"]
        assert error["message"].startswith(f"{param}=")


def test_fields_of_replies_change_them(client):
    def head(**fields: object) -> str:
        item = client.images.generate(prompt="a cat", **fields, extra_body={"seed": 1, "thinking": False}).data[0]
        return item.url or item.b64_json

    plain = head()
    assert head(response_format="url") == f"data:image/png;base64,{plain}"
    assert head(output_format="webp") != plain
    assert head(output_format="jpeg", output_compression=10) != head(output_format="jpeg")
    assert head(background="opaque") == plain
