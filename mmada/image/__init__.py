"""Pixels <-> codes: two tokenizers behind one interface.

pixels.py        images to tensors and back
crops.py         sizes and windows for models that see images of any shape
base.py          what every image tokenizer offers: pictures in, codes out, and back
tokenizer.py     MAGVIT-v2: a code is the signs of the latent's channels; magvit2.py  its networks
quantizer.py     those signs as a number (lookup-free quantization)
vqvae.py         the VQ-VAE: a code is the nearest vector of a learned codebook; vqvae_files.py  its directory, as diffusers writes it
upscaler.py      an enlarged picture, made of the features of a decoder
painting.py      which codes are drawn anew, inside a rectangle or around it
"""

from mmada.image.base import BaseImageTokenizer, Reconstruction
from mmada.image.crops import best_crop_size, crop_sizes, crop_window, crops_of_area, floor_to_multiple, windows
from mmada.image.magvit2 import NetworkShape
from mmada.image.painting import PaintedRegion
from mmada.image.pixels import FitMode, ImageSource, fit, fit_mask, load_image, psnr, to_images, to_pixels
from mmada.image.tokenizer import ImageTokenizer, ImageTokenizerConfig
from mmada.image.vqvae import VQVAE, VQVAEConfig
from mmada.image.vqvae_files import find_vqvae, load_vqvae, save_vqvae, vqvae_config

__all__ = [
    "VQVAE",
    "BaseImageTokenizer",
    "FitMode",
    "ImageSource",
    "ImageTokenizer",
    "ImageTokenizerConfig",
    "NetworkShape",
    "PaintedRegion",
    "Reconstruction",
    "VQVAEConfig",
    "best_crop_size",
    "crop_sizes",
    "crop_window",
    "crops_of_area",
    "find_vqvae",
    "fit",
    "fit_mask",
    "floor_to_multiple",
    "load_image",
    "load_vqvae",
    "psnr",
    "save_vqvae",
    "to_images",
    "to_pixels",
    "vqvae_config",
    "windows",
]
