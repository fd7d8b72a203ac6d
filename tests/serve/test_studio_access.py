"""The studio for everybody: axe-core in light and dark, a phone, the keyboard alone, less motion. The model is the debug one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import pytest

from .studio_page import ask, draw, opened, recorded_steps, show_settings

pytestmark = pytest.mark.integration

PHONE = {"width": 390, "height": 780}


@pytest.fixture(scope="module")
def axe() -> str:
    """axe-core as the package axe-playwright-python ships it (MPL-2.0, in tests only)."""
    pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is not installed (pip install 'mmada[dev]')")
    return files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")


def faults(page: Any, axe: str) -> list[str]:
    """What axe-core finds in the light by all its rules, and in the dark by those of color."""
    page.evaluate(axe)
    found = []
    for scheme, rules in (("dark", "{runOnly: ['color-contrast', 'link-in-text-block']}"), ("light", "{}")):
        page.emulate_media(color_scheme=scheme)
        found += page.evaluate(f"axe.run(document, {{resultTypes: ['violations'], ...{rules}}}).then((result) => result.violations)")
    return [f"{one['id']}: {node['html'][:120]}" for one in found for node in one["nodes"]]


def test_axe_finds_nothing_in_light_and_dark(browser, server, axe):
    with opened(browser, server) as page:
        page.locator(".badge").wait_for()
        assert faults(page, axe) == []
        show_settings(page)
        page.locator("#draw-count").fill("2")
        card = draw(page, "a cat", seed=1)
        card.locator(".cells").first.focus()
        page.keyboard.press("ArrowRight")
        assert page.get_by_role("tooltip").is_visible()
        assert faults(page, axe) == []
        card.get_by_role("button", name="Edit: picture 1").click()
        assert faults(page, axe) == []
        page.keyboard.press("Escape")
        page.get_by_role("tab", name="Chat").click()
        assert faults(page, axe) == []
        page.get_by_label("Think first").check()
        reply = ask(page, "Tell me about cats.")
        assert faults(page, axe) == []
        reply.locator("[data-slot][tabindex='0']").first.focus()
        assert "instead: " in page.get_by_role("tooltip").inner_text()
        assert faults(page, axe) == []
        steps = reply.get_by_label("Steps of the answer")
        steps.fill(str(int(steps.get_attribute("max")) // 2))
        assert reply.locator(".thinking .token.open, .answer .token.open").count() > 0, "open tokens are part of what is looked at"
        assert faults(page, axe) == []
        page.get_by_role("tab", name="Compare").click()
        assert faults(page, axe) == []
        page.get_by_label("What both get").fill("a cat")
        page.get_by_role("button", name="Compare", exact=True).click()
        page.get_by_role("status").get_by_text("Compared.").wait_for()
        assert faults(page, axe) == []
        page.get_by_role("tab", name="Draw").click()
        page.get_by_label("Prompt", exact=True).fill("a long prompt " * 200)
        page.keyboard.press("Enter")
        page.locator(".card.bare .problem").wait_for()
        page.get_by_role("button", name="Remove").nth(1).click()
        page.get_by_role("button", name="Undo").wait_for()
        page.keyboard.press("Shift+Tab")
        assert faults(page, axe) == []


def test_axe_finds_faults(page_with_a_fault, axe):
    """The test above could fail."""
    assert {fault.partition(":")[0] for fault in faults(page_with_a_fault, axe)} == {"color-contrast", "button-name"}


@pytest.fixture
def page_with_a_fault(browser, server) -> Iterator[Any]:
    with opened(browser, server) as page:
        page.locator(".badge").wait_for()
        page.evaluate(
            "document.querySelector('.badge').style.color = '#888'; document.querySelector('.player button').removeAttribute('aria-label')"
        )
        yield page


def test_a_phone_shows_the_picture_under_the_prompt(browser, server, axe):
    with opened(browser, server, viewport=PHONE, has_touch=True, is_mobile=True) as page:
        prompt = page.get_by_label("Prompt", exact=True)
        page.locator(".badge").wait_for()
        recorded = page.locator("#gallery .frame").bounding_box()
        assert recorded["y"] + recorded["height"] <= PHONE["height"], "the first picture is seen without scrolling"
        assert not page.locator("#draw-steps").is_visible(), "settings are folded"
        page.mouse.wheel(0, 400)
        deadline = time.monotonic() + 10
        while page.evaluate(
            "scrollY < Math.min(400, document.documentElement.scrollHeight - innerHeight)"
        ):  # a wheel's turn takes its time
            assert time.monotonic() < deadline
        prompt.fill("a cat")
        prompt.press("Enter")
        page.locator("#gallery .card").first.get_by_role("button", name="Save as a file").wait_for()
        frame = page.locator("#gallery .frame").first.bounding_box()
        composer = page.locator("#draw-form").bounding_box()
        assert composer["y"] >= 0
        assert composer["y"] + composer["height"] <= frame["y"], "the prompt stays in view and covers nothing of the picture"
        assert frame["y"] + frame["height"] <= PHONE["height"]

        show_settings(page)
        page.locator("#draw-count").fill("3")
        draw(page, "a dog", seed=1, steps=2)
        places = [figure.bounding_box() for figure in page.locator("#gallery .card figure").all()[:2]]
        for control in page.locator("#gallery .card").first.locator("figure").first.locator(".player :is(button, input, select)").all():
            box = control.bounding_box()
            assert box["x"] + box["width"] <= places[1]["x"], "controls of one picture do not lie on those of the next"

        page.locator("#gallery .cells").first.tap()
        assert "Square at" in page.get_by_role("tooltip").inner_text(), "a finger that is lifted has tapped"
        page.locator("#draw-prompt").tap()
        assert not page.get_by_role("tooltip").is_visible()

        page.get_by_role("tab", name="Chat").click()
        for text in ("one", "two", "three"):
            reply = ask(page, text)
        box = page.locator("#chat-form").bounding_box()
        assert box["y"] + box["height"] <= PHONE["height"], "the composer stays in view"
        assert reply.bounding_box()["y"] < box["y"], "the answer is not behind it"
        for tab in ("Draw", "Chat", "Compare"):
            page.get_by_role("tab", name=tab).click()
            assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
            outside = "main :is(input, textarea, button:not(.example), summary):not(.unseen)"
            wide = """(fields) => fields.filter((field) => field.checkVisibility()).map((field) => field.getBoundingClientRect())
                .filter(({left, right}) => left < 0 || right > innerWidth).length"""
            assert page.locator(outside).evaluate_all(wide) == 0
        assert faults(page, axe) == []


def test_the_keyboard_is_enough(browser, server):
    """From the address bar: draw, play a step back, leave with a file; then chat and walk through its tokens."""
    with opened(browser, server) as page:

        def tab_to(name: str) -> None:
            """Press Tab until the element with this name has the focus."""
            for _ in range(60):
                page.keyboard.press("Tab")
                if (
                    page.evaluate("(document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent).trim()")
                    == name
                ):
                    return
            raise AssertionError(f"{name} is not reached")

        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "tab-draw"
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "draw-prompt"
        page.keyboard.type("a cat")
        page.keyboard.press("Enter")
        page.locator("#gallery .card").first.get_by_role("button", name="Save as a file").wait_for()
        tab_to("One step back")
        count = page.locator(".step").first.inner_text().split("/")[1]
        page.keyboard.press("Enter")
        assert page.locator(".step").first.inner_text() == f"{int(count) - 1}/{count}"
        with page.expect_download():
            tab_to("Save as a file")
            page.keyboard.press("Enter")
        page.get_by_role("tab", name="Draw").focus()
        page.keyboard.press("ArrowRight")
        assert page.evaluate("document.activeElement.id") == "tab-chat"
        for _ in range(20):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.id") == "chat-text":
                break
        page.keyboard.type("hello")
        page.keyboard.press("Enter")
        page.locator(".turn.assistant .facts", has_text="evaluations").wait_for()
        page.keyboard.press("Shift+Tab")
        for _ in range(12):
            if page.evaluate("document.activeElement.dataset.slot !== undefined"):
                break
            page.keyboard.press("Shift+Tab")
        assert page.get_by_role("tooltip").is_visible()


def test_less_motion_shows_the_end_and_still_plays_when_asked(browser, server):
    with opened(browser, server, viewport={"width": 900, "height": 700}) as page:
        card = page.locator("#gallery .card")
        card.wait_for()
        last = f"{recorded_steps()}/{recorded_steps()}"
        assert card.locator(".step").inner_text() == last, "nothing moves by itself"
        card.get_by_label("Speed").select_option("4×")
        card.get_by_role("button", name="Play", exact=True).click()
        card.locator(".step", has_text=last).wait_for()
        assert page.evaluate("getComputedStyle(document.querySelector('.frame')).animationName") == "none"
