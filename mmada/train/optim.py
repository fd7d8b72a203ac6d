"""Optimizers, learning rate, averaged weights.

    adamw   every parameter with AdamW
    muon    matrices of the blocks, and convolutions, with Muon; everything else with AdamW

    lr(step) = peak * scale(step)         scale: warm-up, then stable-and-decay, cosine or constant, down to `floor`

Embeddings, the head and vectors (norms, biases) are not decayed, unless `decay_everything` says so, as published.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from mmada.errors import InputError
from mmada.model.precision import multiplies_bfloat16
from mmada.model.transformer import in_block, is_table
from mmada.train.sharding import is_sharded, like, local, whole

__all__ = ["Ema", "Muon", "OptimizerConfig", "build", "lr_scale", "orthogonal", "set_lr", "settings_kept"]


_FEWEST_CHANNELS = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """How weights move. Raises InputError for values that cannot be used."""

    name: Literal["adamw", "muon"] = "adamw"
    lr: float = 1e-3
    """peak learning rate of AdamW"""
    matrix_lr: float = 0.02
    """peak learning rate of Muon"""
    momentum: float = 0.95
    """of Muon"""
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.01
    """share of a weight that a step at learning rate 1 takes away"""
    decay_everything: bool = False
    """also decay embeddings, norms and biases, as the published code does"""
    clip: float = 1.0
    """largest norm of the gradient of all weights; 0: no limit"""
    schedule: Literal["stable", "cosine", "constant"] = "stable"
    """after the warm-up: peak until the decay (WSD); half a cosine down to the floor; peak to the end"""
    warmup: int = 100
    """steps from 0 to the peak"""
    decay: float = 0.3
    """share of all steps that the decay of `stable` takes, linear"""
    floor: float = 0.0
    """where the schedule ends, as a share of the peak"""
    ema: float = 0.0
    """decay of the averaged weights, which are the ones evaluated and shipped; 0: none"""

    def __post_init__(self) -> None:
        for name in ("lr", "matrix_lr", "eps"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"optim.{name}={getattr(self, name)} must be a positive number")
        for name in ("weight_decay", "clip", "warmup"):
            if not getattr(self, name) >= 0:
                raise InputError(f"optim.{name}={getattr(self, name)} must not be negative; 0 turns it off")
        for name in ("momentum", "floor", "decay", "ema"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"optim.{name}={getattr(self, name)} must lie between 0 and 1")
        if not all(0 <= beta < 1 for beta in self.betas) or self.ema == 1:
            raise InputError(f"optim.betas={self.betas} and optim.ema={self.ema} must lie below 1; at 1 nothing would move")


def lr_scale(optim: OptimizerConfig, step: int, steps: int) -> float:
    """Share of the peak at which step `step` (from 0) of `steps` is taken; the first step of a warm-up is not 0."""
    if step < optim.warmup:
        return (step + 1) / optim.warmup
    if optim.schedule == "constant":
        return 1.0
    if optim.schedule == "cosine":
        progress = min(1.0, (step - optim.warmup) / max(1, steps - optim.warmup))
        return optim.floor + (1 - optim.floor) * 0.5 * (1 + math.cos(math.pi * progress))
    num_decay = max(1.0, optim.decay * steps)
    left = min(1.0, max(0.0, (steps - step) / num_decay))
    return optim.floor + (1 - optim.floor) * left


def set_lr(optimizers: Sequence[Optimizer], scale: float) -> None:
    """Every group's learning rate = its peak * scale."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * scale


@contextmanager
def settings_kept(optimizers: Sequence[Optimizer]) -> Iterator[None]:
    """Loading a state inside brings moments and nothing else: rates and decays stay those of the settings at hand."""
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    kept = [{name: value for name, value in group.items() if name != "params"} for group in groups]
    yield
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    for group, own in zip(groups, kept, strict=True):
        group.update(own)


def build(parameters: Iterable[tuple[str, nn.Parameter]], optim: OptimizerConfig) -> list[Optimizer]:
    """The optimizers of the named parameters that require a gradient, each of them in exactly one group.

    Raises InputError if there is nothing to train.
    """
    named = [(name, parameter) for name, parameter in parameters if parameter.requires_grad]
    if not named:
        raise InputError("no parameter is trainable; check stage.trainable and lora")
    by_muon = {name for name, parameter in named if optim.name == "muon" and _is_for_muon(name, parameter)}
    rest = [(name, parameter) for name, parameter in named if name not in by_muon]
    decayed = [parameter for name, parameter in rest if optim.decay_everything or _decays(name, parameter)]
    kept = [parameter for name, parameter in rest if not (optim.decay_everything or _decays(name, parameter))]
    groups = [
        {"params": params, "weight_decay": decay, "peak_lr": optim.lr}
        for params, decay in ((decayed, optim.weight_decay), (kept, 0.0))
        if params
    ]
    optimizers: list[Optimizer] = []
    if groups:
        optimizers.append(AdamW(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=True))
    if by_muon:
        matrices = {"params": [parameter for name, parameter in named if name in by_muon], "peak_lr": optim.matrix_lr}
        optimizers.append(Muon([matrices], lr=optim.matrix_lr, momentum=optim.momentum, weight_decay=optim.weight_decay))
    return optimizers


def _is_for_muon(name: str, parameter: Tensor) -> bool:
    """Matrices of transformer blocks, and convolutions between many channels.

    LoRA's factors, pixels and codes have ranks so low that orthogonalizing them makes no sense.
    """
    if parameter.dim() == 2:
        return in_block(name) and "lora_" not in name
    return parameter.dim() > 2 and min(parameter.shape[:2]) >= _FEWEST_CHANNELS


