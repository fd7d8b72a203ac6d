"""Filling a canvas.

params.py          settings of a sampler
loop.py            the one loop; joint.py: several fields in the same passes
token_sampling.py  which token; confidence.py: where first
penalties.py       what a request asks of single ids
guidance.py        what conditions add
draws.py           random numbers
rank.py            which of several is the likeliest
logit_cache.py     what is not evaluated anew
"""

from mmada.sampling.joint import JointDenoising, JointParams
from mmada.sampling.loop import Denoiser, Denoising, DenoisingStep, Guide, denoise
from mmada.sampling.params import (
    CACHES,
    IMAGE_CACHES,
    CacheConfig,
    MaxLogitCacheConfig,
    SamplingParams,
    fast_image,
    fast_text,
    infill,
    named_cache,
    named_image_cache,
    published_image,
    published_text,
)
from mmada.sampling.rank import Ranking

__all__ = [
    "CACHES",
    "IMAGE_CACHES",
    "CacheConfig",
    "Denoiser",
    "Denoising",
    "DenoisingStep",
    "Guide",
    "JointDenoising",
    "JointParams",
    "MaxLogitCacheConfig",
    "Ranking",
    "SamplingParams",
    "denoise",
    "fast_image",
    "fast_text",
    "infill",
    "named_cache",
    "named_image_cache",
    "published_image",
    "published_text",
]
