"""A hundred requests of a stranger, drawn at 256 x 256 pixels and shown on one small sheet, scored by eye and by the judge.

    python scripts/emoji/contact_sheet.py -o docs/results/contact_sheet.json --sheet docs/images/contact_sheet.webp

The record has a line for each tile, row by row. `eye` is written into it after a look at the sheet: right, partly or wrong. A record that is
there keeps it where neither prompt nor codes changed; elsewhere it is null. What was not drawn is a gray tile.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from mmada import MMaDA
from mmada.data.world import SuiteSettings
from mmada.eval import report
from mmada.hub.checkpoint import DEFAULT_MODEL
from mmada.worlds.emoji.measure.natural import Wish, drawn
from mmada.worlds.emoji.measure.strangers import strangers_wishes

NUM, COLUMNS, TILE, GAP = 100, 10, 96, 4
VERDICTS = ("right", "partly", "wrong")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--sheet", type=Path, required=True)
    options = parser.parse_args()
    model = MMaDA.from_pretrained(options.model, device="cpu")
    wishes = [wish for wish in strangers_wishes() if wish.unknown is None][:NUM]
    before = _eyes(options.out)
    tiles, images = [], []
    for wish, drawing, shows in drawn(model, wishes, SuiteSettings()):
        mark = hashlib.sha256(drawing.codes.numpy().tobytes()).hexdigest()[:12] if drawing.problem is None else "refused"
        eye = "wrong" if mark == "refused" else before.get((wish.prompt, mark))
        tiles.append({"prompt": wish.prompt, "wanted": _wanted(wish), "codes": mark, "judge": shows, "eye": eye})
        images.append(None if drawing.problem else drawing.image)
    _sheet(images).save(options.sheet, quality=80, method=6)
    command = f"python scripts/emoji/contact_sheet.py -o {options.out} --sheet {options.sheet}"
    record = {
        "suite": "contact_sheet",
        "environment": report.environment(command, "cpu"),
        "model": options.model,
        "columns": COLUMNS,
        "eye": {verdict: sum(tile["eye"] == verdict for tile in tiles) for verdict in VERDICTS},
        "tiles": tiles,
    }
    options.out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(Counter(tile["eye"] for tile in tiles), f"judge: {sum(tile['judge'] for tile in tiles)} right")


def _eyes(file: Path) -> Mapping[tuple[str, str], str | None]:
    """Prompt and codes -> what was seen by eye."""
    tiles = json.loads(file.read_text(encoding="utf-8"))["tiles"] if file.exists() else []
    return {(tile["prompt"], tile["codes"]): tile["eye"] for tile in tiles}


def _wanted(wish: Wish) -> str:
    assert wish.spec is not None
    things = ", ".join(f"{name} {number}" for name, number in wish.spec.counts)
    return things + (f"; background {wish.spec.background}" if wish.spec.background else "")


def _sheet(images: Sequence[Any]) -> Image.Image:
    side = TILE + GAP
    sheet = Image.new("RGB", (COLUMNS * side + GAP, -(-len(images) // COLUMNS) * side + GAP), "#b8b8b8")
    for i, image in enumerate(images):
        tile = Image.new("RGB", (TILE, TILE), "#8a8a8a") if image is None else image.resize((TILE, TILE), Image.Resampling.LANCZOS)
        sheet.paste(tile, (GAP + i % COLUMNS * side, GAP + i // COLUMNS * side))
    return sheet


if __name__ == "__main__":
    main()
