"""The backbone: config.py, attention.py, layers.py, transformer.py, and denoiser.py, which answers the sampler."""

from mmada.hub import auto
from mmada.model.attention import Packing
from mmada.model.config import PRESETS, MMaDAConfig, preset
from mmada.model.denoiser import TransformerDenoiser
from mmada.model.transformer import MMadaModelLM

__all__ = ["PRESETS", "MMaDAConfig", "MMadaModelLM", "Packing", "TransformerDenoiser", "preset"]

auto.register()
