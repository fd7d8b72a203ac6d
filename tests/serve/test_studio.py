"""The studio in a real browser: chat, a question about a picture, drawing, scrubbing through its steps, repainting a region.

Needs Chromium on the PATH and the package playwright, which the extra `dev` brings; its own browsers are not used. Machines without Chromium
skip the clicks; `.ci/run` installs it.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import urllib.request
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import mmada.serve
from mmada.cli import studio as studio_verb

from .process import Server, png, serving

WEB = Path(mmada.serve.__file__).parent / "web"
CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install 'mmada[browser]')")
    with playwright.sync_playwright() as tools:
        running = tools.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield running
        running.close()


@pytest.fixture
def page(browser, server: Server) -> Iterator[Any]:
    yield from opened(browser, server)


def opened(browser, server: Server, **options: Any) -> Iterator[Any]:
    """A page of the studio on which nothing may fail unseen, and which asks no other host for anything."""
    from playwright.sync_api import expect

    context = browser.new_context(**options)
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=server.url)
    page = context.new_page()
    page.set_default_timeout(60_000)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: request.url.startswith((server.url, "data:", "blob:")) or problems.append(request.url))
    page.goto(server.url)
    expect(page.locator("#model")).not_to_have_value("")
    yield page
    context.close()
    assert problems == []


def decoded(data_url: str) -> Image.Image:
    return Image.open(BytesIO(base64.b64decode(data_url.partition(",")[2]))).convert("RGB")


def draw(page, prompt: str, seed: int, steps: int = 6) -> Any:
    """Draw, and wait for the result. Returns its card."""
    page.get_by_role("tab", name="Draw").click()
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.locator("#draw-seed").fill(str(seed))
    page.locator("#draw-steps").fill(str(steps))
    page.get_by_role("button", name="Draw", exact=True).click()
    card = page.locator(".card").first
    card.get_by_role("button", name="Download").first.wait_for()
    return card


def copied(page, name: str) -> str:
    page.locator("button:visible").get_by_text(name).click()
    page.get_by_role("status").get_by_text("Copied").wait_for()
    return page.evaluate("navigator.clipboard.readText()")


# Without a browser.


def test_the_page_is_served_whole_and_needs_no_key(tmp_path):
    with serving(tmp_path / "log", "--api-key", "secret") as server:
        for path in WEB.iterdir():
            with urllib.request.urlopen(f"{server.url}/{path.name}") as answer:
                assert answer.read() == path.read_bytes()
        with urllib.request.urlopen(server.url) as answer:
            assert answer.read() == (WEB / "index.html").read_bytes()


def test_nothing_comes_from_elsewhere():
    for path in WEB.glob("*.*"):
        if path.suffix in (".html", ".css", ".js"):
            text = path.read_text()
            assert not re.search(r"""(src=|@import|url\(|from )\s*["']?(https?:)?//""", text), path.name
            assert "innerHTML" not in text, f"{path.name} may write what a model says as HTML"


def test_every_input_has_a_label():
    html = (WEB / "index.html").read_text()
    outside = re.sub(r"<label\b.*?</label>", "", html, flags=re.S)
    for tag in re.findall(r"<(?:input|textarea|select)\b[^>]*>", outside):
        name = re.search(r'id="([^"]+)"', tag)[1]
        assert f'for="{name}"' in html or "aria-label=" in tag, tag


def test_the_verb_starts_the_server_and_opens_the_page(monkeypatch, capsys):
    opened_pages: list[str] = []
    started: dict[str, Any] = {}

    def start(model: str, settings: dict[str, Any], loading: dict[str, Any], *, ready: Any, **options: Any) -> None:
        started.update(model=model, settings=settings, loading=loading, **options)
        ready("http://127.0.0.1:1234")

    monkeypatch.setattr(studio_verb, "start", start)
    monkeypatch.setattr(studio_verb.webbrowser, "open", opened_pages.append)

    class Now:
        """A thread that runs at once."""

        def __init__(self, target: Any, args: Any, daemon: bool) -> None:
            self.start = lambda: target(*args)

    monkeypatch.setattr(studio_verb.threading, "Thread", Now)
    studio_verb.studio(model="some/where", browser=False)
    assert opened_pages == []
    assert "http://127.0.0.1:1234" in capsys.readouterr().out
    studio_verb.studio(model="some/where", api_key=["k"])
    assert opened_pages == ["http://127.0.0.1:1234"]
    assert started["settings"] == {"name": "where", "api_keys": ("k",)}


# With a browser.


def test_chat_unmasks_and_keeps_what_the_server_said(page, server):
    page.get_by_label("Message").fill("Tell me about cats.")
    page.get_by_label("Think first").locator("visible=true").check()
    page.get_by_text("Settings").click()
    page.locator("#chat-seed").fill("5")
    page.get_by_role("button", name="Send").click()
    reply = page.locator(".turn.assistant")
    reply.locator(".facts", has_text="seed 5").wait_for()
    same = server.client().chat.completions.create(
        model="debug", messages=[{"role": "user", "content": "Tell me about cats."}], reasoning_effort="low", seed=5
    )
    assert " ".join(reply.locator(".answer").inner_text().split()) == " ".join(same.choices[0].message.content.split())
    steps = reply.get_by_label("Steps of the answer")
    assert int(steps.get_attribute("max")) + 1 == same.usage.nfe
    steps.fill("0")
    assert reply.locator(".token.open, .token.mask").count() > 0
    steps.fill(steps.get_attribute("max"))
    assert reply.locator(".token.open, .token.mask").count() == 0


def test_a_question_about_a_picture(page, server, picture):
    page.locator("#chat-file").set_input_files({"name": "p.png", "mimeType": "image/png", "buffer": png(picture)})
    page.get_by_alt_text("The picture to send").wait_for()
    page.get_by_label("Message").fill("What is this?")
    with page.expect_request("**/v1/chat/completions") as sent:
        page.keyboard.press("Enter")
    text, image = sent.value.post_data_json["messages"][0]["content"]
    assert text == {"type": "text", "text": "What is this?"}
    assert decoded(image["image_url"]["url"]).tobytes() == picture.tobytes()
    page.locator(".turn.assistant .facts", has_text="evaluations").wait_for()
    assert page.get_by_alt_text("Your picture").is_visible()

    python = copied(page, "Copy as Python")
    compile(python, "snippet", "exec")
    assert 'picture("picture.png")' in python
    assert "base64 < picture.png" in copied(page, "Copy as curl")


def test_draw_scrub_vary_and_redo_a_region(page, server):
    card = draw(page, "two red hearts above a dog", seed=3)
    image = card.locator("img")
    result = decoded(image.get_attribute("src"))
    same = server.client().images.generate(prompt="two red hearts above a dog", extra_body={"seed": 3, "steps": 6})
    assert result.tobytes() == decoded("," + same.data[0].b64_json).tobytes()
    assert image.evaluate("image => getComputedStyle(image).imageRendering") == "pixelated"

    steps = card.get_by_label("Steps of the picture")
    assert steps.get_attribute("max") == "5"
    steps.focus()
    page.keyboard.press("Home")
    assert card.locator(".scrub output").inner_text() == "step 1 of 6"
    assert decoded(image.get_attribute("src")).tobytes() != result.tobytes()
    page.keyboard.press("End")
    assert decoded(image.get_attribute("src")).tobytes() == result.tobytes()

    exec_globals: dict[str, Any] = {}
    python = copied(page, "Copy as Python")
    assert f'base_url="{server.url}/v1"' in python
    exec(compile(python.partition("for i, drawing")[0], "snippet", "exec"), exec_globals)
    assert exec_globals["reply"].data[0].b64_json == same.data[0].b64_json

    card.get_by_role("button", name="Edit").click()
    editor = page.get_by_role("dialog")
    editor.get_by_role("button", name="Redo region").click()
    assert editor.get_by_role("alert").inner_text() == "Nothing is painted yet."
    editor.locator("#editor-brush").fill("1")
    canvas = editor.locator("canvas")
    canvas.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press(" ")
    assert canvas.get_attribute("aria-label").startswith("Mask: 1 of ")
    box = canvas.bounding_box()
    page.mouse.click(box["x"] + box["width"] - 4, box["y"] + box["height"] - 4)
    assert canvas.get_attribute("aria-label").startswith("Mask: 2 of ")
    editor.get_by_label("What the picture shows in the end").fill("a blue star")
    with page.expect_response("**/v1/images/edits") as answered:
        editor.get_by_role("button", name="Redo region").click()
    assert answered.value.status == 200
    redone = page.locator(".card", has_text="Redone: a blue star")
    redone.get_by_role("button", name="Variations").click()
    varied = page.locator(".card", has_text="Variations: a blue star")
    varied.get_by_role("button", name="Download").nth(2).wait_for()
    with page.expect_download() as download:
        varied.get_by_role("button", name="Download").first.click()
    assert download.value.suggested_filename == "mmada-3.png"

    redone.get_by_role("button", name="Ask about it").click()
    assert page.get_by_alt_text("The picture to send").is_visible()


def test_the_mask_that_is_sent_is_the_one_that_was_painted(page):
    """The debug model draws with other numbers each time, so the mask itself is looked at."""
    card = draw(page, "a cat", seed=1)
    card.get_by_role("button", name="Edit").click()
    page.locator("#editor-brush").fill("1")
    page.locator("#editor-canvas").focus()
    page.keyboard.press(" ")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save mask").click()
    mask = Image.open(download.value.path())
    factor = page.evaluate("fetch('v1/models').then((answer) => answer.json()).then((list) => list.data[0].mmada.image_factor)")
    assert mask.size == decoded(card.locator("img").get_attribute("src")).size
    assert mask.getchannel("A").point(lambda a: 255 - a).getbbox() == (0, 0, factor, factor)


def test_the_best_of_several_has_no_steps_to_show(page, server):
    page.get_by_role("tab", name="Draw").click()
    page.locator("#draw-best-of").fill("3")
    card = draw(page, "a cat", seed=2)
    same = server.client().images.generate(prompt="a cat", extra_body={"seed": 2, "steps": 6, "best_of": 3})
    assert decoded(card.locator("img").get_attribute("src")).tobytes() == decoded("," + same.data[0].b64_json).tobytes()
    assert not card.get_by_label("Steps of the picture").is_visible()
    assert '"best_of":3' in copied(page, "Copy as curl")
    page.locator("#draw-count").fill("8")
    page.get_by_role("button", name="Draw", exact=True).click()
    page.locator(".card .problem").get_by_text("best_of=3 for n=8").wait_for()


def test_stop_and_errors_are_shown_in_place(page):
    page.get_by_role("tab", name="Draw").click()
    page.get_by_label("Prompt", exact=True).fill("a cat")
    page.locator("#draw-steps").fill("64")
    page.locator("#draw-count").fill("8")
    page.get_by_role("button", name="Draw", exact=True).click()
    page.locator(".card img[src]").first.wait_for()
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("status").get_by_text("Stopped.").wait_for()

    page.get_by_role("tab", name="Chat").click()
    page.get_by_text("Settings").click()
    page.locator("#chat-max-completion-tokens").fill("100000")
    page.locator("#chat-max-completion-tokens").evaluate("input => input.form.noValidate = true")
    page.get_by_label("Message").fill("hello")
    page.get_by_role("button", name="Send").click()
    problem = page.locator(".turn.assistant .problem")
    problem.wait_for()
    assert "max_completion_tokens=100000 does not fit the model's context" in problem.inner_text()
    page.locator("#chat-max-completion-tokens").fill("8")
    problem.get_by_role("button", name="Try again").click()
    page.locator(".turn.assistant .facts", has_text="evaluations").wait_for()


def test_the_key_is_asked_for_and_kept_for_the_tab(browser, tmp_path):
    from playwright.sync_api import expect

    with serving(tmp_path / "log", "--api-key", "secret") as server:
        context = browser.new_context()
        page = context.new_page()
        page.goto(server.url)
        page.get_by_role("alert").get_by_text("the API key is missing or wrong").wait_for()
        page.get_by_label("API key").fill("secret")
        page.keyboard.press("Tab")
        expect(page.locator("#model")).to_have_value("debug")
        assert json.loads(page.evaluate("JSON.stringify(sessionStorage)")) == {"mmada-key": "secret"}
        page.reload()
        expect(page.locator("#model")).to_have_value("debug")
        context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_of_it(browser, server, scheme):
    for page in opened(browser, server, viewport={"width": 360, "height": 740}, color_scheme=scheme):
        for tab in ("Chat", "Draw"):
            page.get_by_role("tab", name=tab).click()
            assert page.evaluate("document.documentElement.scrollWidth") <= 360
            for field in page.locator("main input:visible, main textarea:visible, main button:visible").all():
                box = field.bounding_box()
                assert box["x"] >= 0
                assert box["x"] + box["width"] <= 360
        light = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(246, 247, 250)"
        assert light == (scheme == "light")
