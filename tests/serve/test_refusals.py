"""Every 400 says what the client sent, where, and what it must be: no inner type, and no part that the body does not have."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from mmada.generation.scheduler import BusyError
from mmada.serve.config import ServeConfig
from mmada.serve.engine import ServingEngine
from mmada.serve.http import create_app
from mmada.serve.request_parser import RequestParser

PICTURE = "data:image/png;base64,iVBORw0KGgo="
FULL: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "model": "debug",
        "messages": [
            {"role": "system", "content": "short"},
            {"role": "user", "content": [{"type": "text", "text": "hi"}, {"type": "image_url", "image_url": {"url": PICTURE}}]},
        ],
        "n": 1,
        "seed": 1,
        "stream": False,
        "stream_options": None,
        "stop": ["x"],
        "max_completion_tokens": 4,
        "temperature": 0.5,
        "top_p": 0.5,
        "top_k": 3,
        "block_length": 4,
        "threshold": 0.5,
        "steps": 4,
        "max_nfe": 3,
        "guidance_scale": 1.0,
        "cache": "none",
        "reasoning_effort": "none",
        "service_tier": "auto",
    },
    "/v1/completions": {"prompt": ["a", "b"], "suffix": "c", "max_tokens": 3, "stop": "x", "seed": 1, "cache": "none"},
    "/v1/images/generations": {
        "prompt": "a cat",
        "size": "32x32",
        "quality": "auto",
        "response_format": "b64_json",
        "output_format": "png",
        "background": "auto",
        "partial_images": 0,
        "negative_prompt": "",
        "num_inference_steps": 2,
        "best_of": 1,
        "thinking": False,
        "n": 1,
    },
    "/v1/images/edits": {"prompt": "a cat", "images": [{"image_url": PICTURE}], "mask": {"image_url": PICTURE}, "size": "32x32"},
}
BAD = (5, -1, 1.5, 10**30, "x" * 200, "\ud800", True, [], [None], {}, {"type": "video"}, {"text": 5}, None)
INNER = re.compile(
    r"\b(str|int|float|bool|dict|None|NoneType|True|False|Literal|instance of|Input should|discriminator|[A-Z]\w+(Part|Body|Form|Options|Address|Message))\b"
)


@pytest.fixture(scope="module")
def http(debug) -> Iterator[TestClient]:
    config = ServeConfig(name="debug", max_steps=64)
    engine = ServingEngine(debug.planner, debug.denoiser, config, device=debug.model.device)
    app: FastAPI = create_app(engine, RequestParser(debug.planner, config, factor=debug.image_tokenizer.factor), config)
    with TestClient(app) as client:
        yield client


def changes(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Every place of a body, to be replaced by something else or left out, and every object, to be given a field too many."""
    if path:
        yield path, "replace"
        yield path, "remove"
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from changes(inner, (*path, key))
    if isinstance(value, dict):
        yield path, "add"


def changed(body: Any, path: tuple[str | int, ...], how: str) -> Iterator[Any]:
    for bad in BAD if how == "replace" else (None,):
        made = copy.deepcopy(body)
        inside = made
        for key in path[:-1] if how != "add" else path:
            inside = inside[key]
        if how == "replace":
            inside[path[-1]] = bad
        elif how == "remove":
            del inside[path[-1]]
        else:
            inside["frobnicate"] = 1
        yield made


def resolves(param: str, body: Any) -> bool:
    for key in param.split("."):
        try:
            body = body[int(key)] if isinstance(body, list) else body[key]
        except (LookupError, TypeError, ValueError):
            return False
    return True


@pytest.mark.parametrize("path", FULL)
def test_every_400_points_into_the_body(http, monkeypatch, path):
    """Bodies with one fault each. What happens to pass is not generated: that is the business of other tests."""
    monkeypatch.setattr("mmada.serve.http.OutputStream", Refuses)
    num_refused, num_named = 0, 0
    for place, how in changes(FULL[path]):
        for body in changed(FULL[path], place, how):
            answer = http.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})
            if answer.status_code in (404, 429):  # another model; the stand-in for what passes
                continue
            assert answer.status_code == 400, (place, how, answer.text)
            error = answer.json()["error"]
            num_refused += 1
            assert not INNER.search(error["message"].replace("JSON", "")), error
            if error["param"] is not None:
                num_named += 1
                assert resolves(error["param"], body), (error, place, how)
                elsewhere = error["code"] in ("invalid_image", "context_length_exceeded")
                assert error["message"].startswith(error["param"]) or "." in error["param"] or elsewhere, error
    assert num_refused > 20
    assert num_named / num_refused > 0.8


class Refuses:
    """In the place of the engine's answers: what reaches it was a good request."""

    def __init__(self, *args: Any, **options: Any) -> None:
        raise BusyError("enough", retry_after=1)


@pytest.mark.parametrize(
    ("path", "change", "param", "message"),
    [
        ("/v1/chat/completions", {"temperature": 3}, "temperature", "temperature=3 must be at most 2"),
        ("/v1/chat/completions", {"temperature": "hot"}, "temperature", 'temperature="hot" must be a number'),
        ("/v1/chat/completions", {"messages": "hi"}, "messages", 'messages="hi" must be a list'),
        ("/v1/chat/completions", {"messages": []}, "messages", "messages=[] must have at least 1 item"),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": 5}]},
            "messages.0.content",
            "messages.0.content=5 must be a text or a list",
        ),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": PICTURE}]}]},
            "messages.0.content.0.image_url",
            f'messages.0.content.0.image_url="{PICTURE}" must be an object',
        ),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]},
            "messages.0.content.0.image_url.url",
            "this server does not fetch images; send the image as a data: URL (data:image/png;base64,...)",
        ),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages.0.content.0",
            "messages.0.content.0.text is missing; give it",
        ),
        (
            "/v1/chat/completions",
            {"max_completion_tokens": 5000},
            "max_completion_tokens",
            "max_completion_tokens=5000 does not fit the model's context of 1024 tokens; ask for fewer",
        ),
        ("/v1/chat/completions", {"max_token": 5}, "max_token", "max_token=5 is unknown: did you mean 'max_tokens'?"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": " "}]}, "messages.0.content", None),
        ("/v1/images/generations", {"size": "7x7"}, "size", None),
        ("/v1/images/generations", {"num_inference_steps": 65}, "num_inference_steps", "num_inference_steps=65 is above 64; ask for fewer"),
        (
            "/v1/images/edits",
            {"images": [{"image_url": "ftp://x"}]},
            "images.0.image_url",
            "the image address 'ftp://x' is no data: URL; send data:image/png;base64,...",
        ),
    ],
)
def test_sentences(http, path, change, param, message):
    body = {"messages": [{"role": "user", "content": "hi"}]} if "chat" in path else {"prompt": "a cat"}
    error = http.post(path, json={**body, **change}).json()["error"]
    assert error["param"] == param
    assert message is None or error["message"] == message


@pytest.mark.parametrize(
    ("path", "param"), [("/v1/chat/completions", "messages"), ("/v1/completions", "prompt"), ("/v1/images/generations", "prompt")]
)
def test_a_context_that_is_too_small_has_the_code_that_clients_know(http, path, param):
    """Frameworks shorten a conversation when they read this code."""
    text = "x" * 3000
    body = {"messages": [{"role": "user", "content": text}]} if param == "messages" else {"prompt": text}
    answer = http.post(path, json=body)
    assert answer.status_code == 400
    assert (answer.json()["error"]["code"], answer.json()["error"]["param"]) == ("context_length_exceeded", param)
