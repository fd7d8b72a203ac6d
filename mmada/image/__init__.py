"""Pixels <-> codes: read and fit images, the lookup-free quantizer, and the MAGVIT-v2 tokenizer."""

from mmada.hub import auto
from mmada.image.pixels import FitMode, ImageSource, fit, fit_mask, load_image, to_images, to_pixels
from mmada.image.tokenizer import ImageTokenizer, ImageTokenizerConfig, Reconstruction

__all__ = [
    "FitMode",
    "ImageSource",
    "ImageTokenizer",
    "ImageTokenizerConfig",
    "Reconstruction",
    "fit",
    "fit_mask",
    "load_image",
    "to_images",
    "to_pixels",
]

auto.register()
