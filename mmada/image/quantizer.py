"""Lookup-free quantization: a code is the signs of its channels, read as a binary number.

    latent z   ( 0.7, -1.2,  0.1)      K channels at one position of the grid
    signs      (  +1,   -1,   +1)      z > 0; exactly 0 counts as -1
    code          1     0     1  = 5   channel 0 is the most significant bit

No vector is learned or searched. Losses matter to whoever trains a tokenizer, and only then are they computed.
Source: Yu et al. 2023 (MAGVIT-v2), section 3.1; constants and reductions of the reference model, docs/parity.md.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["LookupFreeQuantizer", "bit_weights", "entropy_loss", "quantizer_loss", "sign", "sign_table", "straight_through"]


def sign(z: Tensor) -> Tensor:
    """+1 where z > 0, else -1 (also for 0, unlike torch.sign), in the dtype of z."""
    return torch.where(z > 0, 1.0, -1.0).to(z.dtype)


def straight_through(z: Tensor) -> Tensor:
    """`sign(z)` forward, the identity backward. The forward value is exactly +-1, because z - z is exactly 0."""
    return sign(z) + (z - z.detach())


def bit_weights(num_bits: int) -> Tensor:
    """(K,) int64: 2^(K-1), ..., 2, 1."""
    return 2 ** torch.arange(num_bits - 1, -1, -1, device="cpu")  # numbers, also where a network of shapes alone is made


def sign_table(num_bits: int) -> Tensor:
    """(2^K, K) float32: row c holds the signs of code c."""
    bits = torch.arange(2**num_bits, device="cpu")[:, None].bitwise_and(bit_weights(num_bits))
    return torch.where(bits != 0, 1.0, -1.0)


def quantizer_loss(z: Tensor) -> Tensor:
    """Mean squared distance of z to its signs, times 0.1 (1 + 0.25). Does not include the entropy term.

    As published the second term compares detached z with signs that carry no gradient: it moves the number, not the weights.
    """
    distance = F.mse_loss(z.float(), sign(z).float())
    return 0.1 * (distance + 0.25 * distance.detach())


def entropy_loss(z: Tensor) -> Tensor:
    """0.1 (E[H(bit)] - H(E[bit])) in nats: each bit should be certain, and used evenly over the batch.

    z  (B, K, h, w); the bits are independent, with logits -(z - 1)^2 and -(z + 1)^2, so p(+1) = sigmoid(4 z).
    The first mean is over positions and bits; in the second, p is averaged over positions and H over bits.
    """
    p = torch.sigmoid(4 * z.float())
    return 0.1 * (_binary_entropy(p).mean() - _binary_entropy(p.mean(dim=(0, 2, 3))).mean())


def _binary_entropy(p: Tensor) -> Tensor:
    # the derivative of H is infinite at 0 and 1; a saturated p would give inf * 0
    tiny = torch.finfo(p.dtype).eps
    p = p.clamp(tiny, 1 - tiny)
    entropy: Tensor = torch.special.entr(p) + torch.special.entr(1 - p)
    return entropy


class LookupFreeQuantizer(nn.Module):
    """Latents -> codes -> signs, with the tables of the published checkpoints.

    The tables are buffers so that files travel both ways; where a file lacks them, hub/networks.py leaves them as they are.
    """

    embedding: Tensor
    power_vals: Tensor

    def __init__(self, num_bits: int) -> None:
        super().__init__()
        self.num_bits = num_bits
        self.register_buffer("embedding", sign_table(num_bits))  # (2^K, K)
        self.register_buffer("power_vals", bit_weights(num_bits))  # (K,)

    def forward(self, z: Tensor) -> Tensor:
        """(B, K, h, w) latents -> (B, h, w) int64 codes."""
        return ((z > 0) * self.power_vals[:, None, None]).sum(dim=1)

    def signs(self, codes: Tensor) -> Tensor:
        """(B, h, w) codes -> (B, K, h, w) of +-1."""
        return self.embedding[codes].movedim(-1, 1)
