"""Edits by an instruction over HTTP, on tiny checkpoints of the families that can."""

from __future__ import annotations

import base64
import re
from contextlib import ExitStack
from io import BytesIO

import pytest
from PIL import Image
from starlette.testclient import TestClient

from mmada.families import FAMILIES
from mmada.generation.requests import EditRequest, ParallelRequest
from mmada.generation.settings import ORDER_NAMES
from mmada.serve.config import ServeConfig
from mmada.serve.engine import ServingEngine
from mmada.serve.http import create_app
from mmada.serve.request_parser import RequestParser

from ..families.tiny import tiny
from .process import png

RED, BLUE = Image.new("RGB", (16, 8), "red"), Image.new("RGB", (8, 8), "blue")
PATH = "/v1/images/edits"


def url(image):
    return {"image_url": "data:image/png;base64," + base64.b64encode(png(image)).decode()}


@pytest.fixture(scope="module")
def served():
    """Family -> its tiny model and a client of a server of it."""
    config, found = ServeConfig(allowed_hosts=("testserver",)), {}
    with ExitStack() as running:
        for name in ("mmada", "lumina-dimoo", "mmada-parallel-m"):
            model = tiny(FAMILIES[name])
            engine = ServingEngine(model.planner, model.denoiser, config)
            app = create_app(engine, RequestParser(model.planner, config, factor=model.image_tokenizer.factor), config)
            found[name] = model, running.enter_context(TestClient(app))
        yield found


def asked(served, family, **body):
    reply = served[family][1].post(PATH, json={"prompt": "a hat", "seed": 3, **body})
    return reply.status_code, reply.json()


def pixels(item):
    return Image.open(BytesIO(base64.b64decode(item["b64_json"]))).tobytes()


def test_an_instruction_needs_no_mask_and_takes_several_images(served):
    settings = {"steps": 3, "guidance_scale": 1.5, "image_guidance_scale": 2.0}
    status, reply = asked(served, "lumina-dimoo", images=[url(RED), url(BLUE)], n=2, **settings)
    assert status == 200
    model = served["lumina-dimoo"][0]
    for i, item in enumerate(reply["data"]):
        (alone,) = model.run([EditRequest("a hat", [RED, BLUE], seed=3 + i, **settings)])
        assert pixels(item) == alone.image.tobytes()
        assert "text" not in item
    assert reply["size"] == "16x8"
    status, styled = asked(served, "lumina-dimoo", images=[url(RED), url(BLUE)], restyle=True, **settings)
    assert status == 200
    (alone,) = model.run([EditRequest("a hat", [RED, BLUE], True, seed=3, **settings)])
    assert pixels(styled["data"][0]) == alone.image.tobytes()


def test_an_edit_may_keep_what_it_was_told(served):
    status, reply = asked(served, "lumina-dimoo", images=[url(RED)], steps=8, image_cache="max-logit")
    assert status == 200
    (alone,) = served["lumina-dimoo"][0].run([EditRequest("a hat", [RED], steps=8, seed=3, image_cache="max-logit")])
    assert pixels(reply["data"][0]) == alone.image.tobytes()


def test_a_text_may_come_with_the_image(served):
    status, reply = asked(served, "mmada-parallel-m", images=[url(RED)], steps=3, guidance_scale=1.0)
    assert status == 200
    (alone,) = served["mmada-parallel-m"][0].run([ParallelRequest("a hat", [RED], image_steps=3, guidance_scale=1.0, seed=3)])
    assert pixels(reply["data"][0]) == alone.image.tobytes()
    assert reply["data"][0]["text"] == alone.answer.text


def test_text_and_image_may_be_filled_in_any_order(served):
    settings = {"steps": 3, "text_steps": 6}
    found = {}
    for order in ORDER_NAMES:
        status, reply = asked(served, "mmada-parallel-m", images=[url(RED)], order=order, max_completion_tokens=8, **settings)
        assert status == 200, reply
        (alone,) = served["mmada-parallel-m"][0].run(
            [ParallelRequest("a hat", [RED], max_new_tokens=8, order=order, text_steps=6, image_steps=3, seed=3)]
        )
        assert (pixels(reply["data"][0]), reply["data"][0]["text"]) == (alone.image.tobytes(), alone.answer.text)
        usage = reply["usage"]  # 8 x 4 codes of the source, as many drawn, eight tokens written
        assert usage["output_tokens_details"] == {"image_tokens": 32, "text_tokens": 8}
        assert usage["input_tokens_details"] == {"image_tokens": 32, "text_tokens": usage["input_tokens"] - 32}
        assert usage["nfe"] == alone.num_forwards == (6 if order == "together" else 9)
        found[order] = alone.codes.tolist(), alone.answer.token_ids
    assert len({str(value) for value in found.values()}) == 3


