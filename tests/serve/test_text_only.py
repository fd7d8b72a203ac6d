"""A model without images behind the server and in the studio: it is asked for texts, and says in a sentence what it lacks."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from mmada.families import named

from ..families.tiny import TEMPLATED, templated, tiny
from ..lazy import later
from ..processes import mmada
from .process import Server, serving
from .studio_page import opened

openai = later("openai")
pytestmark = pytest.mark.integration
HELLO = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def llada(tmp_path_factory) -> Iterator[tuple[str, Server]]:
    folder = tmp_path_factory.mktemp("llada")
    tiny(named("llada")).save_pretrained(folder / "llada")
    with serving(folder / "log", "--model", str(folder / "llada")) as server:
        yield str(folder / "llada"), server


def test_it_answers_and_says_what_it_cannot(llada):
    client = llada[1].client()
    facts = client.models.retrieve("llada").mmada
    assert (facts["abilities"], facts["image_size"], facts["image_settings"]) == (["chat", "fill"], "", [])
    assert client.chat.completions.create(model="llada", messages=HELLO, max_tokens=4).usage.completion_tokens == 4
    with pytest.raises(openai.BadRequestError, match=r"LLaDA cannot draw; MMaDA, .* can"):
        client.images.generate(prompt="a cat")


def test_the_studio_opens_on_the_chat(browser, llada):
    with opened(browser, llada[1]) as page:
        page.locator("#panel-chat").wait_for()
        assert not page.get_by_role("tab", name="Draw").is_visible()
        assert page.locator("#chat-examples .example").all_inner_texts()
        assert "raw" not in "".join(page.locator("#chat-examples").all_inner_texts())
        assert page.get_by_placeholder("Ask something", exact=True).is_visible()
        page.get_by_label("Message", exact=True).fill("draw a cat")
        with page.expect_response("**/v1/chat/completions") as answered:
            page.locator("#chat-send").click()
        assert answered.value.status == 200
        page.get_by_role("tab", name="Compare").click()
        assert page.get_by_label("Drawings").is_disabled()
        assert page.get_by_label("Answers").is_checked()


def test_a_batch(llada, tmp_path):
    request = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": HELLO, "max_tokens": 4}}
    (tmp_path / "in.jsonl").write_text(json.dumps(request) + "\n")
    done = mmada(["batch", "in.jsonl", "-o", "out.jsonl", "--model", llada[0]], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out.jsonl").read_text())["response"]["status_code"] == 200


@pytest.mark.parametrize("name", ["dream", "sdar", "llada-moe"])
def test_models_on_the_second_backbone_answer_as_in_a_process(tmp_path, name):
    model = (templated if name in TEMPLATED else tiny)(named(name))
    model.save_pretrained(tmp_path / name)
    settings = {"seed": 3, "max_tokens": 12}
    with serving(tmp_path / "log", "--model", str(tmp_path / name), "--threads", "1") as server:
        client = server.client()
        whole = client.chat.completions.create(model=name, messages=HELLO, **settings).choices[0].message.content
        parts = client.chat.completions.create(model=name, messages=HELLO, stream=True, **settings)
        assert "".join(part.choices[0].delta.content or "" for part in parts if part.choices).strip() == whole
    assert whole == model.chat("hi", seed=3, max_new_tokens=12).text
