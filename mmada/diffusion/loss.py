"""The masked-diffusion loss.

    loss = sum over scored positions of  weight * -log p(x0 | xt)  /  normalizer

    published loss      scored                     weight        normalizer
    text to image       masked, soi and eoi        1             number of scored positions of the batch
    text (plain)        masked                     1 / p         rows * length
    text (chat)         masked                     1 / (p * a)   rows          a = answer length of the row, EOS padding included
    understanding       masked                     1 / (p * a)   rows

The caller passes the normalizer. With several processes or gradient accumulation, it is the global sum.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmada.errors import InputError

__all__ = ["masked_diffusion_loss", "token_nll", "widest"]


def widest(device: torch.device) -> torch.dtype:
    """The dtype of long sums: float64, or float32 on Apple's GPUs, which have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def token_nll(logits: Tensor, x0: Tensor) -> Tensor:
    """-log p(x0) in nats, float32. logits (..., V), x0 (...) int64 -> (...)."""
    flat = F.cross_entropy(logits.reshape(-1, logits.shape[-1]).float(), x0.reshape(-1), reduction="none")
    return flat.reshape(x0.shape)


def masked_diffusion_loss(logits: Tensor, x0: Tensor, scored: Tensor, weight: Tensor | float, normalizer: Tensor | float) -> Tensor:
    """Weighted negative log-likelihood of the scored positions over an explicit normalizer. Returns a scalar, float32, in nats.

    logits      (B, L, V), or (S, V) already gathered at the scored positions in row-major order
    x0          (B, L) int64  clean ids; read at scored positions only
    scored      (B, L) bool
    weight      (B, L), (B, 1) or a number
    normalizer  a positive number or scalar tensor
    A batch without a scored position gives 0, with a gradient of 0.
    Raises InputError if shapes disagree.
    Source: Sahoo et al. 2024, eq. 11; LLaDA, eq. 3; MMaDA, eq. 1-2.
    """
    if scored.shape != x0.shape or scored.dtype != torch.bool:
        raise InputError(f"scored must be bool with the shape {tuple(x0.shape)} of x0, got {scored.dtype} {tuple(scored.shape)}")
    if isinstance(weight, Tensor) and tuple(weight.shape) not in ((), tuple(x0.shape), (*x0.shape[:-1], 1)):
        raise InputError(f"weight has the shape {tuple(weight.shape)}; expected {tuple(x0.shape)}, ({len(x0)}, 1) or a number")
    if logits.shape[:-1] == x0.shape:
        logits = logits[scored]  # (S, V)
    targets = x0[scored]  # (S,)
    if logits.shape[:-1] != targets.shape:
        raise InputError(f"logits hold {tuple(logits.shape[:-1])} positions, but {tuple(targets.shape)} are scored; gather logits[scored]")
    scale = weight.expand(x0.shape)[scored] if isinstance(weight, Tensor) else weight
    return (token_nll(logits, targets) * scale).sum() / normalizer
