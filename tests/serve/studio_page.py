"""The studio's page in a browser, as its tests use it."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Iterator
from importlib.resources import files
from io import BytesIO
from typing import Any

from PIL import Image

from .process import Server


@contextlib.contextmanager
def opened(browser: Any, server: Server, *, path: str = "/", context: Any = None, **options: Any) -> Iterator[Any]:
    """A page of the studio on which nothing may fail unseen, and which asks no other host for anything.

    Motion is reduced unless `options` say otherwise, so that answers are there at once.
    """
    own = context or browser.new_context(**{"reduced_motion": "reduce", **options})
    own.grant_permissions(["clipboard-read", "clipboard-write"], origin=server.url)
    page = own.new_page()
    page.set_default_timeout(60_000)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: request.url.startswith((server.url, "data:", "blob:")) or problems.append(request.url))
    page.goto(server.url + path)
    expect_ready(page)
    try:
        yield page
    finally:
        page.close() if context else own.close()
    assert problems == [], problems


def expect_ready(page: Any) -> None:
    """The page knows its model."""
    from playwright.sync_api import expect

    expect(page.locator("#model")).not_to_have_value("")


def recorded_steps() -> int:
    """Of the drawing that the page opens with."""
    record = json.loads(files("mmada.serve").joinpath("web", "recorded.json").read_text(encoding="utf-8"))
    return len(record["result"]["pictures"][0]["frames"])


def decoded(data_url: str) -> Image.Image:
    return Image.open(BytesIO(base64.b64decode(data_url.partition(",")[2]))).convert("RGB")


def draw(page: Any, prompt: str, seed: int, steps: int = 6) -> Any:
    """Draw, and wait for the result. Returns its card."""
    page.get_by_role("tab", name="Draw").click()
    show_settings(page)
    page.locator("#draw-seed").fill(str(seed))
    page.locator("#draw-steps").fill(str(steps))
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.get_by_role("button", name="Draw", exact=True).click()
    card = page.locator("#gallery .card").first
    card.get_by_role("button", name="Save as a file").wait_for()
    return card


def show_settings(page: Any) -> None:
    """Unfold the settings of the tab that is open."""
    page.locator("details.settings:visible").evaluate("box => { box.open = true; }")


def ask(page: Any, text: str) -> Any:
    """Ask in the chat, and wait for the answer. Returns it."""
    count = page.locator(".turn.assistant").count()
    page.get_by_label("Message").fill(text)
    page.get_by_role("button", name="Send").click()
    reply = page.locator(".turn.assistant").nth(count)
    reply.locator(".facts", has_text="evaluations").wait_for()
    return reply


def copied(page: Any, name: str) -> str:
    """What a button of the settings copies."""
    show_settings(page)
    page.locator("button:visible").get_by_text(name).click()
    page.get_by_role("status").get_by_text("Copied").wait_for()
    text: str = page.evaluate("navigator.clipboard.readText()")
    return text
