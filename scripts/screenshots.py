"""Take screenshots of the studio for the documentation, with a real browser.

    python scripts/screenshots.py      # writes docs/images/studio-*.png

Needs the extras `serve` and `browser` and a Chromium on the PATH. The server runs as a process of its own, on a free port.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
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
DESKTOP, PHONE = (1180, 800), (360, 740)
MOST_BYTES = 400 * 1000
"""of all images together"""


def chat(page: Page) -> None:
    """A sum with thinking."""
    page.locator("#chat-examples button").first.click()
    answered(page, 1)


def unmasking(page: Page) -> None:
    """The same, at one of its first steps."""
    chat(page)
    steps = page.get_by_label("Steps of the answer")
    steps.fill(str(int(steps.get_attribute("max") or 0) // 3))


def ask(page: Page) -> None:
    page.locator("#chat-examples button").nth(2).click()
    answered(page, 1)


def draw(page: Page, count: int = 2) -> None:
    page.get_by_role("tab", name="Draw").click()
    page.locator("#draw-seed").fill("4")
    page.locator("#draw-count").fill(str(count))
    page.locator("#draw-examples button").first.click()
    page.get_by_role("button", name="Download").nth(count - 1).wait_for()


def draw_and_scrub(page: Page) -> None:
    """Three images; the second shows one of its first steps."""
    draw(page, 3)
    scrub = page.get_by_label("Steps of the picture").nth(1)
    scrub.fill(str(int(scrub.get_attribute("max") or 0) // 3))


def draw_on_a_phone(page: Page) -> None:
    draw(page, 1)
    page.locator(".card").scroll_into_view_if_needed()


def edit(page: Page) -> None:
    draw(page, 1)
    page.locator(".card").get_by_role("button", name="Edit").click()
    canvas = page.locator("#editor-canvas")
    box = canvas.bounding_box()
    assert box is not None
    page.locator("#editor-brush").fill("4")
    page.mouse.click(box["x"] + 0.19 * box["width"], box["y"] + 0.19 * box["height"])
    page.locator("#editor-prompt").fill("a yellow star to the left of a red heart")


def answered(page: Page, count: int) -> None:
    page.locator(".turn.assistant .facts", has_text="evaluations").nth(count - 1).wait_for()


SHOTS: dict[str, tuple[Callable[[Page], None], tuple[int, int], str]] = {
    "chat": (unmasking, DESKTOP, "light"),
    "chat-phone": (chat, PHONE, "light"),
    "ask": (ask, DESKTOP, "dark"),
    "draw": (draw_and_scrub, DESKTOP, "light"),
    "draw-phone": (draw_on_a_phone, PHONE, "dark"),
    "edit": (edit, DESKTOP, "light"),
}


def shoot(browser: Browser, url: str, name: str) -> bytes:
    """One image, on a page of its own. A palette keeps the file small."""
    act, (width, height), scheme = SHOTS[name]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme="dark" if scheme == "dark" else "light")
    page = context.new_page()
    page.set_default_timeout(120_000)
    page.goto(url)
    expect(page.locator("#model")).not_to_have_value("")
    act(page)
    page.wait_for_timeout(700)  # what lights up fades
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
    chromium = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
    if chromium is None:
        sys.exit("no Chromium on the PATH; install it (apt-get install chromium)")
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w+") as log:
        code = "from mmada.cli import main; main()"
        command = [sys.executable, "-c", code, "serve", "--model", options.model, "--name", options.name, "--port", "0", "--device", "cpu"]
        server = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            url = address(server, Path(log.name))
            with sync_playwright() as tools:
                browser = tools.chromium.launch(executable_path=chromium, args=ARGUMENTS)
                for name in options.only:
                    path = options.out / f"studio-{name}.png"
                    path.write_bytes(shoot(browser, url, name))
                    print(f"{path}: {path.stat().st_size} bytes")
                browser.close()
        finally:
            server.terminate()
            server.wait()
    total = sum(path.stat().st_size for path in options.out.glob("studio-*.png"))
    if total > MOST_BYTES:
        sys.exit(f"the pictures have {total} bytes together, more than {MOST_BYTES}; use fewer colors")


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
