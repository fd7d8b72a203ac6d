"""Take screenshots of the studio for the documentation, with a real browser.

    python scripts/screenshots.py      # writes docs/images/studio-*.png

Needs the extras `serve` and `browser` and a Chromium on the PATH. The server runs as a process of its own, on a free port.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from mmada.hub.checkpoint import DEFAULT_MODEL

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DESKTOP, PHONE = (1240, 800), (390, 780)
TIDY = r"""() => {
  document.activeElement.blur();
  for (const facts of document.querySelectorAll(".facts")) facts.textContent = facts.textContent.replace(/^[\d.]+ s · /, "");
}"""
"""No frame around what was used last, and no seconds of whatever machine took the pictures."""
MOST_BYTES = 700 * 1000
"""of all images together"""


def first_seconds(page: Page) -> None:
    """What a visitor sees at once: a recorded drawing that appears."""
    page.get_by_label("Steps of the picture").fill("11")


def variations(page: Page) -> None:
    """A picture that was planned, and its variations with plans of their own."""
    example(page, "a picture with a rainbow and one more octopus than rainbows")
    page.locator("#gallery").get_by_role("button", name="Variations").first.click()
    finished(page, "Variations: a picture")


def redrawn(page: Page) -> None:
    """A thing that became another, half uncovered."""
    example(page, "the dog becomes a cat")
    page.get_by_label("Before and after").fill("22")


def edit(page: Page) -> None:
    """One touch takes a whole thing."""
    page.get_by_role("button", name="Edit").click()
    box = page.locator("#editor-canvas").bounding_box()
    assert box is not None
    page.locator("#editor-brush").fill("1")
    page.mouse.click(box["x"] + 0.2 * box["width"], box["y"] + 0.8 * box["height"])


def cannot(page: Page) -> None:
    example(page, "a zeppelin above a dog")


def unmasking(page: Page) -> None:
    """A sum at one of its first steps, with a token told."""
    page.get_by_role("tab", name="Chat").click()
    page.locator("#chat-examples").get_by_role("button", name="Tom has 8 coins").click()
    page.locator(".turn.assistant .facts", has_text="evaluations").wait_for()
    steps = page.get_by_label("Steps of the answer")
    steps.fill(str(int(steps.get_attribute("max") or 0) // 2))
    page.get_by_label("Message").fill("draw a cat and a dog")
    page.keyboard.press("Enter")
    page.locator("#dialogue .card").get_by_role("button", name="Save as a file").wait_for()


def compare(page: Page) -> None:
    page.get_by_role("tab", name="Compare").click()
    page.get_by_label("What both get").fill("a rainbow above a dog")
    page.locator("#compare-seed").fill("4")
    page.get_by_role("button", name="Compare", exact=True).click()
    page.locator("#comparisons").get_by_role("button", name="Save as a file").nth(1).wait_for()


def example(page: Page, text: str) -> None:
    page.locator("#draw-examples").get_by_role("button", name=text).click()
    finished(page, text)


def finished(page: Page, title: str) -> None:
    page.locator("#gallery .card", has_text=title).first.get_by_role("button", name="Save as a file").wait_for()


SHOTS: dict[str, tuple[Callable[[Page], None], tuple[int, int], str]] = {
    "draw": (first_seconds, DESKTOP, "light"),
    "variations": (variations, DESKTOP, "dark"),
    "redrawn": (redrawn, DESKTOP, "light"),
    "edit": (edit, DESKTOP, "light"),
    "chat": (unmasking, DESKTOP, "light"),
    "compare": (compare, (1180, 960), "light"),
    "draw-phone": (first_seconds, PHONE, "light"),
    "cannot-phone": (cannot, PHONE, "dark"),
    "chat-phone": (unmasking, PHONE, "dark"),
}


def shoot(browser: Browser, url: str, name: str) -> bytes:
    """One image, on a page of its own. A palette keeps the file small."""
    act, (width, height), scheme = SHOTS[name]
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme="dark" if scheme == "dark" else "light", reduced_motion="reduce"
    )
    page = context.new_page()
    page.set_default_timeout(120_000)
    page.goto(url)
    expect(page.locator("#model")).not_to_have_value("")
    act(page)
    page.evaluate(TIDY)
    picture = Image.open(BytesIO(page.screenshot())).convert("RGB")
    context.close()
    buffer = BytesIO()
    picture.quantize(256, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--name", default=DEFAULT_MODEL, help="what the page calls it")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--only", nargs="*", choices=list(SHOTS), default=list(SHOTS))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with serving(options.model, options.name) as url, sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        for name in options.only:
            path = options.out / f"studio-{name}.png"
            path.write_bytes(shoot(browser, url, name))
            print(f"{path}: {path.stat().st_size} bytes")
        browser.close()
    total = sum(path.stat().st_size for path in options.out.glob("studio-*.png"))
    if total > MOST_BYTES:
        sys.exit(f"the pictures have {total} bytes together, more than {MOST_BYTES}; use fewer colors")


def chromium() -> str:
    """The path of a Chromium."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    raise SystemExit("no Chromium on the PATH; install it (apt-get install chromium)")


@contextlib.contextmanager
def serving(model: str, name: str) -> Iterator[str]:
    """A server of its own, while its address is used."""
    with tempfile.NamedTemporaryFile("w+") as log:
        code = "from mmada.cli import main; main()"
        command = [sys.executable, "-c", code, "serve", "--model", model, "--name", name, "--port", "0", "--device", "cpu"]
        server = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield address(server, Path(log.name))
        finally:
            server.terminate()
            server.wait()


def address(server: subprocess.Popen[bytes], log: Path) -> str:
    """The address of the server, once it listens."""
    for _ in range(1800):
        if found := re.search(r"running on (http://\S+)", log.read_text()):
            return found[1]
        if server.poll() is not None:
            break
        time.sleep(0.1)
    raise SystemExit(f"the server did not start:\n{log.read_text()}")


if __name__ == "__main__":
    main()
