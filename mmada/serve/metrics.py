"""What the server tells Prometheus. Every server has a registry of its own, so that several may live in one process."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

__all__ = ["Metrics"]

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_SHARES = (0.25, 0.5, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 32, 64, 128)


class Metrics:
    """Counters, gauges and histograms; `kind` is chat, fill or draw, `outcome` finished, cancelled, failed, expired or refused."""

    def __init__(self, *, num_running: Callable[[], float], num_waiting: Callable[[], float], cache_bytes: Callable[[], float]) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        Gauge("mmada_generations_running", "Generations in the last round", registry=r).set_function(num_running)
        Gauge("mmada_generations_waiting", "Generations that wait for their turn", registry=r).set_function(num_waiting)
        Gauge("mmada_cache_bytes", "Keys and values that generations keep, or will fill", registry=r).set_function(cache_bytes)
        self.generations = Counter("mmada_generations", "Generations by how they ended", ["kind", "outcome"], registry=r)
        self.rounds = Counter("mmada_rounds", "Denoising rounds", registry=r)
        self.blocks = Counter("mmada_blocks", "Blocks of tokens that were finished; the rate is blocks per second", registry=r)
        self.tokens = Counter("mmada_tokens", "Tokens that were generated", ["kind"], registry=r)
        self.evaluated = Counter("mmada_evaluated_tokens", "Tokens that went through the model", registry=r)
        self.round_seconds = Histogram("mmada_round_seconds", "Time of a round", buckets=_SECONDS, registry=r)
        self.round_size = Histogram("mmada_round_generations", "Generations that shared a round", buckets=_COUNTS, registry=r)
        self.first_block = Histogram(
            "mmada_first_block_seconds", "From arrival to the first finished block", ["kind"], buckets=_SECONDS, registry=r
        )
        self.seconds = Histogram("mmada_generation_seconds", "From arrival to the end", ["kind"], buckets=_SECONDS, registry=r)
        self.forwards = Histogram(
            "mmada_generation_forwards", "Model evaluations of a generation (NFE)", ["kind"], buckets=_COUNTS, registry=r
        )
        self.tokens_per_forward = Histogram(
            "mmada_tokens_per_forward", "Tokens that a model evaluation of a generation brought", ["kind"], buckets=_SHARES, registry=r
        )

    def text(self) -> bytes:
        """In the exposition format, version 0.0.4."""
        return generate_latest(self.registry)
