"""Lumina-DiMOO: text to image at any size, editing, style by reference, and understanding.

    P            <system>SENTENCE</system><user>TEXT</user>                        the sentence names the task; U is P with <uncondition> as TEXT
    image        [boi] v v v v [newline] v v v v [newline] … [eoi]                 a newline after each row
    P + images   the images stand before the last token of P
    draw         P [answer] [boi] | codes |, newlines [eoi] [end of answer]        unconditional: U
    edit         P + images, then as above                                         unconditional: U + images; P without images
    look         P + images [answer] | text | [end of answer]                      unconditional: every given token masked

Source: Alpha-VLLM/Lumina-DiMOO, generators/ and utils/prompt_utils.py.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import ClassVar, TypedDict, Unpack

import torch
from torch import Tensor

from mmada.canvas import Canvas, Field, IdRange, Message, Pads, VocabLayout
from mmada.diffusion.schedule import cosine
from mmada.errors import InputError
from mmada.families.family import LLADA_CONSTANTS, LLADA_SIZES, EditPrompts, Family
from mmada.sampling import SamplingParams, published_text
from mmada.sampling.confidence import narrow_probability
from mmada.sampling.draws import gumbel_divided, gumbel_power
from mmada.sampling.guidance import extrapolated, two_scales
from mmada.sampling.params import constant, follow_open

__all__ = [
    "ANSWER",
    "DRAW",
    "EDIT",
    "FREE",
    "LUMINA_DIMOO",
    "STYLE",
    "LuminaPrompts",
    "lumina_edit",
    "lumina_image",
    "published_lumina_edit",
    "published_lumina_image",
    "published_lumina_text",
]

DRAW = "Generate an image according to the text prompt."
EDIT = "Generate an image applying the following editing instruction based on the original image."
STYLE = "Transform the current image into the style of the provided image."
FREE = "Generate an image according to the prompt and image."
"""Also what the published command line uses for the predictions of edges, depth and poses."""
ANSWER = (
    "You are a multimodal model that can process both text and images. Answer the following question based on the provided images. "
    "Analyze each image and combine relevant details to answer."
)

_TEMPLATE = r"""{%- if messages | map(attribute='role') | list not in [['user'], ['system', 'user']] %}
    {%- set roles = messages | map(attribute='role') | join(', ') %}
    {{- raise_exception("messages of " ~ roles ~ ": this family answers one message of the user; put earlier turns into it") }}
{%- endif %}
{%- set said = namespace(sentence=SENTENCE, words='') %}
{%- for message in messages %}
CONTENT
    {%- if message['role'] == 'system' %}
        {%- set said.sentence = text %}
    {%- else %}
        {%- set said.words = text %}
    {%- endif %}
{%- endfor %}
{{- '<system>' ~ said.sentence ~ '</system><user>' ~ said.words ~ '</user>' }}
{%- if add_generation_prompt %}
    {{- '<answer>' }}
{%- endif %}
""".replace("SENTENCE", json.dumps(ANSWER))


class _EditTask(TypedDict, total=False):
    """What `LuminaPrompts.edit` may be given by name."""

    is_open: Tensor | None
    restyle: bool
    sentence: str | None


class LuminaPrompts(EditPrompts):
    """A sentence that names the task, the user's words, images inside of these, and a framed answer."""

    __slots__ = ()

    has_headers: ClassVar[bool] = False
    own_template: ClassVar[str] = _TEMPLATE

    def prompt(self, sentence: str, text: str) -> list[int]:
        """P; with text "", U."""
        words = self.encode(text) if text else [self.layout.special("uncondition")]
        return [
            *self._tag("<system>"),
            *self.encode(sentence),
            *self._tag("</system>"),
            *self._tag("<user>"),
            *words,
            *self._tag("</user>"),
        ]

    def dialogue(self, messages: Sequence[Message], *, thinking: str | None = None) -> list[int]:
        """One message of the user; one of the system before it replaces the sentence. Ends where the answer begins."""
        return [*self._question(messages, thinking), self.layout.special("answer_start")]

    def insert_images(self, dialogue: Sequence[int], images: Sequence[Tensor]) -> list[int]:
        """A dialogue, or P, with the images that it is about, which stand before the last token of P."""
        at = len(dialogue) - 1 - (dialogue[-1] == self.layout.special("answer_start"))
        return [*dialogue[:at], *(i for codes in images for i in self._image(codes)), *dialogue[at:]]

    def chat(
        self,
        messages: Sequence[Message],
        num_new: int,
        *,
        images: Sequence[Tensor] = (),
        thinking: bool = False,
        answer: str | None = None,
        ids: IdRange | None = None,
    ) -> Canvas:
        """A question, with or without images, and num_new open positions for the answer. Arguments as in `Prompts.chat`."""
        head = self.insert_images(self.dialogue(messages, thinking=self.style.thinking if thinking else None), images)
        positions = torch.arange(len(head), len(head) + num_new)
        row = [*head, *self.answer_ids(num_new, answer), self.layout.special("answer_end")]
        return self._canvas(row, Field(positions, ids or self.layout.text_ids, num_new))

    def t2i(
        self, codes: Tensor, text: str, *, text_length: int | None = None, pads: Pads = "hidden", is_open: Tensor | None = None
    ) -> Canvas:
        """A prompt and its image; "" is the unconditional row. There is no padding: text_length must be None."""
        if text_length is not None:
            raise InputError(f"text_length={text_length} is for prompts that are padded, which this family's are not; leave it out")
        return self._image_row(self.prompt(DRAW, text), codes, is_open)

    def edit(
        self,
        text: str,
        images: Sequence[Tensor],
        codes: Tensor,
        *,
        is_open: Tensor | None = None,
        restyle: bool = False,
        sentence: str | None = None,
    ) -> Canvas:
        """Source images, an instruction, and an image to fill. sentence: names the task; None: `EDIT`, or `STYLE` for a style."""
        sentence = sentence or (STYLE if restyle else EDIT)
        return self._image_row(self.insert_images(self.prompt(sentence, text), images), codes, is_open).masked(self.layout.mask_id)

    def edit_negatives(self, text: str, images: Sequence[Tensor], codes: Tensor, **task: Unpack[_EditTask]) -> tuple[Canvas, Canvas]:
        """The rows without the words, and without the images; `task` as in `edit`."""
        return self.edit("", images, codes, **task), self.edit(text, (), codes, **task)

    def twice_broken(self, messages: Sequence[Message], num_new: int, image: Tensor) -> Canvas:
        """Parity only: the published script breaks the rows of an image a second time, in a list cut to h w tokens.

        Every row is one code shorter, newlines are doubled, the last rows and the end of the image are lost.
        """
        height, width = image.shape
        inner = torch.tensor(self._image(image))[: height * width].view(height, width)
        rows = torch.cat([inner, torch.full((height, 1), self.layout.special("newline"))], dim=1).flatten().tolist()
        question = self._question(messages, None)
        head = [*question[:-1], *rows, question[-1], self.layout.special("answer_start")]
        row = [*head, *self._masks(num_new), self.layout.special("answer_end")]
        return self._canvas(row, Field(torch.arange(len(head), len(head) + num_new), self.layout.any_ids, num_new))

    def _question(self, messages: Sequence[Message], thinking: str | None) -> list[int]:
        roles = [message.role for message in messages]
        if roles not in (["user"], ["system", "user"]):
            raise InputError(
                f"messages of {', '.join(roles) or 'nobody'}: this family answers one message of the user; put earlier turns into it"
            )
        if any(not message.content.strip() for message in messages):
            raise InputError("content='' of a message is empty; write a prompt")
        sentence = messages[0].content.strip() if len(messages) == 2 else ANSWER
        return self.prompt(sentence, (thinking or "") + messages[-1].content.strip())

    def _image_row(self, head: list[int], codes: Tensor, is_open: Tensor | None) -> Canvas:
        is_open = torch.ones(codes.shape, dtype=torch.bool) if is_open is None else is_open.cpu()
        head = [*head, self.layout.special("answer_start")]
        row = [*head, *self._image(codes), self.layout.special("answer_end")]
        return self._canvas(row, self._image_field(len(head) + 1, is_open))

    def _tag(self, tag: str) -> list[int]:
        return self.encode(tag, trusted=True)


