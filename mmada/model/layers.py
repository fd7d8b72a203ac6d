"""One pre-norm transformer block, with the published names: RMSNorm, rotary attention, SwiGLU, no biases.

x = x + attn_out( attend( rotate(q), rotate(k), v ) )      q, k, v = {q,k,v}_proj( attn_norm(x) )
x = x + ff_out( silu(ff_proj(h)) * up_proj(h) )            h = ff_norm(x)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmada.model.attention import AttentionBias, Neighbors, attend, leave_packing_uncompiled, rotate
from mmada.model.config import TransformerConfig

__all__ = ["Block", "RMSNorm", "ShortConv", "is_wider", "narrowed"]


class RMSNorm(nn.Module):
    """x / rms(x) in float32, back to the input's dtype, then times the weight (in that order, as published).

    averaged  of the means of a part of the width, those of the whole width; None: the width is here (model/tensor_parallel.py)
    """

    averaged: Callable[[Tensor], Tensor] | None = None

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return self.normed(x, self.weight)

    def normed(self, x: Tensor, weight: Tensor) -> Tensor:
        """The same with a weight that is given."""
        if torch.is_grad_enabled():
            out: Tensor = _RMSNorm.apply(x, weight, self.eps, self.averaged)  # type: ignore[no-untyped-call]
            return out
        wide = x.float()
        normed = wide * _scale(wide, self.eps, self.averaged)
        if x.dtype == normed.dtype and weight.dtype.itemsize <= normed.dtype.itemsize:
            return normed.mul_(weight)
        return normed.to(x.dtype) * weight


def _scale(wide: Tensor, eps: float, averaged: Callable[[Tensor], Tensor] | None) -> Tensor:
    """1 / rms(x), (..., 1) float32."""
    mean = wide.square().mean(-1, keepdim=True)
    return (mean if averaged is None else averaged(mean)).add_(eps).rsqrt_()


class _RMSNorm(torch.autograd.Function):
    """Its gradient in four passes over memory instead of nine: on a CPU 1.8 times as fast as what autograd derives."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, averaged: Callable[[Tensor], Tensor] | None) -> Tensor:
        wide = x.float()
        scale = _scale(wide, eps, averaged)
        normed = wide * scale
        ctx.averaged = averaged
        ctx.save_for_backward(normed, scale, weight)
        return normed.to(x.dtype) * weight

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        normed, scale, weight = ctx.saved_tensors
        product = (grad.float() * normed).flatten(0, -2)  # (rows, D)
        along = torch.mv(product, weight.float()).view(scale.shape) / normed.shape[-1]
        along = along if ctx.averaged is None else ctx.averaged(along)
        inward = (grad * weight).float().addcmul_(normed, along, value=-1).mul_(scale)
        return inward.to(grad.dtype), product.sum(0).to(weight.dtype), None, None


class ShortConv(nn.Module):
    """x + a depthwise convolution of x over `taps` neighboring tokens, no bias: (B, L, D) -> (B, L, D). taps is odd.

    A token that carries its neighbors along is found by them: in "top left dog , bottom right lock ... the lock is <mask>" one
    attention head goes from the mask to "lock" and reads "bottom right" there. Without it two layers must agree on how, which small models
    hardly learn (docs/decisions.md). On embeddings alone, so that keys and values can be cached as ever. After the short
    convolutions of H3 (Fu et al. 2022) and the Canon layers of Allen-Zhu (2025).
    """

    def __init__(self, width: int, taps: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(taps, width))

    @property
    def reach(self) -> int:
        """Tokens on each side."""
        return len(self.weight) // 2

    def forward(self, x: Tensor, near: Neighbors | None) -> Tensor:
        """near  who stands at each offset (attention.neighbors); None: whoever is there in the row"""
        return self.convolved(x, near, self.weight)

    def convolved(self, x: Tensor, near: Neighbors | None, weights: Tensor) -> Tensor:
        """The same with weights that are given."""
        padded = F.pad(x, (0, 0, self.reach, self.reach))
        index = None if near is None else near.index
        out = x
        for tap, weight in enumerate(weights):
            neighbour = padded[:, tap : tap + x.shape[1]] if index is None else _rows(x[0], index[tap])[None]
            weighted = neighbour * weight
            out = out + (weighted if near is None else weighted * near.seen[tap, ..., None].to(x.dtype))
        return out


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """x[index], written so that its gradient is fast: on CPUs as a look-up, on GPUs by atomic additions."""
    return x.index_select(0, index) if x.is_cuda else F.embedding(index, x)


