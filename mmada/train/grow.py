"""A checkpoint with more rows in its vocabulary: what the first published stage starts from (cli/convert.py)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from mmada.errors import CheckpointError
from mmada.hub import checkpoint

__all__ = ["grow"]


def grow(
    source: Path, target: Path, tables: Sequence[str], *, rows: int, kept: int, dtype: torch.dtype | None = None, seed: int = 0
) -> None:
    """Write the weights of a directory into another, with `rows` rows in each of the `tables`, of which the first `kept` are the source's.

    New rows are drawn from N(m, s), m and s those of the kept rows in each dimension: about as long as those, and unlike each other.
    One file is in memory at a time. dtype is that of the target; None: as it is.
    Raises CheckpointError if a table is missing or has fewer rows than are kept.
    """
    sizes = checkpoint.shapes(source)
    for name in tables:
        if name not in sizes or sizes[name][0] < kept:
            raise CheckpointError(
                f"{source} has {name} {sizes.get(name, 'not at all')}, and {kept} of its rows are to be kept; is it the right model?"
            )
    target.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    weight_map: dict[str, str] = {}
    total = 0
    for file in checkpoint.weight_files(source):
        tensors = load_file(file)
        for name in [name for name in tables if name in tensors]:
            old = tensors[name][:kept]
            wide = old.float()
            new = torch.randn(rows - kept, *old.shape[1:], generator=generator) * wide.std(0) + wide.mean(0)
            tensors[name] = torch.cat([old, new.to(old.dtype)])
        if dtype is not None:
            tensors = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
        save_file(tensors, target / file.name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file.name)
        total += sum(tensor.nbytes for tensor in tensors.values())
    if len(set(weight_map.values())) > 1 or file.name != checkpoint.SINGLE_NAME:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (target / checkpoint.INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
