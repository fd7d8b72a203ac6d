"""A VQ-VAE's directory, as diffusers writes it: config.json and diffusion_pytorch_model.safetensors, by itself or as the folder `vqvae`.

images = load_vqvae("checkpoint")     # checkpoint/vqvae/config.json, or checkpoint/config.json
save_vqvae(images, "checkpoint/vqvae")
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmada.errors import CheckpointError, InputError
from mmada.image.vqvae import VQVAE, VQVAEConfig

__all__ = ["CONFIG_NAME", "SUBFOLDER", "WEIGHTS_NAME", "find_vqvae", "load_vqvae", "save_vqvae", "vqvae_config"]

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
SUBFOLDER = "vqvae"
"""where a checkpoint of a whole model keeps its VQ-VAE"""

_MAX_NAMED = 8


def find_vqvae(directory: str | PathLike[str]) -> Path | None:
    """The folder with the files of a VQ-VAE: the directory's own `vqvae`, or itself; None if neither has a config.json of one."""
    for folder in (Path(directory) / SUBFOLDER, Path(directory)):
        try:
            # The name of the class is only as old as diffusers' from_pretrained; the size of the codebook is in every file.
            if "num_vq_embeddings" in _read_json(folder / CONFIG_NAME):
                return folder
        except CheckpointError:
            continue  # absent, or damaged: whoever needs it says so
    return None


def vqvae_config(folder: Path) -> VQVAEConfig:
    """What config.json says. Raises CheckpointError if it is missing, damaged, or not that of a VQ-VAE of this family."""
    file = folder / CONFIG_NAME
    if not file.is_file():
        raise CheckpointError(f"{file} is missing; copy it from the checkpoint's folder {SUBFOLDER!r}")
    values = _read_json(file)
    name = values.get("_class_name", "VQModel")
    if name != "VQModel":
        raise CheckpointError(f"{file} has _class_name={name!r}, not 'VQModel'; give the folder {SUBFOLDER!r} of a checkpoint")
    try:
        return VQVAEConfig.from_dict(values)
    except InputError as error:
        raise CheckpointError(f"{file}: {error}") from error


def load_vqvae(directory: str | PathLike[str], *, dtype: torch.dtype | None = None, device: str | torch.device | None = None) -> VQVAE:
    """The VQ-VAE of a directory, in evaluation mode.

    dtype  None: as saved
    Raises CheckpointError if a file is missing or damaged, or any tensor is missing, unexpected or of another shape than config.json says.
    """
    own = Path(directory) / SUBFOLDER
    folder = find_vqvae(directory) or (own if own.is_dir() else Path(directory))
    config = vqvae_config(folder)
    with torch.device("meta"):
        images = VQVAE(config)
    tensors = _read_tensors(folder / WEIGHTS_NAME)
    _check(folder / WEIGHTS_NAME, tensors, {name: tuple(tensor.shape) for name, tensor in images.state_dict().items()})
    # a copy: a file may be written anew while the model is in use
    images.load_state_dict({name: tensor.to(device or "cpu", dtype, copy=True) for name, tensor in tensors.items()}, assign=True)
    return images.eval()


def save_vqvae(images: VQVAE, directory: str | PathLike[str], *, state: Mapping[str, Tensor] | None = None) -> None:
    """Write config.json and weights into a directory, which is made. state: other weights. Raises CheckpointError if that fails."""
    folder = Path(directory)
    tensors = {name: tensor.detach().to("cpu").contiguous() for name, tensor in (state or images.state_dict()).items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(images.config.to_dict(), indent=2, sort_keys=True) + "\n"
        (folder / CONFIG_NAME).write_text(text, encoding="utf-8")
        save_file(tensors, folder / WEIGHTS_NAME, metadata={"format": "pt"})
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be written ({error}); free space, or give another directory") from error


def _read_json(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read ({error}); download it again") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{file} holds no fields; download it again")
    return values


def _read_tensors(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise CheckpointError(f"{file} is missing; download it, or convert a pickled file with diffusers' save_pretrained")
    try:
        tensors: dict[str, Tensor] = load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} is damaged or cut short ({error}); download it again") from error
    return tensors


def _check(file: Path, tensors: dict[str, Tensor], expected: dict[str, tuple[int, ...]]) -> None:
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wrong = [f"{name} is missing" for name in expected if name not in found]
    wrong += [f"{name} is unexpected" for name in found if name not in expected]
    wrong += [f"{name} is {found[name]}, not {shape}" for name, shape in expected.items() if found.get(name, shape) != shape]
    if wrong:
        more = f", and {len(wrong) - _MAX_NAMED} more" if len(wrong) > _MAX_NAMED else ""
        raise CheckpointError(
            f"{file} does not fit {CONFIG_NAME} beside it: {'; '.join(wrong[:_MAX_NAMED])}{more}; take both files from one checkpoint"
        )
