"""Real classes at a tiny size: the debug model, prompts that are letters, rewards that count. `main` trains in another process."""

import copy
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from mmada.canvas import Canvas, Field, Message
from mmada.generation.requests import ChatRequest, DrawRequest
from mmada.pipeline import MMaDA
from mmada.rl.config import RLConfig, RLTaskConfig
from mmada.rl.records import Prompt, Segment
from mmada.rl.rollout import Decoding, generate_rollouts
from mmada.rl.settings import ObjectiveConfig
from mmada.rl.step import Policy
from mmada.rl.task import RLTask
from mmada.train import state
from mmada.train.loop import LoopConfig, train
from mmada.train.optim import OptimizerConfig

QUIET = LoopConfig(prefetch=0, log_every=1, eval_every=0, sample_every=0, save_every=0)
ADAM = OptimizerConfig(lr=3e-3, weight_decay=0.0, schedule="constant", warmup=1, clip=1.0)


class Letters:
    """Prompts of one task, each a letter."""

    def __init__(self, task):
        self.task = task

    def take(self, indices):
        texts = [chr(ord("a") + index % 3) for index in indices]
        make = (lambda t: DrawRequest(t, think=self.task == "reason_draw")) if "draw" in self.task else ChatRequest
        return [Prompt(task=self.task, index=i, request=make(text), reference=text) for i, text in zip(indices, texts, strict=True)]


def vowels(samples):
    """The share of letters that come early in the alphabet."""
    return [sum(c in "abcdefgh" for c in s.text) / max(1, len(s.text)) if s.image is None or s.text else None for s in samples]


def brightness(samples):
    return [None if s.image is None else float(np.asarray(s.image).mean()) / 255 for s in samples]


def pipeline(*, dtype=torch.float32, full_attention=False, seed=0):
    model = MMaDA.debug(seed=seed)
    model.model.to(dtype)
    model.use(full_attention=full_attention, block_length=8, image_steps=4, reasons_in_one_row=False)
    return model


def config(*names, out="unused", prompts=2, decoding=None, **changes):
    decoding = decoding or Decoding(max_new_tokens=16, guidance_scale=0.0)
    plans = tuple(RLTaskConfig(name=n, prompts=prompts, rewards={"format": 1.0}, decoding=decoding) for n in names or ("text",))
    settings = {"group": 4, "optim": ADAM, "loop": QUIET, "steps": 4, "unfinished": "score", "debug": True, **changes}
    return RLConfig(out=str(out), tasks=plans, **settings)


def task(settings, *, rewards=None, model=None, reference=None, sources=None):
    """rewards: {task: {name: (weight, function)}}; vowels for texts and brightness for drawings."""
    model = model or pipeline()
    usual = {"text": {"vowels": (1.0, vowels)}, "draw": {"brightness": (1.0, brightness)}}
    usual["reason_draw"] = {**usual["text"], **usual["draw"]}
    model.model.train()
    policy = Policy(model.model)
    if reference is None and settings.objective.kl_weight:
        reference = Policy(pipeline().model)
    names = [plan.name for plan in settings.active]
    return RLTask(
        config=settings,
        module=policy,
        planner=model.planner,
        sources=sources or {name: Letters(name) for name in names},
        rewards=rewards or {name: usual[name] for name in names},
        reference=reference,
        held_out={name: Letters(name) for name in names},
    )


class Elsewhere:
    """Workers in this process: a model of their own, which samples when somebody waits for it."""

    def __init__(self, job):
        self.policy, self.planner, self.sent = copy.deepcopy(job.module).eval(), job.planner, []

    def begin(self, weights, prompts, decoding, *, num, seed, record):
        held = {name: tensor.clone() for name, tensor in weights.items()}
        self.sent.append((prompts[0].index, held))
        outer = self

        class Pending:
            def result(self):
                with torch.no_grad():
                    for name, tensor in held.items():
                        outer.policy.get_parameter(name).copy_(tensor)
                    denoise = lambda queries: outer.policy(queries=queries)  # noqa: E731
                    return generate_rollouts(prompts, outer.planner, denoise, decoding, num=num, seed=seed, record=record), 0

        return Pending()


def fit(job, out, *, steps=None, settings=None, reports=None):
    c = job.config
    return train(
        job, c.optim, settings or c.loop, steps=steps or c.steps, out=Path(out), on_step=None if reports is None else reports.append
    )


def weights(job):
    return {name: tensor.clone() for name, tensor in job.module.state_dict().items()}


def part(
    model, ids, *, prompt="a", answer_length=None, num_tokens=None, steps=None, temperature=1.0, full_attention=True, block_length=None
):
    """A text answer of given ids, filled with end tokens up to its room."""
    layout = model.layout
    canvas = model.prompts.chat([Message("user", prompt)], answer_length or len(ids))
    positions = canvas.fields[0].positions
    tokens = canvas.tokens.clone()
    tokens[positions] = torch.tensor([*ids, *[layout.eos_id] * (len(positions) - len(ids))])
    return Segment(
        canvas=Canvas(tokens, canvas.attend, canvas.fields),
        num_tokens=num_tokens or len(ids),
        is_image=False,
        temperature=temperature,
        block_length=block_length,
        full_attention=full_attention,
        steps=None if steps is None else torch.tensor(steps),
    )


def picture(model, codes, *, steps=None):
    """A drawing of given codes."""
    canvas = model.prompts.t2i(torch.tensor(codes), "a")
    (field,) = canvas.fields
    canvas = Canvas(canvas.tokens, canvas.attend, (Field(field.positions, field.ids, field.num_total),))
    return Segment(
        canvas=canvas,
        num_tokens=len(codes),
        is_image=True,
        temperature=1.0,
        block_length=None,
        full_attention=True,
        steps=None if steps is None else torch.tensor(steps),
    )


def main(mode, out):
    """Another process: `kill` dies in the middle of writing its third save, within a round; `shard` holds a part of the weights (FSDP2);
    `more` goes on with two further steps."""
    if mode == "shard":
        os.environ["ACCELERATE_USE_FSDP"] = "true"
        fit(spread(Path(out)), Path(out) / "run")
        return
    if mode == "more":
        fit(spread(Path(out)), Path(out) / "run", steps=4)
        return
    whole = state.publish

    def publish(scratch, target):
        if target.name.endswith("3"):
            os.kill(os.getpid(), signal.SIGKILL)
        whole(scratch, target)

    state.publish = publish
    fit(resumable(), out, settings=replace(QUIET, save_every=1))


def spread(out):
    """Prompts for two processes, whose rollouts take different numbers of steps. The weights go to a file of `out`."""
    job = task(config("text", steps=2, objective=ObjectiveConfig(updates=2, kl_weight=0.1), optim=replace(ADAM, eps=1e-3)))
    job.on_export = lambda _, whole: torch.save(dict(whole), out / "weights.pt")
    return job


def resumable():
    """Two tasks, three updates of each batch of rollouts: a save after the second step lies within a round."""
    return task(config("text", "draw", prompts=1, steps=6, objective=ObjectiveConfig(updates=3, kl_weight=0.1)))
