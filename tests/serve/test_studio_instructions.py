"""The studio's editor with a model that edits by instruction: words alone, or a painted part as ever."""

from __future__ import annotations

import json

import pytest

from mmada.families import named

from ..families.tiny import tiny
from .process import serving
from .studio_page import copied, draw, opened

pytestmark = pytest.mark.integration


@pytest.mark.slow
def test_an_instruction_needs_no_paint(browser, tmp_path):
    tiny(named("lumina-dimoo")).save_pretrained(tmp_path / "model")
    with serving(tmp_path / "log", "--model", str(tmp_path / "model")) as server, opened(browser, server) as page:
        draw(page, "a cat", seed=1, steps=3).get_by_role("button", name="Edit").click()
        editor = page.get_by_role("dialog")
        send = editor.locator("#editor-send")
        assert send.inner_text() == "Edit"
        send.click()
        assert editor.get_by_role("alert").inner_text() == "Say what is to be changed."
        editor.get_by_label("What is to be changed").fill("Add a hat.")
        with page.expect_response("**/v1/images/edits") as answered:
            send.click()
        assert answered.value.status == 200, answered.value.text()
        edited = page.locator(".card", has_text="Edited: Add a hat.")
        edited.get_by_role("button", name="Save as a file").wait_for()
        request = copied(page, "Copy as curl")
        assert "-F image=@image.png" in request
        assert "mask" not in request

        edited.get_by_role("button", name="Edit").click()
        editor.locator("#editor-canvas").focus()
        page.keyboard.press(" ")
        assert send.inner_text() == "Redraw"
        editor.get_by_label("What the picture shows in the end").fill("a cat")
        send.click()
        page.locator(".card", has_text="Redrawn: a cat").get_by_role("button", name="Save as a file").wait_for()
        assert "-F mask=@mask.png" in copied(page, "Copy as curl")


@pytest.mark.slow
def test_a_text_comes_in_the_order_that_is_chosen(browser, tmp_path):
    tiny(named("mmada-parallel-a")).save_pretrained(tmp_path / "model")
    with serving(tmp_path / "log", "--model", str(tmp_path / "model")) as server, opened(browser, server) as page:
        draw(page, "a cat", seed=1, steps=3).get_by_role("button", name="Edit").click()
        editor = page.get_by_role("dialog")
        orders = editor.get_by_label("Text beside the picture")
        assert orders.locator("option").all_inner_texts() == ["none", "with the picture", "before the picture", "after the picture"]
        orders.select_option("text_first")
        editor.get_by_label("What is to be changed").fill("Add a hat.")
        with page.expect_response("**/v1/images/edits") as answered:
            editor.locator("#editor-send").click()
        assert answered.value.status == 200, answered.value.text()
        edited = page.locator(".card", has_text="Edited: Add a hat.")
        edited.get_by_role("button", name="Save as a file").wait_for()
        assert "--form-string 'order=text_first'" in copied(page, "Copy as curl")
        data = [json.loads(line[6:]) for line in answered.value.text().splitlines() if line.startswith("data: {")]
        assert data[-1]["text"].strip()
        assert edited.locator("p.thinking-text").text_content() == data[-1]["text"]

        edited.get_by_role("button", name="Edit").click()
        editor.locator("#editor-canvas").focus()
        page.keyboard.press(" ")
        assert not orders.is_visible()  # a painted part has no text
