"""What a training step holds and computes, from the shapes of a model. docs/scale.md has the formulas in words.

P parameters, T of them trained; n blocks of width D, feed-forward width F, keys of width K; V rows of the head; L tokens of a row

    a token's way forward   2 x block matrices + 4 L D n (attention sees all of the row) + 2 V D x share of tokens that are scored
    backward                twice that; with adapters once, since frozen matrices have no gradient
    state                   weights, gradients, moments of the optimizer, averages
    activations             what autograd keeps of a block for each token (`kept_per_token`), or with checkpointing its input
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mmada.errors import InputError
from mmada.model import TransformerConfig
from mmada.model.tensor_parallel import split_dim
from mmada.model.transformer import in_block

__all__ = ["HEAD_BYTES", "MAX_LOGITS", "ModelShape", "TrainingStep", "matrices_of"]

MAX_LOGITS = 2**26
"""Of one chunk (train/scoring.MAX_LOGITS)."""
HEAD_BYTES = 3 * 4 * MAX_LOGITS
"""Logits in float32, their log-probabilities and the gradient, of one chunk."""


def matrices_of(config: TransformerConfig) -> dict[str, tuple[int, int]]:
    """Name -> (rows, columns) of the matrices of one block. Raises InputError for a model with experts, which are not counted yet."""
    if config.num_experts:
        raise InputError(f"num_experts={config.num_experts}: plans are for models with one feed-forward layer a block")
    width, wide = config.d_model, config.mlp_hidden_size or 0
    keys, queries = (config.n_kv_heads or config.n_heads) * config.head_dim, config.n_heads * config.head_dim
    return {
        "q_proj": (queries, width),
        "k_proj": (keys, width),
        "v_proj": (keys, width),
        "attn_out": (width, queries),
        "ff_proj": (wide, width),
        "up_proj": (wide, width),
        "ff_out": (width, wide),
    }


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of a model: `config`, and the tensors that its checkpoint has (mmada.hub.networks.shapes)."""

    config: TransformerConfig
    tensors: Mapping[str, tuple[int, ...]]

    @property
    def num_parameters(self) -> int:
        """Of all tensors."""
        return sum(_size(shape) for shape in self.tensors.values())

    @property
    def num_block_parameters(self) -> int:
        """Of one block."""
        return self.num_in_blocks // self.config.n_layers

    @property
    def num_in_blocks(self) -> int:
        """Of the tensors of all blocks."""
        return sum(_size(shape) for name, shape in self.tensors.items() if in_block(name))

    @property
    def num_matrix_parameters(self) -> int:
        """Of the matrices of all blocks, which Muon moves."""
        return sum(_size(shape) for name, shape in self.tensors.items() if in_block(name) and len(shape) == 2)

    @property
    def whole(self) -> ModelShape:
        """Of what tensor parallelism does not split."""
        return ModelShape(self.config, {name: shape for name, shape in self.tensors.items() if split_dim(name) is None})

    @property
    def num_head_rows(self) -> int:
        """Ids that the head has a row for, padding of the vocabulary included."""
        return self.config.embedding_size or self.config.vocab_size

    def num_adapter_parameters(self, rank: int, targets: tuple[str, ...]) -> int:
        """A and B of every target; the head is a target where ff_out is."""
        matrices = matrices_of(self.config)
        per_block = sum(rows + columns for name, (rows, columns) in matrices.items() if name in targets)
        head = self.num_head_rows + self.config.d_model if "ff_out" in targets and not self.config.weight_tying else 0
        return rank * (per_block * self.config.n_layers + head)

    def forward_flops(self, length: int, scored: float) -> float:
        """Of one token in a row of `length`, `scored` being the share of tokens that the head is asked for."""
        config = self.config
        matrices = 2 * sum(rows * columns for rows, columns in matrices_of(config).values())
        return (
            config.n_layers * (matrices + 4 * length * config.n_heads * config.head_dim) + 2 * scored * self.num_head_rows * config.d_model
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingStep:
    """A step of `mmada train`, by the names that its settings have. Raises InputError for values that cannot be used."""

    rows: int = 1
    """rows of a micro-batch on each GPU, or on each group of GPUs that share a model by tensor parallelism"""
    length: int = 1024
    """tokens of a row"""
    accumulate: int = 1
    """micro-batches of a step (loop.accumulate)"""
    scored: float = 0.5
    """share of the tokens that are masked, and reach the head"""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """of the weights (model.dtype); with adapters, of the frozen ones: what is trained is float32 then"""
    precision: Literal["bf16", "fp32"] = "bf16"
    """of the forward pass (loop.precision)"""
    optimizer: Literal["adamw", "muon"] = "adamw"
    ema: bool = False
    """whether averaged weights are kept"""
    lora_rank: int = 0
    lora_targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "attn_out", "ff_proj", "up_proj", "ff_out")
    checkpointing: bool = False
    """loop.checkpointing"""

    def __post_init__(self) -> None:
        for name in ("rows", "length", "accumulate"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} must be at least 1")
        if not 0 < self.scored <= 1:
            raise InputError(f"scored={self.scored} must lie in 0..1: it is a share of the tokens")
        if self.lora_rank < 0:
            raise InputError(f"lora_rank={self.lora_rank} must not be negative; 0 trains all weights")
        for name, choices in (("dtype", ("float32", "bfloat16")), ("precision", ("bf16", "fp32")), ("optimizer", ("adamw", "muon"))):
            if getattr(self, name) not in choices:
                raise InputError(f"{name}={getattr(self, name)!r} must be {' or '.join(choices)}")

    @property
    def weight_bytes(self) -> int:
        """Of a weight that is stored."""
        return 4 if self.dtype == "float32" else 2

    @property
    def trained_bytes(self) -> int:
        """Of a number that is trained, of its gradient, and of each of its moments."""
        return 4 if self.lora_rank else self.weight_bytes

    @property
    def compute_bytes(self) -> int:
        """Of a number in the forward pass."""
        return 2 if self.precision == "bf16" or self.dtype == "bfloat16" else 4

    @property
    def num_tokens(self) -> int:
        """Of a micro-batch."""
        return self.rows * self.length

    def num_trained(self, shape: ModelShape) -> int:
        """Parameters that are trained: those of the adapters, or all."""
        return shape.num_adapter_parameters(self.lora_rank, self.lora_targets) if self.lora_rank else shape.num_parameters

    def num_frozen(self, shape: ModelShape) -> int:
        """Parameters that adapters leave as they are; 0 without adapters."""
        return shape.num_parameters if self.lora_rank else 0

    def state_bytes(self, shape: ModelShape) -> dict[str, float]:
        """What lives from step to step, of the whole model: on one GPU, or shared out."""
        trained, each = self.num_trained(shape), self.trained_bytes
        by_muon = shape.num_matrix_parameters if self.optimizer == "muon" and not self.lora_rank else 0
        return {
            "weights": self.num_frozen(shape) * self.weight_bytes + trained * each,
            "gradients": trained * each,
            "optimizer": (2 * (trained - by_muon) + by_muon) * each,
            "averages": 4 * trained * self.ema,
        }

    def kept_per_token(self, shape: ModelShape) -> tuple[float, float]:
        """Bytes that autograd keeps of one block for one token: those of full width, and those that tensor parallelism splits.

        Autocast keeps a copy of its input for each product; without it, the products of one input share it.
        """
        config, number = shape.config, self.compute_bytes
        width, wide = config.d_model, config.mlp_hidden_size or 0
        keys, queries = (config.n_kv_heads or config.n_heads) * config.head_dim, config.n_heads * config.head_dim
        num_copies = 5 if self.weight_bytes != number else 2
        whole = 2 * 4 * (width + 1) + num_copies * number * width  # both norms in float32, and what q, k, v and the two gates are given
        scales, normed = (8, 4 * (queries + keys)) if config.attention_layer_norm or config.head_norm else (0, 0)
        attention = number * (2 * queries + 2 * keys) + 4 * config.n_heads  # q, k, v, what comes out, and a sum of each head
        return whole + scales, normed + attention + 4 * number * wide

    def activation_bytes(self, shape: ModelShape, *, tp: int = 1) -> float:
        """Of a micro-batch on one GPU, without the head's. tp: GPUs that share each block."""
        whole, split = self.kept_per_token(shape)
        block, width, count = whole + split / tp, shape.config.d_model, shape.config.n_layers
        blocks = block + self.weight_bytes * width * count if self.checkpointing else block * count
        return self.num_tokens * (blocks + 4 * width)  # and the final norm

    def model_flops(self, shape: ModelShape) -> float:
        """What a micro-batch must compute, without what checkpointing computes twice."""
        return (2 if self.lora_rank else 3) * self.num_tokens * shape.forward_flops(self.length, self.scored)

    def hardware_flops(self, shape: ModelShape) -> float:
        """What is computed: with checkpointing the blocks once more."""
        again = self.num_tokens * shape.forward_flops(self.length, 0.0) if self.checkpointing else 0.0
        return self.model_flops(shape) + again


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for side in shape:
        size *= side
    return size
