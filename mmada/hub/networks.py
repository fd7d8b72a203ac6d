"""Networks and the directories that they are saved in: config.json and safetensors, under the published names, without transformers.

    load_transformer(path)        the transformer of a directory, in evaluation mode
    save_transformer(model, path)
    load_image_tokenizer(name)    an image tokenizer of ours, or the published one
    save_image_tokenizer(images, path)

What is written here is read by transformers' Auto classes (hub/pretrained.py), and the other way round.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from mmada.errors import CheckpointError, InputError
from mmada.families import Family, named
from mmada.hub import checkpoint, weights
from mmada.hub.family import FAMILY_KEY, family_if_any, said, with_family
from mmada.image import (
    VQVAE,
    BaseImageTokenizer,
    ImageTokenizer,
    ImageTokenizerConfig,
    VQVAEConfig,
    find_vqvae,
    load_vqvae,
    save_vqvae,
    vqvae_config,
)
from mmada.image.quantizer import bit_weights, sign_table
from mmada.model import Transformer, TransformerConfig
from mmada.model.quantized import QUANTIZATIONS, check_name, packed, quantization_of, quantize
from mmada.model.tensor_parallel import SplitTransformer, TPGroup, check_split

__all__ = [
    "IMAGE_TOKENIZER_TYPE",
    "TRANSFORMER_TYPE",
    "check_transformer",
    "image_factor",
    "image_tokenizer_config",
    "load_image_tokenizer",
    "load_part",
    "load_transformer",
    "quantization",
    "save_image_tokenizer",
    "save_transformer",
    "save_transformer_config",
    "shapes",
    "transformer_config",
]

TRANSFORMER_TYPE = "mmada"
IMAGE_TOKENIZER_TYPE = "mmada-image-tokenizer"
"""model_type of the two kinds of config.json."""

_ABOUT_FILES = ("architectures", "dtype", "model_type", "torch_dtype", "transformers_version", "quantization_config")
"""Fields of a config.json that say how it was saved, not what a network is."""

_QUANTIZED_BY = "mmada"

_N = TypeVar("_N", bound=nn.Module)


def skeleton(make: Callable[[], _N]) -> _N:
    """A network of shapes alone, on the meta device."""
    with weights.Unfilled(), torch.device("meta"):
        return make()


def shapes(config: TransformerConfig | ImageTokenizerConfig, *, quantization: str | None = None) -> dict[str, tuple[int, ...]]:
    """Tensor name -> shape of a checkpoint with this configuration; nothing is allocated.

    quantization  of a checkpoint with quantized matrices
    """
    made = skeleton(lambda: Transformer(config) if isinstance(config, TransformerConfig) else ImageTokenizer(config))
    if quantization is not None:
        assert isinstance(made, Transformer)
        quantize(made, quantization)
    return {name: tuple(tensor.shape) for name, tensor in made.state_dict().items()}


# The transformer.


def transformer_config(directory: Path, *, family: Family | None = None) -> TransformerConfig:
    """What config.json says, with the layout of the checkpoint's family.

    family  of the checkpoint; None: found by its files, and left open if none fits
    Raises CheckpointError if config.json is missing or damaged, or has values that are not those of its family; InputError for values that
    no model has.
    """
    values = checkpoint.read_config(directory)
    config = TransformerConfig.from_dict({name: value for name, value in values.items() if name not in _ABOUT_FILES})
    if family is None and config.vocab_layout is None:
        family = family_if_any(directory)
    return config if family is None else with_family(config, family, said(values))


def quantization(directory: Path) -> str | None:
    """How the matrices of a directory are quantized (model/quantized.py); None if they are not, or by another package.

    Raises CheckpointError for a quantization of ours that this version does not know.
    """
    said = checkpoint.read_config(directory).get("quantization_config")
    if not isinstance(said, dict) or said.get("quant_method") != _QUANTIZED_BY:
        return None
    name = said.get("weights")
    if name not in QUANTIZATIONS:
        file = directory / checkpoint.CONFIG_NAME
        raise CheckpointError(f"{file} has quantized weights={name!r}, and this version reads {', '.join(QUANTIZATIONS)}; use a newer one")
    return str(name)


def check_transformer(
    directory: Path, *, family: Family | None = None, quantize_as: str | None = None
) -> tuple[TransformerConfig, str | None]:
    """What `load_transformer` would refuse, found in the headers of the files: (configuration, quantization of the files).

    Raises CheckpointError for anything that is missing, left over, misshapen or cut short, InputError for a quantization that cannot be had.
    """
    config, saved = transformer_config(directory, family=family), quantization(directory)
    if quantize_as is not None:
        check_name(quantize_as)
    if saved is not None and quantize_as not in (None, saved):
        raise InputError(
            f"quantize={quantize_as!r}: {directory} is quantized as {saved} already; leave quantize out, or give the checkpoint that it was made of"
        )
    checkpoint.check(directory, shapes(config, quantization=saved))
    return config, saved


def load_transformer(
    directory: Path,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device | None = None,
    family: Family | None = None,
    quantize_as: str | None = None,
    deferred: bool = False,
) -> Transformer:
    """The transformer of a directory, in evaluation mode.

    dtype        "auto": as saved
    device       where the weights go, one after another; None: the CPU
    family       of the checkpoint; None: found by its files
    quantize_as  a name of QUANTIZATIONS: each matrix is packed as it comes, so that the floats are never all in memory; None: as saved
    deferred     read no weights yet, where that can be (weights.Unread): each process will read the rows that it holds
    Raises CheckpointError for anything that is missing, left over, misshapen or cut short, InputError for a quantization that cannot be had.
    """
    config, saved = check_transformer(directory, family=family, quantize_as=quantize_as)
    model = skeleton(lambda: Transformer(config))
    if name := saved or quantize_as:
        quantize(model, name)
    elif deferred and weights.defer(model, directory, dtype=_dtype(dtype, directory)):
        return model.eval()
    exact = [name for name in model.state_dict() if name.endswith(".scales")]
    change = partial(packed, model) if quantize_as and not saved else None
    weights.load(model, directory, dtype=_dtype(dtype, directory), device=device, change=change, exact=exact)
    return model.eval()


def save_transformer(
    model: Transformer, directory: str | PathLike[str], *, state: Mapping[str, Tensor] | None = None, max_shard_size: str = "5GB"
) -> None:
    """Write config.json and weights; older weights in the directory are replaced, in whatever form they are.

    state  the weights; None: those of the model
    """
    own: Any = getattr(model, "save_pretrained", None)
    if own is not None:  # the class of transformers, whose weights may be quantized
        own(directory, state_dict=state, max_shard_size=max_shard_size)
        return
    tensors = model.state_dict() if state is None else state
    name = quantization_of(model) if any(name.endswith(".codes") for name in tensors) else None
    if left := tensors.keys() - shapes(model.config, quantization=name).keys():
        raise InputError(
            f"the model carries {len(left)} tensors beside its own, such as {min(left)}; an adapter beside quantized weights stays in its own "
            "directory: save the base, and load the adapter"
        )
    with _written(Path(directory)) as path:
        save_transformer_config(model.config, path, dtype=_float_of(tensors), quantized_as=name)
        weights.write(path, tensors, max_shard_size=max_shard_size)


def save_transformer_config(config: TransformerConfig, directory: Path, *, dtype: str, quantized_as: str | None = None) -> None:
    """Write config.json alone. dtype: name of the weights' precision; quantized_as: name of their quantization."""
    family = named(config.extra.get(FAMILY_KEY, "mmada"))
    about = {"architectures": [family.classes[0]], "model_type": family.model_type, "dtype": dtype}
    packing = {} if quantized_as is None else {"quantization_config": {"quant_method": _QUANTIZED_BY, "weights": quantized_as}}
    _write_config(directory, {**config.to_dict(), **about, **packing})


