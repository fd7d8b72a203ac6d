"""Filling a canvas: propose.py (which token), score.py (where first), recipes.py (settings), loop.py (the one loop)."""

from mmada.sampling.loop import Denoiser, Denoising, Step, denoise
from mmada.sampling.recipes import CACHES, Cache, Recipe, fast_image, fast_text, infill, named_cache, published_image, published_text

__all__ = [
    "CACHES",
    "Cache",
    "Denoiser",
    "Denoising",
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
