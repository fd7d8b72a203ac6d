"""What the model says and draws while it is trained, as files to look at.

samples/step-00001000/answers.jsonl     prompt, reference, thinking and answer of each sample
samples/step-00001000/draw-0.png        what was drawn
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from mmada.data.records import EDIT_TASKS
from mmada.errors import InputError
from mmada.generation.engine import Engine
from mmada.generation.planner import Planner
from mmada.generation.programs import program_of
from mmada.generation.requests import Answer, ChatRequest, DrawRequest, Request, edit_request
from mmada.sampling import Denoiser
from mmada.train.source import ExampleSource, TrainingExample
from mmada.train.stages import TaskName

__all__ = ["write_samples"]


def write_samples(
    directory: Path | None,
    denoiser: Denoiser,
    planner: Planner,
    samples: Mapping[TaskName, ExampleSource],
    *,
    num_samples: int,
    thinks: bool,
    device: torch.device | str = "cpu",
) -> None:
    """Answer and draw the first held-out samples of each task, by the recipes that the finished model will use.

    directory  None: nothing is written, by a process that only shares the forward passes of another one
    thinks     let it think before it answers; drawings that need thinking always get it
    """
    asked = [(task, sample) for task, source in samples.items() for sample in source.take(range(num_samples)) if sample.messages]
    engine = Engine(denoiser, planner.layout, device=device)
    chosen, states, refused = [], [], []
    for seed, (task, sample) in enumerate(asked):
        try:
            states.append(engine.add(program_of(_request(task, sample, planner, thinks=thinks, seed=seed), planner)))
        except InputError as error:  # such as a long prompt that leaves no room to think in
            refused.append({"task": task, "prompt": sample.prompt, "reference": sample.answer, "problem": str(error)})
        else:
            chosen.append((task, sample))
    engine.drive()
    if directory is None:
        return
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "answers.jsonl").open("w", encoding="utf-8") as stream:
        for i, ((task, sample), state) in enumerate(zip(chosen, states, strict=True)):
            result = state.result
            assert result is not None
            line = {"task": task, "prompt": sample.prompt, "reference": sample.answer, "thinking": result.thinking}
            if isinstance(result, Answer):
                line["answer"] = result.text
            else:
                line |= {"drawn": result.prompt, "picture": f"{task}-{i}.png"}
                if result.answer is not None:
                    line |= {"thinking": result.answer.thinking, "answer": result.answer.text}
                result.image.save(directory / f"{task}-{i}.png")
            stream.write(json.dumps(line) + "\n")
        stream.writelines(json.dumps(line) + "\n" for line in refused)


def _request(task: TaskName, sample: TrainingExample, planner: Planner, *, thinks: bool, seed: int) -> Request:
    """What a user would ask; the pictures that are given are what their codes stand for."""
    if task in ("draw", "reason_draw"):
        return DrawRequest(sample.prompt, think=task == "reason_draw", seed=seed)
    seen = [planner.image_tokenizer.restore_images(codes.view(1, *planner.grid))[0] for codes in sample.seen]
    if task in EDIT_TASKS:
        return edit_request(task, sample.prompt, seen, size=planner.drawing_size, seed=seed)
    return ChatRequest(sample.messages, seen, think=thinks, seed=seed, calculator=False)
