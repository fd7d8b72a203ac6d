"""The policy: the transformer as a module that says how likely given tokens are under given masks, or answers the sampler.

policy(batch)            (2, S) float32: log p of each scored token in nats, and the entropy of its distribution
policy(queries=[...])    logits for the sampler, through the same door, so that wrappers which gather weights (FSDP) see it
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mmada.canvas import Query
from mmada.model import Transformer, TransformerDenoiser
from mmada.rl.batch import PolicyBatch
from mmada.rl.objective import LOSSES, LogprobBatch, LossTerms, ObjectiveConfig
from mmada.train.scoring import entropy, masked_logprobs

__all__ = ["Policy", "frozen_adapters", "loss_terms"]


class Policy(nn.Module):
    """The model as it is trained; `model` is the checkpoint's network.

    max_tokens  tokens that share a forward pass while sampling
    """

    def __init__(self, model: Transformer, *, max_tokens: int = 65536) -> None:
        super().__init__()
        self.model = model
        self._denoiser = TransformerDenoiser(model, max_tokens=max_tokens)

    def forward(self, batch: PolicyBatch | None = None, *, queries: Sequence[Query] | None = None) -> Tensor | list[Tensor]:
        """Log-probabilities and entropies (2, N) in nats of the N scored tokens of a batch, in float32 or better.

        With queries instead, their logits, one tensor each and without gradients: what the sampler asks for.
        """
        if queries is not None:
            with torch.no_grad():
                return self._denoiser.logits(queries)
        assert batch is not None
        hidden = self.model.trunk(batch.tokens, batch.packing).flatten(0, 1)  # (T, D)
        values = hidden.new_zeros(2, len(batch.weight), dtype=torch.promote_types(hidden.dtype, torch.float32))
        for index, logp, spread in masked_logprobs(self.model, hidden, batch.scored, entropy):
            values = values.index_copy(1, index, torch.stack([logp, spread]).to(values))
        if not batch.scored:  # wrappers wait for a gradient of every weight
            values = values + 0 * self.model.head(hidden[:1]).float().sum()
        return values


def loss_terms(batch: PolicyBatch, new: Tensor, settings: ObjectiveConfig) -> LossTerms:
    """What each sequence contributes, by the objective of the settings.

    new  (S,) log p of the scored tokens. Without stored old ones, the old policy is the new one: every ratio is exactly 1
    """
    old = new.detach() if batch.old is None else batch.old
    found = LogprobBatch(new, old, batch.ref, batch.weight, batch.sequence, batch.token, batch.advantage, batch.length)
    return LOSSES[settings.ratio](found, settings)


@contextmanager
def frozen_adapters(model: nn.Module) -> Iterator[None]:
    """Inside, LoRA's matrices take no part: the model is the one that it began as."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    trainable = [(p, p.requires_grad) for layer in layers for p in layer.parameters()]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        for parameter, requires_grad in trainable:  # PEFT freezes what it turns off
            parameter.requires_grad_(requires_grad)
