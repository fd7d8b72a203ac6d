"""transformers' processor classes for the model: pictures and conversations in, `pixel_values` and `input_ids` out.

    processor = AutoProcessor.from_pretrained(directory)              # after `import mmada`
    inputs = processor("What is this?", images=[image])               # pixel_values (1, 3, H, W), input_ids with room for the codes
    inputs = processor("What is this?", image_codes=[codes])          # input_ids complete
    inputs = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=True, return_dict=True)

Prompts are those of the model's family. Codes come from the image tokenizer, a network: without them, the places of an image hold
`image_token_id`, between the start and the end of the image. `MMaDA` (pipeline/mmada.py) does all of it at once.
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

from mmada.canvas import Message, Prompts, Style, VocabLayout, messages_of
from mmada.errors import InputError
from mmada.families import named
from mmada.families.mmada import MMADA
from mmada.hub.text_tokenizer import TextTokenizer
from mmada.image import FitMode, ImageSource, best_crop_size, crops_of_area, fit, load_image, to_pixels, windows

__all__ = ["MMaDAImageProcessor", "MMaDAProcessor"]


class MMaDAImageProcessor(BaseImageProcessor):  # type: ignore[misc]
    """Pictures -> pixel_values (B, 3, height, width) float32, or a list of B tensors (3, h, w) where pictures have several shapes.

    mode         crop, squash or pad (image/pixels.py)
    factor       pixels along the side of one code
    value_range  values of black and white, as the image tokenizer takes them
    crops        whether each picture keeps its shape, at most as large as height x width; its window is that of a request with seed 0
    """

    model_input_names: ClassVar[list[str]] = ["pixel_values"]

    def __init__(
        self,
        height: int = 512,
        width: int = 512,
        mode: FitMode = "crop",
        factor: int = 16,
        value_range: Sequence[float] = (-1.0, 1.0),
        crops: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.height, self.width, self.mode, self.factor, self.value_range = height, width, mode, factor, list(value_range)
        self.crops = crops

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) codes of an image; with `crops`, of a picture of the shape height x width."""
        return self.height // self.factor, self.width // self.factor

    @property
    def num_image_tokens(self) -> int:
        return self.grid[0] * self.grid[1]

    def __call__(self, images: ImageSource | Sequence[ImageSource], *, return_tensors: str | None = "pt") -> BatchFeature:
        """Raises ImageError for a picture that cannot be read."""
        several = [images] if isinstance(images, (str, bytes, Path, Image.Image)) else images
        fitted = self.fitted(several)
        black, white = self.value_range
        if len({image.size for image in fitted}) > 1:  # no tensor holds them
            return BatchFeature({"pixel_values": [to_pixels([image], value_range=(black, white))[0] for image in fitted]})
        return BatchFeature({"pixel_values": to_pixels(fitted, value_range=(black, white))}, tensor_type=return_tensors)

    def fitted(self, images: Sequence[ImageSource]) -> list[Image.Image]:
        """Pictures as their pixels are taken; to do so again changes nothing."""
        pictures = [load_image(image) for image in images]
        if not self.crops:
            return [fit(picture, height=self.height, width=self.width, mode=self.mode) for picture in pictures]
        sizes = crops_of_area(self.height, self.width, factor=self.factor)
        return windows(pictures, [best_crop_size(picture, sizes) for picture in pictures], seed=0)

    def grid_of(self, fitted: Image.Image) -> tuple[int, int]:
        """(h, w) codes of a picture that was fitted."""
        return fitted.height // self.factor, fitted.width // self.factor


