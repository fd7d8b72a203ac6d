"""Record the studio in a real browser: the drawing that it opens with, and twenty seconds of it for README.

    python scripts/record_studio.py drawing    # writes mmada/serve/web/recorded.json, as the page itself saves it
    python scripts/record_studio.py film       # writes docs/images/studio.gif

Needs the extras `serve` and `browser` and a Chromium on the PATH. The film has the page's own time: its timers run only when a frame
is taken, so that a busy machine does not make it jerk. The seconds that the model needs are left out.
"""

from __future__ import annotations

import argparse
import base64
import json
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright
from screenshots import ARGUMENTS, TIDY, chromium, example, serving

from mmada.hub.checkpoint import DEFAULT_MODEL

DRAWING = Path("mmada/serve/web/recorded.json")
FILM = Path("docs/images/studio.gif")
PROMPT, SEED = "two red hearts above a dog", 3
SIZE, SHOWN = (1180, 740), (826, 518)
"""of the page, and of the film, in pixels"""
FRAME = 120
"""milliseconds"""
COLORS = 192
MOST_BYTES = 2_000_000
OWN_TIME = """
(() => {
  let now = 0, last = 0;
  const waiting = new Map();
  window.setTimeout = (act, delay = 0) => { waiting.set(++last, { at: now + delay, act }); return last; };
  window.clearTimeout = (id) => waiting.delete(id);
  window.requestAnimationFrame = (act) => window.setTimeout(() => act(performance.now()), 16);
  performance.now = () => now;
  window.passTime = (delay) => {
    for (const end = now + delay; ; ) {
      const due = [...waiting].filter(([, one]) => one.at <= end).sort(([, a], [, b]) => a.at - b.at)[0];
      if (!due) { now = end; return; }
      waiting.delete(due[0]);
      now = Math.max(now, due[1].at);
      due[1].act();
    }
  };
})()
"""


def drawing(page: Page) -> None:
    """Draw, save, and make the file small: what is on the way needs no last bit."""
    page.locator("details.settings:visible").evaluate("box => { box.open = true; }")
    page.locator("#draw-seed").fill(str(SEED))
    page.get_by_label("Prompt", exact=True).fill(PROMPT)
    page.get_by_role("button", name="Draw", exact=True).click()
    save = (
        page.locator("#gallery .card", has_text="evaluations").filter(has_not_text="Recorded").get_by_role("button", name="Save as a file")
    )
    with page.expect_download() as download:
        save.click()
    record = json.loads(download.value.path().read_text(encoding="utf-8"))
    del record["result"]["ms"]  # of a machine that is not the visitor's
    for picture in record["result"]["pictures"]:
        picture["frames"] = [*map(smaller, picture["frames"][:-1]), picture["frames"][-1]]
    DRAWING.write_text(json.dumps(record, separators=(",", ":")), encoding="utf-8")
    print(f"{DRAWING}: {DRAWING.stat().st_size} bytes")


def smaller(address: str) -> str:
    buffer = BytesIO()
    Image.open(BytesIO(base64.b64decode(address.partition(",")[2]))).save(buffer, "WEBP", quality=88, method=6)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


class Film:
    """Frames of a page."""

    def __init__(self, page: Page) -> None:
        self.page, self.frames = page, list[Image.Image]()

    def roll(self, seconds: float) -> None:
        for _ in range(round(1000 * seconds / FRAME)):
            self.page.evaluate(f"passTime({FRAME})")
            self.page.evaluate(TIDY)
            shot = Image.open(BytesIO(self.page.screenshot())).convert("RGB")
            self.frames.append(shot.resize(SHOWN, Image.Resampling.LANCZOS))

    def save(self, path: Path) -> None:
        """With one palette for all frames, so that what stands still costs nothing."""
        sample = self.frames[4::8]
        sheet = Image.new("RGB", (SHOWN[0], SHOWN[1] * len(sample)))
        for i, frame in enumerate(sample):
            sheet.paste(frame, (0, SHOWN[1] * i))
        palette = sheet.quantize(COLORS, method=Image.Quantize.MAXCOVERAGE)  # the yellow of a cat is a small part of a page
        first, *others = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in self.frames]
        first.save(path, save_all=True, append_images=others, duration=FRAME, loop=0, optimize=True)
        seconds = len(self.frames) * FRAME / 1000
        print(f"{path}: {path.stat().st_size} bytes, {seconds:.1f} s")
        if path.stat().st_size > MOST_BYTES:
            raise SystemExit(f"{path} has more than {MOST_BYTES} bytes; use fewer colors or frames")


def film(page: Page) -> None:
    """The recording, a plan and its picture, variations, an edit, a refusal, a sum."""
    made = Film(page)
    made.roll(2.9)
    for text, title, seconds in (
        ("a picture with a rainbow and one more octopus than rainbows", None, 3.0),
        ("Variations", "Variations: a picture", 3.4),
        ("the dog becomes a cat", None, 3.2),
        ("a zeppelin above a dog", None, 2.9),
    ):
        if title is None:
            example(page, text)
        else:
            page.locator("#gallery").get_by_role("button", name=text).first.click()
            page.locator("#gallery .card", has_text=title).get_by_role("button", name="Save as a file").wait_for()
        page.evaluate("scrollTo(0, 0)")
        made.roll(seconds)
    page.locator("#draw-examples").get_by_role("button", name="Tom has 8 coins").click()
    page.locator(".turn.assistant .facts", has_text="evaluations").wait_for()
    made.roll(3.4)
    made.save(FILM)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["drawing", "film"])
    options = parser.parse_args()
    with serving(DEFAULT_MODEL, DEFAULT_MODEL) as url, sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        motion = "no-preference" if options.what == "film" else "reduce"
        context = browser.new_context(viewport={"width": SIZE[0], "height": SIZE[1]}, reduced_motion=motion)
        page = context.new_page()
        page.set_default_timeout(120_000)
        if options.what == "film":
            page.add_init_script(OWN_TIME)
        page.goto(url)
        expect(page.locator("#model")).not_to_have_value("")
        {"drawing": drawing, "film": film}[options.what](page)
        browser.close()


if __name__ == "__main__":
    main()
