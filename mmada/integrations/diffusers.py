"""`MMaDAPipeline`: drawing with the argument names of diffusers, as a `DiffusionPipeline`, without remote code.

    from mmada.integrations.diffusers import MMaDAPipeline
    pipe = MMaDAPipeline.from_pretrained("mmada-emoji-max")
    image = pipe("a cat", generator=torch.manual_seed(3)).images[0]     # the image of MMaDA.draw("a cat", seed=3)

What differs from pipelines over continuous latents:

    guidance_scale  w of u + w (c - u), as everywhere in diffusers; this package says g = w - 1 (sampling/params.py). w <= 1 is off
    latents         codes of the image (B, h, w) int64; a callback sees them, and `output_type="latent"` returns them
    timesteps       t in (0, 1], falling; 1 is fully masked
    scheduler       says how steps sample. The pipeline leaves the steps to the engine; `scheduler.step` is one of them, for loops of one's own

The step of all pictures of a call is one forward pass. Needs the extra: pip install 'mmada[diffusers]'.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmada.canvas import Canvas, Field, IdRange
from mmada.errors import InputError, MissingDependencyError, suggest
from mmada.generation.requests import Drawing, DrawRequest
from mmada.hub.checkpoint import DEFAULT_MODEL
from mmada.image import ImageSource
from mmada.pipeline import MMaDA, Progress
from mmada.sampling import Denoising, SamplingParams, fast_image
from mmada.sampling.token_sampling import narrowed

try:
    from diffusers import ConfigMixin, DiffusionPipeline, SchedulerMixin
    from diffusers.configuration_utils import register_to_config
    from diffusers.utils import BaseOutput
except ModuleNotFoundError as error:
    raise MissingDependencyError("MMaDAPipeline is a pipeline of diffusers; pip install 'mmada[diffusers]'") from error

__all__ = ["DiscreteSchedulerOutput", "MMaDAPipeline", "MMaDAPipelineOutput", "MMaDAScheduler"]

StepCallback = Callable[["MMaDAPipeline", int, Tensor, dict[str, Tensor]], Mapping[str, Tensor] | None]
_OUTPUTS = ("pil", "np", "pt", "latent")
_SCHEDULER_DIR = "scheduler"
_SAMPLING = ("temperature", "choice_temperature", "top_k", "top_p")


@dataclass
class DiscreteSchedulerOutput(BaseOutput):  # type: ignore[misc]
    """What one step made of (B, ...) codes; `pred_logits` is the name of diffusers' open pull request 14741, the others are its schedulers' usual ones.

    prev_sample           (B, ...) int64: the codes after the step, open ones still masked
    pred_original_sample  (B, ...) int64: the same with a proposal wherever a code is open
    pred_logits           (B, ..., V) float32: what proposals are drawn from, after temperature, top-k and top-p; the largest is 0
    """

    prev_sample: Tensor
    pred_original_sample: Tensor
    pred_logits: Tensor


class MMaDAScheduler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]
    """How the codes of an image are sampled; None throughout leaves it to the checkpoint.

    temperature         of the codes
    choice_temperature  Gumbel noise on the confidence, annealed over the steps; 0 always commits the surest codes
    top_k               propose none but so many of the likeliest codes
    top_p               propose none but the smallest set of codes whose probability reaches this

    If any is set, the others are those of `mmada.sampling.fast_image`.
    """

    order = 1

    @register_to_config  # type: ignore[untyped-decorator, unused-ignore]
    def __init__(
        self,
        temperature: float | None = None,
        choice_temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
    ) -> None:
        self.timesteps = torch.ones(0)

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """The times at which the model is asked: 1, ..., 1 / num_inference_steps."""
        self.timesteps = 1 - torch.arange(num_inference_steps, device=device) / num_inference_steps

    def params(self, *, steps: int, guidance_scale: float) -> SamplingParams | None:
        """Sampling parameters, with this package's guidance_scale; None where nothing is set."""
        own = {name: self.config[name] for name in _SAMPLING if self.config[name] is not None}
        return fast_image(steps=steps, guidance_scale=guidance_scale).with_(**own) if own else None

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        *,
        mask_token_id: int | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> DiscreteSchedulerOutput | tuple[Tensor, ...]:
        """The engine's step on its own: propose a code where one is open, and commit the surest.

        model_output   (B, ..., V) logits, with guidance
        timestep       an element of `timesteps`
        sample         (B, ...) int64: codes in 0..V-1, and mask_token_id where they are open
        mask_token_id  default: V. It is never proposed
        generator      one for all rows, one after the other, or one for each; default: torch's own. Each row draws for all of its codes

        With a new generator and a `sample` that is all open, the steps give the codes that the engine draws with its seed.
        Raises InputError for shapes that differ, and a timestep that is not one.
        """
        if model_output.shape[:-1] != sample.shape or sample.dim() < 2:
            raise InputError(
                f"model_output {tuple(model_output.shape)} must be logits (B, ..., V) of sample {tuple(sample.shape)}, which is (B, ...)"
            )
        steps, number = len(self.timesteps), self._number(timestep)
        params = self.params(steps=steps, guidance_scale=0.0) or fast_image(steps=steps, guidance_scale=0.0)
        num_ids = model_output.shape[-1]
        mask_id = num_ids if mask_token_id is None else mask_token_id
        given, logits = sample.flatten(1), model_output.flatten(1, -2).float()
        after, proposed = given.clone(), given.clone()
        rows = (given == mask_id).any(1).nonzero()[:, 0].tolist()
        if rows:
            canvases = [_canvas(given[row], mask_id, num_ids) for row in rows]
            generators = _of_rows(generator, len(given))
            draws = [_OpenDraws(generators[row], canvas) for row, canvas in zip(rows, canvases, strict=True)]
            denoising = Denoising(canvases, params, mask_id=mask_id, draws=draws)
            denoising.go_to(number)
            asked = denoising.inputs().positions[..., None].expand(-1, -1, num_ids)
            denoising.advance(logits[rows].gather(1, asked))
            for i, (row, canvas) in enumerate(zip(rows, canvases, strict=True)):
                after[row, canvas.fields[0].positions] = denoising.token_ids(i)
                proposed[row, canvas.fields[0].positions] = denoising.preview(i)
        if mask_id < num_ids:
            logits = logits.index_fill(-1, torch.tensor([mask_id], device=logits.device), -torch.inf)
        shaped = narrowed(logits, temperature=params.temperature, top_k=params.top_k, top_p=params.top_p)
        found = (after.view_as(sample), proposed.view_as(sample), shaped.view_as(model_output))
        return DiscreteSchedulerOutput(*found) if return_dict else found

    def _number(self, timestep: float | Tensor) -> int:
        """Which of the times it is, from 0. Raises InputError."""
        found = (self.timesteps.cpu() - float(timestep)).abs() < 1e-5
        if not found.any():
            raise InputError(f"timestep={float(timestep):g} is none of scheduler.timesteps; call set_timesteps, and give one of its times")
        return int(found.int().argmax())