class MMaDAProcessor(ProcessorMixin):  # type: ignore[misc]
    """Image processor, tokenizer, vocabulary layout and prompts together.

    vocab_layout  as in the model's config.json; None: the published one
    family        of the model, by name: how its prompts are laid out
    """

    def __init__(
        self,
        image_processor: MMaDAImageProcessor | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        vocab_layout: dict[str, int] | None = None,
        style: dict[str, str] | None = None,
        chat_template: str | None = None,
        family: str = MMADA.name,
    ) -> None:
        self.vocab_layout, self.style, self.family = vocab_layout, style, named(family).name
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    @property
    def prompts(self) -> Prompts:
        """Those of the model's family, over its vocabulary."""
        family = named(self.family)
        layout = family.layout if self.vocab_layout is None else VocabLayout.from_dict(self.vocab_layout)
        return family.prompts(layout, TextTokenizer.of(self.tokenizer), Style(**(self.style or {})))  # type: ignore[arg-type]

    @property
    def image_token_id(self) -> int:
        """What stands where the codes of an image belong, until they are known: padding, or what fills the room of an answer."""
        layout = self.prompts.layout
        return layout.special("fill") if layout.pad_id is None else layout.pad_id

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
        several = [images] if isinstance(images, (str, bytes, Path, Image.Image)) else list(images or ())
        if several and len(image_codes):
            raise InputError(f"{len(several)} images and {len(image_codes)} image_codes; give one or the other")
        if self.image_processor.crops and any(codes.dim() == 1 for codes in image_codes):
            raise InputError("image_codes are in one run, and pictures keep their shape here; give them as (h, w)")
        fitted = self.image_processor.fitted(several)
        prompts = self.prompts
        known = [
            prompts.shaped(codes, self.image_processor.grid if codes.dim() == 1 else (len(codes), codes.shape[-1])) for codes in image_codes
        ]
        canvas = prompts.chat(messages_of(text), num_new, images=self._room(fitted) or known, thinking=think)
        tokens = torch.tensor(self._without_codes(canvas.tokens.tolist())) if fitted else canvas.tokens
        data: dict[str, Any] = {"input_ids": tokens[None], "attention_mask": canvas.attend[None]}
        if fitted:
            data |= self.image_processor(fitted)
        return _batch(data, return_tensors)

    def apply_chat_template(
        self,
        conversation: Sequence[Mapping[str, Any]] | Sequence[Sequence[Mapping[str, Any]]],
        chat_template: str | None = None,
        *,
        tokenize: bool = False,
        return_dict: bool = False,
        return_tensors: str | None = None,
        **options: Any,
    ) -> Any:
        """A conversation as text, ids, or inputs, as the tokenizer gives them; pictures among its parts go where the family has them.

        conversation  turns with a text, or with parts {"type": "text", "text": ...} and {"type": "image", "image" or "path": ...}
        With pictures, `pixel_values` is part of a dict, and input_ids hold `image_token_id` where their codes belong.
        Raises InputError for a part of another kind, and for pictures without tokenize or in several conversations.
        """
        template = chat_template or self.chat_template or self.tokenizer.chat_template
        is_several = bool(conversation) and not isinstance(conversation[0], Mapping)
        taken = [_taken_out(turns) for turns in (conversation if is_several else [conversation])]  # type: ignore[arg-type]
        images = [image for _, found in taken for image in found]
        turns = [turns for turns, _ in taken] if is_several else taken[0][0]
        about = {"chat_template": template, "tokenize": tokenize, **options}
        if not images:
            return self.tokenizer.apply_chat_template(turns, return_dict=return_dict, return_tensors=return_tensors, **about)
        if not tokenize or is_several:
            raise InputError(
                f"{len(images)} images stand before the ids of one conversation; set tokenize=True, and give conversations one by one"
            )
        dialogue = self.tokenizer.apply_chat_template(turns, return_dict=False, **about)
        fitted = self.image_processor.fitted(images)
        ids = self._without_codes(self.prompts.insert_images(dialogue, self._room(fitted)))
        if not return_dict:
            return ids if return_tensors is None else torch.tensor([ids])
        data = {"input_ids": [ids], "attention_mask": [[1] * len(ids)], **self.image_processor(fitted)}
        return _batch(data, return_tensors)

    def _room(self, fitted: Sequence[Image.Image]) -> list[Tensor]:
        """Code 0 for every code of pictures that were fitted, shaped as the family's rows take them."""
        grids = [self.image_processor.grid_of(picture) for picture in fitted]
        return [self.prompts.shaped(torch.zeros(h * w, dtype=torch.long), (h, w)) for h, w in grids]

    def _without_codes(self, ids: Sequence[int]) -> list[int]:
        """The same with `image_token_id` in the place of each code 0."""
        offset, place = self.prompts.layout.image_offset, self.image_token_id
        return [place if i == offset else i for i in ids]


def _batch(data: dict[str, Any], return_tensors: str | None) -> BatchFeature:
    """Tensors of everything but pictures of several shapes, which stay a list."""
    several = {name: value for name, value in data.items() if name == "pixel_values" and isinstance(value, list)}
    made = BatchFeature({name: value for name, value in data.items() if name not in several}, tensor_type=return_tensors)
    made.update(several)
    return made


def _taken_out(turns: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], list[ImageSource]]:
    """Turns without their pictures, and these."""
    images: list[ImageSource] = []
    plain = []
    for turn in turns:
        parts = turn.get("content")
        kept = parts
        if isinstance(parts, Sequence) and not isinstance(parts, str):
            kept = []
            for part in parts:
                if not isinstance(part, Mapping) or part.get("type") != "image":
                    kept.append(part)
                    continue
                found = next((part[name] for name in ("image", "path", "url") if part.get(name) is not None), None)
                if found is None:
                    raise InputError(
                        f'{dict(part)!r} holds no picture; write {{"type": "image", "image": a picture, its bytes or its path}}'
                    )
                images.append(found)
        plain.append({**turn, "content": kept})
    return plain, images
