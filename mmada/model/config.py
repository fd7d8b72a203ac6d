"""Configuration of the backbone: the published field names, with the values of MMaDA-8B as defaults.

Some fields are ours. `vocab_layout` says where the special tokens and the image codes lie; a published config.json does not have
it, and then the published layout is meant. `image_positions` is the number of image tokens whose place in the image is embedded
(model/image_positions.py). `short_conv` is the number of neighboring tokens that an embedding carries along (layers.ShortConv). 0, the default of
both, is the published model. `backbone` and the fields behind it are for models on another backbone (model/qwen.py). Fields whose published
alternatives no released model uses (ALiBi, LayerNorm, dropout) must keep their values: anything else is an error that names the field.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from mmada.canvas import PUBLISHED, VocabLayout
from mmada.errors import InputError, suggest

__all__ = ["ALIASES", "BACKBONES", "PRESETS", "READ_AS", "TransformerConfig", "plain_names", "preset"]

ALIASES = {
    "hidden_size": "d_model",
    "num_attention_heads": "n_heads",
    "num_key_value_heads": "n_kv_heads",
    "num_hidden_layers": "n_layers",
    "intermediate_size": "mlp_hidden_size",
    "max_position_embeddings": "max_sequence_length",
    "initializer_range": "init_std",
}
"""The names that transformers uses for the same fields."""

READ_AS = {
    **ALIASES,
    "head_dim": "head_width",
    "expert_intermediate_size": "expert_hidden_size",
    "moe_intermediate_size": "expert_hidden_size",
}
"""All names under which a config.json may have a field; `head_dim` of a configuration is never None."""

_ONLY: dict[str, tuple[Any, ...]] = {
    "activation_type": ("silu",),
    "block_type": ("llama",),
    "block_group_size": (1,),
    "alibi": (False,),
    "rope": (True,),
    "rope_full_precision": (True,),
    "attention_dropout": (0.0,),
    "residual_dropout": (0.0,),
    "embedding_dropout": (0.0,),
    "layer_norm_type": ("rms",),
    "layer_norm_with_affine": (True,),
    "attention_layer_norm_with_affine": (True,),
    "bias_for_layer_norm": (False, None),
    "include_bias": (False,),
    "scale_logits": (False,),
    "input_emb_norm": (False,),
}


BACKBONES: Mapping[str, tuple[str, ...]] = {
    "mmada": ("include_qkv_bias", "head_norm"),
    "qwen": ("attention_layer_norm", "image_positions", "short_conv"),
}
"""Names of modules and tensors (model/transformer.py, model/qwen.py) -> the fields that such a model does not have.

