"""Monte-Carlo estimate of the log-likelihood of an answer under a masked diffusion model.

    repeat: draw k, the number of the A answer tokens to mask (stratified over 1..A), and mask k of them at random
            estimate = -A/k * sum of the negative log-likelihoods of the masked tokens
    result: the mean over the draws; in expectation a lower bound on log p(answer | prompt)

One draw is enough for an answer of one token. Source: LLaDA, appendix A.2 and its evaluation.

`confident_log_likelihood` draws nothing: it is the log-likelihood in one order, the surest token first, with a pass for each token.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mmada.diffusion.loss import token_nll
from mmada.diffusion.noise import exact
from mmada.errors import InputError

__all__ = ["confident_log_likelihood", "log_likelihood", "stratified_counts"]


def stratified_counts(num_draws: int, num_tokens: int, *, generator: torch.Generator | None = None) -> Tensor:
    """(num_draws,) int64 in 1..num_tokens, evenly spaced from a random start. Each count alone is uniform."""
    start = torch.randint(num_tokens, (1,), generator=generator)
    spread = (torch.arange(num_draws) * num_tokens) // num_draws
    return (start + spread) % num_tokens + 1


@torch.no_grad()
def log_likelihood(
    logits_of: Callable[[Tensor, Tensor], Tensor],
    tokens: Tensor,
    is_answer: Tensor,
    *,
    mask_id: int,
    num_draws: int = 128,
    batch_size: int = 16,
    generator: torch.Generator | None = None,
) -> float:
    """Estimated log p(answer | prompt) in nats (at most 0).

    logits_of   (B, L) int64 with masks, (B, L) bool mask -> (M, V) logits of the M masked positions, row by row
    tokens      (L,) int64 prompt and answer; is_answer (L,) bool
    num_draws   number of forward rows; the standard error falls with its square root
    Raises InputError if there is no answer token or num_draws < 1.
    """
    num_tokens = int(is_answer.sum())
    if num_tokens == 0 or num_draws < 1:
        raise InputError(f"the answer has {num_tokens} tokens and num_draws={num_draws}; both must be at least 1")
    counts = stratified_counts(num_draws, num_tokens, generator=generator)
    total = 0.0
    for chunk in counts.split(batch_size):
        rows = len(chunk)
        x0 = tokens[None].expand(rows, -1)
        noised = exact(x0.cpu(), chunk, is_answer.cpu()[None].expand(rows, -1), mask_id=mask_id, generator=generator)
        is_masked = noised.is_masked.to(tokens.device)
        logits = logits_of(noised.xt.to(tokens.device), is_masked)
        nll = token_nll(logits, x0[is_masked]).cpu().double()
        weight = (num_tokens / chunk.double())[:, None].expand(x0.shape)[is_masked.cpu()]
        total -= float((nll * weight).sum())
    return total / num_draws


@torch.no_grad()
def confident_log_likelihood(logits_of: Callable[[Tensor, Tensor], Tensor], tokens: Tensor, is_answer: Tensor, *, mask_id: int) -> float:
    """log p(answer | prompt) in nats by the chain rule, the tokens of the answer uncovered one a pass, the surest first.

    Surest is the token of the answer that has the highest probability where it stands. Of a perfect model it is the likelihood, whatever the
    order; of others it ranks answers. Arguments as in `log_likelihood`.
    Source: our reading of what iLLaDA (Nie et al. 2026) calls confidence-based scoring; its evaluation code is not published.
    Raises InputError if there is no answer token.
    """
    if not bool(is_answer.any()):
        raise InputError("the answer has no token; give at least one")
    row, is_masked, total = tokens.masked_fill(is_answer, mask_id), is_answer.clone(), 0.0
    while bool(is_masked.any()):
        places = is_masked.nonzero()[:, 0]
        logps = -token_nll(logits_of(row[None], is_masked[None]), tokens[places])
        best = int(logps.argmax())
        total += float(logps[best].double())
        row[places[best]], is_masked[places[best]] = tokens[places[best]], False
    return total
