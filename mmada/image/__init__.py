"""Pixels <-> codes: read and fit images, the lookup-free quantizer, and the MAGVIT-v2 tokenizer."""

from mmada.image.magvit2 import NetworkShape
from mmada.image.pixels import FitMode, ImageSource, fit, fit_mask, load_image, to_images, to_pixels
from mmada.image.tokenizer import ImageTokenizer, ImageTokenizerConfig, Reconstruction

__all__ = [
    "FitMode",
    "ImageSource",
    "ImageTokenizer",
    "ImageTokenizerConfig",
    "NetworkShape",
    "Reconstruction",
    "fit",
    "fit_mask",
    "load_image",
    "to_images",
    "to_pixels",
]
