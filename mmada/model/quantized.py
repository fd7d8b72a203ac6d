"""Weight-only quantization: matrices of the blocks are stored in 8 or 4 bits, and computed with as floats. It needs torch alone.

    quantize(model, "int4")          in place, whether the model has weights or only shapes
    packed(model, name, tensor)      a tensor of the plain model under the names of the quantized one
    unpacked(model, state)           a state dict under the names of the plain model again

    w[o, i] ~ code[o, i] * scale[o, i // group]        code: a whole number, -128..127 or -8..7

The weight of a group that is farthest from 0 becomes the lowest code, with the scale's sign: all codes are used, and nothing needs a zero point.
Source: absmax quantization in groups, as in GPTQ and QLoRA (Dettmers et al. 2023, "QLoRA", section 2).

Left alone are embedding, head, norms, convolution, biases and routers. Embedding and head are rows of tokens, which are looked up or asked for in
part, and their errors go into every logit. Gradients pass through a quantized matrix, and none reaches it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from math import gcd
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmada.errors import InputError, suggest
from mmada.model.qwen import Router
from mmada.model.transformer import Transformer

__all__ = ["QUANTIZATIONS", "QuantizedLinear", "check_name", "pack", "packed", "quantization_of", "quantize", "unpack", "unpacked"]

QUANTIZATIONS: Mapping[str, int] = {"int8": 8, "int4": 4}
"""name -> bits of a weight"""
_GROUP = 64
"""Weights that share a scale, at most: 16 bits for 64 weights are a quarter of a bit for each."""
_SMALLEST_GROUP = 8
_PACKED_AT_ONCE = 2**20


def check_name(name: str) -> int:
    """Bits of a quantization. Raises InputError for an unknown name."""
    if name not in QUANTIZATIONS:
        raise InputError(f"quantize={name!r} is unknown: {suggest(name, QUANTIZATIONS)}")
    return QUANTIZATIONS[name]


def pack(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """(O, I) floats of any precision -> codes, int8 (O, I) or two in a byte, uint8 (O, I / 2), and scales (O, I / group) float16."""
    rows = weight.split(max(1, _PACKED_AT_ONCE // weight.shape[1]))  # the floats on the way are several times the weights
    codes, scales = zip(*(_pack(part, bits) for part in rows), strict=True)
    return torch.cat(codes), torch.cat(scales)


def _pack(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    lowest = -(2 ** (bits - 1))
    groups = weight.float().unflatten(1, (-1, _group_size(weight.shape[1])))  # (O, G, group)
    farthest = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))
    scales = (farthest / lowest).half()
    divisor = torch.where(scales == 0, 1.0, scales.float())
    codes = (groups / divisor).round_().clamp_(lowest, -lowest - 1).flatten(1)
    if bits == 4:
        low, high = (codes - lowest).to(torch.uint8).unflatten(1, (-1, 2)).unbind(-1)
        return low | high << 4, scales[..., 0]
    return codes.to(torch.int8), scales[..., 0]


def unpack(codes: Tensor, scales: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Codes and scales -> (O, I) floats. Codes in four bits are those of type uint8."""
    values = F.embedding(codes.int(), _pairs(codes.device)).flatten(1) if codes.dtype == torch.uint8 else codes.float()
    groups = values.unflatten(1, (scales.shape[1], -1))
    weight: Tensor = groups.mul_(scales.float()[..., None]).flatten(1).to(dtype)
    return weight