Experts of the first are refused when it is built: which backbone a config.json is about, its family says."""


def plain_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a config.json under our names. Raises InputError for scaled rotary embeddings, which no model here has."""
    plain = {READ_AS.get(name, name): value for name, value in values.items()}
    for name in ("rope_parameters", "rope_scaling"):  # the first is how newer versions of transformers write rope_theta
        rotary = plain.get(name) or {}
        if (kind := rotary.get("rope_type", rotary.get("type", "default"))) != "default":
            raise InputError(
                f"{name} has rope_type={kind!r}, and only unscaled rotary embeddings are computed here; use a model without it"
            )
        if "rope_theta" in rotary:
            plain.setdefault("rope_theta", rotary["rope_theta"])
    return plain


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """All backbone fields of the published config.json (docs: reference model Gen-Verse/MMaDA-8B).

    d_model is the residual width, n_heads and n_kv_heads count attention heads (n_kv_heads None: as many as n_heads),
    mlp_hidden_size is the width of the gate and of the up projection. attention_layer_norm normalizes queries and keys over
    their whole width, head_norm those of each head. head_width is that of a head (None: d_model / n_heads). backbone names the modules
    and their tensors. shifted_logits: the hidden state before a token predicts it, as in models that were next-token predictors.
    num_experts: in the place of one feed-forward layer, so many of width expert_hidden_size, of which each token is fed to num_experts_per_tok.
    Raises InputError that lists every field with an unsupported value.
    """

    d_model: int = 4096
    n_heads: int = 32
    n_kv_heads: int | None = None
    multi_query_attention: bool | None = None
    n_layers: int = 32
    mlp_hidden_size: int | None = 12288
    mlp_ratio: int = 4
    activation_type: str = "silu"
    block_type: str = "llama"
    block_group_size: int = 1
    alibi: bool = False
    alibi_bias_max: float = 8.0
    rope: bool = True
    rope_full_precision: bool = True
    rope_theta: float = 500000.0
    flash_attention: bool = False
    attention_dropout: float = 0.0
    residual_dropout: float = 0.0
    embedding_dropout: float = 0.0
    attention_layer_norm: bool = False
    attention_layer_norm_with_affine: bool = True
    layer_norm_type: str = "rms"
    layer_norm_with_affine: bool = True
    rms_norm_eps: float = 1e-5
    bias_for_layer_norm: bool | None = False
    include_bias: bool = False
    include_qkv_bias: bool = False
    scale_logits: bool = False
    input_emb_norm: bool = False
    max_sequence_length: int = 4096
    vocab_size: int = 134656
    embedding_size: int | None = None
    weight_tying: bool = False
    tie_word_embeddings: bool = False
    eos_token_id: int | None = 126081
    pad_token_id: int | None = 126081
    mask_token_id: int = 126336
    init_device: str | None = None
    init_fn: str = "mitchell"
    init_std: float = 0.02
    init_cutoff_factor: float | None = None
    precision: str | None = "amp_bf16"
    codebook_size: int = 8192
    llm_vocab_size: int = 126464
    new_vocab_size: int = 134656
    num_vq_tokens: int = 1024
    image_positions: int = 0
    short_conv: int = 0
    backbone: str = "mmada"
    head_width: int | None = None
    head_norm: bool = False
    shifted_logits: bool = False
    num_experts: int = 0
    num_experts_per_tok: int = 0
    expert_hidden_size: int | None = None
    vocab_layout: Mapping[str, int] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """what a config.json says beyond these fields; it is written back as it was read"""

    def __post_init__(self) -> None:
        if self.multi_query_attention:
            object.__setattr__(self, "n_kv_heads", 1)
        if self.n_kv_heads is None:
            object.__setattr__(self, "n_kv_heads", self.n_heads)
        if self.mlp_hidden_size is None:
            object.__setattr__(self, "mlp_hidden_size", self.mlp_ratio * self.d_model)
        if self.embedding_size is None:
            object.__setattr__(self, "embedding_size", self.vocab_size)
        self._check()
        self._check_backbone()

    @classmethod
    def names(cls) -> frozenset[str]:
        """The fields of a backbone: all but `extra`."""
        return frozenset(one.name for one in fields(cls)) - {"extra"}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TransformerConfig:
        """A config.json as a configuration. Fields that are not of a backbone become `extra`. Raises InputError."""
        plain = plain_names(values)
        known = cls.names()
        own = {name: value for name, value in plain.items() if name in known}
        return cls(**own, extra={name: value for name, value in plain.items() if name not in known})

    def to_dict(self) -> dict[str, Any]:
        """What config.json says: every field, and what was read beyond them."""
        own = {name: getattr(self, name) for name in self.names()}
        if self.vocab_layout is not None:
            own["vocab_layout"] = dict(self.vocab_layout)
        return {**self.extra, **own, **self.names_of_transformers()}

    def names_of_transformers(self) -> dict[str, Any]:
        """Fields under the names of transformers, by which other tools read models on another backbone than MMaDA's; none of MMaDA's."""
        if self.backbone == "mmada":
            return {}
        return {**{name: getattr(self, ours) for name, ours in ALIASES.items()}, "head_dim": self.head_dim}

    @property
    def layout(self) -> VocabLayout:
        """Where special tokens and image codes lie.

        Raises InputError if config.json has no `vocab_layout` and is not of the published size.
        """
        if self.vocab_layout is not None:
            return VocabLayout.from_dict(dict(self.vocab_layout))
        if self.embedding_size == PUBLISHED.vocab_size and self.codebook_size == PUBLISHED.codebook_size:
            return PUBLISHED
        raise InputError(
            f"config.json has no vocab_layout, and its embedding_size={self.embedding_size} is not the published {PUBLISHED.vocab_size}; "
            "add vocab_layout with the special ids and the image offset"
        )

    @property
    def head_dim(self) -> int:
        return self.head_width or self.d_model // self.n_heads

    @property
    def num_kept_values(self) -> int:
        """Numbers that a cache keeps for a token: its keys and values in all layers."""
        return 2 * self.n_layers * (self.n_kv_heads or self.n_heads) * self.head_dim

    def _check(self) -> None:
        wrong = [
            f"{name}={getattr(self, name)!r} (only {allowed[0]!r})" for name, allowed in _ONLY.items() if getattr(self, name) not in allowed
        ]
        if wrong:
            raise InputError(f"unsupported backbone configuration: {', '.join(wrong)}; no published checkpoint uses other values")
        sizes = ("d_model", "n_heads", "n_kv_heads", "n_layers", "mlp_hidden_size", "embedding_size")
        small = [f"{name}={getattr(self, name)!r}" for name in sizes if not isinstance(getattr(self, name), int) or getattr(self, name) < 1]
        if small:
            raise InputError(f"{', '.join(small)} must be a whole number of at least 1")
        if self.head_width is None and (self.d_model % self.n_heads or (self.d_model // self.n_heads) % 2):
            raise InputError(f"d_model={self.d_model} must be n_heads={self.n_heads} times an even head width")
        if self.head_width is not None and (not isinstance(self.head_width, int) or self.head_width < 2 or self.head_width % 2):
            raise InputError(f"head_width={self.head_width!r} must be an even number; leave it out for d_model / n_heads")
        if not isinstance(self.image_positions, int) or self.image_positions < 0:
            raise InputError(f"image_positions={self.image_positions!r} must be a whole number; 0 leaves places out, as published")
        if not isinstance(self.short_conv, int) or self.short_conv < 0 or (self.short_conv and self.short_conv % 2 == 0):
            raise InputError(f"short_conv={self.short_conv!r} must be an odd number of taps; 0 leaves it out, as published")
        if self.n_heads % (self.n_kv_heads or 1):
            raise InputError(f"n_heads={self.n_heads} must be a multiple of n_kv_heads={self.n_kv_heads}")
        if self.vocab_layout is not None:
            layout = VocabLayout.from_dict(dict(self.vocab_layout))
            if layout.vocab_size != self.embedding_size:
                raise InputError(f"vocab_layout has vocab_size={layout.vocab_size}, the model {self.embedding_size} rows; make them agree")
            if self.mask_token_id != layout.mask_id:
                raise InputError(f"mask_token_id={self.mask_token_id} is not vocab_layout's mask_id={layout.mask_id}; make them agree")

    def _check_backbone(self) -> None:
        if self.backbone not in BACKBONES:
            raise InputError(f"backbone={self.backbone!r} is unknown: {suggest(str(self.backbone), BACKBONES)}")
        others = {name: getattr(self, name) for name in BACKBONES[self.backbone] if getattr(self, name)}
        if others:
            shown = ", ".join(f"{name}={value!r}" for name, value in others.items())
            raise InputError(
                f"unsupported backbone configuration: {shown} with backbone={self.backbone!r}, which has no such part; leave it out"
            )
        if self.num_experts and not (1 <= self.num_experts_per_tok <= self.num_experts and (self.expert_hidden_size or 0) > 0):
            raise InputError(
                f"num_experts={self.num_experts} with num_experts_per_tok={self.num_experts_per_tok} and expert_hidden_size={self.expert_hidden_size}; "
                "a token is fed to one at least and all at most, and each has a width"
            )


# Rows of the small models have a hundred tokens: angles of 500,000^(-2j/32) would leave most pairs of a head next to unturned.
_SMALL: dict[str, int | float | bool] = {"attention_layer_norm": True, "rope_theta": 100.0, "image_positions": 64, "short_conv": 9}

# Width, depth, heads and feed-forward width of each size. Nothing ties embedding and head: the head's gradient pushes all rows of an embedding
# one way, until image codes are alike but for 3 % of their length, and words are not told apart (docs/decisions.md).
PRESETS: dict[str, dict[str, int | float | bool]] = {
    "debug": {"d_model": 64, "n_layers": 2, "n_heads": 4, "mlp_hidden_size": 160},
    "3m": {"d_model": 192, "n_layers": 6, "n_heads": 6, "mlp_hidden_size": 512, **_SMALL},
    "6m": {"d_model": 224, "n_layers": 6, "n_heads": 7, "mlp_hidden_size": 608, **_SMALL},
    "8m": {"d_model": 256, "n_layers": 8, "n_heads": 8, "mlp_hidden_size": 768, **_SMALL},
    "30m": {"d_model": 448, "n_layers": 10, "n_heads": 7, "mlp_hidden_size": 1216, **_SMALL},
    "40m": {"d_model": 512, "n_layers": 12, "n_heads": 8, "mlp_hidden_size": 1408, **_SMALL},
    "8b": {},
}


def preset(name: str, *, layout: VocabLayout = PUBLISHED, **changes: Any) -> TransformerConfig:
    """The configuration of a named size over a vocabulary, with some fields changed. Raises InputError for an unknown name."""
    if name not in PRESETS:
        raise InputError(f"preset={name!r} is unknown: {suggest(name, PRESETS)}")
    known = TransformerConfig.names() | ALIASES.keys()
    if unknown := sorted(changes.keys() - known):
        raise InputError(f"unknown configuration field {unknown[0]!r}: {suggest(unknown[0], known)}")
    vocabulary: dict[str, Any] = {
        "vocab_size": layout.vocab_size,
        "embedding_size": layout.vocab_size,
        "new_vocab_size": layout.vocab_size,
        "llm_vocab_size": layout.vocab_size - layout.codebook_size,
        "codebook_size": layout.codebook_size,
        "eos_token_id": layout.eos_id,
        "pad_token_id": layout.eos_id,
        "mask_token_id": layout.mask_id,
        "vocab_layout": layout.to_dict(),
    }
    return TransformerConfig(**{**vocabulary, **PRESETS[name], **{ALIASES.get(name, name): value for name, value in changes.items()}})
