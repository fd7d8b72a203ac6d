"""A checkpoint of any family is trained, by all weights, LoRA and rewards, on its own prompts, and loads again as what it was."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import get_args

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState

from mmada.canvas import Message
from mmada.errors import InputError
from mmada.families import FAMILIES
from mmada.pipeline import MMaDA
from mmada.rl import config as rl_config
from mmada.rl import setup as rl
from mmada.train.config import load
from mmada.train.setup import build_task, run
from mmada.train.stages import PromptLayout

from .conftest import COLORS

QUIET = {"prefetch": 0, "log_every": 1, "eval_every": 0, "sample_every": 0, "save_every": 0}
NOISE = {"mmada": "block", "mmada-parallel-m": "block", "illada": "last_block", "sdar": "block"}
DRAWING = [name for name, family in FAMILIES.items() if "draw" in family.abilities]


@pytest.fixture(autouse=True)
def _accelerate():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def written(path: Path, values: dict) -> Path:
    path.write_text(yaml.safe_dump(values))
    return path


def config(tmp_path: Path, start: Path, path: Path, **values: object):
    """Two steps of finetuning; images are 12 x 8 pixels, which is no square."""
    base = {"model": {"start": str(start)}, "data": {"path": str(path), "held_out": 1}, "out": str(tmp_path / "run"), "loop": QUIET}
    base["stage"] = {"name": "finetune", "batch": 4, "steps": 2}
    base["defaults"] = {"image_height": 12, "image_width": 8}
    return load(written(tmp_path / "run.yaml", {**base, **values}))


def losses(out: Path, name: str) -> list[float]:
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [line[name] for line in lines if name in line]


@pytest.mark.parametrize("rank", [0, 2], ids=["full", "lora"])
@pytest.mark.parametrize("name", FAMILIES)
def test_texts_are_learned_and_the_model_is_of_the_same_family(saved, data, tmp_path, name, rank):
    settings = config(tmp_path, saved(name), data / "words.jsonl", lora={"rank": rank})
    run(settings)
    found = losses(tmp_path / "run", "loss/text")
    assert len(found) == 2
    assert all(math.isfinite(loss) and loss > 0 for loss in found)
    before, after = (MMaDA.from_pretrained(path, device="cpu") for path in (saved(name), tmp_path / "run" / "model"))
    assert (after.family.name, type(after.prompts), after.layout) == (name, type(before.prompts), before.layout)
    weights = before.model.state_dict()
    assert any(not torch.equal(tensor, weights[key]) for key, tensor in after.model.state_dict().items())
    assert (tmp_path / "run" / "model" / "adapter").exists() == bool(rank)


@pytest.mark.parametrize("name", FAMILIES)
def test_rows_and_noise_are_those_of_the_family(saved, data, tmp_path, name):
    job = build_task(config(tmp_path, saved(name), data / "words.jsonl"))
    prompts, (row,) = MMaDA.from_pretrained(saved(name), device="cpu").prompts, job.plan.sources["text"].rows([0])
    color = next(color for color in COLORS if f"? {color}" in prompts.tokenizer.decode(row.canvas.tokens.tolist()))
    room = row.canvas.fields[0].num_total
    assert row.canvas.tokens.equal(prompts.chat([Message("user", f"Which one? {color}")], room, answer=color).tokens)
    assert [component.noise for component in job.plan.components] == [(NOISE.get(name, "count"),)]


@pytest.mark.parametrize("name", DRAWING)
def test_pictures_of_any_shape_are_learned(saved, data, tmp_path, name):
    """(h, w) codes with a newline behind each row, or one run of them, are masked and scored without anything in between."""
    job = build_task(config(tmp_path, saved(name), data / "pictures.jsonl"))
    layout = job.plan.layout
    (drawn,), (seen,) = (job.plan.sources[component].rows([1]) for component in ("draw", "look"))
    for canvas in (drawn.canvas, seen.canvas):
        codes = (canvas.tokens >= layout.image_offset).nonzero()[:, 0]
        assert len(codes) == 24
        breaks = canvas.tokens[codes[3] + 1 : codes[-1] : 5] if layout.newline_id is not None else torch.empty(0)
        assert all(int(i) == layout.newline_id for i in breaks)
    assert drawn.canvas.fields[0].positions.tolist() == codes_at(drawn.canvas.tokens, layout.image_offset)
    (batch,) = job.batches(0, rank=0, world=1, accumulate=1)
    sums = job.losses(job.module, batch, torch.device("cpu"))
    assert bool((sums / batch.normalizers).isfinite().all())
    sums.sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in job.module.parameters())


def codes_at(tokens: torch.Tensor, offset: int) -> list[int]:
    return (tokens >= offset).nonzero()[:, 0].tolist()


def test_what_a_family_cannot_learn_is_one_sentence(saved, data, tmp_path, caplog):
    start, able = saved("llada"), ", ".join(family.title for family in FAMILIES.values() if "draw" in family.abilities)
    counted = rf"LLaDA cannot draw \({able} can\) 4, LLaDA cannot look at images \({able} can\) 4"
    with pytest.raises(InputError, match=rf"holds no record that fits .* \({counted}\); see"):
        build_task(config(tmp_path, start, data / "pictures.jsonl"))
    both = data / "both.jsonl"
    both.write_text((data / "words.jsonl").read_text() + (data / "pictures.jsonl").read_text())
    job = build_task(config(tmp_path, start, both))
    assert job.names == ("text",)
    assert re.search(rf"8 of 12 records are left out \({counted}", caplog.text)
    shapes = {"data": {"world": "shapes"}, "stage": {"name": "base"}}
    with pytest.raises(InputError, match=f"^LLaDA cannot draw; {able} can$"):
        build_task(config(tmp_path, start, both, **shapes))
    published = {"name": "1.1", "components": {"t2i": {"mixture_weight": 0}, "lm": {"mixture_weight": 0}}}
    with pytest.raises(InputError, match=r"^component 'mmu': Lumina-DiMOO has no rows of layout=mmu; it learns chat, draw, edit, restyle$"):
        build_task(config(tmp_path, saved("lumina-dimoo"), data / "pictures.jsonl", stage=published))
    with pytest.raises(InputError, match=f"^LLaDA cannot draw; {able} can$"):
        rl.build_task(rewarded(tmp_path, start, data / "pictures.jsonl", "draw"))


def test_families_name_layouts_of_stages():
    for family in FAMILIES.values():
        assert family.layouts <= set(get_args(PromptLayout))
        for name in ("draw", "edit", "parallel"):
            assert (name in family.layouts) == (name in family.abilities)


def sums(samples):
    """A reward that tells any two answers or drawings apart."""
    return [float(sum(sample.image.tobytes() if sample.image else sample.text.encode())) for sample in samples]


def rewarded(tmp_path: Path, start: Path, path: Path, *tasks: str, rewards=("tests.families.test_training:sums",)):
    """One step of reinforcement learning."""
    plan = {
        "prompts": 1,
        "rewards": dict.fromkeys(rewards, 1.0),
        "decoding": {"max_new_tokens": 8, "image_steps": 3, "guidance_scale": 0.0, "image_guidance_scale": 0.0},
    }
    values = {
        "model": {"start": str(start)},
        "data": {"path": str(path)},
        "out": str(tmp_path / "rl"),
        "loop": QUIET,
        "steps": 1,
        "group": 4,
    }
    defaults = {"image_height": 12, "image_width": 8}
    tasks_ = dict.fromkeys(tasks, plan)
    return rl_config.load(written(tmp_path / "rl.yaml", {**values, "tasks": tasks_, "unfinished": "score", "defaults": defaults}))


@pytest.mark.parametrize(
    ("name", "tasks"), [("llada", ("text",)), ("dream", ("text",)), ("sdar", ("text",)), ("lumina-dimoo", ("draw", "understand"))]
)
def test_rewards_move_the_weights(saved, data, tmp_path, name, tasks):
    path = data / ("words.jsonl" if tasks == ("text",) else "pictures.jsonl")
    rl.run(rewarded(tmp_path, saved(name), path, *tasks))
    for task in tasks:
        assert math.isfinite(losses(tmp_path / "rl", f"loss/{task}")[0])
        assert losses(tmp_path / "rl", f"signal/{task}") == [1.0]
    before, after = (MMaDA.from_pretrained(path, device="cpu") for path in (saved(name), tmp_path / "rl" / "model"))
    assert (after.family.name, after.layout) == (name, before.layout)
    weights = before.model.state_dict()
    assert any(not torch.equal(tensor, weights[key]) for key, tensor in after.model.state_dict().items())
