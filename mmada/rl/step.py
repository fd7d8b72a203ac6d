"""The policy: the transformer as a module that says how likely given tokens are under given masks, or answers the sampler.

policy(batch)            (2, S) float32: log p of each scored token in nats, and the entropy of its distribution
policy(queries=[...])    logits for the sampler, through the same door, so that wrappers which gather weights (FSDP) see it
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmada.canvas import Query
from mmada.model import Transformer, TransformerDenoiser
from mmada.rl.batch import Asked, PolicyBatch
from mmada.rl.objective import Evidence, Settings, Terms

__all__ = ["Policy", "evidence", "frozen_adapters", "terms"]

_MAX_LOGITS = 2**26
"""Logits in memory at once (256 MB of float32); more are computed in chunks, and again in the backward pass."""
_answers: Callable[[TransformerDenoiser, Sequence[Query]], list[Tensor]] = TransformerDenoiser.__call__.__wrapped__  # type: ignore[attr-defined]
"""The denoiser without its inference mode: FSDP gathers weights into tensors that must not be made in one."""


class Policy(nn.Module):
    """The model as it is trained; `model` is the checkpoint's network.

    max_tokens  tokens that share a forward pass while sampling
    """

    def __init__(self, model: Transformer, *, max_tokens: int = 65536) -> None:
        super().__init__()
        self.model = model
        self._denoiser = TransformerDenoiser(model, max_tokens=max_tokens)

    def forward(self, batch: PolicyBatch | None = None, *, queries: Sequence[Query] | None = None) -> Tensor | list[Tensor]:
        if queries is not None:
            with torch.no_grad():
                return _answers(self._denoiser, queries)
        assert batch is not None
        hidden = self.model.trunk(batch.tokens, batch.packing).flatten(0, 1)  # (T, D)
        values = hidden.new_zeros(2, len(batch.weight), dtype=torch.promote_types(hidden.dtype, torch.float32))
        for asked in batch.asked:
            size = max(1, _MAX_LOGITS // (asked.ids.stop - asked.ids.start))
            for chosen in torch.arange(len(asked.positions), device=hidden.device).split(size):
                args = (hidden[asked.positions[chosen]], asked.targets[chosen], asked.temperature[chosen], asked)
                is_chunked = size < len(asked.positions) and torch.is_grad_enabled()
                found = checkpoint(self._scores, *args, use_reentrant=False) if is_chunked else self._scores(*args)
                values = values.index_copy(1, asked.place[chosen], found.to(values))
        if not batch.asked:  # wrappers wait for a gradient of every weight
            values = values + 0 * self.model.head(hidden[:1]).float().sum()
        return values

    def _scores(self, states: Tensor, targets: Tensor, temperature: Tensor, asked: Asked) -> Tensor:
        """(2, K) log p of the targets, and entropies without a gradient, over the ids that the sampler could have proposed."""
        logits = self.model.head(states, (asked.ids.start, asked.ids.stop))  # (K, V)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature[:, None]
        if asked.ids.never:
            never = torch.tensor(asked.ids.never, device=logits.device) - asked.ids.start
            logits = logits.index_fill(1, never, -torch.inf)
        logp = logits.log_softmax(-1)
        with torch.no_grad():
            entropy = -(logp.exp() * logp).nan_to_num(0.0).sum(-1)
        return torch.stack([logp.gather(1, targets[:, None])[:, 0], entropy])


def evidence(batch: PolicyBatch, new: Tensor) -> Evidence:
    """What the objective looks at. Without stored log-probabilities, the old policy is the new one: every ratio is exactly 1."""
    old = new.detach() if batch.old is None else batch.old
    return Evidence(new, old, batch.ref, batch.weight, batch.sequence, batch.token, batch.advantage, batch.length)


def terms(batch: PolicyBatch, new: Tensor, settings: Settings) -> Terms:
    """What each sequence contributes, by the objective of the settings."""
    return settings.loss(evidence(batch, new), settings)


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
