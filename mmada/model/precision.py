"""Whether weights of fewer bits are faster on this CPU: some multiply bfloat16 (AVX-512 BF16, AMX), others make float32 of it first.

Whoever chooses a precision is answered by a clock, since a library may not use what the CPU has.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F

from mmada.model.config import TransformerConfig

__all__ = ["multiplies_bfloat16", "product_gain"]

_TOKENS = 96
"""Of the product that is timed, as many as a drawing has."""
_WIDEST = 2048
"""Columns above which a matrix is cut, so that a large model's product takes no longer than this."""
_REPEATS = 5


def product_gain(config: TransformerConfig, dtype: torch.dtype, *, seconds: Callable[[], float] = time.perf_counter) -> float:
    """How many times as fast a product with a matrix of this size is in `dtype` as in float32, on the CPU.

    The best of a few of each counts, which take turns.

    seconds  a clock
    """
    width, wide = min(config.d_model, _WIDEST), min(config.mlp_hidden_size or config.d_model, _WIDEST)
    pairs = [(torch.ones(_TOKENS, width, dtype=kind), torch.ones(wide, width, dtype=kind)) for kind in (torch.float32, dtype)]
    best = [float("inf")] * len(pairs)
    with torch.inference_mode():
        for pair in pairs:
            F.linear(*pair)  # the first one compiles a kernel
        for _ in range(_REPEATS):
            for i, pair in enumerate(pairs):
                begin = seconds()
                F.linear(*pair)
                best[i] = min(best[i], seconds() - begin)
    return best[0] / best[1]


@cache
def multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for products in bfloat16 (AVX-512 BF16, AMX)."""
    tests = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(test is not None and test() for test in tests)