class Block(nn.Module):
    """(B, L, D) -> (B, L, D).

    gradient_checkpointing  while training, compute the block again in the backward pass instead of keeping its activations.
                            transformers sets the attribute by this name, and beside it the function that does so
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.gradient_checkpointing = False
        self._gradient_checkpointing_func: Any = partial(checkpoint, use_reentrant=False)
        width, wide = config.d_model, config.mlp_hidden_size or 0
        kv_width = (config.n_kv_heads or config.n_heads) * config.head_dim
        self.head_dim = config.head_dim
        self.attn_norm = RMSNorm(width, config.rms_norm_eps)
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, kv_width, bias=False)
        self.v_proj = nn.Linear(width, kv_width, bias=False)
        self.q_norm = RMSNorm(width, config.rms_norm_eps) if config.attention_layer_norm else nn.Identity()
        self.k_norm = RMSNorm(kv_width, config.rms_norm_eps) if config.attention_layer_norm else nn.Identity()
        self.attn_out = nn.Linear(width, width, bias=False)
        self.ff_norm = RMSNorm(width, config.rms_norm_eps)
        self.ff_proj = nn.Linear(width, wide, bias=False)
        self.up_proj = nn.Linear(width, wide, bias=False)
        self.ff_out = nn.Linear(wide, width, bias=False)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """As in torch, but for the attention of packed rows."""
        leave_packing_uncompiled()
        super().compile(*args, **kwargs)

    def __call__(self, *args: Any) -> Any:
        if self.gradient_checkpointing and self.training:
            return self._gradient_checkpointing_func(super().__call__, *args)
        return super().__call__(*args)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, attn_bias: AttentionBias, index: Tensor | None = None) -> Tensor:
        """x of float32 beside weights of fewer bits: products with weights are theirs, all else is float32.

        index  tokens (n,) of a batch of one whose results are wanted: what comes after the attention is computed for these alone
        """
        weight = self.attn_norm.weight
        is_wide = is_wider(x, weight)
        h = narrowed(self.attn_norm(x), weight)
        q, k, v = (_widened(y, x) if is_wide else y for y in (self.q_proj(h), self.k_proj(h), self.v_proj(h)))
        q, k, v = (y.unflatten(-1, (-1, self.head_dim)) for y in (self.q_norm(q), self.k_norm(k), v))  # (B, L, heads, hd)
        mixed = attend(rotate(q, cos, sin), rotate(k, cos, sin), v, attn_bias)
        mixed = mixed.flatten(-2)
        if index is not None:
            x, mixed = x[:, index], mixed[:, index]
        x = _added(self.attn_out(narrowed(mixed, weight)), x)
        h = narrowed(self.ff_norm(x), weight)
        gate, up = self.ff_proj(h), self.up_proj(h)
        gated = F.silu(gate) * up if torch.is_grad_enabled() else F.silu(gate, inplace=True).mul_(up)
        return _added(self.ff_out(gated), x)


def is_wider(x: Tensor, weight: Tensor) -> bool:
    """Whether x has more bits than a weight beside it, so that products are the weight's (`narrowed`)."""
    return x.dtype.itemsize > weight.dtype.itemsize


def narrowed(x: Tensor, weight: Tensor) -> Tensor:
    """x (..., L, D) in the precision of a weight with fewer bits, and rows of zeros behind it; else x itself.

    oneDNN compiles a kernel for every number of rows: 0.6 ms and 0.6 MB each. Packed rows have new numbers at every step, and so have few ones here.
    """
    if not is_wider(x, weight):
        return x
    *before, length, width = x.shape
    step = next((step for most, step in _STEPS if length <= most), _LARGEST_STEP)
    out = torch.empty(*before, -(-length // step) * step, width, dtype=weight.dtype, device=x.device)
    out[..., :length, :] = x
    out[..., length:, :] = 0
    return out


_STEPS = ((256, 16), (1024, 32), (4096, 64))
"""Rows up to the first number are a multiple of the second."""
_LARGEST_STEP = 256


def _widened(y: Tensor, x: Tensor) -> Tensor:
    """What a product with `narrowed` rows gave, at the length and in the precision of x."""
    return y[..., : x.shape[-2], :].to(x.dtype)


def _added(update: Tensor, x: Tensor) -> Tensor:
    """update + x: where no gradient is wanted in the place of the update, which nobody else holds."""
    update = update if update.shape == x.shape else update[..., : x.shape[-2], :]  # rows of `narrowed`
    return update + x if torch.is_grad_enabled() or update.dtype != x.dtype else update.add_(x)
