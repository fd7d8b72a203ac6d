"""The backbone: (tokens, mask) -> logits, with the published tensor names. It needs torch alone.

    wte -> n_layers blocks -> ln_f -> ff_out        logits at position i predict the token at position i

That holds for every model. Where the hidden state before a token predicts it (`shifted_logits`), `trunk` gives that state in the token's place.
`trunk` gives the hidden states, `head` the logits of a vocabulary slice; `forward` joins them and can leave out positions
and vocabulary rows that nobody needs. The bits are the same, the work is less. Files are read and written by hub/networks.py. hub/pretrained.py makes
the same class a `PreTrainedModel` of transformers. `Backbone` has MMaDA's names; qwen.py has another backbone, with names of its own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmada.errors import InputError
from mmada.model.attention import AttentionBias, Packing, attention_bias, neighbors, rotary
from mmada.model.cache import PackedKVCache
from mmada.model.config import TransformerConfig
from mmada.model.graphs import Layers
from mmada.model.image_positions import image_position_ids
from mmada.model.layers import Block, PreNormBlock, RMSNorm, ShortConv, is_wider, narrowed
from mmada.model.qwen import QwenBackbone

__all__ = ["Backbone", "Output", "Transformer", "in_block", "initialize", "is_table", "layer_names"]

_CONV_STD = 0.3
_INTO_RESIDUAL = ("attn_out", "ff_out", "o_proj", "down_proj")
_IN_BLOCK = re.compile(r"(^|\.)(blocks|layers)\.\d+\.")
_TABLES = ("wte", "wpe_image", "ff_out", "embed_tokens", "lm_head")
_QWEN_NAMES = {"attn_out": ("o_proj",), "ff_proj": ("gate_proj",), "ff_out": ("down_proj", "lm_head")}


def in_block(name: str) -> bool:
    """Whether a tensor or a module of a transformer lies in one of its blocks, by its name on either backbone."""
    return _IN_BLOCK.search(name) is not None


def is_table(name: str) -> bool:
    """Whether a tensor has a row for each token or place: an embedding or the head."""
    return not in_block(name) and any(part in _TABLES for part in name.split("."))


def layer_names(config: TransformerConfig, names: Sequence[str]) -> list[str]:
    """Names of linear layers, MMaDA's (attn_out, ff_proj, ff_out, ...) or the backbone's own, as the backbone has them."""
    if config.backbone != "qwen":
        return list(names)
    found = dict.fromkeys(own for name in names for own in _QWEN_NAMES.get(name, (name,)))
    return [name for name in found if name != "lm_head" or not config.weight_tying]


class Output(NamedTuple):
    """What a forward pass gives.

    logits         (B, L or Q, V or stop - start)
    hidden_states  n_layers + 1 tensors (B, L, D), the last after the final norm; None unless they were asked for
    """

    logits: Tensor
    hidden_states: tuple[Tensor, ...] | None


class Backbone(nn.Module):
    """Holds `transformer.*`, so that tensors are called model.transformer.* as published."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        rows = config.embedding_size or config.vocab_size
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(rows, config.d_model),
                "blocks": nn.ModuleList(Block(config) for _ in range(config.n_layers)),
                "ln_f": RMSNorm(config.d_model, config.rms_norm_eps),
            }
        )
        if config.short_conv:
            self.transformer["conv"] = ShortConv(config.d_model, config.short_conv)
        if config.image_positions:
            self.transformer["wpe_image"] = nn.Embedding(config.image_positions, config.d_model)
        if not config.weight_tying:
            self.transformer["ff_out"] = nn.Linear(config.d_model, rows, bias=False)


