"""Tiny checkpoints of every family on disk, and records to train them on: made once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from mmada.families import named

from .tiny import TEMPLATED, templated, tiny

COLORS = ("red", "blue", "green", "white")


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """Family -> a directory with a tiny checkpoint of it, made when it is first asked for."""
    root, made = tmp_path_factory.mktemp("families"), {}

    def directory(name: str) -> Path:
        if name not in made:
            family = named(name)
            model = templated(family) if name in TEMPLATED else tiny(family)
            made[name] = root / name
            model.save_pretrained(made[name])
        return made[name]

    return directory


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """words.jsonl: four questions; pictures.jsonl: four pictures to draw and four to look at, of 12 x 8 pixels."""
    root = tmp_path_factory.mktemp("data")
    words, pictures = [], []
    for color in COLORS:
        Image.new("RGB", (8, 12), color).save(root / f"{color}.png")
        image = {"type": "image", "image": f"{color}.png"}
        words.append(record(f"Which one? {color}", {"text": color}))
        pictures.append(record(f"paint it {color}", {"image": f"{color}.png"}, task="draw"))
        pictures.append(record([image, {"type": "text", "text": "Color?"}], {"text": color}, task="understand"))
    for name, records in (("words", words), ("pictures", pictures)):
        (root / f"{name}.jsonl").write_text("".join(json.dumps(value) + "\n" for value in records))
    return root


def record(content: object, answer: object, *, task: str = "text") -> dict[str, object]:
    return {"task": task, "messages": [{"role": "user", "content": content}], "answer": answer}
