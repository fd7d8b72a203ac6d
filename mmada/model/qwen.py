"""The other backbone: blocks and tensors with the names of Qwen2 and Qwen3, for models that were made of these.

    embed_tokens -> layers of input_layernorm, self_attn, post_attention_layernorm, mlp -> norm -> lm_head

The layers are those of layers.py, and so are attention, caches and sampler. What differs is in the configuration:

    include_qkv_bias  biases of q, k and v (Qwen2, Dream)
    head_norm         norms of each head (Qwen3, SDAR)
    head_width        heads of a width of their own
    num_experts       feed-forward layers of which each token uses some (LLaDA-MoE)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmada.model.attention import AttentionBias, attend, rotate
from mmada.model.config import TransformerConfig
from mmada.model.layers import PreNormBlock, RMSNorm, gated, heads_of, narrowed, widened

__all__ = ["QwenBackbone", "QwenBlock", "Router"]


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

    def forward(self, x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, attn_bias: AttentionBias) -> Tensor:
        """weight  whose precision products have"""
        h = narrowed(x, weight)
        q, k, v = (heads_of(widened(projection(h), x, weight), self.head_dim) for projection in (self.q_proj, self.k_proj, self.v_proj))
        return attend(rotate(self.q_norm(q), cos, sin), rotate(self.k_norm(k), cos, sin), v, attn_bias).flatten(-2)


class _FeedForward(nn.Module):
    """(B, L, D) -> (B, L, D)"""

    def __init__(self, config: TransformerConfig, wide: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.d_model, wide, bias=False)
        self.up_proj = nn.Linear(config.d_model, wide, bias=False)
        self.down_proj = nn.Linear(wide, config.d_model, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = self.down_proj(gated(self.gate_proj(h), self.up_proj(h)))
        return out


class Router(nn.Linear):
    """Scores of the experts for each token. A class of its own, so that quantization leaves it alone."""


class _Experts(nn.Module):
    """(B, L, D) -> (B, L, D): the sum of the likeliest experts of each token, times their probabilities, which do not add up to 1.

    Source: Muennighoff et al. 2024, "OLMoE", section 2; LLaDA-MoE (Zhu et al. 2025) has its router.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.num_each = config.num_experts_per_tok
        self.gate = Router(config.d_model, config.num_experts, bias=False)
        self.experts = nn.ModuleList(_FeedForward(config, config.expert_hidden_size or 0) for _ in range(config.num_experts))

    def forward(self, h: Tensor) -> Tensor:
        tokens, weight = h.flatten(0, -2), self.gate.weight  # (T, D)
        shares, chosen = self.gate(narrowed(tokens, weight))[: len(tokens)].float().softmax(-1).topk(self.num_each, dim=-1)  # (T, k)
        order = chosen.flatten().argsort(stable=True)
        counts = torch.bincount(chosen.flatten(), minlength=len(self.experts)).tolist()
        out = torch.zeros_like(tokens)
        for expert, places in zip(self.experts, order.split(counts), strict=True):
            # An expert without tokens gets a gradient of 0, for which wrappers of several processes wait.
            if len(places) or torch.is_grad_enabled():
                own = places // self.num_each
                fed = expert(narrowed(tokens[own], weight))[: len(own)] * shares.flatten()[places, None].to(tokens.dtype)
                out.index_add_(0, own, fed.to(out.dtype))
        return out.view_as(h)


class QwenBlock(PreNormBlock):
    """With Qwen's names."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.self_attn = _Attention(config)
        self.mlp = _Experts(config) if config.num_experts else _FeedForward(config, config.mlp_hidden_size or 0)
        self.input_layernorm = RMSNorm(config.d_model, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.d_model, config.rms_norm_eps)

    def mixed(self, x: Tensor, cos: Tensor, sin: Tensor, attn_bias: AttentionBias) -> Tensor:
        out: Tensor = self.self_attn(self.input_layernorm(x), self.input_layernorm.weight, cos, sin, attn_bias)
        return out

    def projected(self, mixed: Tensor) -> Tensor:
        out: Tensor = self.self_attn.o_proj(narrowed(mixed, self.input_layernorm.weight))
        return out

    def fed(self, x: Tensor) -> Tensor:
        h = self.post_attention_layernorm(x)
        # Experts choose their rows first.
        out: Tensor = self.mlp(h if isinstance(self.mlp, _Experts) else narrowed(h, self.post_attention_layernorm.weight))
        return out


class QwenBackbone(nn.Module):
    """All but the head, which lies beside it as `lm_head`."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.embedding_size or config.vocab_size, config.d_model)
        self.layers = nn.ModuleList(QwenBlock(config) for _ in range(config.n_layers))
        self.norm = RMSNorm(config.d_model, config.rms_norm_eps)