class _OpenDraws:
    """Numbers for the open codes of a row, drawn for all of its codes, as the engine draws them for a block."""

    def __init__(self, generator: torch.Generator | None, canvas: Canvas) -> None:
        self._generator, self._total = generator, len(canvas)
        self._device = "cpu" if generator is None else generator.device
        self._open = canvas.fields[0].positions.cpu()

    def numbers(self, slots: range, num_ids: int | None) -> tuple[Tensor, Tensor]:
        tokens, order = torch.rand(2, self._total, generator=self._generator, device=self._device).cpu()[
            :, self._open[slots.start : slots.stop]
        ]
        return tokens, order

    def integers(self, count: int, below: int) -> Tensor:
        return torch.randint(below, (count,), generator=self._generator, device=self._device).cpu()


def _canvas(codes: Tensor, mask_id: int, num_ids: int) -> Canvas:
    """A row of codes alone, whose masked positions are open."""
    never = (mask_id,) if mask_id < num_ids else ()
    field = Field((codes == mask_id).nonzero()[:, 0], IdRange(0, num_ids, never), len(codes))
    return Canvas(codes, torch.ones_like(codes, dtype=torch.bool), (field,))


def _of_rows(generator: torch.Generator | Sequence[torch.Generator] | None, count: int) -> Sequence[torch.Generator | None]:
    """The generator of each row. Raises InputError."""
    if not isinstance(generator, Sequence):
        return [generator] * count
    if len(generator) != count:
        raise InputError(f"generator has {len(generator)} generators for {count} images; give one, or one for each")
    return generator


@dataclass
class MMaDAPipelineOutput(BaseOutput):  # type: ignore[misc]
    """images: as `output_type` says. thinking: what was thought before each was drawn, or None."""

    images: list[Image.Image] | np.ndarray[Any, Any] | Tensor
    thinking: list[str | None]


class _Interrupted(Exception):  # noqa: N818 - a signal of this file
    """A callback set `pipe._interrupt`."""


