"""Prompts become rollouts: each prompt is answered G times, all of them together, by the engine that serves users.

    prompt -> G programs that differ in their seed -> Engine -> filled sequences -> Part, Part, ... -> Sample

A rollout depends on the weights, its prompt and its seed alone: it is the same in any batch, and after a resume.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from mmada.canvas import split_thinking
from mmada.data.seeds import integer
from mmada.errors import InputError
from mmada.generation.engine import Engine
from mmada.generation.planner import Planner
from mmada.generation.programs import chat, draw, edit
from mmada.generation.requests import ChatRequest, Drawing, EditRequest, Result
from mmada.generation.steps import Program, SequenceState
from mmada.rl.records import Completion, Prompt, Rollout, Segment
from mmada.sampling import Denoiser, SamplingParams

__all__ = ["Decoding", "PendingRollouts", "RemoteRollouts", "generate_rollouts"]


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
    """of drawing, and of an edit's words; 0 samples from the very distribution that is trained, and costs half"""
    image_guidance_scale: float | None = None
    """of an edit's sources; with 0 for both, an edit costs a third"""

    def __post_init__(self) -> None:
        for name in ("temperature", "image_temperature"):
            if not getattr(self, name) >= 0:
                raise InputError(f"decoding.{name}={getattr(self, name)} must not be negative; try 1.0")
        for name in ("guidance_scale", "image_guidance_scale"):
            if getattr(self, name) is not None and not getattr(self, name) >= 0:
                raise InputError(f"decoding.{name}={getattr(self, name)} must not be negative; 0 is no guidance")

    def text(self, planner: Planner) -> SamplingParams:
        """Parameters of an answer; what is None here is the checkpoint's."""
        named = {"threshold": self.threshold, "block_length": self.block_length, "steps": self.steps, "top_p": self.top_p}
        changes = {name: value for name, value in named.items() if value is not None}
        return planner.text_params(temperature=self.temperature, **changes)

    def image(self, planner: Planner) -> SamplingParams:
        """Parameters of a drawing, by the family's sampler; what is None here is the checkpoint's."""
        d = planner.defaults
        steps = d.image_steps if self.image_steps is None else self.image_steps
        scale = d.guidance_scale if self.guidance_scale is None else self.guidance_scale
        params = planner.family.image_params(steps=steps, guidance_scale=scale, temperature=self.image_temperature)
        return params.with_(top_p=self.top_p)

    def edit(self, planner: Planner) -> SamplingParams:
        """Parameters of an edit; the family must be one that edits by instruction."""
        assert planner.family.edit_params is not None  # setup.py lets no other family through
        named = {"guidance_scale": self.guidance_scale, "image_guidance_scale": self.image_guidance_scale}
        scales = {name: value for name, value in named.items() if value is not None}
        steps = planner.defaults.image_steps if self.image_steps is None else self.image_steps
        return planner.family.edit_params(steps=steps, temperature=self.image_temperature, **scales).with_(top_p=self.top_p)


class PendingRollouts(Protocol):
    """Rollouts that are being sampled."""

    def result(self) -> tuple[list[Rollout], int]:
        """Those of each prompt in turn, and how many prompts were sampled again because a worker died."""
        ...


class RemoteRollouts(Protocol):
    """Who samples elsewhere, with models of its own. What is begun first is sampled first.

    weights  all that has changed since the run began: name of the module -> tensor on the CPU
    num, seed, record  as in generate_rollouts, which the rollouts equal
    """

    def begin(
        self, weights: Mapping[str, Tensor], prompts: Sequence[Prompt], decoding: Decoding, *, num: int, seed: int, record: bool
    ) -> PendingRollouts:
        """Ask for rollouts with these weights and return at once; `result` of what is returned waits."""
        ...


def generate_rollouts(
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
    engine = Engine(denoiser, planner.layout, device=device)
    asked = [prompt for prompt in prompts for _ in range(num)]
    seeds = [integer("rollout", seed, prompt.task, prompt.index, g) for prompt in prompts for g in range(num)]
    states = [engine.add(_program(p, s, decoding, planner), record=record) for p, s in zip(asked, seeds, strict=True)]
    engine.drive(agree=agree)
    rollouts = []
    for prompt, seed_, state in zip(asked, seeds, states, strict=True):
        assert state.result is not None
        assert state.sequence is not None
        parts = tuple(_part(sequence, planner) for sequence in (*state.finished, state.sequence))
        rollouts.append(Rollout(sample=_sample(prompt, state.result, parts, planner), parts=parts, seed=seed_))
    return rollouts


def _program(prompt: Prompt, seed: int, decoding: Decoding, planner: Planner) -> Program[Result]:
    request, answer_length = replace(prompt.request, seed=seed), decoding.max_new_tokens
    if isinstance(request, ChatRequest):
        length = answer_length or request.max_new_tokens
        # What a world's rules write, no policy has chosen.
        return chat(replace(request, params=decoding.text(planner), max_new_tokens=length, calculator=False), planner)
    if isinstance(request, EditRequest):  # in the size of the rows that are learned
        size = (planner.defaults.image_height, planner.defaults.image_width)
        return edit(replace(request, params=decoding.edit(planner), size=size), planner)
    request = replace(request, params=decoding.image(planner))
    return draw(request, planner, thinking_params=decoding.text(planner), max_thinking_tokens=answer_length)


def _part(sequence: SequenceState, planner: Planner) -> Segment:
    """What was filled."""
    canvas, params, layout = sequence.canvas, sequence.fill.params, planner.layout
    ids = canvas.tokens[canvas.fields[0].positions]
    is_image = sequence.fill.init is not None
    ends = torch.isin(ids, torch.tensor(layout.end_ids)).nonzero()
    num_tokens = len(ids) if is_image or not len(ends) else int(ends[0]) + 1
    steps = None
    if trace := sequence.trace:
        steps = torch.full((len(ids),), -1)
        for step in trace:
            steps[list(step.slots)] = step.step
    return Segment(
        canvas=canvas,
        num_tokens=num_tokens,
        is_image=is_image,
        temperature=params.temperature,
        block_length=params.block_length,
        full_attention=params.full_attention,
        prompt_in_blocks=params.prompt_in_blocks,
        variable_length=params.variable_length,
        steps=steps,
    )


def _sample(prompt: Prompt, result: Result, parts: Sequence[Segment], planner: Planner) -> Completion:
    text, num_tokens, has_ended = "", 0, True
    written = parts[0]
    if not written.is_image:
        ids = written.canvas.tokens[written.field.positions][: written.num_tokens]
        text, num_tokens = planner.prompts.decode(ids), written.num_tokens
        has_ended = int(ids[-1]) in planner.layout.end_ids
    thought = split_thinking(text)
    return Completion(
        prompt=prompt,
        text=text,
        thinking=thought.thinking,
        answer=thought.answer,
        image=result.image if isinstance(result, Drawing) else None,
        num_tokens=num_tokens,
        answer_length=0 if written.is_image else len(written.field.positions),
        has_ended=has_ended,
    )
