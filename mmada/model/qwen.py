"""The other backbone: blocks and tensors with the names of Qwen2 and Qwen3, for models that were made of these.

    embed_tokens -> layers of input_layernorm, self_attn, post_attention_layernorm, mlp -> norm -> lm_head

The layers are those of layers.py, and so are attention, caches and sampler. What differs is in the configuration: biases of q, k and v
(`include_qkv_bias`: Qwen2, Dream), norms of each head (`head_norm`: Qwen3, SDAR), heads of a width of their own (`head_width`).
"""

from __future__ import annotations

from torch import Tensor, nn

from mmada.model.attention import AttentionBias, attend, rotate
from mmada.model.config import TransformerConfig
from mmada.model.layers import PreNormBlock, RMSNorm, gated, heads_of

__all__ = ["QwenBackbone", "QwenBlock"]


class _Attention(nn.Module):
    """(B, L, D) -> (B, L, heads * hd); `o_proj` is applied by the block."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width, kv_width = config.n_heads * config.head_dim, (config.n_kv_heads or config.n_heads) * config.head_dim
        self.head_dim = config.head_dim
        self.q_proj = nn.Linear(config.d_model, width, bias=config.include_qkv_bias)
        self.k_proj = nn.Linear(config.d_model, kv_width, bias=config.include_qkv_bias)
        self.v_proj = nn.Linear(config.d_model, kv_width, bias=config.include_qkv_bias)
        self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps) if config.head_norm else nn.Identity()
        self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps) if config.head_norm else nn.Identity()
        self.o_proj = nn.Linear(width, config.d_model, bias=False)

    def forward(self, h: Tensor, cos: Tensor, sin: Tensor, attn_bias: AttentionBias) -> Tensor:
        q, k, v = (heads_of(projection(h), self.head_dim) for projection in (self.q_proj, self.k_proj, self.v_proj))
        return attend(rotate(self.q_norm(q), cos, sin), rotate(self.k_norm(k), cos, sin), v, attn_bias).flatten(-2)


class _FeedForward(nn.Module):
    """(B, L, D) -> (B, L, D)"""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        wide = config.mlp_hidden_size or 0
        self.gate_proj = nn.Linear(config.d_model, wide, bias=False)
        self.up_proj = nn.Linear(config.d_model, wide, bias=False)
        self.down_proj = nn.Linear(wide, config.d_model, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = self.down_proj(gated(self.gate_proj(h), self.up_proj(h)))
        return out


class QwenBlock(PreNormBlock):
    """With Qwen's names."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.self_attn = _Attention(config)
        self.mlp = _FeedForward(config)
        self.input_layernorm = RMSNorm(config.d_model, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.d_model, config.rms_norm_eps)

    def mixed(self, x: Tensor, cos: Tensor, sin: Tensor, attn_bias: AttentionBias) -> Tensor:
        out: Tensor = self.self_attn(self.input_layernorm(x), cos, sin, attn_bias)
        return out

    def projected(self, mixed: Tensor) -> Tensor:
        out: Tensor = self.self_attn.o_proj(mixed)
        return out

    def fed(self, x: Tensor) -> Tensor:
        out: Tensor = self.mlp(self.post_attention_layernorm(x))
        return out


class QwenBackbone(nn.Module):
    """All but the head, which lies beside it as `lm_head`."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.embedding_size or config.vocab_size, config.d_model)
        self.layers = nn.ModuleList(QwenBlock(config) for _ in range(config.n_layers))
        self.norm = RMSNorm(config.d_model, config.rms_norm_eps)