class MMaDAPipeline(DiffusionPipeline):  # type: ignore[misc]
    """Text to image, and image with mask to image, with one model of this package.

    model      the model with its tokenizers
    scheduler  how steps sample; default: as the checkpoint is best used
    """

    _callback_tensor_inputs = ("latents", "mask")

    def __init__(self, model: MMaDA, scheduler: MMaDAScheduler) -> None:
        super().__init__()
        self.register_modules(model=model, scheduler=scheduler)
        self._interrupt = False

    @classmethod
    def from_pretrained(  # type: ignore[override, unused-ignore]
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str] = DEFAULT_MODEL,
        *,
        torch_dtype: torch.dtype | str = "auto",
        dtype: torch.dtype | str = "auto",
        device: str | torch.device = "cpu",
        revision: str | None = None,
        scheduler: MMaDAScheduler | None = None,
    ) -> MMaDAPipeline:
        """Any checkpoint that `MMaDA.from_pretrained` takes: a directory, a built-in name, a hub name. Raises CheckpointError."""
        own = dtype if dtype != "auto" else torch_dtype
        model = MMaDA.from_pretrained(pretrained_model_name_or_path, device=device, dtype=own, revision=revision)
        saved = Path(pretrained_model_name_or_path) / _SCHEDULER_DIR
        if scheduler is None:
            scheduler = MMaDAScheduler.from_pretrained(saved) if saved.is_dir() else MMaDAScheduler()
        return cls(model, scheduler)

    def save_pretrained(self, save_directory: str | os.PathLike[str], *, max_shard_size: str = "5GB") -> None:  # type: ignore[override, unused-ignore]
        """A directory that this class and `MMaDA.from_pretrained` read."""
        self.model.save_pretrained(save_directory, max_shard_size=max_shard_size)
        self.scheduler.save_pretrained(Path(save_directory) / _SCHEDULER_DIR)

    def to(self, device: str | torch.device | torch.dtype, dtype: torch.dtype | None = None) -> MMaDAPipeline:
        """Move to a device, change the precision of the transformer, or both; returns self."""
        if isinstance(device, torch.dtype):
            self.model.model.to(dtype=device)
            return self
        self.model.to(device)
        self.model.model.to(dtype=dtype)
        return self

    @property
    def device(self) -> torch.device:
        return self.model.model.device  # type: ignore[no-any-return]

    @property
    def dtype(self) -> torch.dtype:
        """Of the transformer."""
        return self.model.model.dtype  # type: ignore[no-any-return]

    @property
    def transformer(self) -> Any:
        return self.model.model

    @property
    def interrupt(self) -> bool:
        return self._interrupt

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        negative_prompt: str | Sequence[str] = "",
        num_images_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        *,
        image: ImageSource | None = None,
        mask_image: ImageSource | None = None,
        think: bool | None = None,
    ) -> MMaDAPipelineOutput | tuple[Any, ...]:
        """Draw an image for each prompt.

        height, width        pixels; default: the checkpoint's, or the size of `image`
        guidance_scale       w of u + w (c - u); 1 and less is off; default: the checkpoint's
        generator            one for all images, or one for each. A new one gives the image of MMaDA.draw with its seed; it moves on
        output_type          pil, np (B, H, W, 3) and pt (B, 3, H, W) in [0, 1], latent (B, h, w) codes
        callback_on_step_end called as f(pipe, step, timestep, {name: tensor}); names: latents, mask (true where codes are open).
                             It may set pipe._interrupt = True: what is there is returned. What it returns is not used
        image, mask_image    draw the light part of the mask anew
        think                say first what is to be drawn; None: as the checkpoint is best used
        Raises InputError.
        """
        self._check(output_type, callback_on_step_end_tensor_inputs, num_images_per_prompt, num_inference_steps)
        if not isinstance(prompt, str | Sequence):
            raise InputError(f"prompt={prompt!r} must be a text, or a list of texts")
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        negatives = [negative_prompt] * len(prompts) if isinstance(negative_prompt, str) else list(negative_prompt or ())
        if len(negatives) != len(prompts):
            raise InputError(f"negative_prompt has {len(negatives)} texts for {len(prompts)} prompts; give one, or one for each")
        d = self.model.defaults
        steps = d.image_steps if num_inference_steps is None else num_inference_steps
        scale = None if guidance_scale is None else max(0.0, guidance_scale - 1)
        size = None
        if height is not None or width is not None or image is None:
            usual = self.model.planner.drawing_size
            size = (usual[0] if height is None else height, usual[1] if width is None else width)
        texts = [(p, n) for p, n in zip(prompts, negatives, strict=True) for _ in range(num_images_per_prompt)]
        params = self.scheduler.params(steps=steps, guidance_scale=d.guidance_scale if scale is None else scale)
        requests = [
            DrawRequest(p, n, size, image, mask_image, (0, 0, 0, 0), think, num_inference_steps, scale, params, seed)
            for (p, n), seed in zip(texts, _seeds(generator, len(texts)), strict=True)
        ]
        self.scheduler.set_timesteps(steps, device=self.device)
        drawn = self._draw(requests, steps, callback_on_step_end, callback_on_step_end_tensor_inputs)
        images = _output([image for image, _, _ in drawn], [codes for _, codes, _ in drawn], output_type)
        return MMaDAPipelineOutput(images=images, thinking=[thought for _, _, thought in drawn]) if return_dict else (images,)

    def _check(self, output_type: str, names: Sequence[str], num_images_per_prompt: int, steps: int | None) -> None:
        if steps is not None and steps < 1:
            raise InputError(f"num_inference_steps={steps} must be at least 1")
        if output_type not in _OUTPUTS:
            raise InputError(f"output_type={output_type!r} is unknown: {suggest(output_type, _OUTPUTS)}")
        for name in names:
            if name not in self._callback_tensor_inputs:
                raise InputError(
                    f"callback_on_step_end_tensor_inputs has {name!r}, which is unknown: {suggest(name, self._callback_tensor_inputs)}"
                )
        if num_images_per_prompt < 1:
            raise InputError(f"num_images_per_prompt={num_images_per_prompt} must be at least 1")

    def _draw(
        self, requests: Sequence[DrawRequest], steps: int, callback: StepCallback | None, names: Sequence[str]
    ) -> list[tuple[Image.Image, Tensor, str | None]]:
        """Each image, its codes (h, w), and what was thought before it."""
        self._interrupt = False
        seen: dict[int, tuple[Tensor, Tensor]] = {}
        done = 0
        with self.progress_bar(total=steps) as bar:

            def on_step(progress: Progress) -> None:
                nonlocal done
                drawing = [i for i in range(len(requests)) if progress.is_drawing(i)]
                if not drawing:
                    return
                seen.update({i: progress.codes(i) for i in drawing})
                bar.update(int(done < steps))
                if callback is not None and len(seen) == len(requests):
                    tensors = {"latents": torch.stack([seen[i][0] for i in range(len(requests))])}
                    tensors["mask"] = torch.stack([seen[i][1] for i in range(len(requests))])
                    callback(self, done, self.scheduler.timesteps[min(done, steps - 1)], {name: tensors[name] for name in names})
                    if self._interrupt:
                        raise _Interrupted
                done += 1

            try:
                results = self.model.run(requests, on_step=on_step)
            except _Interrupted:
                codes = [seen[i][0] for i in range(len(requests))]
                return [
                    (image, one, None)
                    for image, one in zip(self.model.image_tokenizer.decode_images(torch.stack(codes)), codes, strict=True)
                ]
        return [(result.image, result.codes, result.thinking) for result in results if isinstance(result, Drawing)]


