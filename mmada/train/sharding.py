"""FSDP2: each process holds its rows of every weight, and the rest for as long as a block is computed.

    shard(module)     blocks one by one, then what is left: embedding, norm, head
    local(tensor)     the rows of this process
    whole(tensor)     all rows, which every process gets; all of them must ask
    like(rows, tensor)  of whole rows, those that this process holds of the tensor
    write, read       (write_later) tensors in torch's distributed checkpoint: any number of processes reads what any other number wrote

With tensor parallelism groups of processes split every matrix first (model/tensor_parallel.py), and FSDP2 shares out the parts. The mesh is
(groups, processes of a group); FSDP2 also carries precision where there is one group.

Weights that are still in files are read by rows. So a process never holds more than its part and the tensor at hand.

Trained weights stay in float32 where the forward pass is computed in bfloat16. Blocks are gathered in bfloat16, and gradients are added up
in float32. The optimizer moves the float32 rows.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mmada.hub.weights import Unread
from mmada.model import Transformer
from mmada.model.layers import Block
from mmada.model.tensor_parallel import TPGroup, own_range, split, split_dim

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor

__all__ = ["gathered", "is_sharded", "like", "local", "read", "shard", "sizes", "whole", "whole_state", "write", "write_later"]


def shard(module: nn.Module, *, device: torch.device, precision: Literal["fp32", "bf16"], tensor_parallel: int = 1) -> None:
    """Shard a module over all processes, in place, and fill what was `Unread`.

    precision  that the forward pass computes in; with bf16, trained weights are held in float32
    tensor_parallel  processes that split each matrix of the module's transformer
    Raises InputError for a transformer that cannot be split so.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    if precision == "bf16":
        _keep_masters(module)
    unread = _emptied(module)
    mesh = init_device_mesh(device.type, (dist.get_world_size() // tensor_parallel, tensor_parallel), mesh_dim_names=("groups", "parts"))
    if tensor_parallel > 1:
        _split(module, mesh["parts"], device)
    # Inputs are not cast: rotary tables and losses are float32 in one process, too.
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if precision == "bf16" else None, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    units = [part for part in module.modules() if isinstance(part, Block)]
    for unit in (*units, module):  # the root is gathered anew in each pass: what moves its rows in between is seen
        fully_shard(unit, mesh=mesh["groups"], mp_policy=policy, reshard_after_forward=True)
    _fill(module, unread, device)


def _split(module: nn.Module, mesh: DeviceMesh, device: torch.device) -> None:
    """Give the transformer of a module this process's parts of its weights. What was read later stays without numbers."""
    from torch.distributed.tensor import DTensor, Placement, Replicate, Shard

    # Two dimensions are gathered one after the other, which torch warns of.
    logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)
    (model,) = (part for part in module.modules() if isinstance(part, Transformer))
    tp = TPGroup(mesh.get_local_rank(), mesh.size(), mesh.get_group())
    split(model, tp)
    for name, parameter in list(model.named_parameters()):
        dim, own = split_dim(name), parameter.detach()
        placements: list[Placement] = [Replicate() if dim is None else Shard(dim)]
        if dim is not None:
            start, stop = own_range(parameter.shape[dim], tp.rank, tp.size)
            own = own.narrow(dim, start, stop - start).clone()
        own = own if own.is_meta else own.to(device)
        made = DTensor.from_local(own, mesh, placements, run_check=False, shape=parameter.shape, stride=parameter.stride())
        owner, _, last = name.rpartition(".")
        model.get_submodule(owner).register_parameter(last, nn.Parameter(made, requires_grad=parameter.requires_grad))


def _keep_masters(module: nn.Module) -> None:
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter.dtype == torch.float32 or not parameter.is_floating_point():
                continue
            if isinstance(parameter, Unread):
                shape = tuple(parameter.shape)
                part.register_parameter(name, Unread(parameter.file, parameter.stored_name, shape=shape, dtype=torch.float32))
            else:
                parameter.data = parameter.data.float()


def _emptied(module: nn.Module) -> dict[str, Unread]:
    """Take the `Unread` parameters out, and leave shapes."""
    unread = {name: parameter for name, parameter in module.named_parameters() if isinstance(parameter, Unread)}
    for name, parameter in unread.items():
        owner, _, last = name.rpartition(".")
        empty = torch.empty(parameter.shape, dtype=parameter.dtype, device="meta")
        module.get_submodule(owner).register_parameter(last, nn.Parameter(empty, requires_grad=parameter.requires_grad))
    return unread


@torch.no_grad()
def _fill(module: nn.Module, unread: Mapping[str, Unread], device: torch.device) -> None:
    """Read what this process holds."""
    from torch.distributed.tensor import DTensor

    found: dict[str, Tensor] = {}
    for name, parameter in module.named_parameters():
        if name not in unread:
            continue
        assert isinstance(parameter, DTensor)
        own = unread[name].part(_own_index(parameter), dtype=parameter.dtype, device=device)
        found[name] = DTensor.from_local(
            own, parameter.device_mesh, parameter.placements, run_check=False, shape=parameter.shape, stride=parameter.stride()
        )
    module.load_state_dict(found, strict=False, assign=True)


def _own_index(tensor: DTensor) -> tuple[slice, ...]:
    """What this process holds of a whole tensor: first tensor parallelism takes its part, then FSDP2 its rows of that, as torch.chunk would."""
    ranges, mesh = [(0, size) for size in tensor.shape], tensor.device_mesh
    for axis in reversed(range(mesh.ndim)):
        dim: int | None = getattr(tensor.placements[axis], "dim", None)
        if dim is not None:
            first, last = ranges[dim]
            start, stop = own_range(last - first, mesh.get_local_rank(axis), mesh.size(axis))
            ranges[dim] = (first + start, first + stop)
    return tuple(slice(start, stop) for start, stop in ranges)


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is one of FSDP2, of which this process holds rows."""
    return hasattr(tensor, "full_tensor")


def local(tensor: Tensor) -> Tensor:
    """The rows of this process; of a whole tensor, itself. It shares memory."""
    found: Any = tensor
    return found.to_local() if is_sharded(tensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All rows, on every process. All of them must call it."""
    found: Any = tensor
    return found.full_tensor() if is_sharded(tensor) else tensor


def whole_state(module: nn.Module, *, is_kept: bool) -> dict[str, Tensor]:
    """The state dict of a sharded module on the CPU, tensor by tensor; empty where it is not kept. Every process calls it."""
    found = {}
    for name, tensor in module.state_dict().items():
        full = whole(tensor)
        if is_kept:
            found[name] = full.cpu()
    return found


def like(rows: Tensor, tensor: Tensor) -> Tensor:
    """The part of whole `rows` that this process holds of `tensor`."""
    found: Any = tensor
    return rows[_own_index(found)] if is_sharded(tensor) else rows


def write(directory: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors, sharded or whole, in torch's distributed checkpoint. Every process calls it."""
    from torch.distributed.checkpoint.filesystem import FileSystemWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    directory.mkdir(parents=True, exist_ok=True)
    with _quiet():
        save(dict(tensors), storage_writer=FileSystemWriter(directory))


def write_later(directory: Path, tensors: Mapping[str, Tensor], group: dist.ProcessGroup) -> Future[Any]:
    """As `write`, of copies that are made before this returns, in a thread. group: of the same processes, which nothing else uses."""
    from torch.distributed.checkpoint.filesystem import FileSystemWriter
    from torch.distributed.checkpoint.state_dict_saver import async_save

    directory.mkdir(parents=True, exist_ok=True)
    found: Any = async_save(dict(tensors), storage_writer=FileSystemWriter(directory), process_group=group)
    written: Future[Any] = found
    return written


def read(directory: Path, tensors: Mapping[str, Tensor]) -> None:
    """Fill tensors from what another number of processes may have written. Every process calls it."""
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.state_dict_loader import load

    with _quiet():
        load(dict(tensors), storage_reader=FileSystemReader(directory))


def sizes(directory: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Name -> shape and precision of everything in a directory that `write` wrote."""
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    entries = FileSystemReader(directory).read_metadata().state_dict_metadata
    return {name: (entry.size, entry.properties.dtype) for name, entry in entries.items() if isinstance(entry, TensorStorageMetadata)}


def gathered(directory: Path, prefix: str) -> dict[str, Tensor]:
    """Name, without the prefix, -> tensor of everything in a directory that begins with it, whole. In one process alone, on the CPU."""
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.state_dict_loader import load

    wanted: dict[str, Any] = {
        name: torch.empty(size, dtype=dtype) for name, (size, dtype) in sizes(directory).items() if name.startswith(prefix)
    }
    with _quiet():
        load(wanted, storage_reader=FileSystemReader(directory), no_dist=True)
    return {name.removeprefix(prefix): tensor for name, tensor in wanted.items()}


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*assuming the intent is to (load|save) in a single process")  # it is, where it says so
        yield
