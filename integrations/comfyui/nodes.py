"""The nodes. Images are (B, H, W, C) float32 in [0, 1] and masks (B, H, W), 1 where to draw, as everywhere in ComfyUI.

Each class is what ComfyUI asks of a node: INPUT_TYPES, RETURN_TYPES, FUNCTION, CATEGORY. The rest is one call of `MMaDA`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmada import MMaDA
from mmada.hub.checkpoint import DEFAULT_MODEL
from mmada.pipeline import Progress

try:
    import comfy.model_management
    import comfy.utils
except ModuleNotFoundError:  # outside of ComfyUI the nodes work without progress
    comfy = None

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]

CATEGORY = "MMaDA"
PREVIEW_SIZE = 512
TICKS = 1000
AS_SAVED, YES, NO = "as the checkpoint", "yes", "no"
MODEL = ("MMADA",)
TEXT = ("STRING", {"multiline": True, "default": ""})
SEED = ("INT", {"default": 0, "min": 0, "max": 2**62, "control_after_generate": True})
STEPS = ("INT", {"default": 0, "min": 0, "max": 1024, "tooltip": "0: as the checkpoint is best used"})
CFG = ("FLOAT", {"default": 0.0, "min": 0.0, "max": 100.0, "step": 0.1, "tooltip": "1 is off, 0: as the checkpoint is best used"})
SIDE = ("INT", {"default": 0, "min": 0, "max": 4096, "step": 8, "tooltip": "pixels; 0: as the checkpoint is best used"})
PIXELS = ("INT", {"default": 0, "min": 0, "max": 4096, "step": 8})
THINK = ([AS_SAVED, YES, NO],)


class MMaDALoad:
    """A directory, a built-in name or a name of the Hugging Face hub -> model."""

    CATEGORY = CATEGORY
    FUNCTION = "load"
    RETURN_TYPES = ("MMADA",)
    RETURN_NAMES = ("model",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {
            "required": {
                "name": ("STRING", {"default": DEFAULT_MODEL}),
                "device": (["auto", "cpu", "cuda", "mps"],),
                "dtype": (["auto", "float32", "bfloat16", "float16"],),
            }
        }

    def load(self, name: str, device: str, dtype: str) -> tuple[MMaDA]:
        return (_loaded(name, None if device == "auto" else device, dtype),)


@cache
def _loaded(name: str, device: str | None, dtype: str) -> MMaDA:
    """One model in memory for all nodes that load it alike."""
    return MMaDA.from_pretrained(name, device=device, dtype=dtype)


class MMaDADraw:
    """Words -> images. Image i of a batch is drawn with seed + i."""

    CATEGORY = CATEGORY
    FUNCTION = "draw"
    RETURN_TYPES = ("IMAGE", "STRING")
    RETURN_NAMES = ("images", "drawn")
    DESCRIPTION = "Draw images. The second output says what was drawn: the prompt, or the plan that the model made of it."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        batch = ("INT", {"default": 1, "min": 1, "max": 64})
        own = {"width": SIDE, "height": SIDE, "batch_size": batch, "think": THINK}
        return {
            "required": {"model": MODEL, "prompt": TEXT, "seed": SEED},
            "optional": {"negative_prompt": TEXT, "steps": STEPS, "cfg": CFG} | own,
        }

    def draw(
        self,
        model: MMaDA,
        prompt: str,
        seed: int,
        negative_prompt: str = "",
        steps: int = 0,
        cfg: float = 0.0,
        width: int = 0,
        height: int = 0,
        batch_size: int = 1,
        think: str = AS_SAVED,
    ) -> tuple[Tensor, str]:
        usual = model.planner.drawing_size
        size = (height or usual[0], width or usual[1])
        shown = _reporter(batch_size)
        drawings = [
            model.draw(
                prompt,
                negative_prompt=negative_prompt,
                size=size,
                think={AS_SAVED: None, YES: True, NO: False}[think],
                steps=steps or None,
                guidance_scale=_guidance(cfg),
                seed=seed + i,
                on_step=shown(i),
            )
            for i in range(batch_size)
        ]
        return _to_comfy([drawing.image for drawing in drawings]), drawings[0].prompt


class MMaDAInpaint:
    """The part of each image that the mask marks, drawn anew. Sides become whole tokens of the model."""

    CATEGORY = CATEGORY
    FUNCTION = "inpaint"
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("images",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        required = {"model": MODEL, "images": ("IMAGE",), "mask": ("MASK",), "prompt": TEXT, "seed": SEED}
        return {"required": required, "optional": {"negative_prompt": TEXT, "steps": STEPS, "cfg": CFG}}

    def inpaint(
        self,
        model: MMaDA,
        images: Tensor,
        mask: Tensor,
        prompt: str,
        seed: int,
        negative_prompt: str = "",
        steps: int = 0,
        cfg: float = 0.0,
    ) -> tuple[Tensor]:
        pictures, masks = _from_comfy(images), _masks(mask, len(images))
        shown = _reporter(len(pictures))
        drawings = [
            model.fill_image(
                picture,
                marked,
                prompt=prompt,
                negative_prompt=negative_prompt,
                steps=steps or None,
                guidance_scale=_guidance(cfg),
                seed=seed + i,
                on_step=shown(i),
            )
            for i, (picture, marked) in enumerate(zip(pictures, masks, strict=True))
        ]
        return (_to_comfy([drawing.image for drawing in drawings]),)


class MMaDAExtend:
    """Each image with more of it on its sides."""

    CATEGORY = CATEGORY
    FUNCTION = "extend"
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("images",)
    DESCRIPTION = "Extend images by pixels on their sides, whole tokens of the model at a time."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        sides = {"left": PIXELS, "top": PIXELS, "right": PIXELS, "bottom": PIXELS}
        required = {"model": MODEL, "images": ("IMAGE",), "prompt": TEXT, "seed": SEED} | sides
        return {"required": required, "optional": {"steps": STEPS, "cfg": CFG}}

    def extend(
        self,
        model: MMaDA,
        images: Tensor,
        prompt: str,
        seed: int,
        left: int,
        top: int,
        right: int,
        bottom: int,
        steps: int = 0,
        cfg: float = 0.0,
    ) -> tuple[Tensor]:
        shown = _reporter(len(images))
        drawings = [
            model.fill_image(
                picture,
                prompt=prompt,
                extend=(left, top, right, bottom),
                steps=steps or None,
                guidance_scale=_guidance(cfg),
                seed=seed + i,
                on_step=shown(i),
            )
            for i, picture in enumerate(_from_comfy(images))
        ]
        return (_to_comfy([drawing.image for drawing in drawings]),)


class MMaDAEdit:
    """Images and an instruction -> a new image, for models that were taught editing, such as Lumina-DiMOO. A batch is shown together."""

    CATEGORY = CATEGORY
    FUNCTION = "edit"
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("image",)
    DESCRIPTION = "Edit images by an instruction. The built-in models were not taught that, and say so."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        required = {"model": MODEL, "images": ("IMAGE",), "instruction": TEXT, "seed": SEED}
        return {"required": required, "optional": {"steps": STEPS, "cfg": CFG}}

    def edit(self, model: MMaDA, images: Tensor, instruction: str, seed: int, steps: int = 0, cfg: float = 0.0) -> tuple[Tensor]:
        pictures = _from_comfy(images)
        drawing = model.edit(instruction, pictures, steps=steps or None, guidance_scale=_guidance(cfg), seed=seed, on_step=_reporter(1)(0))
        return (_to_comfy([drawing.image]),)


class MMaDAAsk:
    """A question, with images or without -> answer and thinking. The images of a batch are shown together."""

    CATEGORY = CATEGORY
    FUNCTION = "ask"
    RETURN_TYPES = ("STRING", "STRING")
    RETURN_NAMES = ("answer", "thinking")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        length = ("INT", {"default": 0, "min": 0, "max": 8192, "tooltip": "tokens; 0: as the checkpoint is best used"})
        optional = {"images": ("IMAGE",), "think": ("BOOLEAN", {"default": False}), "max_new_tokens": length}
        return {"required": {"model": MODEL, "question": TEXT, "seed": SEED}, "optional": optional}

    def ask(
        self, model: MMaDA, question: str, seed: int, images: Tensor | None = None, think: bool = False, max_new_tokens: int = 0
    ) -> tuple[str, str]:
        pictures = [] if images is None else _from_comfy(images)
        answer = model.chat(
            question, images=pictures, think=think, max_new_tokens=max_new_tokens or None, seed=seed, on_step=_reporter(1)(0)
        )
        return answer.text, answer.thinking or ""


def _guidance(cfg: float) -> float | None:
    """The usual scale w of u + w (c - u) -> g of u + (1 + g)(c - u); 0 leaves it to the checkpoint."""
    return None if cfg == 0 else max(0.0, cfg - 1)


def _reporter(count: int) -> Callable[[int], Callable[[Progress], None]]:
    """For run i of `count`, what is called after each step: it moves the bar, sends a preview, and stops a cancelled run."""
    bar = None if comfy is None else comfy.utils.ProgressBar(TICKS)

    def of_run(i: int) -> Callable[[Progress], None]:
        def on_step(progress: Progress) -> None:
            if bar is not None:
                comfy.model_management.throw_exception_if_processing_interrupted()
                preview = ("JPEG", progress.image(), PREVIEW_SIZE) if progress.is_drawing() else None
                bar.update_absolute(int(TICKS * (i + progress.fraction) / count), TICKS, preview)

        return on_step

    return of_run


def _to_comfy(images: Sequence[Image.Image]) -> Tensor:
    return torch.stack([torch.from_numpy(np.asarray(image.convert("RGB"), np.float32) / 255) for image in images])


def _from_comfy(images: Tensor) -> list[Image.Image]:
    levels = images.detach().cpu().float().clamp(0, 1).mul(255).round().to(torch.uint8)
    return [Image.fromarray(one.numpy()) for one in levels[..., :3]]


def _masks(mask: Tensor, count: int) -> list[Image.Image]:
    """One mask for each image; a single one serves all."""
    batch = mask.detach().cpu().float() if mask.ndim == 3 else mask.detach().cpu().float()[None]
    if len(batch) not in (1, count):
        raise ValueError(f"mask has {len(batch)} masks for {count} images; give one, or one for each")
    return [Image.fromarray((one > 0.5).to(torch.uint8).mul(255).numpy()) for one in batch.expand(count, -1, -1)]


NODE_CLASS_MAPPINGS = {node.__name__: node for node in (MMaDALoad, MMaDADraw, MMaDAInpaint, MMaDAExtend, MMaDAEdit, MMaDAAsk)}
NODE_DISPLAY_NAME_MAPPINGS = {name: f"MMaDA {name.removeprefix('MMaDA')}" for name in NODE_CLASS_MAPPINGS}
