"""The backbone: config.py, attention.py, layers.py, transformer.py, and denoiser.py, which answers the sampler.

Needs torch alone. hub/networks.py reads and writes its files, hub/pretrained.py is its class for transformers.
"""

from typing import TYPE_CHECKING

from mmada.model.attention import Packing
from mmada.model.config import PRESETS, TransformerConfig, preset
from mmada.model.denoiser import TransformerDenoiser
from mmada.model.transformer import Transformer

__all__ = ["PRESETS", "Packing", "Transformer", "TransformerConfig", "TransformerDenoiser", "preset"]


if not TYPE_CHECKING:  # to which any name would then be one of this module

    def __getattr__(name: str) -> object:
        if name in ("ImageTokenizer", "MMaDAConfig", "MMadaModelLM"):
            raise ImportError(f"{name} is no part of mmada.model; write `from mmada import {name}`", name=__name__)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