class Transformer(nn.Module):
    """The masked-diffusion transformer, with random weights from torch's generator."""

    config: TransformerConfig
    model: nn.Module

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self._build(config)
        initialize(self, config)

    def _build(self, config: TransformerConfig) -> None:
        if config.backbone == "mmada":
            if config.num_experts:
                raise InputError(
                    f"num_experts={config.num_experts} with backbone='mmada', which has none; leave it out, or name a family that has"
                )
            self.model = Backbone(config)
            return
        self.model = QwenBackbone(config)
        if not config.weight_tying:
            self.lm_head = nn.Linear(config.d_model, config.embedding_size or config.vocab_size, bias=False)

    def _part(self, name: str) -> nn.Module:
        """A module by its place, such as embedding, blocks, norm or head, on either backbone."""
        owner, own = _PLACES[self.config.backbone][name]
        found: nn.Module = self.get_submodule(owner)._modules[own]  # type: ignore[assignment]
        return found

    def _set_part(self, name: str, value: nn.Module) -> None:
        owner, own = _PLACES[self.config.backbone][name]
        self.get_submodule(owner)._modules[own] = value

    @property
    def blocks(self) -> nn.ModuleList:
        """The n_layers blocks, in order."""
        found = self._part("blocks")
        assert isinstance(found, nn.ModuleList)
        return found

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of the embedding; quantized matrices may have another."""
        embedding: Tensor = self.get_input_embeddings().weight  # type: ignore[assignment]
        return embedding.dtype

    @property
    def wide_dtype(self) -> torch.dtype:
        """What the denoiser computes in, and keeps keys and values in, but for products with weights: float32 on CPUs, where fewer bits make nothing
        else faster."""
        return torch.float32 if self.device.type == "cpu" and self.dtype.itemsize < torch.float32.itemsize else self.dtype

    def checkpoint_gradients(self) -> None:
        """While training, compute each block again in the backward pass: less memory, a third more time."""
        for block in self.blocks:
            assert isinstance(block, PreNormBlock)
            block.gradient_checkpointing = True

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Packing | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        positions: Tensor | None = None,
        vocab: tuple[int, int] | None = None,
        mask_value: float | None = None,
        output_hidden_states: bool = False,
    ) -> Output:
        """Logits for every position, or only for those that are asked for.

        input_ids       (B, L) int64; or inputs_embeds (B, L, D)
        attention_mask  bool or 0 and 1, (B, L) or (B, L, L), a Packing, or None (model/attention.py); attention is bidirectional
        positions       (B, Q) int64: only these positions reach the head
        vocab           [start, stop): only these rows of the head
        Raises InputError for a mask of other numbers than 0 and 1, or of another shape, and for a row longer than the context.
        """
        collected: list[Tensor] | None = [] if output_hidden_states else None
        hidden = self.trunk(input_ids, attention_mask, inputs_embeds=inputs_embeds, mask_value=mask_value, collect=collected)
        if positions is not None:
            hidden = hidden.gather(1, positions[..., None].expand(-1, -1, hidden.shape[-1]))  # (B, Q, D)
        logits = self.head(hidden, vocab)
        return Output(logits, tuple(collected) if collected is not None else None)

    def trunk(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | Packing | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        mask_value: float | None = None,
        collect: list[Tensor] | None = None,
        kv_cache: PackedKVCache | None = None,
        layers: Layers | None = None,
        index: Tensor | None = None,
        compute_dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Hidden states (B, L, D) after the final norm, each in the place of the token that it predicts.

        `collect` receives the input of each block and the result, each in its own place.
        kv_cache  of packed rows, evaluate these windows only: (1, evaluated tokens, D)
        layers  what computes them in the place of `self.layers`, such as recordings of it (model/graphs.py)
        index   (n,) int64 of evaluated tokens whose hidden states are wanted: (1, n, D), and the last block computes less. With shifted logits the
                token before each must be evaluated, too, or it gets its own
        compute_dtype  of everything but the products with weights, such as `wide_dtype`; None: that of the weights
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise InputError("give either input_ids or inputs_embeds, not both and not neither")
        x: Tensor = self.get_input_embeddings()(input_ids) if inputs_embeds is None else inputs_embeds
        x = x if compute_dtype is None else x.to(compute_dtype)
        rows, length = x.shape[:2]
        self._check_length(length if not isinstance(attention_mask, Packing) else attention_mask.num_positions)
        # Under autocast the attention runs in the autocast dtype, and the bias must have it too.
        dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        attn_bias = attention_bias(attention_mask, (rows, length), dtype=dtype, device=x.device, mask_value=mask_value, kv_cache=kv_cache)
        if self.config.short_conv:
            x = self._part("conv")(x, neighbors(attention_mask, self.config.short_conv // 2, x.device))
        if self.config.image_positions:
            x = x + self._image_positions(input_ids)
        position_ids = torch.arange(length, device=x.device) if attn_bias.packing is None else attn_bias.packing.position_ids.to(x.device)
        if kv_cache is not None:
            evaluated = kv_cache.index(x.device)
            x, position_ids = x[:, evaluated], position_ids[evaluated]
        cos, sin = rotary(position_ids, self.config.head_dim, self.config.rope_theta)
        before = None
        if self.config.shifted_logits:
            before = _before(attention_mask, (rows, length), None if kv_cache is None else evaluated, x.device)
            index = index if index is None else before[0, index]
        hidden = self.layers(x, cos, sin, attn_bias, index, collect=collect) if layers is None else layers(x, cos, sin, attn_bias, index)
        return hidden if before is None or index is not None else hidden.gather(1, before[..., None].expand_as(hidden))

    def _check_length(self, num_positions: int) -> None:
        """Raises InputError for a row with more positions than the model was made for, whoever asks: its numbers would mean nothing."""
        context = self.config.max_sequence_length
        if num_positions > context:
            raise InputError(
                f"a row has {num_positions} positions, and the model's context max_sequence_length={context}; shorten the row or cut it into pieces"
            )

    def layers(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        attn_bias: AttentionBias,
        index: Tensor | None = None,
        *,
        collect: list[Tensor] | None = None,
    ) -> Tensor:
        """All blocks and the final norm: (B, L, D) -> (B, L, D), or (1, n, D) of the tokens in `index`."""
        blocks = self.blocks
        for layer, block in enumerate(blocks):
            if collect is not None:
                collect.append(x)
            x = block(x, cos, sin, attn_bias.at(layer), index if layer == len(blocks) - 1 else None)
        x = self._part("norm")(x)
        if collect is not None:
            collect.append(x)
        return x

    def _image_positions(self, input_ids: Tensor | None) -> Tensor:
        """(B, L, D): what is added to the embedding of a token at its place in its image; 0 outside, and behind the last place."""
        if input_ids is None:
            raise InputError("inputs_embeds do not say where images are, which this model embeds (image_positions); give input_ids")
        position_ids = image_position_ids(input_ids, self.config.layout)
        last = self.config.image_positions - 1
        known = (position_ids >= 0) & (position_ids <= last)
        found: Tensor = self._part("image_positions")(position_ids.clamp(0, last))
        return found * known[..., None].to(found.dtype)

    def num_logits(self, vocab: tuple[int, int] | None = None) -> int:
        """Logits that `head` computes for a position: of all rows where the head is adapted or quantized, whatever is asked for."""
        return self.head_weight.shape[0] if vocab is None or self._has_special_head else vocab[1] - vocab[0]

    @property
    def _has_special_head(self) -> bool:
        """Whether the head is adapted, quantized or offloaded, and so more than its weight."""
        module = self.get_output_embeddings()
        return not isinstance(module, nn.Embedding) and (type(module) is not nn.Linear or hasattr(module, "_hf_hook"))

    def head(self, hidden: Tensor, vocab: tuple[int, int] | None = None) -> Tensor:
        """Logits (..., V) of hidden states (..., D), or of the vocabulary rows [start, stop) only."""
        if self._has_special_head:
            embedding: Tensor = self.get_input_embeddings().weight  # type: ignore[assignment]
            logits: Tensor = self.get_output_embeddings()(hidden.to(embedding.dtype) if is_wider(hidden, embedding) else hidden)
            return logits if vocab is None else logits[..., vocab[0] : vocab[1]]
        weight = self.head_weight if vocab is None else self.head_weight[vocab[0] : vocab[1]]
        if not is_wider(hidden, weight):
            return F.linear(hidden, weight)
        rows = hidden.flatten(0, -2)
        return F.linear(narrowed(rows, weight), weight)[: len(rows)].view(*hidden.shape[:-1], -1)

    @property
    def head_weight(self) -> Tensor:
        """(V, D)"""
        weight: Tensor = self.get_output_embeddings().weight  # type: ignore[assignment]
        return weight

    def get_input_embeddings(self) -> nn.Module:
        """The embedding, under the name that transformers asks for."""
        return self._part("embedding")

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Put another module in its place."""
        self._set_part("embedding", value)

    def get_output_embeddings(self) -> nn.Module:
        """The head, or the embedding where the two are one (`weight_tying`)."""
        return self._part("embedding" if self.config.weight_tying else "head")

    def resize_token_embeddings(self, *_: object, **__: object) -> nn.Module:
        """Not of the plain network. Raises InputError."""
        raise InputError(
            "resize_token_embeddings is of transformers' class, which keeps the configuration true; save the model, and use mmada.MMadaModelLM.from_pretrained"
        )

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Put another module in the place of what `get_output_embeddings` returns."""
        self._set_part("embedding" if self.config.weight_tying else "head", new_embeddings)


_PLACES: dict[str, dict[str, tuple[str, str]]] = {
    "mmada": {
        "embedding": ("model.transformer", "wte"),
        "blocks": ("model.transformer", "blocks"),
        "norm": ("model.transformer", "ln_f"),
        "head": ("model.transformer", "ff_out"),
        "conv": ("model.transformer", "conv"),
        "image_positions": ("model.transformer", "wpe_image"),
    },
    "qwen": {
        "embedding": ("model", "embed_tokens"),
        "blocks": ("model", "layers"),
        "norm": ("model", "norm"),
        "head": ("", "lm_head"),
    },
}
"""Of each backbone, the owner and the name of its parts."""


def _before(mask: Tensor | Packing | None, shape: tuple[int, int], evaluated: Tensor | None, device: torch.device) -> Tensor:
    """(B, L) int64: the token before each in its row, as the model sees it, or itself where there is none.

    evaluated  those of a packed row that are evaluated, ascending: then (1, evaluated), which of these
    """
    here = torch.arange(shape[1], device=device).expand(shape)
    if mask is None:
        before = (here - 1).clamp_min(0)
    else:
        near = neighbors(mask, 1, device)
        assert near is not None
        beside = here - 1 if near.index is None else near.index[0].expand(shape)
        before = torch.where(near.seen[0], beside, here)
    if evaluated is None:
        return before
    wanted = before[0, evaluated]
    found = torch.searchsorted(evaluated, wanted).clamp_max(len(evaluated) - 1)
    return torch.where(evaluated[found] == wanted, found, torch.arange(len(evaluated), device=device))[None]


@torch.no_grad()
def initialize(module: nn.Module, config: TransformerConfig) -> None:
    """Draw the weights of a backbone, or of a part of one, in the order of its modules.

    Normal with init_std; projections back into the residual stream, known by name, shrink with the depth (GPT-2, section 2.3).
    """
    for name, part in module.named_modules():
        path = name.split(".")
        if isinstance(part, nn.Linear | nn.Embedding):
            is_residual = ("blocks" in path or "layers" in path) and path[-1] in _INTO_RESIDUAL
            nn.init.normal_(part.weight, std=config.init_std / ((2 * config.n_layers) ** 0.5 if is_residual else 1))
            if isinstance(part, nn.Linear) and part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, ShortConv):
            nn.init.normal_(part.weight, std=_CONV_STD)  # from 0 it is not learned: 1,000 steps at chance instead of 400 to the answer
        elif isinstance(part, RMSNorm):
            nn.init.ones_(part.weight)
