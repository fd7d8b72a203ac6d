"""Prompts become rollouts: each prompt is planned once, answered G times, all of them together, by the project's own sampler.

    prompt -> Planner.job -> G jobs that differ in their seed -> Denoising -> Part, Part, ... -> Sample

A rollout depends on the weights, its prompt and its seed alone: it is the same in any batch, and after a resume.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from mmada.canvas import Query, split_thinking
from mmada.data.seeds import integer
from mmada.errors import InputError
from mmada.generation.planner import Job, Planner
from mmada.generation.requests import ChatRequest, Drawing
from mmada.rl.records import Part, Prompt, Rollout, Sample
from mmada.sampling import Denoiser, Recipe, fast_image

__all__ = ["Decoding", "roll_out"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoding:
    """How rollouts are sampled; what is None is as the checkpoint has it (mmada.json). Raises InputError for a value that cannot be used."""

    temperature: float = 1.0
    """of text proposals; 0: the likeliest answer"""
    image_temperature: float = 1.0
    """of image codes"""
    top_p: float | None = None
    threshold: float | None = None
    """of text: commit every token this sure"""
    block_length: int | None = None
    """of text"""
    steps: int | None = None
    """of text: forward passes for the whole room; None: as many as the threshold needs"""
    max_new_tokens: int | None = None
    """room for a text"""
    image_steps: int | None = None
    guidance_scale: float | None = None
    """of drawing; 0 samples from the very distribution that is trained, and costs half"""

    def __post_init__(self) -> None:
        for name in ("temperature", "image_temperature"):
            if not getattr(self, name) >= 0:
                raise InputError(f"decoding.{name}={getattr(self, name)} must not be negative; try 1.0")
        if self.guidance_scale is not None and not self.guidance_scale >= 0:
            raise InputError(f"decoding.guidance_scale={self.guidance_scale} must not be negative; 0 is no guidance")

    def text(self, planner: Planner) -> Recipe:
        named = {"threshold": self.threshold, "block_length": self.block_length, "steps": self.steps, "top_p": self.top_p}
        return planner.text_recipe(temperature=self.temperature, **{name: value for name, value in named.items() if value is not None})

    def image(self, planner: Planner) -> Recipe:
        d = planner.defaults
        steps = d.image_steps if self.image_steps is None else self.image_steps
        scale = d.guidance_scale if self.guidance_scale is None else self.guidance_scale
        return fast_image(steps=steps, guidance_scale=scale, temperature=self.image_temperature).with_(top_p=self.top_p)


def roll_out(
    prompts: Sequence[Prompt],
    planner: Planner,
    denoiser: Denoiser,
    decoding: Decoding,
    *,
    num: int,
    seed: int,
    device: torch.device | str = "cpu",
    record: bool = False,
    agree: Callable[[bool], bool] = bool,
) -> list[Rollout]:
    """`num` rollouts of each prompt, those of a prompt next to each other.

    seed       with the prompt's task and index, and the rollout's number, it decides what is drawn
    record     keep the step of every token (Part.steps)
    agree      whether any process has something to do, where all of them must run the same number of forward passes (sharded weights)
    Raises InputError if a prompt does not fit the model.
    """
    jobs: list[Job] = []
    for prompt in prompts:
        job = _job(prompt, decoding, planner)
        seeds = [integer("rollout", seed, prompt.task, prompt.index, g) for g in range(num)]
        jobs += [replace(job, request=replace(job.request, seed=s)) for s in seeds]
    parts: list[list[Part]] = [[] for _ in jobs]
    waiting = list(range(len(jobs)))
    while agree(bool(waiting)):
        _finish([jobs[i] for i in waiting], planner, denoiser, device, record, agree)
        for i in waiting:
            parts[i].append(_part(jobs[i]))
        waiting = [i for i in waiting if planner.go_on(jobs[i])]
    asked = [prompt for prompt in prompts for _ in range(num)]
    return [
        Rollout(sample=_sample(prompt, job, filled, planner), parts=tuple(filled), seed=job.request.seed)
        for prompt, job, filled in zip(asked, jobs, parts, strict=True)
    ]


def _job(prompt: Prompt, decoding: Decoding, planner: Planner) -> Job:
    request = prompt.request
    if isinstance(request, ChatRequest):
        return planner.job(
            replace(request, recipe=decoding.text(planner), max_new_tokens=decoding.max_new_tokens or request.max_new_tokens)
        )
    if decoding.max_new_tokens:  # of the thoughts before a drawing, whose room is the checkpoint's otherwise
        planner = copy.copy(planner)
        planner.defaults = replace(planner.defaults, max_thinking_tokens=decoding.max_new_tokens)
    job = planner.job(replace(request, recipe=decoding.image(planner)))
    if job.thinks:
        job.recipe = decoding.text(planner)
    return job


def _finish(
    jobs: Sequence[Job], planner: Planner, denoiser: Denoiser, device: torch.device | str, record: bool, agree: Callable[[bool], bool]
) -> None:
    """Fill the canvases of these jobs. A process that is done sooner evaluates a single token while others go on."""
    denoisings = planner.start(jobs, device=device, trace=record)
    first, origin = torch.full((1, 1), planner.layout.bos_id, device=device), torch.zeros(1, 1, dtype=torch.long, device=device)
    nothing = Query(first, ((0, 1),), origin, planner.layout.text_ids)
    while agree(any(not d.done for d in denoisings)):
        live = [d for d in denoisings if not d.done]
        answers = denoiser([d.inputs() for d in live] or [nothing])
        for denoising, logits in zip(live, answers, strict=False):  # without anything live there is one answer, to nothing
            denoising.advance(logits)


def _part(job: Job) -> Part:
    """What was just filled, read off the job before it goes on."""
    canvas = job.denoising.canvas(job.row).to("cpu")
    layout, field = job.layout, canvas.fields[0]
    ids = canvas.tokens[field.positions]
    is_image = job.draws_now
    ends = torch.isin(ids, torch.tensor([layout.eos_id, layout.eot_id])).nonzero()
    num_tokens = len(ids) if is_image or not len(ends) else int(ends[0]) + 1
    steps = None
    if job.denoising.trace:
        steps = torch.full((len(ids),), -1)
        for step in job.trace:
            steps[list(step.slots)] = step.step
    recipe = job.recipe
    return Part(
        canvas=canvas,
        num_tokens=num_tokens,
        is_image=is_image,
        temperature=recipe.temperature,
        block_length=recipe.block_length,
        sees_ahead=recipe.sees_ahead,
        steps=steps,
    )


def _sample(prompt: Prompt, job: Job, parts: Sequence[Part], planner: Planner) -> Sample:
    result = planner.result(job)
    text, num_tokens, has_ended = "", 0, True
    written = parts[0]
    if not written.is_image:
        ids = written.canvas.tokens[written.field.positions][: written.num_tokens]
        text, num_tokens = planner.prompts.decode(ids), written.num_tokens
        has_ended = int(ids[-1]) in (planner.layout.eos_id, planner.layout.eot_id)
    thought = split_thinking(text)
    return Sample(
        prompt=prompt,
        text=text,
        thinking=thought.thinking,
        answer=thought.answer,
        image=result.image if isinstance(result, Drawing) else None,
        num_tokens=num_tokens,
        room=0 if written.is_image else len(written.field.positions),
        has_ended=has_ended,
    )
