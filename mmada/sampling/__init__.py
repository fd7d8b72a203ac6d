"""Filling a canvas: token_sampling.py (which token), confidence.py (where first), params.py (settings), loop.py (the one loop),
joint.py (several fields in the same passes), guidance.py (conditions), draws.py (random numbers), rank.py (which of several)."""

from mmada.sampling.joint import JointDenoising, JointParams
from mmada.sampling.loop import Denoiser, Denoising, DenoisingStep, denoise
from mmada.sampling.params import (
    CACHES,
    CacheConfig,
    SamplingParams,
    fast_image,
    fast_text,
    infill,
    named_cache,
    published_image,
    published_text,
)
from mmada.sampling.rank import Ranking

__all__ = [
    "CACHES",
    "CacheConfig",
    "Denoiser",
    "Denoising",
    "DenoisingStep",
    "JointDenoising",
    "JointParams",
    "Ranking",
    "SamplingParams",
    "denoise",
    "fast_image",
    "fast_text",
    "infill",
    "named_cache",
    "published_image",
    "published_text",
]