def test_a_stream_shows_an_edit_on_its_way(served):
    body = {"prompt": "x", "seed": 3, "images": [url(RED)], "steps": 3, "stream": True, "partial_images": 1, "include_trace": True}
    events = served["mmada-parallel-m"][1].post(PATH, json=body).text
    assert [line for line in events.splitlines() if line.startswith("event:")] == [
        "event: image_edit.partial_image",
        "event: image_edit.completed",
    ]


def test_clients_are_told_which_models_need_no_mask(served):
    listed = {name: client.get("/v1/models").json()["data"][0]["mmada"]["edits_by_instruction"] for name, (_, client) in served.items()}
    assert listed == {"mmada": False, "lumina-dimoo": True, "mmada-parallel-m": True}
    orders = {name: client.get("/v1/models").json()["data"][0]["mmada"]["edit_orders"] for name, (_, client) in served.items()}
    assert orders == {"mmada": [], "lumina-dimoo": ["none"], "mmada-parallel-m": list(ORDER_NAMES)}


@pytest.mark.parametrize(
    ("family", "body", "param", "said"),
    [
        ("mmada", {"restyle": True}, "restyle", "MMaDA cannot edit images; Lumina-DiMOO, MMaDA-Parallel-A can"),
        ("mmada", {"thinking": True}, "thinking", "MMaDA cannot write and draw in the same passes; MMaDA-Parallel-M, MMaDA-Parallel-A can"),
        ("lumina-dimoo", {"best_of": 2}, "best_of", "best_of=2 is not for edits by instruction"),
        ("lumina-dimoo", {"image_cache": "max"}, "image_cache", "max-logit"),
        (
            "mmada-parallel-m",
            {"image_cache": "max-logit"},
            "image_cache",
            "a text in the same passes changes them; leave it out, or edit without",
        ),
        ("lumina-dimoo", {"restyle": True}, None, "1 images with restyle=True; give the content, then the image whose style"),
        ("lumina-dimoo", {"restyle": True, "mask": url(BLUE)}, "restyle", "take no mask; leave one of them out"),
        ("mmada", {}, None, "nothing says what to edit"),
        (
            "mmada",
            {"order": "text_first"},
            "order",
            "MMaDA cannot write and draw in the same passes; MMaDA-Parallel-M, MMaDA-Parallel-A can",
        ),
        ("lumina-dimoo", {"text_steps": 4}, "text_steps", "Lumina-DiMOO cannot write and draw"),
        ("mmada-parallel-m", {"thinking": True, "restyle": True}, "restyle", "MMaDA-Parallel-M cannot edit images"),
        ("mmada-parallel-m", {"order": "first"}, "order", "must be 'together', 'text_first' or 'image_first'"),
        ("mmada-parallel-m", {"order": "together", "thinking": False}, "order", "thinking=false wants none"),
        ("mmada-parallel-m", {"order": "together", "mask": url(BLUE)}, "order", "take no mask"),
        ("mmada-parallel-m", {"text_steps": 9999}, "text_steps", "above 1024"),
        ("mmada-parallel-m", {"max_completion_tokens": 1024}, "max_completion_tokens", "does not fit the model's context"),
        ("mmada-parallel-m", {"steps": 7, "text_steps": 8}, None, "image_steps=7 are more than the last three quarters of text_steps=8"),
        ("mmada-parallel-m", {"steps": 3, "num_inference_steps": 4}, "steps", "disagree"),
    ],
)
def test_what_cannot_be_is_said(served, family, body, param, said):
    status, reply = asked(served, family, images=[url(RED)], **body)
    assert status == 400, reply
    assert reply["error"]["param"] == param
    assert re.search(said, reply["error"]["message"]), reply
