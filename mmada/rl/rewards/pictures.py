"""Rewards of pictures: learned ones, for those who have their weights, and likeness to a record's picture. They bear on samples with an image.

reward = clip_score("openai/clip-vit-large-patch14")      any CLIP of transformers: directory or hub name
reward = pick_score("yuvalkirstain/PickScore_v1")         a CLIP too, with its own scale
reward = image_reward("ImageReward-v1.0")                 pip install image-reward
reward = hps("v2.1")                                      pip install hpsv2

The published reward of drawing is 0.1 * CLIPScore + 0.1 * ImageReward. Text and picture of a caption are compared by `clip_score` with
caption=True. Sources: Hessel et al. 2021; Kirstain et al. 2023; Xu et al. 2023; Wu et al. 2023.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from mmada.data.records import Picture
from mmada.errors import CheckpointError, MissingDependencyError
from mmada.generation.requests import ChatRequest
from mmada.image import fit, load_image, to_pixels
from mmada.rl.records import Completion
from mmada.rl.rewards.combine import Reward

__all__ = ["clip_score", "from_pairs", "hps", "image_reward", "pick_score", "pixels", "similarity"]


def from_pairs(score: Callable[[Sequence[str], Sequence[Image.Image]], Sequence[float]], *, caption: bool = False) -> Reward:
    """A score of texts with pictures as a reward: prompt with drawing, or, with `caption`, the picture that was shown with the answer."""

    def reward(samples: Sequence[Completion]) -> list[float | None]:
        pairs = {i: pair for i, sample in enumerate(samples) if (pair := _pair(sample, caption)) is not None}
        values: list[float | None] = [None] * len(samples)
        if pairs:
            scores = score([text for text, _ in pairs.values()], [image for _, image in pairs.values()])
            for i, value in zip(pairs, scores, strict=True):
                values[i] = float(value)
        return values

    return reward


def similarity(texts: Tensor, images: Tensor) -> Tensor:
    """Cosine of the embeddings (B, D) and (B, D) -> (B,)"""
    return (torch.nn.functional.normalize(texts, dim=-1) * torch.nn.functional.normalize(images, dim=-1)).sum(-1)


def clip_score(name: str, *, device: str = "cpu", caption: bool = False) -> Reward:
    """max(100 cos, 0), about 20 to 35 for a picture of what the text says."""
    compare = _clip(name, device)
    return from_pairs(lambda texts, images: (100 * compare(texts, images)).clamp_min(0).tolist(), caption=caption)


def pick_score(name: str, *, device: str = "cpu") -> Reward:
    """The logit of the text for the picture by a CLIP that was trained on people's choices, about 18 to 24."""
    compare = _clip(name, device, scaled=True)
    return from_pairs(lambda texts, images: compare(texts, images).tolist())


def image_reward(name: str = "ImageReward-v1.0", *, device: str = "cpu") -> Reward:
    """Normalized to mean 0 and deviation 1 on the authors' data."""
    model = _package("ImageReward", "image-reward").load(name, device=device)

    def score(texts: Sequence[str], images: Sequence[Image.Image]) -> list[float]:
        with torch.inference_mode():
            return [float(model.score(text, image)) for text, image in zip(texts, images, strict=True)]

    return from_pairs(score)


def hps(version: str = "v2.1") -> Reward:
    """Human preference score, about 0.2 to 0.35."""
    package = _package("hpsv2", "hpsv2")

    def score(texts: Sequence[str], images: Sequence[Image.Image]) -> list[float]:
        with tempfile.TemporaryDirectory() as directory:  # it reads files
            values = []
            for text, image in zip(texts, images, strict=True):
                path = Path(directory) / "picture.png"
                image.save(path)
                values.append(float(package.score(str(path), text, hps_version=version)[0]))
            return values

    return from_pairs(score)


def _clip(name: str, device: str, *, scaled: bool = False) -> Callable[[Sequence[str], Sequence[Image.Image]], Tensor]:
    """Texts and pictures -> cosines, or logits if scaled. Raises CheckpointError if the weights are not there."""
    from transformers import CLIPModel, CLIPProcessor

    try:
        model, processor = CLIPModel.from_pretrained(name).to(device).eval(), CLIPProcessor.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"the CLIP {name!r} cannot be loaded ({str(error).splitlines()[0]}); give a directory with its weights"
        ) from error

    @torch.inference_mode()
    def compare(texts: Sequence[str], images: Sequence[Image.Image]) -> Tensor:
        inputs = processor(text=list(texts), images=list(images), return_tensors="pt", padding=True, truncation=True).to(device)
        outputs = model(**inputs)
        cosine = similarity(outputs.text_embeds, outputs.image_embeds)
        return cosine * model.logit_scale.exp() if scaled else cosine

    return compare


def _package(module: str, distribution: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingDependencyError(f"this reward needs the package {distribution}; pip install {distribution}") from error


def pixels(samples: Sequence[Completion]) -> list[float | None]:
    """1 - the mean difference to the picture that the record has, of full range; that picture is brought to the drawing's size.

    None for what is no drawing, or where the record has no picture.
    """
    return [None if s.image is None or s.prompt.wanted is None else _likeness(s.image, s.prompt.wanted) for s in samples]


def _likeness(drawn: Image.Image, wanted: Picture) -> float:
    shown = fit(load_image(wanted.image), height=drawn.height, width=drawn.width, mode="crop")
    return 1 - float((to_pixels([drawn]) - to_pixels([shown])).abs().mean()) / 2


def _pair(sample: Completion, caption: bool) -> tuple[str, Image.Image] | None:
    if not caption:
        return None if sample.image is None else (sample.prompt.text, sample.image)
    request = sample.prompt.request
    if not isinstance(request, ChatRequest) or len(request.images) != 1:
        return None
    return sample.answer, load_image(request.images[0])