def load_part(
    directory: Path,
    tp: TPGroup,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "cpu",
    family: Family | None = None,
) -> SplitTransformer:
    """This process's part of the transformer of a directory, in evaluation mode; of safetensors nothing else is read.

    Arguments and errors as of `load_transformer`. Raises InputError if it cannot be split over so many processes, or is quantized.
    """
    if quantization(directory) is not None:
        raise InputError(
            f"{directory} is quantized, and tensor_parallel={tp.size} splits plain matrices; give the checkpoint that it was made of"
        )
    check_split(transformer_config(directory, family=family), tp.size)
    model = load_transformer(directory, dtype=dtype, family=family, deferred=True)
    weights.split(model, tp, device=device)
    assert isinstance(model, SplitTransformer)
    return model


# The image tokenizer.


def image_tokenizer_config(directory: Path) -> ImageTokenizerConfig:
    """Sizes of an image tokenizer; a config.json that is absent, empty or without a model_type means the published ones.

    Raises CheckpointError if it is damaged, or that of another network.
    """
    values = _lenient(directory)
    if "model_type" not in values:
        return ImageTokenizerConfig()
    found = values["model_type"]
    if found != IMAGE_TOKENIZER_TYPE:
        file = directory / checkpoint.CONFIG_NAME
        raise CheckpointError(f"{file} has model_type={found!r}, not {IMAGE_TOKENIZER_TYPE!r}; give the directory of an image tokenizer")
    return ImageTokenizerConfig.from_dict(values)


