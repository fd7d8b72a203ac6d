"""The studio in a real browser, on the debug model: drawing, chat, edits, comparison, and what survives.

Needs Chromium on the PATH and the package playwright, which the extra `dev` brings; its own browsers are not used. Machines without Chromium
skip the clicks; `.ci/run` installs it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from .process import Server, png, serving
from .studio_page import ask, copied, decoded, draw, expect_ready, opened, recorded_steps, show_settings

pytestmark = pytest.mark.integration


@pytest.fixture
def page(browser, server: Server) -> Iterator[Any]:
    with opened(browser, server) as page:
        yield page


def test_it_opens_on_draw_with_a_recorded_drawing_that_plays(browser, server):
    with opened(browser, server, reduced_motion="no-preference") as page:
        assert page.get_by_role("tab", name="Draw").get_attribute("aria-selected") == "true"
        card = page.locator("#gallery .card")
        assert card.locator(".badge").inner_text().startswith("Recorded")
        shown = [card.locator("figure img").first.get_attribute("src")]
        page.wait_for_function("before => document.querySelector('figure img').src !== before", arg=shown[0])
        card.get_by_role("button", name="Pause").click()
        stopped = card.locator(".step").inner_text()
        page.wait_for_timeout(300)
        assert card.locator(".step").inner_text() == stopped
        card.get_by_label("Speed").select_option("4×")
        card.get_by_role("button", name="Play", exact=True).click()
        last = recorded_steps()
        card.locator(".step", has_text=f"{last}/{last}").wait_for()
        card.get_by_role("button", name="One step back").click()
        assert card.locator(".step").inner_text() == f"{last - 1}/{last}"


def test_draw_step_edit_and_vary(page, server):
    card = draw(page, "two red hearts above a dog", seed=3)
    assert page.locator(".badge").count() == 0, "the recording makes place for what is drawn"
    image = card.locator("figure img").first
    result = decoded(image.get_attribute("src"))
    same = server.client().images.generate(prompt="two red hearts above a dog", extra_body={"seed": 3, "steps": 6})
    assert result.tobytes() == decoded("," + same.data[0].b64_json).tobytes()
    assert image.evaluate("image => getComputedStyle(image).imageRendering") == "pixelated"

    steps = card.get_by_label("Steps of the picture")
    assert steps.get_attribute("max") == "5"
    steps.focus()
    page.keyboard.press("Home")
    assert card.locator(".step").inner_text() == "1/6"
    assert decoded(image.get_attribute("src")).tobytes() != result.tobytes()
    page.keyboard.press("End")
    assert decoded(image.get_attribute("src")).tobytes() == result.tobytes()

    card.locator(".cells").focus()
    page.keyboard.press("ArrowRight")
    shown = page.get_by_role("tooltip").inner_text()
    assert "column 2, row 1" in shown
    assert "of 6" in shown
    assert shown.count("code ") == 5, "what else was likely"
    page.keyboard.press("Escape")
    assert not page.get_by_role("tooltip").is_visible()

    exec_globals: dict[str, Any] = {}
    python = copied(page, "Copy as Python")
    assert f'base_url="{server.url}/v1"' in python
    exec(compile(python.partition("for i, drawing")[0], "snippet", "exec"), exec_globals)
    assert exec_globals["reply"].data[0].b64_json == same.data[0].b64_json

    card.get_by_role("button", name="Edit").click()
    editor = page.get_by_role("dialog")
    editor.get_by_label("Whole objects").uncheck()
    editor.get_by_role("button", name="Redraw", exact=True).click()
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
        editor.get_by_role("button", name="Redraw", exact=True).click()
    assert answered.value.status == 200
    redone = page.locator(".card", has_text="Redrawn: a blue star")
    redone.get_by_role("button", name="Save as a file").wait_for()
    redone.get_by_label("Before and after").fill("100")
    assert decoded(redone.locator(".before").get_attribute("src")).tobytes() == result.tobytes()
    assert redone.locator(".before").evaluate("image => getComputedStyle(image).clipPath") == "inset(0px 0% 0px 0px)"

    with page.expect_request("**/v1/images/generations") as sent:
        redone.get_by_role("button", name="Variations").click()
    assert (sent.value.post_data_json["prompt"], sent.value.post_data_json["n"]) == ("a blue star", 3)
    assert sent.value.post_data_json["seed"] != 3, "a variation with the same seed would be the same picture"
    varied = page.locator(".card", has_text="Variations: a blue star")
    varied.get_by_role("button", name="Save as a file").wait_for()
    assert len({image.get_attribute("src") for image in varied.locator("figure img").all()}) == 3
    redone.get_by_role("button", name="Ask about it").click()
    assert page.get_by_alt_text("The picture to send").is_visible()


def test_the_mask_that_is_sent_is_the_one_that_was_painted(page):
    """The debug model draws with other numbers each time, so the mask itself is looked at."""
    card = draw(page, "a cat", seed=1)
    card.get_by_role("button", name="Edit").click()
    page.get_by_label("Whole objects").uncheck()
    page.locator("#editor-brush").fill("1")
    page.locator("#editor-canvas").focus()
    page.keyboard.press(" ")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save mask").click()
    mask = Image.open(download.value.path())
    factor = page.evaluate("fetch('v1/models').then((answer) => answer.json()).then((list) => list.data[0].mmada.image_factor)")
    assert mask.size == decoded(card.locator("figure img").first.get_attribute("src")).size
    assert mask.getchannel("A").point(lambda a: 255 - a).getbbox() == (0, 0, factor, factor)


def test_the_best_of_several_has_no_steps_to_show(page, server):
    show_settings(page)
    page.locator("#draw-best-of").fill("3")
    card = draw(page, "a cat", seed=2)
    same = server.client().images.generate(prompt="a cat", extra_body={"seed": 2, "steps": 6, "best_of": 3})
    assert decoded(card.locator("figure img").first.get_attribute("src")).tobytes() == decoded("," + same.data[0].b64_json).tobytes()
    assert not card.get_by_label("Steps of the picture").is_visible()
    assert '"best_of":3' in copied(page, "Copy as curl")
    page.locator("#draw-count").fill("8")
    page.get_by_role("button", name="Draw", exact=True).click()
    page.locator(".card .problem").get_by_text("best_of=3 for n=8").wait_for()


def test_a_blank_prompt_is_a_hint_and_problems_are_shown_in_place(page):
    page.get_by_role("button", name="Draw", exact=True).click()
    assert page.locator("#draw-hint").inner_text() == "Say what to draw, or take an example."
    assert page.locator(".problem:visible").count() == 0
    assert page.evaluate("document.activeElement.id") == "draw-prompt"

    show_settings(page)
    page.get_by_label("Prompt", exact=True).fill("a cat")
    assert page.locator("#draw-hint").inner_text() == ""
    page.locator("#draw-steps").fill("64")
    page.locator("#draw-count").fill("8")
    page.get_by_role("button", name="Draw", exact=True).click()
    page.locator(".card img[src]").first.wait_for()
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("status").get_by_text("Stopped.").wait_for()

    page.get_by_role("tab", name="Chat").click()
    show_settings(page)
    page.locator("#chat-max-completion-tokens").evaluate("input => { input.removeAttribute('max'); input.value = 100000; }")
    page.get_by_label("Message").fill("hello")
    page.get_by_role("button", name="Send").click()
    problem = page.locator(".turn.assistant .problem")
    problem.wait_for()
    assert "max_completion_tokens=100000 does not fit the model's context" in problem.inner_text()
    page.locator("#chat-max-completion-tokens").fill("8")
    problem.get_by_role("button", name="Try again").click()
    page.locator(".turn.assistant .facts", has_text="evaluations").wait_for()


def test_a_double_click_is_one_click_and_a_second_drawing_waits(page):
    """The second half of a double click stopped the drawing, or removed the comparison that had just come under the pointer."""
    show_settings(page)
    page.locator("#draw-steps").fill("64")
    page.get_by_label("Prompt", exact=True).fill("a cat")
    page.get_by_role("button", name="Draw", exact=True).dblclick()
    page.get_by_label("Prompt", exact=True).press("Enter")
    assert "One at a time" in page.locator("#draw-hint").inner_text()
    page.locator("#gallery .card").get_by_role("button", name="Save as a file").wait_for()
    page.get_by_role("tab", name="Compare").click()
    page.get_by_label("What both get").fill("a dog")
    page.get_by_role("button", name="Compare", exact=True).dblclick()
    page.get_by_role("status").get_by_text("Compared.").wait_for()
    assert page.locator(".comparison").count() == 1


def test_a_wrong_setting_is_shown_though_its_drawer_was_closed(page):
    show_settings(page)
    page.locator("#draw-seed").fill("1.5")
    page.locator("#panel-draw details.settings > summary").click()
    page.get_by_label("Prompt", exact=True).fill("a cat")
    page.get_by_role("button", name="Draw", exact=True).click()
    assert page.locator("#draw-seed").is_visible()
    assert page.evaluate("document.activeElement.id") == "draw-seed"


def test_long_prompts_are_folded_and_others_run_from_right_to_left(page):
    prompt = page.get_by_label("Prompt", exact=True)
    prompt.fill("\N{DOG FACE}" * 2000)
    prompt.press("Enter")
    title = page.locator("#gallery h3").first
    page.locator("#gallery .problem").wait_for()
    assert title.inner_text().endswith("Show all")
    title.get_by_role("button", name="Show all").click()
    assert title.inner_text() == "\N{DOG FACE}" * 2000
    prompt.fill("\N{ARABIC LETTER ALEF}\N{ARABIC LETTER BEH}")
    for box in (prompt, draw(page, "\N{ARABIC LETTER ALEF}\N{ARABIC LETTER BEH}", seed=1, steps=1).locator("h3")):
        assert box.evaluate("box => getComputedStyle(box).direction") == "rtl"


DROP = """([type, files]) => {
    const data = new DataTransfer();
    for (const [name, kind, text] of files) data.items.add(new File([text], name, { type: kind }));
    const options = { bubbles: true, cancelable: true };
    const event = type === "paste" ? new ClipboardEvent(type, { clipboardData: data, ...options }) : new DragEvent(type, { dataTransfer: data, ...options });
    document.body.dispatchEvent(event);
    return event.defaultPrevented;
}"""


def test_files_are_taken_anywhere_on_the_page_and_others_are_refused_in_words(page):
    hint = page.locator("#draw-hint")
    svg = "<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>"
    assert page.evaluate(DROP, ["drop", [["a.svg", "image/svg+xml", svg], ["b.svg", "image/svg+xml", svg], ["c.txt", "text/plain", "hi"]]])
    hint.get_by_text("1 of 3 files was left out.").wait_for()
    assert page.locator("#gallery h3").all_inner_texts() == ["b.svg", "a.svg"]
    assert page.evaluate(DROP, ["drop", [["c.txt", "text/plain", "hi"]]]), "the browser would leave the page for the file"
    hint.get_by_text("c.txt cannot be opened: a picture or a saved result is wanted here.").wait_for()
    page.evaluate(DROP, ["drop", [["d.png", "image/png", "hi"]]])
    hint.get_by_text("This file is no picture that the browser can read.").wait_for()
    page.get_by_role("tab", name="Chat").click()
    page.evaluate(DROP, ["paste", [["image.svg", "image/svg+xml", svg]]])
    page.get_by_alt_text("The picture to send").wait_for()


@pytest.mark.parametrize(
    "blocked", ["IDBFactory.prototype.open = () => ({})", "Object.defineProperty(window, 'indexedDB', { value: undefined })"]
)
def test_without_a_database_the_page_goes_on(browser, server, blocked):
    context = browser.new_context(reduced_motion="reduce")
    context.add_init_script(blocked)
    with opened(browser, server, context=context) as page:
        page.locator(".badge", has_text="Recorded").wait_for()
        draw(page, "a cat", seed=1, steps=1)
    context.close()


def test_chat_unmasks_and_keeps_what_the_server_said(page, server):
    page.get_by_role("tab", name="Chat").click()
    page.get_by_label("Think first").check()
    show_settings(page)
    page.locator("#chat-seed").fill("5")
    reply = ask(page, "Tell me about cats.")
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

    reply.locator("[data-slot][tabindex='0']").first.focus()
    assert f"of {same.usage.nfe}" in page.get_by_role("tooltip").inner_text()
    assert "instead: " in page.get_by_role("tooltip").inner_text()
    first = page.get_by_role("tooltip").inner_text()
    page.keyboard.press("ArrowRight")
    assert page.get_by_role("tooltip").inner_text() != first
    colored = reply.locator(".answer .doubtful, .answer .unsure, .thinking .doubtful, .thinking .unsure").count()
    assert reply.locator(".legend").is_visible() == (colored > 0)


def test_a_question_about_a_picture(page, picture):
    page.get_by_role("tab", name="Chat").click()
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


def test_settings_survive_a_reload_and_are_reset(page):
    def settings() -> list[Any]:
        return [page.locator(f"#draw-{name}").input_value() for name in ("steps", "seed", "count", "guidance-scale")] + [
            page.locator("#draw-think").is_checked(),
            page.locator("#chat-colors").is_checked(),
        ]

    usual = settings()
    show_settings(page)
    for name, value in [("steps", "5"), ("seed", "7"), ("count", "3"), ("guidance-scale", "2.5")]:
        page.locator(f"#draw-{name}").fill(value)
    page.locator("#draw-think").set_checked(not usual[4])
    page.get_by_role("tab", name="Chat").click()
    show_settings(page)
    page.get_by_label("Color what is unsure").uncheck()
    changed = settings()
    assert all(one != other for one, other in zip(usual, changed, strict=True))
    page.get_by_role("tab", name="Compare").click()
    page.get_by_label("Answers").check()
    page.locator("#compare-b-threshold").fill("0.5")

    page.reload()
    expect_ready(page)
    assert settings() == changed
    assert page.get_by_label("Answers").is_checked()
    assert page.locator("#compare-b-threshold").input_value() == "0.5"
    assert page.locator("#dialogue").evaluate("box => box.classList.contains('plain')"), "what a control does is done, too"

    for tab in ("Chat", "Draw"):
        page.get_by_role("tab", name=tab).click()
        show_settings(page)
        page.get_by_role("button", name="Reset to defaults").click()
    assert settings() == usual
    page.reload()
    expect_ready(page)
    assert settings() == usual
    assert page.locator("#compare-b-threshold").input_value() == "0.5", "each tab has a button of its own"


def test_settings_that_cannot_be_are_left_at_their_defaults(page):
    usual = [page.locator(f"#draw-{name}").input_value() for name in ("steps", "count", "seed")]
    for kept in (
        {
            "version": 1,
            "model": "debug",
            "values": {"draw-steps": "-3", "draw-count": "1000", "draw-think": "yes", "draw-seed": "x", "key": "k"},
        },
        {"version": 0, "model": "debug", "values": {"draw-steps": "3"}},
        {"version": 1, "model": "another", "values": {"draw-steps": "3"}},
        {"version": 1, "model": "debug", "values": None},
        None,
        "{",
    ):
        text = kept if isinstance(kept, str) else json.dumps(kept)
        page.evaluate("text => sessionStorage.setItem('mmada-settings-draw-form', text)", text)
        page.reload()
        expect_ready(page)
        assert [page.locator(f"#draw-{name}").input_value() for name in ("steps", "count", "seed")] == usual
        assert page.locator("#key").input_value() == ""


def test_what_is_drawn_said_and_typed_survives_a_reload(page):
    card = draw(page, "a cat", seed=1)
    source = card.locator("figure img").first.get_attribute("src")
    page.get_by_label("Prompt", exact=True).fill("half a prom")
    page.get_by_role("tab", name="Chat").click()
    page.get_by_label("Message").fill("Could you draw me a dog, please?")
    with page.expect_request("**/v1/images/generations") as sent:
        page.keyboard.press("Enter")
    assert sent.value.post_data_json["prompt"] == "a dog"
    page.locator("#dialogue .card").get_by_role("button", name="Save as a file").wait_for()
    answer = ask(page, "hello").locator(".answer").inner_text()

    page.reload()
    assert page.url.endswith("#chat"), "the address names the tab"
    page.locator(".turn.assistant .facts", has_text="evaluations").wait_for()
    assert page.locator(".turn.user").all_inner_texts() == ["Could you draw me a dog, please?", "hello"]
    assert page.locator(".turn.assistant .answer").inner_text() == answer
    assert page.locator("#dialogue .card figure img").first.get_attribute("src").startswith("data:image/png")
    page.go_back()
    page.locator("#panel-draw").wait_for()
    assert page.get_by_label("Prompt", exact=True).input_value() == "half a prom"
    assert page.locator("#gallery .card figure img").first.get_attribute("src") == source
    page.get_by_role("button", name="Remove").click()
    page.get_by_role("button", name="Undo").click()
    page.reload()
    page.locator("#gallery .card h3", has_text="a cat").wait_for()
    page.get_by_role("button", name="Remove").click()
    page.get_by_role("tab", name="Chat").click()
    page.get_by_role("button", name="New chat").click()
    page.get_by_role("button", name="Undo").click()
    page.locator(".turn.user", has_text="hello").wait_for()

    page.route("**/v1/chat/completions", lambda route: None)  # a server that does not answer
    page.get_by_label("Message").fill("how are you?")
    with page.expect_request("**/v1/chat/completions"):
        page.keyboard.press("Enter")
    page.reload()
    page.unroute("**/v1/chat/completions")
    again = page.locator(".turn.assistant", has_text="Not answered.")
    again.get_by_role("button", name="Try again").click()
    page.locator(".turn.assistant .facts", has_text="evaluations").nth(1).wait_for()
    assert page.locator(".turn.user").all_inner_texts()[-1] == "how are you?"
    page.get_by_role("button", name="New chat").click()
    page.reload()
    page.get_by_text("It unmasks all over").wait_for()
    page.get_by_role("tab", name="Draw").click()
    page.locator("#gallery .badge", has_text="Recorded").wait_for()


def test_two_tabs_keep_each_others_drawings(browser, server):
    context = browser.new_context(reduced_motion="reduce")
    with opened(browser, server, context=context) as first, opened(browser, server, context=context) as second:
        draw(first, "a cat", seed=1)
        second.locator("#gallery h3", has_text="a cat").wait_for()
        draw(second, "a dog", seed=2)
        first.locator("#gallery h3", has_text="a dog").wait_for()
        first.reload()
        first.locator("#gallery h3").nth(1).wait_for()
        assert first.locator("#gallery h3").all_inner_texts() == ["a dog", "a cat"]
    context.close()


def test_a_server_that_dies_leaves_the_prompt_and_a_way_on(browser, tmp_path):
    with serving(tmp_path / "log") as server, opened(browser, server) as page:
        show_settings(page)
        page.locator("#draw-steps").fill("64")
        page.locator("#draw-count").fill("8")
        page.get_by_label("Prompt", exact=True).fill("a cat")
        page.get_by_role("button", name="Draw", exact=True).click()
        page.locator("#gallery .card img[src^=data]").first.wait_for()
        server.process.kill()
        problem = page.locator("#gallery .problem")
        problem.get_by_text("The connection broke before the answer was complete.").wait_for()
        assert page.get_by_label("Prompt", exact=True).input_value() == "a cat"
        problem.get_by_role("button", name="Try again").click()
        page.locator("#gallery .problem").get_by_text("The server cannot be reached.").wait_for()


def test_a_result_is_a_file_that_any_studio_opens(page, browser, server, tmp_path):
    card = draw(page, "a cat", seed=7)
    source = card.locator("figure img").first.get_attribute("src")
    with page.expect_download() as download:
        card.get_by_role("button", name="Save as a file").click()
    download.value.save_as(tmp_path / "cat.json")
    record = json.loads((tmp_path / "cat.json").read_text())
    assert (record["prompt"], record["seed"], record["settings"]["steps"], record["model"]) == ("a cat", 7, 6, "debug")
    assert len(record["result"]["pictures"][0]["frames"]) == 6
    assert len(record["result"]["pictures"][0]["trace"]["confidences"]) == 64
    assert len(record["result"]["pictures"][0]["trace"]["top_logprobs"][63]) == 5

    with opened(browser, server) as other:
        other.locator("#draw-file").set_input_files(tmp_path / "cat.json")
        copy = other.locator("#gallery .card", has_text="From a file")
        copy.locator(f"img[src='{source}']").wait_for()
        copy.locator(".cells").focus()
        other.keyboard.press("ArrowRight")
        assert "likeliest there: code" in other.get_by_role("tooltip").inner_text()
        copy.get_by_role("button", name="Use its settings").click()
        values = [other.locator(field).input_value() for field in ("#draw-prompt", "#draw-seed", "#draw-steps")]
        assert values == ["a cat", "7", "6"]
        for change, why in hostile(record):
            (tmp_path / "evil.json").write_text(json.dumps(change))
            other.locator("#draw-file").set_input_files(tmp_path / "evil.json")
            if why:
                other.locator("#draw-hint").get_by_text(f"evil.json cannot be opened: {why}.").wait_for()
            else:
                other.locator(":is(h3, .turn.user)", has_text=change["title"]).wait_for()
            other.get_by_role("tab", name="Draw").click()
        assert "plain" in (other.locator(".turn.assistant").last.get_attribute("class") or ""), "confidence of sampled tokens has no colors"
        record["result"]["pictures"][0]["frames"] = ["https://example.com/track.png"]
        (tmp_path / "evil.json").write_text(json.dumps(record))
        other.locator("#draw-file").set_input_files(tmp_path / "evil.json")
        other.locator(".problem").get_by_text("evil.json cannot be opened: a picture in it is none.").wait_for()


def hostile(record: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Files that somebody might send, with why each is refused; nothing for those that do no harm."""
    frame = record["result"]["pictures"][0]["frames"][-1]

    def with_picture(**changes: Any) -> dict[str, Any]:
        return {**record, "result": {"pictures": [{"frames": [frame], **changes}], "thoughts": []}}

    def answer(title: str, settings: dict[str, Any], drafts: Any) -> dict[str, Any]:
        result = {"drafts": drafts, "answer": "a", "thoughts": ""}
        return {**record, "kind": "answer", "title": title, "settings": settings, "prompt": None, "result": result}

    yield {**record, "title": "x" * 300_000}, "a text in it has more than 200000 characters"
    yield {**record, "kind": "constructor"}, "it holds neither a drawing nor an answer"
    yield {**record, "seed": "1"}, "a number is missing in it"
    yield with_picture(frames=[frame] * 6000), "a list in it has more than 5000 items"
    yield with_picture(frames=["data:image/png;base64,AAAA"]), "a picture in it is none"
    yield with_picture(trace={"steps": [0] * 200_000, "confidences": []}), "a list in it has more than 65536 items"
    yield answer("no", {}, [[None]]), "a part is missing in it"
    yield {**record, "title": "<img src=x onerror=alert(1)>", "path": "/v1/images/edits"}, ""
    yield with_picture(trace={"steps": [1e300, "x"] * 32, "confidences": [7] * 64}) | {"title": "odd trace"}, ""
    yield answer("messages that are none", {"messages": 5}, []), ""
    yield answer("hot", {"temperature": 1}, [[{"text": "a", "confidence": 0.1}]]), ""


