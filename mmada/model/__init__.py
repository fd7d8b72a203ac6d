"""The backbone, and the denoiser that answers the sampler.

config.py                     sizes and switches, with the published field names
transformer.py, layers.py     (tokens, mask) -> logits, in blocks with LLaDA's names
qwen.py                       the other backbone: blocks with the names of Qwen2 and Qwen3
attention.py                  attention over rows that are padded and masked, or packed
image_positions.py            where an image token stands in its image
denoiser.py                   the sampler's queries -> logits: any mixture of requests in one forward pass
cache.py                      keys and values of tokens that do not pass through the layers
quantized.py, precision.py    weights of 8 or 4 bits; whether a CPU is faster with 16
graphs.py                     layers as CUDA graphs
tensor_parallel.py, mirror.py a part of every matrix for each process; one of them leads

It needs torch alone. hub/networks.py reads and writes its files, hub/pretrained.py is its class for transformers.
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