def _lenient(directory: Path) -> dict[str, Any]:
    """config.json, where an absent or empty file says nothing."""
    file = directory / checkpoint.CONFIG_NAME
    return checkpoint.read_config(directory) if file.exists() and file.read_text(encoding="utf-8").strip() else {}


def image_factor(name: str | PathLike[str], family: Family) -> int:
    """Pixels along the side of the square that one code stands for, as the configuration of an image tokenizer says; no weights are loaded.

    One that would have to be downloaded is of the published size of its family. Raises CheckpointError if a configuration is damaged.
    """
    directory = checkpoint.local(name)
    if directory is None:
        return (VQVAEConfig() if family.image_tokenizer == "vqvae" else ImageTokenizerConfig()).factor
    if (folder := find_vqvae(directory)) is not None:
        return vqvae_config(folder).factor
    return image_tokenizer_config(directory).factor


def load_image_tokenizer(
    name: str | PathLike[str],
    *,
    config: ImageTokenizerConfig | None = None,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device | None = None,
    **hub: Any,
) -> BaseImageTokenizer:
    """A directory or hub name, ours, in the published layout or a VQ-VAE of diffusers -> tokenizer in evaluation mode.

    config  of a MAGVIT-v2 tokenizer; None: what is in the directory
    hub     keywords of `checkpoint.find`, such as revision
    Raises CheckpointError if there is nothing to read, a file is damaged, or any tensor is missing, unexpected or misshapen.
    """
    directory = checkpoint.find(name, **hub)
    if config is None and (folder := find_vqvae(directory)) is not None:
        return load_vqvae(folder, dtype=None if dtype == "auto" else _dtype(dtype, folder), device=device)
    sizes = config or image_tokenizer_config(directory)
    images = skeleton(lambda: ImageTokenizer(sizes))
    expected = {name: tuple(tensor.shape) for name, tensor in images.state_dict().items()}
    checkpoint.check(directory, expected, optional=[name for name in expected if name.startswith("quantize.")])
    tables = {"quantize.embedding": sign_table(images.num_bits), "quantize.power_vals": bit_weights(images.num_bits)}
    weights.load(images, directory, dtype=_dtype(dtype, directory), device=device, keep=tables)
    return images.eval()


def save_image_tokenizer(images: BaseImageTokenizer, directory: str | PathLike[str], *, state: Mapping[str, Tensor] | None = None) -> None:
    """Write config.json and weights, as `save_transformer` does."""
    own: Any = getattr(images, "save_pretrained", None)
    if own is not None:
        own(directory, state_dict=state)
        return
    if isinstance(images, VQVAE):
        with _written(Path(directory)) as path:
            save_vqvae(images, path, state=state)
        return
    assert isinstance(images, ImageTokenizer)
    tensors = images.state_dict() if state is None else state
    about = {"architectures": ["ImageTokenizer"], "model_type": IMAGE_TOKENIZER_TYPE, "dtype": _float_of(tensors)}
    with _written(Path(directory)) as path:
        _write_config(path, {**images.config.to_dict(), **about})
        weights.write(path, tensors)


def _dtype(given: str | torch.dtype, directory: Path) -> torch.dtype:
    if isinstance(given, torch.dtype):
        return given
    if given == "auto":
        return weights.own_dtype(directory, _lenient(directory))
    found = getattr(torch, given, None)
    if not isinstance(found, torch.dtype):
        raise InputError(f"dtype={given!r} is unknown; use auto, float32, bfloat16 or float16")
    return found


@contextmanager
def _written(directory: Path) -> Iterator[Path]:
    with checkpoint.saving(directory):
        yield directory


def _write_config(directory: Path, values: Mapping[str, Any]) -> None:
    text = json.dumps(values, indent=2, sort_keys=True) + "\n"
    (directory / checkpoint.CONFIG_NAME).write_text(text, encoding="utf-8")


def _float_of(tensors: Mapping[str, Tensor]) -> str:
    """The name of the first floating-point precision; scales of quantized matrices have their own."""
    floats = (tensor for name, tensor in tensors.items() if tensor.is_floating_point() and not name.endswith(".scales"))
    return next(str(tensor.dtype) for tensor in floats).removeprefix("torch.")
