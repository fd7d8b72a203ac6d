"""`include_trace`: when each image token was committed, and how surely."""

from __future__ import annotations

import json
import math
import urllib.error
import urllib.request
from typing import Any

import pytest

from mmada import DrawRequest, MMaDA
from mmada.serve.config import ServeConfig
from mmada.serve.pictures import data_url
from mmada.serve.request_parser import RequestParser

from .process import Server


def last_event(answer: Any) -> dict[str, Any]:
    """The event that ends a stream of images."""
    lines = [line[6:] for line in answer.read().decode().splitlines() if line.startswith("data: ")]
    event: dict[str, Any] = json.loads(lines[-1])
    return event


def asked(server: Server, path: str, **body: Any) -> Any:
    request = urllib.request.Request(server.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    return urllib.request.urlopen(request, timeout=120)


def test_a_drawing_tells_the_step_and_confidence_of_each_token(server):
    body = {"prompt": "a cat", "seed": 1, "steps": 4, "stream": True, "include_trace": True}
    traced = last_event(asked(server, "/v1/images/generations", **body))
    steps, confidences = traced["trace"]["steps"], traced["trace"]["confidences"]
    assert len(steps) == len(confidences) == traced["usage"]["output_tokens_details"]["image_tokens"]
    assert set(steps) == {0, 1, 2, 3}
    assert all(0 <= confidence <= 1 for confidence in confidences)
    plain = last_event(asked(server, "/v1/images/generations", **{**body, "include_trace": None}))
    assert "trace" not in plain
    assert plain["b64_json"] == traced["b64_json"], "to be watched changes nothing"


def test_an_edit_tells_it_of_what_was_redrawn(server, picture, mask):
    """The mask is transparent from 8 to 24 pixels a side, of 40."""
    images = [{"image_url": data_url(picture)}]
    body = {"images": images, "mask": {"image_url": data_url(mask)}, "prompt": "a cat", "steps": 2, "stream": True, "include_trace": True}
    steps = last_event(asked(server, "/v1/images/edits", **body))["trace"]["steps"]
    side = round(len(steps) ** 0.5)
    wanted = range(8 * side // 40, 24 * side // 40)
    assert [place for place, step in enumerate(steps) if step is not None] == [row * side + column for row in wanted for column in wanted]


def test_a_drawing_tells_what_else_was_likely(server):
    body = {"prompt": "a cat", "seed": 1, "steps": 4, "stream": True, "include_trace": True}
    plain = last_event(asked(server, "/v1/images/generations", **body))
    traced = last_event(asked(server, "/v1/images/generations", **body, top_logprobs=3))
    assert "top_logprobs" not in plain["trace"]
    likely = traced["trace"].pop("top_logprobs")
    assert traced["trace"] == plain["trace"], "to be told more changes nothing"
    assert traced["b64_json"] == plain["b64_json"]
    assert len(likely) == len(plain["trace"]["steps"])
    for place in likely:
        assert [one["logprob"] for one in place] == sorted((one["logprob"] for one in place), reverse=True)
        assert len({one["token"] for one in place}) == 3
        assert all(one["token"] >= 0 for one in place)
        assert sum(math.exp(one["logprob"]) for one in place) <= 1.001


def chunks_of(server: Server, **options: Any) -> tuple[str, list[list[dict[str, Any]]]]:
    """The answer of a chat, and its drafts."""
    messages = [{"role": "user", "content": "Say a word."}]
    body = {"messages": messages, "max_completion_tokens": 8, "temperature": 0, "seed": 1}
    streams = {"stream": True, "stream_options": {"include_drafts": True, **options}}
    lines = asked(server, "/v1/chat/completions", **body, **streams).read().decode().splitlines()
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    said = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    return said, [chunk["mmada"]["draft"] for chunk in chunks if "mmada" in chunk]


def test_a_draft_tells_what_else_was_likely_where_a_token_is_committed(server):
    said, drafts = chunks_of(server, top_logprobs=5)
    assert said == chunks_of(server)[0]
    by_place = {
        (step, slot): piece["top_logprobs"]
        for step, draft in enumerate(drafts)
        for slot, piece in enumerate(draft)
        if "top_logprobs" in piece
    }
    slots = [slot for _, slot in by_place]
    assert sorted(slots) == sorted(set(slots)), "once, by the step that commits it"
    for (step, slot), likely in by_place.items():
        piece = drafts[step][slot]
        assert drafts[step - 1][slot]["confidence"] is None or step == 0
        assert len(likely) == 5
        assert likely[0]["token"] == piece["text"], "without temperature the likeliest is taken"
        assert math.exp(likely[0]["logprob"]) == pytest.approx(piece["confidence"], rel=1e-3)


def test_alternatives_belong_to_what_they_are_part_of(server):
    for body in ({"stream": True, "top_logprobs": 2}, {"stream": True, "stream_options": {"top_logprobs": 2}}, {"top_logprobs": 2}):
        path = "/v1/chat/completions" if "stream_options" in body else "/v1/images/generations"
        prompt = {"messages": [{"role": "user", "content": "x"}]} if "stream_options" in body else {"prompt": "x"}
        with pytest.raises(urllib.error.HTTPError) as refused:
            asked(server, path, **prompt, **body)
        assert "top_logprobs=2 is part of" in json.load(refused.value)["error"]["message"]


def test_without_a_stream_it_is_refused(server):
    with pytest.raises(urllib.error.HTTPError) as refused:
        asked(server, "/v1/images/generations", prompt="a cat", include_trace=True)
    message = json.load(refused.value)["error"]["message"]
    assert (refused.value.code, message) == (400, "include_trace=true is for streams; give stream=true, or leave it out")


def test_a_world_tells_what_may_be_tried():
    pipeline = MMaDA.from_pretrained("mmada-emoji-max", device="cpu")
    facts = RequestParser(pipeline.planner, ServeConfig(), factor=8).facts()
    assert facts.thinks_before_answering
    assert "says what it cannot draw" in facts.limits
    by_kind = {kind: [example for example in facts.examples if example.kind == kind] for kind in ("draw", "chat", "edit")}
    assert all(by_kind.values())
    (edit,) = by_kind["edit"]
    assert edit.picture.startswith("data:image/png;base64,")
    assert all(pipeline.planner.reader.objection(DrawRequest(example.text)) is None for example in by_kind["draw"]), (
        "what is offered can be drawn"
    )
    debug = MMaDA.debug()
    assert RequestParser(debug.planner, ServeConfig(), factor=8).facts().examples == []
