"""Arguments that every model of transformers is called with, and that mean something else, or nothing, to a model without a cache and an order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mmada.errors import InputError, suggest

__all__ = ["check_positions", "refuse_caches", "refuse_others"]

_TAKEN = (
    "input_ids",
    "attention_mask",
    "position_ids",
    "inputs_embeds",
    "labels",
    "positions",
    "vocab",
    "output_hidden_states",
    "return_dict",
)


def refuse_caches(past_key_values: Any, *, use_cache: bool | None, output_attentions: bool | None) -> None:
    """Raises InputError if a call asks for keys and values to be kept, or for attention weights."""
    if past_key_values is not None or use_cache:
        name = "past_key_values" if past_key_values is not None else f"use_cache={use_cache}"
        raise InputError(
            f"{name}: every token attends to every other, so that no call can go on from another; leave it out. "
            "The sampler has caches of its own: generate(cache='prefix') or cache='dual'"
        )
    if output_attentions:
        raise InputError(
            "output_attentions=True: attention weights are never made as numbers; leave it out, or ask for output_hidden_states"
        )


def refuse_others(values: Mapping[str, Any]) -> None:
    """Raises InputError for arguments of other kinds of models, by name; what is None asks for nothing, and callers that know many kinds pass it."""
    for name, value in values.items():
        if value is not None:
            raise InputError(
                f"{name} is no argument of this model, which takes tokens and gives logits of tokens: {suggest(name, _TAKEN)}; leave it out"
            )


def check_positions(position_ids: Tensor | None, mask: Any, *, shape: tuple[int, ...] | None) -> None:
    """Positions only count by their distances, which are those of the row itself.

    Raises InputError for positions that do not rise by one along what is seen of each row.
    """
    if position_ids is None or torch.compiler.is_compiling():
        return
    if (
        not isinstance(position_ids, Tensor)
        or position_ids.dim() not in (1, 2)
        or (shape is not None and position_ids.shape[-1] != shape[-1])
    ):
        raise InputError(f"position_ids must have the shape (B, L) or (L,) of input_ids {shape}; leave them out")
    rows = position_ids if position_ids.dim() == 2 else position_ids[None]
    offsets = rows - torch.arange(rows.shape[1], device=rows.device)
    seen = mask if isinstance(mask, Tensor) and mask.dim() == 2 else torch.ones_like(offsets, dtype=torch.bool)
    offsets = offsets.expand(seen.shape)
    low = offsets.masked_fill(~seen, torch.iinfo(offsets.dtype).max).amin(1)
    high = offsets.masked_fill(~seen, torch.iinfo(offsets.dtype).min).amax(1)
    if bool(((low != high) & seen.any(1)).any()):
        raise InputError(
            "position_ids must count up by one along each row, as the model places its tokens; leave them out, or pack rows (mmada.model.Packing)"
        )
