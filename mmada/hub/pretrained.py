"""The networks as transformers knows them: `from_pretrained`, `save_pretrained`, dtype, device_map, quantization, PEFT, Trainer.

Each class is the plain network of model/ and image/ with `PreTrainedModel` behind it: the same modules and the same forward pass, under
the same tensor names. MMaDA, the server and training use the plain ones; these are for those who come from transformers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import MaskedLMOutput
from transformers.utils import ModelOutput, logging

from mmada import image
from mmada.errors import InputError, MMaDAError
from mmada.families import named
from mmada.families.mmada import MMADA
from mmada.hub import checkpoint, networks
from mmada.hub.adapters import adapter_of
from mmada.hub.call_arguments import check_positions, refuse_caches, refuse_others
from mmada.hub.configs import ImageTokenizerConfig, MMaDAConfig
from mmada.hub.family import FAMILY_KEY
from mmada.hub.generate import generate, settings_of
from mmada.hub.labels import labeled, loss_of
from mmada.image.quantizer import LookupFreeQuantizer, bit_weights, sign_table
from mmada.model import Transformer, TransformerConfig
from mmada.model.attention import Packing, as_bool
from mmada.model.transformer import initialize

__all__ = ["GenerateOutput", "ImageTokenizer", "MMadaModelLM", "NoCausalLM", "NoImageTextToText", "without_bars"]


@dataclass
class GenerateOutput(ModelOutput):  # type: ignore[misc]
    """What `generate` returns with return_dict_in_generate: sequences (B, L + N) int64."""

    sequences: Tensor | None = None


class MMadaModelLM(Transformer, PreTrainedModel):  # type: ignore[misc]
    """The masked-diffusion transformer. The class carries its published name, so that config.json travels both ways.

    `from_pretrained` takes a directory or hub name in the published layout; tensors that do not fit are one CheckpointError
    that lists them all. The keywords of transformers apply: dtype, quantization_config, those of the hub, ..., fields of the configuration; a
    device_map may name one device.
    """

    config_class = MMaDAConfig
    config: MMaDAConfig
    generation_config: GenerationConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ("Block", "QwenBlock")
    accepts_loss_kwargs = True
    output_modalities = ("text",)

    def __init__(self, config: MMaDAConfig | TransformerConfig) -> None:
        config = MMaDAConfig.of(config) if isinstance(config, TransformerConfig) else config
        PreTrainedModel.__init__(self, config)
        self._build(config.transformer)
        PreTrainedModel.post_init(self)

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Packing | None = None,
        *,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        token_type_ids: Tensor | None = None,
        positions: Tensor | None = None,
        vocab: tuple[int, int] | None = None,
        mask_value: float | None = None,
        num_items_in_batch: Tensor | float | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **others: Any,
    ) -> MaskedLMOutput | tuple[Tensor, ...]:
        """`Transformer.forward` under transformers' names. Logits at position i are about the token at position i: nothing is shifted.

        attention_mask      as a tokenizer makes it: whole numbers, 1 where a token may be attended to, or bool
        position_ids        (B, L) or (L,), if they count up along what is seen, from wherever: that is what the model computes
        labels              (B, L) int64: the masked-diffusion loss of hub/labels.py, in nats; -100 is not learned
        num_items_in_batch  labels of all batches of a step, as Trainer counts them; None: those of this one
        past_key_values, use_cache, output_attentions  refused if they ask for something
        return_dict, output_hidden_states  None: as the configuration says
        others              refused by name, unless they are None
        Raises InputError.
        """
        refuse_others(others)
        refuse_caches(past_key_values, use_cache=use_cache, output_attentions=output_attentions)
        mask = as_bool(attention_mask) if isinstance(attention_mask, Tensor) else attention_mask
        check_positions(position_ids, mask, shape=None if input_ids is None else tuple(input_ids.shape))
        if token_type_ids is not None and not torch.compiler.is_compiling() and bool(token_type_ids.any()):
            raise InputError("token_type_ids other than 0 have no meaning for this model; leave them out")
        batch = None
        if labels is not None:
            if input_ids is None or positions is not None or vocab is not None:
                raise InputError("labels need input_ids and the logits of all positions; leave inputs_embeds, positions and vocab out")
            batch = labeled(
                input_ids, labels, mask_id=self.config.layout.mask_id, attention_mask=mask if isinstance(mask, Tensor) else None
            )
            input_ids = batch.xt
        wants_states = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        logits, states = super().forward(
            input_ids,
            mask,
            inputs_embeds=inputs_embeds,
            positions=positions,
            vocab=vocab,
            mask_value=mask_value,
            output_hidden_states=bool(wants_states),
        )
        loss = None if batch is None else loss_of(logits, batch, num_learned=num_items_in_batch)
        if not (self.config.return_dict if return_dict is None else return_dict):
            return tuple(part for part in (loss, logits, states) if part is not None)
        return MaskedLMOutput(loss=loss, logits=logits, hidden_states=states)

    @classmethod
    def can_generate(cls) -> bool:
        """Whether `generate` works: it does, by a sampler of our own."""
        return True

    def prepare_inputs_for_generation(self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any) -> dict[str, Any]:
        """What `forward` takes of a prompt; PEFT asks for it."""
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    def generate(
        self,
        input_ids: Tensor | None = None,
        *,
        attention_mask: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        streamer: Any = None,
        inputs: Tensor | None = None,
        **settings: Any,
    ) -> Tensor | GenerateOutput:
        """Prompts (B, L) with answers behind them, (B, L + N) int64, ended and filled by end tokens (hub/generate.py).

        attention_mask     (B, L), hides padding on either side
        generation_config  settings, over those of `self.generation_config`; keywords stand over both
        streamer           of transformers, such as TextStreamer; one with `put_draft` sees every step
        Raises InputError for a setting that has no meaning here, and for more tokens than the context has.
        """
        given = input_ids if input_ids is not None else inputs
        if given is None:
            given = torch.full((1, 1), self.config.layout.special("bos"), device=self.device)
        if not isinstance(given, Tensor) or given.dim() != 2:
            what = f"of the shape {tuple(given.shape)}" if isinstance(given, Tensor) else f"a {type(given).__name__}"
            raise InputError(f"input_ids is {what}; give a tensor (B, L), or **inputs for what a tokenizer returns")
        mask = None if attention_mask is None else as_bool(attention_mask)
        num_open = int((given.flip(1) == self.config.layout.mask_id).all(0).int().cumprod(0).sum())
        if num_open:  # the processor's inputs end with open positions, and those are what is filled
            given, mask = given[:, :-num_open], None if mask is None else mask[:, :-num_open]
        values: dict[str, Any] = {}
        for source in (self.generation_config, generation_config):
            values |= {} if source is None else source if isinstance(source, dict) else source.to_diff_dict()
        values |= settings
        if settings.get("max_length") is not None and settings.get("max_new_tokens") is None:
            values["max_new_tokens"] = None  # what a call says stands over what the model says
        num_given = given.shape[1] if mask is None else int(mask.sum(1).max())
        read = settings_of(values, self.config.layout, num_given=num_given, context=self.config.max_sequence_length)
        sequences = generate(self, given, mask, read, streamer=streamer)
        return GenerateOutput(sequences=sequences) if read.returns_dict else sequences

    def resize_token_embeddings(  # type: ignore[override]
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Module:
        """As in transformers, with every field of the configuration that says how many rows there are.

        Image codes lie behind the text, so the vocabulary can only grow at its end, behind them. Raises InputError for fewer rows than it needs.
        """
        rows = self.head_weight.shape[0] if new_num_tokens is None else new_num_tokens
        rows = rows if not pad_to_multiple_of else -(-rows // pad_to_multiple_of) * pad_to_multiple_of
        layout = replace(self.config.layout, vocab_size=rows)  # checked before anything changes
        resized: nn.Module = PreTrainedModel.resize_token_embeddings(self, new_num_tokens, pad_to_multiple_of, mean_resizing)
        if rows != self.config.embedding_size:
            self.config.vocab_size = self.config.embedding_size = self.config.new_vocab_size = rows
            self.config.llm_vocab_size, self.config.vocab_layout = rows - layout.codebook_size, layout.to_dict()
        return resized

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """transformers calls this for each module with parameters, and for what a checkpoint lacks; `initialize` draws by names."""
        for name, part in self.blocks.named_modules():
            if part is module:
                holder = nn.ModuleDict({"blocks": nn.ModuleDict({name.rpartition(".")[2]: module})})
                return initialize(holder, self.config.transformer)
        return initialize(module, self.config.transformer)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, *args: Any, **kwargs: Any) -> MMadaModelLM:
        """Load a checkpoint, or an adapter with its base. Raises CheckpointError for anything that is missing, left over, misshapen or cut short."""
        if pretrained_model_name_or_path is None:  # weights are given as state_dict
            return super().from_pretrained(None, *args, **kwargs)  # type: ignore[no-any-return]
        hub = {name: kwargs.pop(name) for name in checkpoint.HUB_KEYWORDS if name in kwargs}
        directory = checkpoint.find(pretrained_model_name_or_path, **hub)
        if (adapter := adapter_of(directory)) is not None:
            model = cls.from_pretrained(adapter.base, *args, **kwargs)
            model.load_adapter(str(directory))  # type: ignore[operator]
            return model
        if (name := networks.quantization(directory)) is not None:
            raise InputError(
                f"{directory} has matrices that are quantized as {name}, which MMaDA.from_pretrained loads; for transformers, load the checkpoint "
                "that it was made of, with a quantization_config"
            )
        if "config" not in kwargs:
            own = {name: kwargs.pop(name) for name in list(kwargs) if name in TransformerConfig.names()}
            kwargs["config"] = MMaDAConfig.from_pretrained(directory, names=[str(pretrained_model_name_or_path)], **own)
        config, generation_config = kwargs["config"], kwargs.pop("generation_config", None)
        # Packed weights, and those that are to be renamed or may differ, are transformers' matter.
        is_plain = getattr(config, "quantization_config", None) is None and not kwargs.get("key_mapping")
        if is_plain and not kwargs.get("ignore_mismatched_sizes"):
            checkpoint.check(directory, cls.shapes(config), variant=kwargs.get("variant"))
        loaded = super().from_pretrained(directory, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.generation_config = generation_config or _generation_config(directory, config)
        if checkpoint.local(pretrained_model_name_or_path) is None:  # a name that means the same on other machines
            model.name_or_path = model.config.name_or_path = str(pretrained_model_name_or_path)
        return loaded  # type: ignore[no-any-return]

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """As in transformers; older weights in the directory are replaced, in whatever form they are. Raises InputError if it cannot be written."""
        with checkpoint.saving(Path(save_directory)):
            super().save_pretrained(save_directory, *args, **kwargs)

    @classmethod
    def shapes(cls, config: MMaDAConfig | TransformerConfig) -> dict[str, tuple[int, ...]]:
        """Tensor name -> shape of a checkpoint with this configuration; nothing is allocated."""
        return networks.shapes(config if isinstance(config, TransformerConfig) else config.transformer)


class NoCausalLM(MMadaModelLM):
    """What AutoModelForCausalLM gets: a refusal, since logits are about their own token, and whoever shifts them measures nonsense."""

    @classmethod
    def from_pretrained(cls, *_: Any, **__: Any) -> MMadaModelLM:
        """Raises InputError."""
        raise InputError(_NOT_CAUSAL)

    @classmethod
    def _from_config(cls, *_: Any, **__: Any) -> Any:
        raise InputError(_NOT_CAUSAL)


class NoImageTextToText(MMadaModelLM):
    """What AutoModelForImageTextToText and AutoModelForMultimodalLM get, and with them the pipelines of these tasks: a refusal."""

    @classmethod
    def from_pretrained(cls, *_: Any, **__: Any) -> MMadaModelLM:
        """Raises MMaDAError, which is no ValueError: after one pipelines go on with the class that config.json names."""
        raise MMaDAError(_NO_PICTURES)

    @classmethod
    def _from_config(cls, *_: Any, **__: Any) -> Any:
        raise MMaDAError(_NO_PICTURES)


# pipeline("text-generation") needs `generate` alone. It loads what config.json names where AutoModelForCausalLM refuses (hub/auto.py), and
# then looks for the name of that class among those that are registered for causal models.
NoCausalLM.__name__ = MMadaModelLM.__name__

_NOT_CAUSAL = (
    "AutoModelForCausalLM expects logits of the next token, and this model's are about the token itself; "
    "use AutoModelForMaskedLM, which has generate and labels, too, or MMaDA.from_pretrained"
)

_NO_PICTURES = (
    "image-text-to-text and any-to-any expect one network that takes pixels, and here pictures become codes by a second one; "
    "use MMaDA.from_pretrained, whose ask takes a picture and whose draw makes one"
)


def _generation_config(directory: Path, config: MMaDAConfig) -> GenerationConfig:
    """generation_config.json, or else what mmada.json, or the family, says about texts. Where the first is silent on `variable_length`, so they say."""
    file = directory / "mmada.json"
    family = named(getattr(config, FAMILY_KEY, None) or MMADA.name)
    values = json.loads(file.read_text(encoding="utf-8")) if file.exists() else dict(family.defaults)
    if (directory / "generation_config.json").exists():
        found = GenerationConfig.from_pretrained(directory)
        if values.get("variable_length") and getattr(found, "variable_length", None) is None:
            found.variable_length = True
        return found
    values["full_attention"] = values.get("full_attention", values.get("sees_ahead", True))  # its former name
    names = ("max_new_tokens", "block_length", "threshold", "full_attention", "prompt_in_blocks", "variable_length", "cache")
    return GenerationConfig(**{name: values[name] for name in names if name in values})


@contextmanager
def without_bars() -> Iterator[None]:
    """Without transformers' progress bars: it shows one for any checkpoint, however small, and wherever its output goes."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars

    if not logging.is_progress_bar_enabled():
        yield
        return
    of_the_hub = not are_progress_bars_disabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()
        if not of_the_hub:
            disable_progress_bars()


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
        optional = [name for name in expected if name.startswith("quantize.")]
        checkpoint.check(directory, expected, optional=optional, variant=kwargs.get("variant"))
        own = ImageTokenizerConfig(**sizes.to_dict())
        return super().from_pretrained(directory, *model_args, config=own, **kwargs)  # type: ignore[no-any-return]

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """As in transformers; older weights in the directory are replaced, in whatever form they are. Raises InputError if it cannot be written."""
        with checkpoint.saving(Path(save_directory)):
            super().save_pretrained(save_directory, *args, **kwargs)
