"""Tensor parallelism: each process holds a part of every matrix, and all of them compute each token together.

    q, k, v, ff_proj, up_proj   rows: whole heads, a part of the feed-forward width      whole x -> a part of y
    attn_out, ff_out            columns                                                  a part of y -> x, summed over all
    wte, head                   columns: a part of the width                             x is gathered, logits are summed
    other norms, short_conv, wpe_image   whole, on every process; norms of queries and keys are split as those are

Two sums in a block on the way forward and two on the way back, as in Megatron-LM (Shoeybi et al. 2019). An image's slice of the vocabulary
would lie with one process if embedding and head were split by rows.

Only weights are split, so the rest of the package sees the same model. They may be plain tensors, or DTensors that
FSDP2 shares out further (train/sharding.py); the products are of local tensors, which need no dispatch of DTensor.
A sum over halves has other last bits than a whole one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from mmada.errors import InputError
from mmada.model.attention import Neighbors
from mmada.model.config import TransformerConfig
from mmada.model.layers import RMSNorm, ShortConv, is_wider, narrowed
from mmada.model.transformer import Transformer

__all__ = ["SplitTransformer", "TPGroup", "check_split", "own_range", "split", "split_dim"]

_BY_ROWS = ("q_proj", "k_proj", "v_proj", "ff_proj", "up_proj", "q_norm", "k_norm")
_BY_COLUMNS = ("attn_out", "ff_out", "wte")


@dataclass(frozen=True, slots=True, eq=False)
class TPGroup:
    """The processes that hold one model together.

    rank, size  this process, and how many there are
    group       None: all processes that have met
    """

    rank: int
    size: int
    group: dist.ProcessGroup | None = None

    def sum(self, x: Tensor) -> Tensor:
        """The sum over all processes, in the place of x."""
        dist.all_reduce(x, group=self.group)
        return x

    def mean(self, x: Tensor) -> Tensor:
        """The mean over all processes, in the place of x."""
        return self.sum(x).div_(self.size)

    def gather(self, x: Tensor) -> Tensor:
        """(..., n) of each process -> (..., size n)."""
        parts = [torch.empty_like(x) for _ in range(self.size)]
        dist.all_gather(parts, x.contiguous(), group=self.group)
        return torch.cat(parts, dim=-1)

    def own(self, x: Tensor) -> Tensor:
        """(..., size n) -> this process's (..., n)."""
        start, stop = own_range(x.shape[-1], self.rank, self.size)
        return x[..., start:stop]


def own_range(length: int, rank: int, size: int) -> tuple[int, int]:
    """[start, stop) of `length` things that torch.chunk gives to a process."""
    each = -(-length // size)
    return min(rank * each, length), min((rank + 1) * each, length)


def split_dim(name: str) -> int | None:
    """By which dimension a parameter of the transformer is split: 0 or 1; None: every process holds it whole."""
    layer = name.split(".")[-2]
    return 0 if layer in _BY_ROWS else 1 if layer in _BY_COLUMNS else None


def check_split(config: TransformerConfig, size: int) -> None:
    """Raises InputError if a model cannot be split over `size` processes."""
    if size != 1 and config.backbone == "qwen":
        raise InputError(f"tensor_parallel={size} splits MMaDA's blocks, and this model has Qwen's; leave it out")
    num_heads, wide = config.n_kv_heads or config.n_heads, config.mlp_hidden_size or 0
    if size < 1 or num_heads % size or wide % size:
        fitting = [n for n in range(1, num_heads + 1) if num_heads % n == 0 and wide % n == 0]
        raise InputError(
            f"tensor_parallel={size} must divide the model's {num_heads} heads of keys and its feed-forward width of {wide}; "
            f"try {' or '.join(map(str, fitting))}"
        )


def split(model: Transformer, tp: TPGroup) -> None:
    """Make a model compute with parts of its weights, in place. Whoever calls gives it the parts (`split_dim`).

    Raises InputError if the model cannot be split, or has layers of others.
    """
    check_split(model.config, tp.size)
    kinds = [(part, kind) for name, part in model.model.named_modules() if (kind := _kind(name, part)) is not None]
    model.__class__ = SplitTransformer
    for part, kind in [(model, SplitTransformer), *kinds]:
        part.__class__ = kind
        part.tp = tp
        if kind is _SplitNorm:
            part.averaged = tp.mean


def _kind(name: str, part: nn.Module) -> type[nn.Module] | None:
    """The class that a module gets; None: it holds no weights."""
    layer = name.rpartition(".")[2]
    if type(part) is RMSNorm:
        return _SplitNorm if layer in _BY_ROWS else _EntryNorm if ".blocks." in name else _WholeNorm
    if type(part) is nn.Linear:
        return _RowLinear if layer in _BY_ROWS else _ColumnLinear if ".blocks." in name else _Head
    if type(part) is nn.Embedding:
        return _Embedding if layer in _BY_COLUMNS else _WholeEmbedding
    if type(part) is ShortConv:
        return _WholeConv
    if any(True for _ in (*part.parameters(recurse=False), *part.buffers(recurse=False))):
        raise InputError(
            f"{name} is a {type(part).__name__}, and tensor parallelism splits plain layers alone; "
            "leave out adapters, quantization and code_bits, or tensor parallelism"
        )
    return None


def _held(weight: Tensor) -> Tensor:
    """What this process holds of a weight."""
    found: Any = weight
    return found.to_local() if hasattr(found, "to_local") else weight


class _WholeNorm(RMSNorm):
    tp: TPGroup

    def forward(self, x: Tensor) -> Tensor:
        return self.normed(x, _held(self.weight))


class _EntryNorm(_WholeNorm):
    """Before matrices that are split by rows: each process finds its part of the gradient of what they read."""

    def forward(self, x: Tensor) -> Tensor:
        return _entered(super().forward(x), self.tp)


class _SplitNorm(_WholeNorm):
    pass


class _WholeEmbedding(nn.Embedding):
    tp: TPGroup

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, _held(self.weight))


