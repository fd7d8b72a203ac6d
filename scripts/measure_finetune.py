"""Measure finetuning at its defaults: what is learned, and what is forgotten.

    python scripts/measure_finetune.py --work runs/finetune-measure -o docs/results/finetune.json

200 records say who does what in a town that does not exist: 50 facts, each asked in four ways. Each run starts from the built-in model,
takes 150 steps, and is measured by

    learned     exact answers to 45 questions of the records
    kept        what the built-in model could do before: held-out drawings, and questions with and without pictures, each verified by its world

A run is a name of RUNS with its settings; `--runs` chooses some. Results of runs that were measured before are kept in the file.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmada import MMaDA
from mmada.data.answers import normalize_answer
from mmada.data.find_world import find_world
from mmada.data.world import SampleKey
from mmada.eval import report
from mmada.generation.requests import Answer, ChatRequest, EmptyAnswerError, NotDrawnError, Request, Result
from mmada.train.config import load
from mmada.train.replay import export_replay, own_samples, world_samples
from mmada.train.setup import run
from mmada.train.world import request_of

START, CONFIG = "mmada-emoji-mixcot", Path(__file__).parents[1] / "configs" / "finetune.yaml"
TRADES = (
    "baker", "barber", "beekeeper", "blacksmith", "bookseller", "bus driver", "butcher", "carpenter", "clockmaker", "cobbler",
    "cook", "dentist", "doctor", "farmer", "ferryman", "firefighter", "fisher", "florist", "gardener", "glassblower",
    "goldsmith", "grocer", "guide", "harbor master", "innkeeper", "judge", "librarian", "lighthouse keeper", "locksmith", "mayor",
    "miller", "miner", "musician", "nurse", "painter", "pilot", "plumber", "poet", "postman", "potter",
    "printer", "sailor", "shepherd", "singer", "tailor", "teacher", "thatcher", "vet", "watchman", "weaver",
)  # fmt: skip
NUM_REPLAY, NUM_MORE, NUM_OWN = 1000, 4000, 200
ANIMALS = ("penguin", "turtle", "owl", "frog", "snail", "fox", "bear", "rabbit", "whale", "dog", "cat", "horse", "duck", "crab", "bee")
FORMS = ("Who is the {}?", "Who works as the {}?", "Which animal is the {} of the town?", "Tell me who the {} is.")
KEEP_BEST = ("data.eval_share=0.1", "loop.eval_every=25", "loop.keep_best=true")
RUNS: Mapping[str, Sequence[str]] = {
    "full": (),
    "lora": ("lora.rank=8",),
    "lora, rank 32": ("lora.rank=32",),
    "lora beside int4": ("lora.rank=8", "model.quantize=int4"),
    "full, replay of the world, 8 rows of each": ("data.replay={world}", "stage.batch=8"),
    "full, replay of the world": ("data.replay={world}",),
    "lora, replay of the world": ("lora.rank=8", "data.replay={world}"),
    "full, replay of the world, 4,000 records": ("data.replay={more}",),
    "lora, replay of the world, 4,000 records": ("lora.rank=8", "data.replay={more}"),
    "full, replay of its own": ("data.replay={own}",),
    "lora, replay of its own": ("lora.rank=8", "data.replay={own}"),
    "full, replay of the world, best": ("data.replay={world}", *KEEP_BEST),
}
"""Name -> settings on top of configs/finetune.yaml."""


def records() -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    who = {trade: ANIMALS[int(rng.integers(len(ANIMALS)))] for trade in TRADES}
    return [
        {"task": "text", "messages": [{"role": "user", "content": form.format(trade)}], "answer": {"text": f"a {animal}"}}
        for trade, animal in who.items()
        for form in FORMS
    ]


def measure(model: MMaDA, *, num: int) -> dict[str, Any]:
    asked = [record for i, record in enumerate(records()) if i % 4 == (i // 4) % 4][:45]
    answers = results_of(model, [ChatRequest(record["messages"]) for record in asked])
    right = sum(
        isinstance(answer, Answer) and normalize_answer(answer.text) == normalize_answer(record["answer"]["text"])
        for answer, record in zip(answers, asked, strict=True)
    )
    return {
        "learned": {"right": right, "of": len(asked)},
        "kept": {task: kept(model, task, num) for task in ("draw", "understand", "text")},
    }


def results_of(model: MMaDA, requests: Sequence[Request]) -> Sequence[Result]:
    """What the model makes of requests; an answer that stayed empty is a wrong one, not the end."""
    try:
        return model.run(requests)
    except (EmptyAnswerError, NotDrawnError) as error:
        return error.results


def kept(model: MMaDA, task: str, num: int) -> dict[str, int]:
    world = find_world("emoji")
    samples = [world.sample(SampleKey(task=task, split="test", seed=7, index=i, stream="finetune")) for i in range(num)]
    results = results_of(
        model, [request_of(sample, think=False, seed=i, upscale=model.image_tokenizer.upscale) for i, sample in enumerate(samples)]
    )
    verdicts = [
        world.verify(sample.origin, result.text if isinstance(result, Answer) else np.asarray(result.image.convert("RGB")))
        for sample, result in zip(samples, results, strict=True)
    ]
    return {"right": sum(verdicts), "of": num}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/finetune-measure"), help="folder of the runs")
    parser.add_argument("--runs", nargs="*", default=list(RUNS), help="names of RUNS; NAME:key=value,… adds settings")
    parser.add_argument("--num", type=int, default=60, help="held-out samples of each task that should stay")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.work.mkdir(parents=True, exist_ok=True)
    file = arguments.work / "town.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records()))
    world, own = find_world("emoji"), arguments.work / "own.jsonl"
    if not own.exists():
        export_replay(world_samples(world, num=NUM_REPLAY), arguments.work / "world.jsonl")
        export_replay(world_samples(world, num=NUM_MORE), arguments.work / "more.jsonl")
        questions = list(world_samples(world, num=NUM_OWN))
        export_replay(own_samples(MMaDA.from_pretrained(START).run, questions, source=START), own)
    found = json.loads(arguments.output.read_text()) if arguments.output.exists() else {"suite": "finetune", "environment": {}, "runs": {}}
    found["environment"] = report.environment("python scripts/measure_finetune.py -o docs/results/finetune.json")
    if "before" not in found["runs"]:
        found["runs"]["before"] = measure(MMaDA.from_pretrained(START), num=arguments.num)
    for given in arguments.runs:
        name, _, more = given.partition(":")
        settings = [*RUNS[name], *filter(None, more.split(","))]
        out = arguments.work / given.replace("/", "-").replace(", ", "-").replace(" ", "-")
        files = {kind: arguments.work / f"{kind}.jsonl" for kind in ("world", "more", "own")}
        filled = [setting.format(**files) for setting in settings]
        outcome = run(load(CONFIG, [f"data.path={file}", f"out={out}", *filled]))
        measured = measure(MMaDA.from_pretrained(out / "model"), num=arguments.num)
        found["runs"][given] = {
            "settings": settings,
            "minutes": round(outcome.seconds / 60, 1),
            **measured,
            "losses": outcome.compared,
            "kept_step": outcome.kept_step,
        }
        print(given, found["runs"][given], flush=True)
        report.save(arguments.output, found)


if __name__ == "__main__":
    main()
