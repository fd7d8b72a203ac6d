"""Edits are learned: what a run does to pictures that it has not seen. scripts/measure_edits.py does the same for longer."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from accelerate.state import AcceleratorState
from PIL import Image

from mmada.data.records import EDIT_TASKS
from mmada.pipeline import MMaDA
from mmada.train.config import load
from mmada.train.setup import run
from mmada.worlds.shapes import COLORS, SCENES, render

from .conftest import record
from .test_training import QUIET, config, losses, written


@pytest.fixture(autouse=True)
def _accelerate():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def recolored(tmp_path_factory):
    """training.jsonl, held-out.jsonl: shapes of the world of shapes, and each in the three other colors; sources are held out."""
    root = tmp_path_factory.mktemp("recolored")
    for scene in SCENES:
        Image.fromarray(render(scene)).save(root / name_of(scene))
    lines: dict[bool, list[str]] = {False: [], True: []}
    for number, scene in enumerate(SCENES):
        for color in COLORS.keys() - {scene.color}:
            wanted = replace(scene, color=color)
            model = next(other for other in SCENES[number % 12 :] + SCENES if other.color == color and other.shape != scene.shape)
            source, style = ({"type": "image", "image": name_of(one)} for one in (scene, model))
            make, like = ({"type": "text", "text": words} for words in (f"make it {color}", "like this"))
            drawn = {"image": name_of(wanted)}
            lines[scene.is_held_out] += [
                json.dumps(record([source, make], drawn, task="edit")),
                json.dumps(record([source, style, like], drawn, task="restyle")),
                json.dumps(record([source, make], {**drawn, "text": wanted.prompt}, task="parallel")),
            ]
    for name, held_out in (("training", False), ("held-out", True)):
        (root / f"{name}.jsonl").write_text("\n".join(lines[held_out]) + "\n")
    return root


def name_of(scene):
    return f"{scene.prompt.replace(' ', '-')}.png"


def sizes(root, **values):
    paths = {"path": str(root / "training.jsonl"), "eval_path": str(root / "held-out.jsonl")}
    return {"data": {**paths, "held_out": 4}, **values}


def test_loss_of_edits_that_were_not_seen_falls(saved, recolored, tmp_path):
    """A few steps at a size that takes seconds: of all three tasks."""
    stage = {"name": "finetune", "batch": 6, "steps": 8, "optim": {"lr": 0.01, "warmup": 2}, "answer_lengths": [48]}
    values = sizes(recolored, stage=stage, defaults={"image_height": 8, "image_width": 8})
    run(config(tmp_path, saved("mmada-parallel-a"), recolored / "training.jsonl", **values))
    for task in EDIT_TASKS:
        before, after = losses(tmp_path / "run", f"compare/held_out/{task}")
        assert after < 0.9 * before


@pytest.mark.slow
def test_tokenizer_and_model_learn_edits_from_nothing(recolored, tmp_path):
    """Stage vqvae, then a new model of MMaDA-Parallel-A: held-out losses fall far below a guess among its codes, ln 16."""
    images = {
        "stage": {"name": "vqvae", "batch": 8, "steps": 60, "optim": {"lr": 3e-3, "warmup": 5}},
        "net": {"ch": 16, "encoder_ch_mult": [1, 1, 1], "encoder_num_res_blocks": [1, 1, 1], "z_channels": 6, "num_codes": 16},
        "data": {"world": "shapes"}, "loop": QUIET, "out": str(tmp_path / "images"),
    }  # fmt: skip
    run(load(written(tmp_path / "images.yaml", images)))
    model = {
        "stage": {"name": "finetune", "batch": 12, "steps": 80, "optim": {"lr": 5e-3, "warmup": 10}, "answer_lengths": [48]},
        "model": {
            "start": "", "family": "mmada-parallel-a", "preset": "debug", "num_merges": 0, "max_sequence_length": 1024,
            "image_tokenizer": str(tmp_path / "images" / "model"),
        },
        "defaults": {"image_height": 32, "image_width": 32}, "loop": QUIET, "out": str(tmp_path / "model"),
    }  # fmt: skip
    run(load(written(tmp_path / "model.yaml", sizes(recolored, **model))))
    for task in EDIT_TASKS:
        before, after = losses(tmp_path / "model", f"compare/held_out/{task}")
        assert after < 0.75 * before
    drawn = MMaDA.from_pretrained(tmp_path / "model" / "model", device="cpu").edit(
        "make it red", [recolored / name_of(SCENES[-1])], steps=4
    )
    assert drawn.image.size == (32, 32)
