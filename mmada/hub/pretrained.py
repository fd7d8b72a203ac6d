"""The networks as transformers knows them: `from_pretrained`, `save_pretrained`, dtype, device_map, quantization, PEFT, Trainer.

Each class is the plain network of model/ and image/ with `PreTrainedModel` behind it: the same modules and the same forward pass, under
the same tensor names. MMaDA, the server and training use the plain ones; these are for those who come from transformers.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import MaskedLMOutput

from mmada import image
from mmada.hub import checkpoint, networks
from mmada.hub.configs import ImageTokenizerConfig, MMaDAConfig
from mmada.image.quantizer import LookupFreeQuantizer, bit_weights, sign_table
from mmada.model import Transformer, TransformerConfig
from mmada.model.attention import Packing
from mmada.model.transformer import Backbone, initialize

__all__ = ["ImageTokenizer", "MMadaModelLM"]


class MMadaModelLM(Transformer, PreTrainedModel):  # type: ignore[misc]
    """The masked-diffusion transformer. The class carries its published name, so that config.json travels both ways.

    `from_pretrained` takes a directory or hub name in the published layout; tensors that do not fit are one CheckpointError
    that lists them all. The keywords of transformers apply: dtype, quantization_config, those of the hub, ..., fields of the configuration; a
    device_map may name one device.
    """

    config_class = MMaDAConfig
    config: MMaDAConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ("Block",)

    def __init__(self, config: MMaDAConfig | TransformerConfig) -> None:
        config = MMaDAConfig.of(config) if isinstance(config, TransformerConfig) else config
        PreTrainedModel.__init__(self, config)
        self.model = Backbone(config.transformer)
        PreTrainedModel.post_init(self)

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Packing | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        positions: Tensor | None = None,
        vocab: tuple[int, int] | None = None,
        mask_value: float | None = None,
        output_hidden_states: bool = False,
        return_dict: bool = True,
    ) -> MaskedLMOutput | tuple[Tensor, ...]:
        """`Transformer.forward` in transformers' form of an answer."""
        logits, states = super().forward(
            input_ids,
            attention_mask,
            inputs_embeds=inputs_embeds,
            positions=positions,
            vocab=vocab,
            mask_value=mask_value,
            output_hidden_states=output_hidden_states,
        )
        if not return_dict:
            return (logits,) if states is None else (logits, states)
        return MaskedLMOutput(logits=logits, hidden_states=states)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """transformers calls this for each module with parameters, and for what a checkpoint lacks; `initialize` draws by names."""
        blocks: nn.ModuleList = self.model.transformer["blocks"]  # type: ignore[assignment]
        for block in blocks:
            for name in ("attn_out", "ff_out"):
                if getattr(block, name) is module:
                    holder = nn.ModuleDict({"blocks": nn.ModuleDict({name: module})})
                    return initialize(holder, self.config.transformer)
        return initialize(module, self.config.transformer)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> MMadaModelLM:
        """Load a checkpoint. Raises CheckpointError for anything that is missing, left over, misshapen or cut short."""
        hub = {name: kwargs.pop(name) for name in checkpoint.HUB_KEYWORDS if name in kwargs}
        directory = checkpoint.find(pretrained_model_name_or_path, **hub)
        if "config" not in kwargs:
            own = {name: kwargs.pop(name) for name in list(kwargs) if name in TransformerConfig.names()}
            kwargs["config"] = MMaDAConfig.from_pretrained(directory, **own)
        config = kwargs["config"]
        if getattr(config, "quantization_config", None) is None:  # whose weights are packed
            checkpoint.check(directory, cls.shapes(config))
        return super().from_pretrained(directory, *args, **kwargs)  # type: ignore[no-any-return]

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """As in transformers; older weights in the directory are replaced, in whatever form they are."""
        with checkpoint.saving(Path(save_directory)):
            super().save_pretrained(save_directory, *args, **kwargs)

    @classmethod
    def shapes(cls, config: MMaDAConfig | TransformerConfig) -> dict[str, tuple[int, ...]]:
        """Tensor name -> shape of a checkpoint with this configuration; nothing is allocated."""
        return networks.shapes(config if isinstance(config, TransformerConfig) else config.transformer)


class ImageTokenizer(image.ImageTokenizer, PreTrainedModel):  # type: ignore[misc]
    """The image tokenizer: pixels <-> codes (image/tokenizer.py)."""

    config: ImageTokenizerConfig
    config_class = ImageTokenizerConfig
    base_model_prefix = "image_tokenizer"
    main_input_name = "pixels"
    _no_split_modules = ("ResnetBlock", "AttnBlock")
    _keys_to_ignore_on_load_missing = (r"^quantize\.",)  # filled by _init_weights

    def __init__(self, config: ImageTokenizerConfig | image.ImageTokenizerConfig) -> None:
        config = ImageTokenizerConfig(**config.to_dict()) if isinstance(config, image.ImageTokenizerConfig) else config
        PreTrainedModel.__init__(self, config)
        self._build(config.sizes)
        PreTrainedModel.post_init(self)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """torch's own initialization, as published; transformers calls this for tensors that a checkpoint lacks, too."""
        if isinstance(module, LookupFreeQuantizer):
            init.copy_(module.embedding, sign_table(module.num_bits))
            init.copy_(module.power_vals, bit_weights(module.num_bits))
        elif isinstance(module, (nn.Conv2d, nn.GroupNorm)):
            module.reset_parameters()

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *model_args: Any,
        config: ImageTokenizerConfig | image.ImageTokenizerConfig | None = None,
        **kwargs: Any,
    ) -> ImageTokenizer:
        """`hub.networks.load_image_tokenizer` with transformers' further arguments."""
        hub: Mapping[str, Any] = {name: kwargs.pop(name) for name in checkpoint.HUB_KEYWORDS if name in kwargs}
        directory = checkpoint.find(pretrained_model_name_or_path, **hub)
        sizes = config.sizes if isinstance(config, ImageTokenizerConfig) else config or networks.image_tokenizer_config(directory)
        expected = networks.shapes(sizes)
        checkpoint.check(directory, expected, optional=[name for name in expected if name.startswith("quantize.")])
        own = ImageTokenizerConfig(**sizes.to_dict())
        return super().from_pretrained(directory, *model_args, config=own, **kwargs)  # type: ignore[no-any-return]

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """As in transformers; older weights in the directory are replaced, in whatever form they are."""
        with checkpoint.saving(Path(save_directory)):
            super().save_pretrained(save_directory, *args, **kwargs)
