"""MMaDA-Parallel-M: MMaDA, taught to edit an image and to write about it in the same passes.

    [interleave] [soi] source [eoi] [bos] TEXT [eos] [soi] | codes | [eoi] [bos] | text |
    unconditional  the codes of the source are id 0, the text is empty and filled with end tokens to the same length

Published in `published_parallel_m`; `parallel_m` mends what is a mistake: its text guidance has the wrong sign, and its text may contain any row of the
vocabulary, image codes included. Source: tyfeld/MMaDA-Parallel, MMaDA-Parallel-M/models/modeling_mmada.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mmada.canvas import Canvas, Field
from mmada.errors import InputError
from mmada.families.family import ParallelPrompts, text_and_image
from mmada.families.mmada import MMADA
from mmada.sampling import SamplingParams
from mmada.sampling.confidence import narrow_probability
from mmada.sampling.draws import gumbel_power
from mmada.sampling.guidance import classifier_free, extrapolated, inverted
from mmada.sampling.joint import JointParams, Timeline

__all__ = ["MMADA_PARALLEL_M", "ParallelMPrompts", "parallel_m", "published_parallel_m"]


class ParallelMPrompts(ParallelPrompts):
    """MMaDA's prompts, and the row of an edit that is written about."""

    __slots__ = ()

    def parallel(self, text: str, images: Sequence[Tensor], num_new: int, codes: Tensor, *, is_open: Tensor | None = None) -> Canvas:
        """A source image and an instruction, then the image and num_new positions of text to fill. Raises InputError unless there is one source."""
        if len(images) != 1:
            raise InputError(f"{len(images)} source images; MMaDA-Parallel-M edits exactly one")
        return self._row([*self._image(images[0]), *self._wrap(self.encode(text))], num_new, codes, is_open)

    def parallel_negatives(
        self, text: str, images: Sequence[Tensor], num_new: int, codes: Tensor, *, is_open: Tensor | None = None
    ) -> tuple[Canvas, ...]:
        """The row with neither source nor words, and as many tokens in their place."""
        source = [self.layout.special("soi"), *[0] * images[0].numel(), self.layout.special("eoi")]
        words = self._filled(self._wrap([]), len(self._wrap(self.encode(text))))
        return (self._row([*source, *words], num_new, codes, is_open),)

    def _dropped(self, text: str, images: Sequence[Tensor], num_new: int, codes: Tensor) -> Canvas:
        """As the sampler has it: its training code is not published."""
        return self.parallel_negatives(text, images, num_new, codes)[0]

    def _row(self, given: list[int], num_new: int, codes: Tensor, is_open: Tensor | None) -> Canvas:
        """Fields: the text, whose first token is the begin token, then the image."""
        is_open = torch.ones(codes.shape, dtype=torch.bool) if is_open is None else is_open
        head = [self.layout.special("interleave"), *given]
        image = self._image_field(len(head) + 1, is_open)
        ids = [*head, *self._image(codes), *self.begin]
        words = Field(torch.arange(len(ids), len(ids) + num_new), self.layout.text_ids, num_new)
        return self._canvas([*ids, *self._masks(num_new)], words, image).masked(self.layout.mask_id)


def parallel_m(
    *,
    text_steps: int = 128,
    image_steps: int = 30,
    text_guidance_scale: float = 2.5,
    image_guidance_scale: float = 4.0,
    text_temperature: float = 0.0,
    image_temperature: float = 1.0,
    timeline: Timeline | None = None,
) -> JointParams:
    """Text and image in the same passes, with guidance towards the prompt. The scales are those of two fields: words, codes."""
    text = SamplingParams(
        steps=text_steps,
        temperature=text_temperature,
        guidance_scale=text_guidance_scale,
        guidance=classifier_free,
        stop_at_eos=False,
    )
    image = SamplingParams(steps=text_steps, guidance_scale=image_guidance_scale, guidance=extrapolated)
    return text_and_image(text, image, text_steps=text_steps, image_steps=image_steps, temperature=image_temperature, timeline=timeline)


def published_parallel_m(**settings: float) -> JointParams:
    """The published sampler: `parallel_m` with inverted text guidance and any id in the text (`Prompts.parallel` with `propose_any`)."""
    params = parallel_m(**settings)  # type: ignore[arg-type]
    text = params.fields[0].with_(guidance=inverted, propose_any=True, token_noise=gumbel_power)
    image = params.fields[1].with_(confidence=narrow_probability, commit_ties=True)
    return replace(params, fields=(text, image))


MMADA_PARALLEL_M = replace(
    MMADA,
    name="mmada-parallel-m",
    title="MMaDA-Parallel-M",
    layout=replace(MMADA.layout, interleave_id=126095),
    hub_names=("tyfeld/MMaDA-Parallel-M",),
    license="Apache-2.0",
    abilities=MMADA.abilities | {"parallel"},
    layouts=MMADA.layouts | {"parallel"},
    prompts=ParallelMPrompts,
    padding="soft",
    defaults={
        "image_mode": "squash",
        "one_image_size": True,
        "image_steps": 30,
        "guidance_scale": 4.0,
        "image_tokenizer": "showlab/magvitv2",
    },
    joint_params=parallel_m,
)
