"""Filling a canvas: propose.py (which token), score.py (where first), recipes.py (settings), loop.py (the one loop),
rank.py (which of several)."""

from mmada.sampling.loop import Denoiser, Denoising, Step, denoise
from mmada.sampling.rank import Ranking
from mmada.sampling.recipes import CACHES, CacheConfig, Recipe, fast_image, fast_text, infill, named_cache, published_image, published_text

__all__ = [
    "CACHES",
    "CacheConfig",
    "Denoiser",
    "Denoising",
    "Ranking",
    "Recipe",
    "Step",
    "denoise",
    "fast_image",
    "fast_text",
    "infill",
    "named_cache",
    "published_image",
    "published_text",
]