@cache
def _pairs(device: torch.device) -> Tensor:
    """(256, 2) the two codes in a byte, the lower half first."""
    byte = torch.arange(256, device=device)
    return torch.stack([byte % 16 - 8, byte // 16 - 8], 1).float()


def _group_size(width: int) -> int:
    return gcd(width, _GROUP)


class QuantizedLinear(nn.Module):
    """A linear layer whose matrix is stored in few bits: (..., I) -> (..., O).

    It is no nn.Linear: what would change `weight` in place, such as merging an adapter, must not find one. Its buffers are `codes` and `scales`.
    """

    codes: Tensor
    scales: Tensor
    bias: nn.Parameter | None

    def __init__(
        self, in_features: int, out_features: int, bits: int, *, bias: nn.Parameter | None = None, device: torch.device | str | None = None
    ) -> None:
        super().__init__()
        if _group_size(in_features) < _SMALLEST_GROUP:
            raise InputError(f"a matrix is {in_features} wide, and quantized ones are multiples of {_SMALLEST_GROUP}; leave quantize out")
        self.in_features, self.out_features, self.bits = in_features, out_features, bits
        width, kind = (in_features // 2, torch.uint8) if bits == 4 else (in_features, torch.int8)
        self.register_buffer("codes", torch.zeros(out_features, width, dtype=kind, device=device))
        num_groups = in_features // _group_size(in_features)
        self.register_buffer("scales", torch.zeros(out_features, num_groups, dtype=torch.float16, device=device))
        self.register_parameter("bias", bias)

    @property
    def weight(self) -> Tensor:
        """(O, I) float32, made anew at each use: changing it changes nothing."""
        return unpack(self.codes, self.scales)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _Linear.apply(x, self.codes, self.scales)  # type: ignore[no-untyped-call]
        return out if self.bias is None else out + self.bias.to(out.dtype)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bits={self.bits}"

    def _apply(self, fn: Any, recurse: bool = True) -> QuantizedLinear:
        """As in torch, but scales keep their precision when a model is cast."""
        self.scales = self.scales.view(torch.int16)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.scales = self.scales.view(torch.float16)
        return self


class _Linear(torch.autograd.Function):
    """x w^T, where the backward pass unpacks w again. Derived by autograd, every unpacked matrix would be kept until then."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
        ctx.save_for_backward(codes, scales)
        ctx.dtype = x.dtype
        dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        return F.linear(x, unpack(codes, scales, dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        codes, scales = ctx.saved_tensors
        return (grad @ unpack(codes, scales, grad.dtype)).to(ctx.dtype), None, None


def quantize(model: Transformer, name: str) -> None:
    """Store the matrices of the blocks in few bits, in place; a model of shapes alone stays one.

    name  of QUANTIZATIONS
    Raises InputError for an unknown name, a model that is quantized or adapted, and for matrices that are too narrow.
    """
    bits = check_name(name)
    for block in model.blocks:
        for part, layer in list(block.named_modules()):
            if not hasattr(layer, "in_features") or isinstance(layer, Router):
                continue
            if type(layer) is not nn.Linear:
                raise InputError(
                    f"quantize={name!r} needs plain matrices, and {part} is a {type(layer).__name__}; quantize the model that it was made of"
                )
            made = QuantizedLinear(layer.in_features, layer.out_features, bits, bias=layer.bias, device=layer.weight.device)
            if not layer.weight.is_meta:
                made.codes, made.scales = pack(layer.weight.detach(), bits)
            block.set_submodule(part, made.train(layer.training))


def quantization_of(model: nn.Module) -> str | None:
    """The name of the quantization of a model; None if its matrices are floats."""
    found = next((part.bits for part in model.modules() if isinstance(part, QuantizedLinear)), None)
    return next((name for name, bits in QUANTIZATIONS.items() if bits == found), None)


def packed(model: nn.Module, name: str, tensor: Tensor) -> dict[str, Tensor]:
    """The tensor of a plain checkpoint as the model stores it: `x.weight` as `x.codes` and `x.scales` where x is quantized."""
    owner, _, kind = name.rpartition(".")
    layer = model.get_submodule(owner) if kind == "weight" else None
    if not isinstance(layer, QuantizedLinear):
        return {name: tensor}
    codes, scales = pack(tensor, layer.bits)
    return {f"{owner}.codes": codes, f"{owner}.scales": scales}


def unpacked(model: nn.Module, state: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """A state dict of a quantized model with floats again, on the CPU: `x.codes` and `x.scales` become `x.weight` of a precision."""
    plain = dict(state)
    for name, part in model.named_modules():
        if isinstance(part, QuantizedLinear):
            codes, scales = (plain.pop(f"{name}.{kind}").cpu() for kind in ("codes", "scales"))
            plain[f"{name}.weight"] = unpack(codes, scales, dtype)
    return plain