def _output(images: list[Image.Image], codes: Sequence[Tensor], output_type: str) -> Any:
    if output_type == "pil":
        return images
    if output_type == "latent":
        return torch.stack(list(codes))
    array = np.stack([np.asarray(image) for image in images]).astype(np.float32) / 255
    return array if output_type == "np" else torch.from_numpy(array).permute(0, 3, 1, 2).contiguous()


def _seeds(generator: torch.Generator | Sequence[torch.Generator] | None, count: int) -> list[int]:
    """A seed for each image. A generator that nobody has drawn from gives its own seed first; every one moves on."""
    if not isinstance(generator, Sequence | torch.Generator | None):
        raise InputError(f"generator={generator!r} must be a torch.Generator, or a list of them; try torch.Generator().manual_seed(3)")
    if isinstance(generator, Sequence):
        return [seed for one in _of_rows(generator, count) for seed in _seeds(one, 1)]
    used = generator is None or not _is_new(generator)
    device = "cpu" if generator is None else generator.device
    drawn = torch.randint(2**62, (count,), generator=generator, device=device).tolist()
    return drawn if used or generator is None else [generator.initial_seed(), *drawn[1:]]


def _is_new(generator: torch.Generator) -> bool:
    same = torch.Generator(generator.device).manual_seed(generator.initial_seed())
    return torch.equal(same.get_state(), generator.get_state())
