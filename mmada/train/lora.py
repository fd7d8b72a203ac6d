"""Low-rank adaptation through PEFT: the model's matrices stay, and W x becomes W x + (alpha / rank) B A x. W may be quantized.

The layers are put into the model in place, so it stays the class that the rest of the package knows. An adapter is written as
PEFT writes it (adapter_config.json, adapter_model.safetensors), and names the checkpoint
that it belongs to. It can be loaded with
`peft.PeftModel.from_pretrained`, or as a model of its own with `MMaDA.from_pretrained` (hub/adapters.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmada.errors import InputError, MissingDependencyError
from mmada.hub.adapters import beside_quantized
from mmada.model import Transformer
from mmada.model.quantized import unpacked
from mmada.model.transformer import layer_names
from mmada.train.optim import OptimizerConfig

__all__ = ["RATE", "Lora", "for_adapters", "inject", "merged", "save_adapter"]

RATE = 10.0
"""Adapters learn best at about ten times the rate that suits all weights (Schulman et al. 2025, "LoRA Without Regret"; docs/finetune.md):
a run's stage has its own rate times this, unless the run sets one."""
_NAME = "default"


@dataclass(frozen=True, kw_only=True, slots=True)
class Lora:
    """Which matrices are adapted, and how much. Raises InputError for values that cannot be used."""

    rank: int = 0
    """of A and B; 0: no LoRA, all weights are trained"""
    alpha: float = 8.0
    """the adapter's output is scaled by alpha / rank. It stays as it is for other ranks: then one learning rate does for all of them"""
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "attn_out", "ff_proj", "up_proj", "ff_out")
    """names of linear layers. ff_out is one of each block, and the head: words that the model never wrote are learned there. A model on another
    backbone (model/qwen.py) has names of its own for some; both are understood"""

    def __post_init__(self) -> None:
        if self.rank < 0 or not self.alpha > 0:
            raise InputError(f"lora.rank={self.rank} must be 0 or more and lora.alpha={self.alpha} above 0")
        if self.rank and not self.targets:
            raise InputError("lora.targets=() adapts nothing; name layers such as q_proj and v_proj")


def for_adapters(optim: OptimizerConfig) -> OptimizerConfig:
    """The optimizer of a stage, whose rate suits all weights, for adapters alone. Muon's own rate has nothing to do with them."""
    return replace(optim, lr=optim.lr * RATE) if optim.name == "adamw" else optim


def inject(model: Transformer, lora: Lora, *, seed: int, base: str | None = None) -> None:
    """Freeze the model and put trainable A and B beside its target layers; A is drawn by the seed, B is 0.

    base  directory or name of the checkpoint that the model was loaded from, which the adapter names
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise MissingDependencyError("lora needs peft, which is not installed; pip install 'mmada[train]'") from error
    known = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    targets = layer_names(model.config, lora.targets)
    unknown = [name for name in targets if name not in known]
    if unknown:
        raise InputError(f"lora.targets={lora.targets}: the model has no layer {unknown[0]!r}; use q_proj, k_proj, v_proj, ...")
    model.requires_grad_(False)
    settings = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=targets, base_model_name_or_path=base)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # restored by fork_rng
        with beside_quantized(settings):
            inject_adapter_in_model(settings, model, adapter_name=_NAME)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # in bfloat16 an adapter would lose small updates


def merged(model: Transformer, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of the adapted model as one of the plain model: W + (alpha / rank) B A under the name of W.

    Quantized matrices become floats of the model's precision, on the CPU. Their sum with the adapter is what was trained.
    """
    weights = unpacked(model, weights, model.dtype)
    plain = {name: tensor for name, tensor in weights.items() if ".lora_" not in name and ".base_layer." not in name}
    for name, layer in model.named_modules():
        if f"{name}.base_layer.weight" in weights:
            base = weights[f"{name}.base_layer.weight"]
            a, b = (weights[f"{name}.lora_{x}.{_NAME}.weight"].to(base.device) for x in "AB")
            plain[f"{name}.weight"] = (base + layer.scaling[_NAME] * (b @ a)).to(base.dtype)
            plain |= {f"{name}.bias": weights[f"{name}.base_layer.bias"]} if f"{name}.base_layer.bias" in weights else {}
    return plain


def save_adapter(model: Transformer, weights: Mapping[str, Tensor], directory: Path) -> None:
    """Write A and B alone, for PEFT."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    directory.mkdir(parents=True, exist_ok=True)
    adapters: Any = model.peft_config
    settings = copy(adapters[_NAME])
    # As PEFT's own writer leaves it: not to be trained on, and of which class its base is.
    settings.inference_mode, settings.auto_mapping = True, {"base_model_class": "MMadaModelLM", "parent_library": "mmada.hub.pretrained"}
    settings.save_pretrained(str(directory))
    factors = get_peft_model_state_dict(model, state_dict=dict(weights), adapter_name=_NAME, save_embedding_layers=False)
    save_file(
        {f"base_model.model.{name}": tensor.contiguous() for name, tensor in factors.items()}, directory / "adapter_model.safetensors"
    )
