"""MMaDA-Parallel-A: Lumina-DiMOO, taught to edit an image and to write about it in the same passes.

    P + image [answer] [boi] | codes |, newlines [eoi] | text | [end of answer]
    unconditional: U + image, and P, before the same answer

Published in `published_parallel_a`; `parallel_a` mends three mistakes of it. One code is still masked after the last step, and becomes a random one. The
unconditional rows are written over the beginning of the conditional one, whose rest shows through. The text may contain any row of the vocabulary.
Source: tyfeld/MMaDA-Parallel, MMaDA-Parallel-A/generators/parallel_generator.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mmada.canvas import Canvas, Field
from mmada.diffusion.schedule import cosine
from mmada.families.family import ParallelPrompts, text_and_image
from mmada.families.lumina_dimoo import EDIT, LUMINA_DIMOO, LuminaPrompts
from mmada.sampling import SamplingParams
from mmada.sampling.draws import gumbel_added, normal
from mmada.sampling.guidance import two_scales
from mmada.sampling.joint import JointParams, Timeline
from mmada.sampling.params import keep_one, linear_target

__all__ = ["MMADA_PARALLEL_A", "ParallelAPrompts", "parallel_a", "published_parallel_a"]


class ParallelAPrompts(LuminaPrompts, ParallelPrompts):
    """Lumina's prompts, and the row of an edit that is written about."""

    __slots__ = ()

    def parallel(self, text: str, images: Sequence[Tensor], num_new: int, codes: Tensor, *, is_open: Tensor | None = None) -> Canvas:
        """An instruction and source images, then the image (h, w) and num_new positions of text to fill."""
        return self._row(self.insert_images(self.prompt(EDIT, text), images), num_new, codes, is_open)

    def parallel_negatives(
        self, text: str, images: Sequence[Tensor], num_new: int, codes: Tensor, *, is_open: Tensor | None = None
    ) -> tuple[Canvas, ...]:
        """The rows without the words, and without the images."""
        without_text = self.insert_images(self.prompt(EDIT, ""), images)
        return tuple(self._row(given, num_new, codes, is_open) for given in (without_text, self.prompt(EDIT, text)))

    def overwritten_negatives(self, text: str, images: Sequence[Tensor], canvas: Canvas) -> tuple[Canvas, ...]:
        """Parity only: the unconditional rows as published, at the beginning of the conditional row, whose other tokens stay."""
        prefixes = self.insert_images(self.prompt(EDIT, ""), images), self.prompt(EDIT, text)
        return tuple(replace(canvas, tokens=torch.cat([torch.tensor(ids), canvas.tokens[len(ids) :]])) for ids in prefixes)

    def _row(self, given: list[int], num_new: int, codes: Tensor, is_open: Tensor | None) -> Canvas:
        """Fields: the text, then the image, which stands before it."""
        is_open = torch.ones(codes.shape, dtype=torch.bool) if is_open is None else is_open
        head = [*given, self.layout.special("answer_start")]
        image = self._image_field(len(head) + 1, is_open)
        ids = [*head, *self._image(codes)]
        words = Field(torch.arange(len(ids), len(ids) + num_new), self.layout.text_ids, num_new)
        row = [*ids, *self._masks(num_new), self.layout.special("answer_end")]
        return self._canvas(row, words, image).masked(self.layout.mask_id)


def parallel_a(
    *,
    text_steps: int = 128,
    image_steps: int = 30,
    text_guidance_scale: float = 2.5,
    image_guidance_scale: float = 4.0,
    text_temperature: float = 0.0,
    image_temperature: float = 1.0,
    timeline: Timeline | None = None,
) -> JointParams:
    """Text and image in the same passes; both scales are the image's: of the words, of the source. The text is not guided."""
    text = SamplingParams(steps=text_steps, transfer_schedule=linear_target, temperature=text_temperature, stop_at_eos=False)
    image = SamplingParams(
        steps=text_steps, guidance_scale=text_guidance_scale, image_guidance_scale=image_guidance_scale, guidance=two_scales
    )
    return text_and_image(text, image, text_steps=text_steps, image_steps=image_steps, temperature=image_temperature, timeline=timeline)


def published_parallel_a(**settings: float) -> JointParams:
    """The published sampler: `parallel_a` with its oddities; unconditional rows are those of `ParallelAPrompts.overwritten_negatives`."""
    params = parallel_a(**settings)  # type: ignore[arg-type]
    text = params.fields[0].with_(propose_any=True, token_noise=gumbel_added)
    image = params.fields[1].with_(transfer_schedule=keep_one(cosine), choice_noise=normal, random_leftover=True)
    return replace(params, fields=(text, image), fresh_negatives=True)


MMADA_PARALLEL_A = replace(
    LUMINA_DIMOO,
    name="mmada-parallel-a",
    title="MMaDA-Parallel-A",
    hub_names=("tyfeld/MMaDA-Parallel-A",),
    abilities=LUMINA_DIMOO.abilities | {"parallel"},
    layouts=LUMINA_DIMOO.layouts | {"parallel"},
    prompts=ParallelAPrompts,
    defaults={**LUMINA_DIMOO.defaults, "image_height": 512, "image_width": 512},
    joint_params=parallel_a,
)
