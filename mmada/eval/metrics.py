"""Numbers with their uncertainty: Wilson intervals for shares, and the Fréchet distance between two sets of features."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mmada.errors import InputError

__all__ = ["Share", "frechet_distance"]


@dataclass(frozen=True, slots=True)
class Share:
    """`correct` of `total`, with its 95 % Wilson interval."""

    correct: int
    total: int

    def __post_init__(self) -> None:
        if not 0 <= self.correct <= self.total or self.total == 0:
            raise InputError(f"correct={self.correct} of total={self.total} is no share; give 0 <= correct <= total, total at least 1")

    @property
    def value(self) -> float:
        """As a number in [0, 1]."""
        return self.correct / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper bound (Wilson 1927, z = 1.96); unlike the normal one it is right near 0 and 1."""
        z, n, p = 1.96, self.total, self.value
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
        return max(0.0, middle - half), min(1.0, middle + half)

    def to_dict(self) -> dict[str, float | int]:
        """As JSON, with the bounds of its interval, rounded to four digits."""
        low, high = self.interval
        return {"correct": self.correct, "total": self.total, "value": round(self.value, 4), "low": round(low, 4), "high": round(high, 4)}


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Squared Fréchet distance of two Gaussians fitted to features (N, D) and (M, D); 0 for equal sets.

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))      (Heusel et al. 2017, eq. 6)
    Raises InputError unless both have D columns and at least two rows.
    """
    if first.dim() != 2 or second.dim() != 2 or first.shape[1] != second.shape[1] or min(len(first), len(second)) < 2:
        raise InputError(f"features have the shapes {tuple(first.shape)} and {tuple(second.shape)}; give (N, D) and (M, D) with N, M >= 2")
    a, b = first.double(), second.double()
    root = _root(a.T.cov())
    cross = torch.linalg.eigvalsh(root @ b.T.cov() @ root).clamp_min(0).sqrt().sum()
    spread = a.T.cov().trace() + b.T.cov().trace() - 2 * cross
    return float((a.mean(0) - b.mean(0)).square().sum() + spread)


def _root(matrix: Tensor) -> Tensor:
    """Square root of a symmetric positive semi-definite matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    return root
