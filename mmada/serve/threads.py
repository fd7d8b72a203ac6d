"""How many threads one pass of the model takes.

Small models lose by a second thread: their products are short, and threads wait for each other at every operation. Large models gain. So the
server times a pass with one thread and with all that it may have, for a quarter of a second at most, and keeps the faster number.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import torch

from mmada.canvas import Query, VocabLayout
from mmada.generation.planner import Planner
from mmada.hub.networks import skeleton
from mmada.model import Transformer, TransformerConfig, TransformerDenoiser
from mmada.sampling import Denoiser

__all__ = ["available", "choose", "set_threads", "threads_for"]

_TOKENS = 96
"""Of the pass that is timed: a drawing, or a few texts."""

_LONG = 0.1
"""Seconds of a pass above which all threads are used without a comparison: a model of this size is made of long products."""
_LARGE = 500_000_000
"""Weights whose products take longer than that anywhere, and that are not allocated to be timed."""
_REPEATS = 3
_GAIN = 1.2
"""More threads must be that much faster: under load the other cores have something else to do."""


def available(num_workers: int = 1) -> int:
    """Processors for each of the workers of a server."""
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, num_cores // num_workers)


def set_threads(denoiser: Denoiser, planner: Planner, wanted: int, most: int) -> int:
    """Have torch take as many threads as are wanted, or as are best for this model if that is 0. Returns their number."""
    if wanted:
        torch.set_num_threads(wanted)
        return wanted
    query = _usual(planner.context, planner.layout)
    return choose(lambda: denoiser([query]), most)


def threads_for(config: TransformerConfig, most: int) -> int:
    """As many as `set_threads` would choose for such a network, by empty weights, on which time does not depend; torch keeps its own."""
    network = skeleton(lambda: Transformer(config))
    if most == 1 or sum(weights.numel() for weights in network.parameters()) > _LARGE:
        return most
    network = network.to_empty(device="cpu").eval()
    for weights in network.parameters():
        weights.data.zero_()  # what lay in memory may be no number, or a slow one
    denoiser, query, before = TransformerDenoiser(network), _usual(config.max_sequence_length, config.layout), torch.get_num_threads()
    try:
        return choose(lambda: denoiser([query]), most)
    finally:
        torch.set_num_threads(before)


def _usual(context: int, layout: VocabLayout) -> Query:
    """What a usual pass evaluates."""
    length = min(_TOKENS, context)
    return Query(torch.full((1, length), layout.eos_id), ((0, length),), torch.arange(length)[None], layout.text_ids)


def choose(evaluate: Callable[[], object], most: int) -> int:
    """1 or `most`, whichever evaluates faster; torch is left with that many.

    evaluate  a usual pass of the model
    """
    torch.set_num_threads(most)
    if most > 1 and _seconds(evaluate, 1) <= _LONG:
        many = _seconds(evaluate, _REPEATS)
        torch.set_num_threads(1)
        if _seconds(evaluate, _REPEATS) > many * _GAIN:
            torch.set_num_threads(most)
    return torch.get_num_threads()


def _seconds(evaluate: Callable[[], object], repeats: int) -> float:
    """The least of a few passes."""
    found = []
    for _ in range(repeats):
        begin = time.perf_counter()
        evaluate()
        found.append(time.perf_counter() - begin)
    return min(found)