def lumina_image(*, steps: int = 64, guidance_scale: float = 4.0, temperature: float = 1.0) -> SamplingParams:
    """Lumina-DiMOO's schedule and guidance: noise that is not annealed, masked positions counted at the start."""
    return SamplingParams(
        steps=steps,
        transfer_schedule=follow_open(cosine),
        temperature=temperature,
        choice_temperature=temperature,
        anneal=constant,
        guidance_scale=guidance_scale,
        guidance=extrapolated,
    )


def lumina_edit(
    *, steps: int = 64, guidance_scale: float = 2.5, image_guidance_scale: float = 4.0, temperature: float = 1.0
) -> SamplingParams:
    """The same with a scale for the words and one for the source images."""
    return lumina_image(steps=steps, guidance_scale=guidance_scale, temperature=temperature).with_(
        guidance=two_scales, image_guidance_scale=image_guidance_scale
    )


def published_lumina_image(**settings: float) -> SamplingParams:
    """`lumina_image` with noise on every logit, float32 confidences, and ties committed together."""
    return _as_published(lumina_image(**settings))  # type: ignore[arg-type]


def published_lumina_edit(**settings: float) -> SamplingParams:
    """`lumina_edit`, likewise."""
    return _as_published(lumina_edit(**settings))  # type: ignore[arg-type]


