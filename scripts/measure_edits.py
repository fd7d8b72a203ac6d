"""A small model of MMaDA-Parallel-A learns edits from nothing: an image tokenizer, records, training, and edits of pictures that it has not seen.

    python scripts/measure_edits.py --work runs/edits -o docs/results/edits.json

The pictures are those of the world of shapes. 40 scenes are sources of training, 8 are held out. Three tasks teach colors:

    edit       picture, "make it blue"                              ->  the shape in blue
    restyle    picture, a shape of another color, "like this"       ->  the first shape in the color of the second
    parallel   picture, "make it blue"                              ->  the shape in blue, and "a blue circle at the top left"

`loss` is that of the held-out records, in nats a token, before and after. `right` counts edits of held-out sources whose picture is the wanted scene
by the world's own verifier; a text must also be right to the letter.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from mmada import MMaDA
from mmada.data.records import EDIT_TASKS
from mmada.train.config import load
from mmada.train.setup import run
from mmada.worlds.shapes import COLORS, SCENES, Scene, Shapes, render

SIZE = 32
TOKENIZER: Mapping[str, Any] = {
    "stage": {"name": "vqvae", "batch": 8, "steps": 400, "optim": {"lr": 3e-3, "warmup": 10}},
    "net": {"ch": 16, "encoder_ch_mult": [1, 1, 1], "encoder_num_res_blocks": [1, 1, 1], "z_channels": 6, "num_codes": 16},
    "data": {"world": "shapes"},
}
MODEL: Mapping[str, Any] = {
    "stage": {"name": "finetune", "batch": 24, "steps": 600, "optim": {"lr": 5e-3, "warmup": 20}, "answer_lengths": [48]},
    "model": {"start": "", "family": "mmada-parallel-a", "preset": "debug", "num_merges": 0, "max_sequence_length": 1024},
    "defaults": {"image_height": SIZE, "image_width": SIZE, "image_steps": 8, "max_new_tokens": 48},
}
QUIET: Mapping[str, Any] = {"prefetch": 0, "log_every": 10, "sample_every": 0, "save_every": 0}


def answers(*, held_out: bool) -> Iterable[tuple[str, list[Scene], str, Scene]]:
    """Task, sources, words and wanted scene."""
    for number, scene in enumerate(scene for scene in SCENES if scene.is_held_out == held_out):
        for color in COLORS:
            if color == scene.color:
                continue
            wanted = replace(scene, color=color)
            same = [other for other in SCENES if other.color == color and (other.shape, other.place) != (scene.shape, scene.place)]
            yield "edit", [scene], f"make it {color}", wanted
            yield "restyle", [scene, same[number % len(same)]], "like this", wanted
            yield "parallel", [scene], f"make it {color}", wanted


def write(folder: Path) -> None:
    """training.jsonl and held-out.jsonl, with their pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    for scene in SCENES:
        Image.fromarray(render(scene)).save(folder / _name(scene))
    for name, held_out in (("training", False), ("held-out", True)):
        lines = [json.dumps(record(*one)) for one in answers(held_out=held_out)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _name(scene: Scene) -> str:
    return f"{scene.prompt.replace(' ', '-')}.png"


def record(task: str, sources: list[Scene], words: str, wanted: Scene) -> dict[str, Any]:
    content = [*({"type": "image", "image": _name(scene)} for scene in sources), {"type": "text", "text": words}]
    answer = {"image": _name(wanted)} | ({"text": wanted.prompt} if task == "parallel" else {})
    return {"task": task, "messages": [{"role": "user", "content": content}], "answer": answer}


def trained(folder: Path, name: str, values: Mapping[str, Any], settings: list[str]) -> Path:
    """Run a configuration that is written to the folder; its output."""
    file, out = folder / f"{name}.yaml", folder / name
    file.write_text(yaml.safe_dump({"loop": dict(QUIET), **values}), encoding="utf-8")
    run(load(file, [f"out={out}", *settings]))
    return out


def metrics(out: Path, group: str) -> list[dict[str, float]]:
    """All lines that have values of a group, of these."""
    lines = map(json.loads, (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    found = [{name.removeprefix(group): round(value, 3) for name, value in line.items() if name.startswith(group)} for line in lines]
    return [line for line in found if line]


def restored(model: MMaDA) -> int:
    """Of all 48 scenes, how many the image tokenizer restores so that the world calls them right."""
    codes = model.image_tokenizer.encode_images([Image.fromarray(render(scene)) for scene in SCENES])
    pictures = zip(SCENES, model.image_tokenizer.restore_images(codes), strict=True)
    return sum(Shapes().verify(scene, np.asarray(picture.convert("RGB"))) for scene, picture in pictures)


def measured(model: MMaDA) -> dict[str, dict[str, int]]:
    """Task -> how many edits of held-out sources there were, and how many were right."""
    world, counts = Shapes(), {task: {"asked": 0, "right": 0} for task in EDIT_TASKS}
    for seed, (task, sources, words, wanted) in enumerate(answers(held_out=True)):
        pictures = [Image.fromarray(render(scene)) for scene in sources]
        if task == "parallel":
            drawn = model.write_and_draw(words, pictures, seed=seed)
        else:
            drawn = model.edit(words, pictures, restyle=task == "restyle", steps=8, seed=seed)
        is_right = world.verify(wanted, np.asarray(drawn.image.convert("RGB")))
        is_right &= drawn.answer is None or drawn.answer.text == wanted.prompt
        counts[task]["asked"] += 1
        counts[task]["right"] += is_right
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("settings", nargs="*", help="key=value of the model's run")
    arguments = parser.parse_args()
    begin = time.perf_counter()
    write(arguments.work)
    images = trained(arguments.work, "tokenizer", TOKENIZER, ["loop.eval_every=400"])
    data = {"path": str(arguments.work / "training.jsonl"), "eval_path": str(arguments.work / "held-out.jsonl"), "held_out": 24}
    own = {**MODEL, "model": {**MODEL["model"], "image_tokenizer": str(images / "model")}, "data": data}
    out = trained(arguments.work, "model", own, ["loop.eval_every=0", *arguments.settings])
    losses, model = metrics(out, "compare/held_out/"), MMaDA.from_pretrained(out / "model", device="cpu")
    values = {
        "command": "python scripts/measure_edits.py --work runs/edits -o docs/results/edits.json",
        "machine": f"torch {torch.__version__}, {torch.get_num_threads()} threads",
        "tokenizer": metrics(images, "eval/")[-1],
        "restored": restored(model),
        "loss": {"before": losses[0], "after": losses[-1]},
        "right": measured(model),
        "minutes": round((time.perf_counter() - begin) / 60, 1),
    }
    arguments.output.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
