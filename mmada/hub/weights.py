"""The tensors of a checkpoint directory, read and written one by one.

    load(module, directory)      fill a network: the peak is the network and a small part of a file
    defer(module, directory)     give it parameters that are read later, in parts: processes that share a network read their part only
    split(model, tp)             tensor parallelism: keep this process's parts, or read no others
    write(directory, tensors)    model.safetensors, or model-00001-of-0000N.safetensors with an index

Reading converts each tensor as it comes, a few rows at a time, and closes the file behind them. What was read of a mapped file counts as memory of
the process until then, so that a file never stays in memory beside the result.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mmada.errors import CheckpointError, InputError
from mmada.hub import checkpoint
from mmada.model import Transformer, tensor_parallel
from mmada.model.tensor_parallel import TPGroup

__all__ = ["Unfilled", "Unread", "defer", "load", "own_dtype", "size_in_bytes", "split", "write"]

_FILLS = frozenset({"normal_", "uniform_", "kaiming_uniform_", "trunc_normal_"})
_AT_ONCE = 2**25
"""Bytes of a file that are read before it is closed and opened anew."""
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


class Unfilled(TorchFunctionMode):
    """`with Unfilled(), torch.device("meta"):` makes a network of shapes alone: nothing is drawn, nothing allocated.

    Random numbers on the meta device would import a symbolic algebra package, which takes longer than loading a small model.
    """

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in _FILLS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


class Unread(nn.Parameter):
    """A parameter whose numbers are still in a safetensors file. It has a shape and a precision, and takes no memory."""

    file: Path
    stored_name: str

    def __new__(cls, file: Path, name: str, *, shape: tuple[int, ...], dtype: torch.dtype, requires_grad: bool = True) -> Unread:
        made = super().__new__(cls, torch.empty((), dtype=dtype).expand(shape), requires_grad)  # one number, seen everywhere
        assert isinstance(made, Unread)
        made.file, made.stored_name = file, name
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> Unread:
        copied = Unread(self.file, self.stored_name, shape=tuple(self.shape), dtype=self.dtype, requires_grad=self.requires_grad)
        memo[id(self)] = copied
        return copied

    def part(self, index: tuple[slice, ...], *, dtype: torch.dtype, device: torch.device | str) -> Tensor:
        """tensor[index] as a tensor of its own, a slice for each dimension; nothing else is read."""
        from safetensors import safe_open

        with safe_open(self.file, framework="pt") as stream:
            part = stream.get_slice(self.stored_name)[index]
            return _converted(part, dtype, torch.device(device))


def defer(module: nn.Module, directory: Path, *, dtype: torch.dtype | None = None) -> bool:
    """Give a network on the meta device `Unread` parameters, for a directory which `checkpoint.check` has accepted.

    dtype  that they will have; None: as saved
    Returns False, and changes nothing, if the weights are not in safetensors, or are more than parameters.
    """
    from safetensors import safe_open

    parameters = dict(module.named_parameters())
    files = sorted(directory.glob("*.safetensors")) and checkpoint.weight_files(directory)
    places: dict[str, Path] = {}
    for file in files:
        with safe_open(file, framework="pt") as stream:
            places |= dict.fromkeys(stream.keys(), file)
    if not places or set(module.state_dict()) != set(parameters) or set(parameters) - set(places):
        return False
    for name, parameter in parameters.items():
        owner, _, last = name.rpartition(".")
        kept = own_dtype(directory, {}) if dtype is None else dtype
        made = Unread(places[name], name, shape=tuple(parameter.shape), dtype=kept, requires_grad=parameter.requires_grad)
        module.get_submodule(owner).register_parameter(last, made)
    return True


@torch.no_grad()
def split(model: Transformer, tp: TPGroup, *, device: torch.device | str = "cpu") -> None:
    """Split a transformer over processes, in place; of `Unread` weights each process reads its parts alone.

    Raises InputError if it cannot be split.
    """
    tensor_parallel.split(model, tp)
    for name, parameter in list(model.named_parameters()):
        index, dim = [slice(None)] * parameter.dim(), tensor_parallel.split_dim(name)
        if dim is not None:
            index[dim] = slice(*tensor_parallel.own_range(parameter.shape[dim], tp.rank, tp.size))
        if isinstance(parameter, Unread):
            own = parameter.part(tuple(index), dtype=parameter.dtype, device=device)
        else:
            own = _converted(parameter[tuple(index)], None, torch.device(device))
        owner, _, last = name.rpartition(".")
        model.get_submodule(owner).register_parameter(last, nn.Parameter(own, requires_grad=parameter.requires_grad))


def load(
    module: nn.Module,
    directory: Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    keep: Mapping[str, Tensor] | None = None,
    change: Callable[[str, Tensor], Mapping[str, Tensor]] | None = None,
    exact: Collection[str] = (),
) -> None:
    """Give a network without weights (on the meta device) those of a directory, which `checkpoint.check` has accepted.

    dtype   of the floating-point tensors; None: as saved
    keep    tensors for names that the directory lacks
    change  what a tensor becomes, under which names, before it is converted
    exact   names of tensors that keep their precision
    """
    place = torch.device(device or "cpu")
    found = {name: _converted(tensor, dtype, place) for name, tensor in {**(keep or {})}.items()}
    for saved, tensor, copied in _read(directory):
        for name, part in ({saved: tensor} if change is None else change(saved, tensor.to(place))).items():
            kept = None if name in exact else dtype
            found[name] = copied(kept, place) if part is tensor else _converted(part, kept, place)
    module.load_state_dict(found, assign=True)


def own_dtype(directory: Path, values: Mapping[str, Any]) -> torch.dtype:
    """The precision of a checkpoint: what its config.json says, or else that of its first floating-point tensor.

    Eight-bit floats only store weights: float32 is computed in.
    """
    named = values.get("dtype") or values.get("torch_dtype")
    if isinstance(named, str) and isinstance(found := getattr(torch, named.removeprefix("torch."), None), torch.dtype):
        return found
    for _, tensor, _ in _read(directory):
        if tensor.is_floating_point():
            return tensor.dtype if tensor.dtype.itemsize > 1 else torch.float32
    return torch.float32


_Copy = Callable[[torch.dtype | None, torch.device], Tensor]


def _read(directory: Path) -> Iterator[tuple[str, Tensor, _Copy]]:
    """Name, tensor, and a function that copies it as `_converted` does; the tensor itself is not read until it is used."""
    from safetensors import safe_open

    pickled = directory / checkpoint.PICKLE_NAME
    if pickled.exists() and not any(directory.glob("*.safetensors")):
        for name, tensor in torch.load(pickled, map_location="cpu", weights_only=True).items():
            yield name, tensor, partial(_converted, tensor)
        return
    files = checkpoint.weight_files(directory)
    with _bar(files) as shown:
        for file in shown:
            with safe_open(file, framework="pt") as stream:
                names = list(stream.keys())
            for name in names:
                with safe_open(file, framework="pt") as stream:
                    tensor = stream.get_tensor(name)
                yield name, tensor, partial(_copied, file, name, tensor)


def _copied(file: Path, name: str, tensor: Tensor, dtype: torch.dtype | None, device: torch.device) -> Tensor:
    """`_converted(tensor, dtype, device)` of a tensor of a file, a few rows at a time."""
    from safetensors import safe_open

    if tensor.dim() == 0 or tensor.nbytes <= _AT_ONCE:
        return _converted(tensor, dtype, device)
    kind = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
    made = torch.empty(tensor.shape, dtype=kind, device=device)
    step = max(1, _AT_ONCE * len(tensor) // tensor.nbytes)
    for rows in made.split(step):
        start = rows.storage_offset() // (tensor.numel() // len(tensor))
        with safe_open(file, framework="pt") as stream:
            rows.copy_(stream.get_slice(name)[start : start + len(rows)])
    return made


def _bar(files: list[Path]) -> AbstractContextManager[Any]:
    """A progress bar over the files of a large checkpoint, in a terminal or a notebook; a single file is read in silence."""
    from contextlib import nullcontext

    if len(files) < 2:
        return nullcontext(files)
    from tqdm import tqdm

    # tqdm takes a notebook for a pipe. Its widgets need a package more, and warn without it; its line of text does not.
    in_notebook = "ipykernel" in sys.modules
    bar: AbstractContextManager[Any] = tqdm(files, desc="loading", unit="file", disable=False if in_notebook else None, leave=False)
    return bar


def _converted(tensor: Tensor, dtype: torch.dtype | None, device: torch.device) -> Tensor:
    """A copy that does not share memory with a file, which may be written anew while the model is in use."""
    return tensor.to(device, dtype if tensor.is_floating_point() else None, copy=True).contiguous()


def size_in_bytes(text: str) -> int:
    """ "5GB" -> 5 * 10**9. Raises InputError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]B)", text.upper())
    if match is None:
        raise InputError(f"max_shard_size={text!r} must be a number with its unit, such as 5GB or 500MB")
    return int(float(match[1]) * _UNITS[match[2]])


def write(directory: Path, tensors: Mapping[str, Tensor], *, max_shard_size: str = "5GB") -> None:
    """Write tensors in the order of their names, in files of at most `max_shard_size`; a tensor is never split.

    Raises CheckpointError if a file cannot be written.
    """
    from safetensors.torch import save_file

    shards = _shards(tensors, size_in_bytes(max_shard_size))
    names = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    names = names if len(shards) > 1 else [checkpoint.SINGLE_NAME]
    for old in directory.glob("model-*-of-*.safetensors"):
        old.unlink()
    try:
        for file, shard in zip(names, shards, strict=True):
            parts = {name: tensors[name].detach().to("cpu").contiguous() for name in shard}
            save_file(parts, directory / file, metadata={"format": "pt"})
    except OSError as error:
        raise CheckpointError(f"{directory} cannot be written ({error}); free space, or give another directory") from error
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": sum(_size(tensor) for tensor in tensors.values())},
            "weight_map": {name: file for file, shard in zip(names, shards, strict=True) for name in shard},
        }
        (directory / checkpoint.INDEX_NAME).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _shards(tensors: Mapping[str, Tensor], limit: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + _size(tensor) > limit:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += _size(tensor)
    return shards


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
