"""Log-probabilities of masked tokens: the head works where something is scored, on the ids that can stand there, and nowhere else.

    hidden states (T, D)  ->  those at the scored positions  ->  head on a slice of the vocabulary  ->  log p of the clean tokens

Logits are the largest tensors of a step. They are computed in chunks of at most MAX_LOGITS. Where there are several chunks, each is
computed again in the backward pass, so that no more than one is ever held. Training and reinforcement learning share this file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mmada.canvas import IdRange
from mmada.model import Transformer

__all__ = ["MAX_LOGITS", "LogitTargets", "Measure", "entropy", "is_correct", "logit_targets", "masked_logprobs"]

MAX_LOGITS = 2**26
"""Logits in memory at once (256 MB of float32)."""

Measure: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(logits (K, V), their log-probabilities (K, V), targets (K,)) -> a number of each token (K,), without a gradient."""


@dataclass(frozen=True, slots=True, eq=False)
class LogitTargets:
    """What the head is asked for in one slice of the vocabulary.

    vocab        [start, stop) rows of the head, or None for all
    suppress_tokens  ids of the slice that could not have been proposed; their probability is 0
    positions    (K,) int64 into the flattened tokens
    targets      (K,) int64, counted from the start of the slice
    index        (K,) int64: which of the S scored tokens of the batch it is
    temperature  (K,) float that the logits are divided by; None: 1
    """

    vocab: tuple[int, int] | None
    suppress_tokens: tuple[int, ...]
    positions: Tensor
    targets: Tensor
    index: Tensor
    temperature: Tensor | None = None


def logit_targets(
    slices: Sequence[IdRange | None], member: Tensor, positions: Tensor, targets: Tensor, temperature: Tensor | None = None
) -> tuple[LogitTargets, ...]:
    """Scored tokens sorted by the slice of the vocabulary that they need; slices without one are left out.

    slices  the ranges, None for the whole vocabulary; member (S,) int64 says which one each token needs
    positions, targets, temperature (S,) as in LogitTargets; targets are ids
    """
    found = []
    for i, ids in enumerate(slices):
        index = (member == i).nonzero()[:, 0]
        if len(index):
            start, vocab, suppress_tokens = (0, None, ()) if ids is None else (ids.start, (ids.start, ids.stop), ids.suppress_tokens)
            own = None if temperature is None else temperature[index]
            found.append(LogitTargets(vocab, suppress_tokens, positions[index], targets[index] - start, index, own))
    return tuple(found)


def masked_logprobs(
    model: Transformer, hidden: Tensor, scored: Sequence[LogitTargets], measure: Measure | None = None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield (index, logp, measured), each (K,), chunk after chunk: log p of the targets in nats, at least float32.

    hidden   (T, D) after the final norm
    measure  what else is asked of the distributions; None gives zeros
    """
    for part in scored:
        width = model.num_logits(part.vocab)
        size = max(1, MAX_LOGITS // width)
        # A single chunk is kept for the backward pass: computing it again would save nothing.
        again = size < len(part.positions) and torch.is_grad_enabled()
        for chosen in torch.arange(len(part.positions), device=hidden.device).split(size):
            temperature = None if part.temperature is None else part.temperature[chosen]
            args = (model, hidden[part.positions[chosen]], part.targets[chosen], temperature, part, measure)
            logp, measured = checkpoint(_scores, *args, use_reentrant=False) if again else _scores(*args)
            yield part.index[chosen], logp, measured


def _scores(
    model: Transformer, states: Tensor, targets: Tensor, temperature: Tensor | None, part: LogitTargets, measure: Measure | None
) -> tuple[Tensor, Tensor]:
    logits = model.head(states, part.vocab)  # (K, V)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if temperature is not None:
        logits = logits / temperature[:, None]
    if part.suppress_tokens:
        start = 0 if part.vocab is None else part.vocab[0]
        logits = logits.index_fill(1, torch.tensor(part.suppress_tokens, device=logits.device) - start, -torch.inf)
    logps = logits.log_softmax(-1)
    logp = logps.gather(1, targets[:, None])[:, 0]
    with torch.no_grad():
        return logp, torch.zeros_like(logp) if measure is None else measure(logits, logps, targets).to(logp.dtype)


def is_correct(logits: Tensor, logps: Tensor, targets: Tensor) -> Tensor:
    """Whether the target had the largest logit."""
    return logits.argmax(-1) == targets


def entropy(logits: Tensor, logps: Tensor, targets: Tensor) -> Tensor:
    """Of each distribution, in nats. An id that cannot be proposed adds 0, not 0 * -inf."""
    return -(logps.exp() * logps).nan_to_num(0.0).sum(-1)
