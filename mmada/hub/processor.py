"""transformers' processor classes for the model: pictures and conversations in, `pixel_values` and `input_ids` out.

    processor = AutoProcessor.from_pretrained(directory)              # after `import mmada`
    inputs = processor("What is this?", images=[image])               # pixel_values (1, 3, H, W), input_ids with room for the codes
    inputs = processor("What is this?", image_codes=[codes])          # input_ids complete

Codes come from the image tokenizer, a network: without them, the places of an image hold the padding id, between the
start and the end of the image. `MMaDA` (pipeline.py) does all of it at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor
from transformers import BatchFeature, PreTrainedTokenizerBase, ProcessorMixin
from transformers.image_processing_utils import BaseImageProcessor

from mmada.canvas import PUBLISHED, Message, Prompts, Style, VocabLayout, messages_of
from mmada.errors import InputError
from mmada.hub.text_tokenizer import TextTokenizer
from mmada.image import FitMode, ImageSource, fit, load_image, to_pixels

__all__ = ["MMaDAImageProcessor", "MMaDAProcessor"]


class MMaDAImageProcessor(BaseImageProcessor):  # type: ignore[misc]
    """Pictures -> pixel_values (B, 3, height, width) float32 in [-1, 1].

    mode    crop, squash or pad (image/pixels.py)
    factor  pixels along the side of one code
    """

    model_input_names: ClassVar[list[str]] = ["pixel_values"]

    def __init__(self, height: int = 512, width: int = 512, mode: FitMode = "crop", factor: int = 16, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.height, self.width, self.mode, self.factor = height, width, mode, factor

    @property
    def num_image_tokens(self) -> int:
        return (self.height // self.factor) * (self.width // self.factor)

    def __call__(self, images: ImageSource | Sequence[ImageSource], *, return_tensors: str | None = "pt") -> BatchFeature:
        """Raises ImageError for a picture that cannot be read."""
        several = [images] if isinstance(images, (str, bytes, Path, Image.Image)) else images
        fitted = [fit(load_image(image), height=self.height, width=self.width, mode=self.mode) for image in several]
        return BatchFeature({"pixel_values": to_pixels(fitted)}, tensor_type=return_tensors)


class MMaDAProcessor(ProcessorMixin):  # type: ignore[misc]
    """Image processor, tokenizer and vocabulary layout together.

    vocab_layout  as in the model's config.json; None: the published one
    """

    def __init__(
        self,
        image_processor: MMaDAImageProcessor | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        vocab_layout: dict[str, int] | None = None,
        style: dict[str, str] | None = None,
        chat_template: str | None = None,
    ) -> None:
        self.vocab_layout, self.style = vocab_layout, style
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    @property
    def prompts(self) -> Prompts:
        layout = PUBLISHED if self.vocab_layout is None else VocabLayout.from_dict(self.vocab_layout)
        return Prompts(layout, TextTokenizer.of(self.tokenizer), Style(**(self.style or {})))  # type: ignore[arg-type]

    def __call__(
        self,
        text: str | Sequence[Message | Mapping[str, str]],
        images: ImageSource | Sequence[ImageSource] | None = None,
        *,
        image_codes: Sequence[Tensor] = (),
        num_new: int = 1,
        think: bool = False,
        return_tensors: str | None = "pt",
    ) -> BatchFeature:
        """One prompt with num_new open positions behind it.

        Returns input_ids (1, L), attention_mask (1, L) bool, and pixel_values for images.
        images may be a single one. Raises InputError if both images and codes are given.
        """
        images = [images] if isinstance(images, (str, bytes, Path, Image.Image)) else list(images or ())
        if images and len(image_codes):
            raise InputError(f"{len(images)} images and {len(image_codes)} image_codes; give one or the other")
        prompts = self.prompts
        room = [torch.zeros(self.image_processor.num_image_tokens, dtype=torch.long) for _ in images]
        canvas = prompts.chat(messages_of(text), num_new, images=room or [codes.flatten() for codes in image_codes], thinking=think)
        tokens = canvas.tokens
        if room:
            tokens = torch.where(tokens == prompts.layout.image_offset, prompts.layout.special("pad"), tokens)
        data: dict[str, Any] = {"input_ids": tokens[None], "attention_mask": canvas.attend[None]}
        if images:
            data |= self.image_processor(images)
        return BatchFeature(data, tensor_type=return_tensors)
