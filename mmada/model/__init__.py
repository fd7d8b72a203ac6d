"""The backbone: config.py, attention.py, layers.py, transformer.py, and denoiser.py, which answers the sampler.

Needs torch alone. hub/networks.py reads and writes its files, hub/pretrained.py is its class for transformers.
"""

from mmada.model.attention import Packing
from mmada.model.config import PRESETS, TransformerConfig, preset
from mmada.model.denoiser import TransformerDenoiser
from mmada.model.transformer import Transformer

__all__ = ["PRESETS", "Packing", "Transformer", "TransformerConfig", "TransformerDenoiser", "preset"]