class _Embedding(_WholeEmbedding):
    def forward(self, ids: Tensor) -> Tensor:
        return _exchanged(super().forward(ids), self.tp.gather, self.tp.own)


class _WholeConv(ShortConv):
    def forward(self, x: Tensor, near: Neighbors | None) -> Tensor:
        return self.convolved(x, near, _held(self.weight))


class _RowLinear(nn.Linear):
    tp: TPGroup

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, _held(self.weight))


class _ColumnLinear(_RowLinear):
    def forward(self, x: Tensor) -> Tensor:
        return _summed(super().forward(x), self.tp)


class _Head(_RowLinear):
    """Its weight is read by `SplitTransformer.head`."""


class SplitTransformer(Transformer):
    """A transformer of which this process holds a part; all processes must call it alike."""

    tp: TPGroup

    @property
    def _has_special_head(self) -> bool:
        return False

    @property
    def head_weight(self) -> Tensor:
        """(V, D / size)"""
        return _held(super().head_weight)

    def head(self, hidden: Tensor, vocab: tuple[int, int] | None = None) -> Tensor:
        """As in `Transformer`: each process multiplies its columns, and the products are summed."""
        weight = self.head_weight if vocab is None else self.head_weight[vocab[0] : vocab[1]]
        own = _exchanged(hidden, self.tp.own, self.tp.gather)
        if not is_wider(own, weight):
            return _summed(F.linear(own, weight), self.tp)
        rows = own.flatten(0, -2)
        return _summed(F.linear(narrowed(rows, weight), weight)[: len(rows)].view(*own.shape[:-1], -1), self.tp)


def _entered(x: Tensor, tp: TPGroup) -> Tensor:
    """x, which each process reads with a part of the weights: on the way back, what they found is added up."""
    return _exchanged(x, lambda whole: whole.view_as(whole), lambda grad: tp.sum(grad.clone()))


def _summed(x: Tensor, tp: TPGroup) -> Tensor:
    """The sum of what all processes found, in the place of x, which nobody else may hold."""
    return _exchanged(x, tp.sum, lambda grad: grad)


def _exchanged(x: Tensor, there: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor]) -> Tensor:
    if not torch.is_grad_enabled():
        return there(x)
    out: Tensor = _Exchanged.apply(x, there, back)  # type: ignore[no-untyped-call]
    return out


class _Exchanged(torch.autograd.Function):
    """What processes tell each other on the way forward, and on the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, there: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.back = back
        out = there(x)
        if out is x:
            ctx.mark_dirty(x)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.back(grad), None, None