def test_two_settings_side_by_side_with_one_seed(page):
    page.get_by_role("tab", name="Compare").click()
    page.get_by_label("What both get").fill("a cat")
    page.locator("#compare-a-steps").fill("4")
    page.locator("#compare-b-steps").fill("2")
    sent: list[Any] = []
    page.on("request", lambda request: request.method == "POST" and sent.append(request.post_data_json))
    page.get_by_role("button", name="Compare", exact=True).click()
    page.locator("#comparisons").get_by_role("button", name="Save as a file").nth(1).wait_for()
    assert sorted(body["steps"] for body in sent) == [2, 4]
    assert sent[0]["seed"] == sent[1]["seed"]
    assert page.locator(".comparison .step").all_inner_texts() == ["4/4", "2/2"]
    page.get_by_label("Answers").check()
    page.get_by_label("What both get").fill("hello")
    page.get_by_role("button", name="Compare", exact=True).click()
    page.locator(".comparison").first.locator(".facts", has_text="evaluations").nth(1).wait_for()
    page.get_by_role("status").get_by_text("Compared.").wait_for()

    shown = ".comparison :is(h3, .badge, .answer, .facts, .step)"
    before = page.locator(shown).all_inner_texts()
    pictures = [image.get_attribute("src") for image in page.locator(".comparison figure img").all()]
    assert len(pictures) == 2
    page.reload()
    page.locator(".comparison").nth(1).wait_for()
    assert page.locator(shown).all_inner_texts() == before
    assert [image.get_attribute("src") for image in page.locator(".comparison figure img").all()] == pictures
    page.locator(".comparison").first.get_by_role("button", name="Remove: hello").click()
    page.reload()
    page.locator(".comparison", has_text="a cat").wait_for()
    assert page.locator(".comparison").count() == 1


def test_the_key_is_asked_for_and_kept_for_the_tab(browser, tmp_path):
    from playwright.sync_api import expect

    with serving(tmp_path / "log", "--api-key", "secret") as server:
        context = browser.new_context()
        page = context.new_page()
        page.goto(server.url)
        page.get_by_role("alert").get_by_text("the API key is missing or wrong", exact=False).wait_for()
        page.get_by_label("API key").fill("secret")
        page.keyboard.press("Tab")
        expect(page.locator("#model")).to_have_value("debug")
        assert page.evaluate("sessionStorage['mmada-key']") == "secret"
        assert page.evaluate("Object.values(localStorage).length") == 0
        page.reload()
        expect(page.locator("#model")).to_have_value("debug")
        context.close()