def _decays(name: str, parameter: Tensor) -> bool:
    return parameter.dim() >= 2 and not is_table(name)


class Muon(Optimizer):
    """Steps of equal size in every direction: w -= lr sqrt(max(1, rows / columns)) orthogonal(momentum), Nesterov's form.

    torch.optim.Muon, with the filters of a convolution as rows of a matrix. Source: Jordan et al. 2024, "Muon".
    """

    def __init__(self, groups: Iterable[dict[str, Any]], *, lr: float, momentum: float, weight_decay: float) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move the weights that have a gradient. There is no closure."""
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            directions = []
            for weight in weights:
                average = self.state[weight].setdefault("momentum_buffer", torch.zeros_like(weight))
                local(average).lerp_(local(weight.grad), 1 - group["momentum"])
                directions.append(weight.grad.lerp(average, group["momentum"]))
            is_in_parts = bool(weights) and is_sharded(weights[0])
            updates = _in_turns(directions) if is_in_parts else _all_orthogonal([direction.flatten(1) for direction in directions])
            for weight, update in zip(weights, updates, strict=True):
                rows, columns = weight.flatten(1).shape
                scale = max(1.0, rows / columns) ** 0.5
                own = local(weight)
                own.mul_(1 - group["lr"] * group["weight_decay"])
                own.add_(update.view_as(own).to(own.dtype), alpha=-group["lr"] * scale)


def _in_turns(matrices: Sequence[Tensor]) -> Iterator[Tensor]:
    """Sharded matrices -> this process's rows of each, made orthogonal. Each process makes one of as many as there are processes: so many
    are whole at once, and no more."""
    world, rank = dist.get_world_size(), dist.get_rank()
    for first in range(0, len(matrices), world):
        turn = [whole(matrix).flatten(1) for matrix in matrices[first : first + world]]
        if rank < len(turn):
            turn[rank] = orthogonal(turn[rank]).to(turn[rank].dtype)
        for owner, matrix in enumerate(turn):
            made = matrix.contiguous()
            dist.broadcast(made, owner)
            yield like(made, matrices[first + owner])


def _all_orthogonal(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Each made orthogonal, once: processes that hold the same matrices share the work, and add up what they made."""
    world, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_available() and dist.is_initialized() else (1, 0)
    if not matrices:
        return []
    if world == 1 and matrices[0].device.type != "cpu":
        return _orthogonal_by_shape(matrices)
    if world == 1:
        return [orthogonal(matrix) for matrix in matrices]
    by_size = sorted(range(len(matrices)), key=lambda i: -matrices[i].numel())
    own = set(by_size[rank::world])
    sizes = [matrix.numel() for matrix in matrices]
    made = torch.zeros(sum(sizes), device=matrices[0].device)
    pieces = [piece.view_as(matrix) for piece, matrix in zip(made.split(sizes), matrices, strict=True)]
    for i in own:
        pieces[i].copy_(orthogonal(matrices[i]))
    dist.all_reduce(made)
    return pieces


def _orthogonal_by_shape(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Those of one shape at once: few large kernels for a GPU."""
    alike: dict[torch.Size, list[int]] = {}
    for i, matrix in enumerate(matrices):
        alike.setdefault(matrix.shape, []).append(i)
    made = {
        i: one
        for indices in alike.values()
        for i, one in zip(indices, orthogonal(torch.stack([matrices[i] for i in indices])), strict=True)
    }
    return [made[i] for i in range(len(matrices))]


def orthogonal(matrix: Tensor, *, steps: int = 5) -> Tensor:
    """(..., rows, columns) -> about U V^T of its singular value decomposition: singular values between 0.7 and 1.2.

    In bfloat16 on a GPU and on CPUs that multiply it; in float32 on others, where that is twice as fast.

    Newton-Schulz iteration x <- a x + (b A + c A^2) x, A = x x^T, with the coefficients of Jordan et al.: steepest at 0.
    """
    x = matrix.bfloat16() if matrix.device.type != "cpu" or multiplies_bfloat16() else matrix.float()
    is_tall = x.shape[-2] > x.shape[-1]
    x = x.mT if is_tall else x
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7)
    a, b, c = 3.4445, -4.7750, 2.0315
    add = torch.addmm if x.dim() == 2 else torch.baddbmm
    for _ in range(steps):
        gram = x @ x.mT
        x = add(x, add(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x


class Ema:
    """Averaged weights in float32: average = d average + (1 - d) weights, with d rising from 0.1 toward `decay`. Sharded as the weights are.

    The rise, min(decay, (1 + n) / (10 + n)) after n updates, lets the average forget the first random weights.
    """

    def __init__(self, named: Mapping[str, Tensor], decay: float) -> None:
        self.decay, self.num_updates = decay, 0
        self.weights = {name: tensor.detach().float().clone() for name, tensor in named.items()}
        self._live = dict(named)

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the weights as they are now, faster in the first updates."""
        share = 1 - min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        live = [local(self._live[name].detach()).float() for name in self.weights]
        torch._foreach_lerp_([local(average) for average in self.weights.values()], live, share)
        self.num_updates += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model holds the averaged weights inside, and its own ones, bit for bit, afterwards."""
        kept = {name: tensor.detach().clone() for name, tensor in self._live.items()}
        try:
            self._copy(self.weights)
            yield
        finally:
            self._copy(kept)

    @torch.no_grad()
    def _copy(self, source: Mapping[str, Tensor]) -> None:
        for name, tensor in self._live.items():
            local(tensor).copy_(local(source[name]))