def _as_published(params: SamplingParams) -> SamplingParams:
    return params.with_(token_noise=gumbel_divided, confidence=narrow_probability, commit_ties=True)


def published_lumina_text(
    *, steps: int = 128, block_length: int = 256, temperature: float = 0.0, guidance_scale: float = 0.0
) -> SamplingParams:
    """Understanding exactly as published."""
    return published_text(steps=steps, block_length=block_length, temperature=temperature, guidance_scale=guidance_scale).with_(
        token_noise=gumbel_power
    )


LUMINA_DIMOO = Family(
    name="lumina-dimoo",
    title="Lumina-DiMOO",
    layout=VocabLayout(
        vocab_size=134548,
        image_offset=126356,
        codebook_size=8192,
        mask_id=126336,
        eos_id=126081,
        soi_id=126349,
        eoi_id=126350,
        newline_id=126084,
        uncondition_id=126351,
        answer_start_id=126354,
        answer_end_id=126355,
        fill_id=126339,
    ),
    classes=("LLaDAForMultiModalGeneration",),
    model_type="llada",
    hub_names=("Alpha-VLLM/Lumina-DiMOO",),
    license="Apache-2.0",
    abilities=frozenset({"chat", "look", "draw", "inpaint", "edit"}),
    strings={
        "eos": "<|endoftext|>",
        "mask": "<|mdm_mask|>",
        "uncondition": "<uncondition>",
        "answer_start": "<answer>",
        "answer_end": "</answer>",
    },
    tags=("<system>", "</system>", "<user>", "</user>"),
    spare_rows=127,
    constants=LLADA_CONSTANTS,
    sizes=LLADA_SIZES,
    # Its code makes rotary angles for rows of any length. Two sources of 1024 x 1024 pixels and a drawing of that size are 3 x 4,162 tokens.
    context=16384,
    least_context=16384,
    prompts=LuminaPrompts,
    image_tokenizer="vqvae",
    image_tokenizer_dir="vqvae",
    image_tokenizer_folder="vqvae",
    layouts=frozenset({"chat", "draw", "edit", "restyle"}),
    padding="visible",
    defaults={
        "image_height": 1024,
        "image_width": 1024,
        "image_crops": True,
        "edit_side": 512,
        "image_steps": 64,
        "guidance_scale": 4.0,
        "image_tokenizer": "Alpha-VLLM/Lumina-DiMOO",
    },
    image_params=lumina_image,
    edit_params=lumina_edit,
)
