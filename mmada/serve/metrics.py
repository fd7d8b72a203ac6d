"""What the server tells Prometheus. Every server has a registry of its own, so that several may live in one process.

Workers of one server keep their counters in files of one folder (prometheus_client's multiprocess mode). So any of them tells the sums, and
those of a worker that died stay in them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric, generate_latest, values
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

__all__ = ["Metrics", "Samples"]

Samples: TypeAlias = "dict[tuple[str, str, tuple[tuple[str, str], ...]], float]"
"""What was counted: (metric, its sample, labels) -> value. Sums of these are samples, too."""

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_SHARES = (0.25, 0.5, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 32, 64, 128)


class Metrics:
    """Counters, gauges and histograms; `kind` is chat, fill or draw, `outcome` finished, cancelled, failed, expired or refused."""

    def __init__(
        self,
        *,
        num_running: Callable[[], float],
        num_waiting: Callable[[], float],
        cache_bytes: Callable[[], float],
        folder: Path | None = None,
    ) -> None:
        """folder  where the workers of a server keep their counters; None: this process is the server"""
        self.registry, self._folder = CollectorRegistry(), folder
        r = self.registry
        self._gauges = _Gauges(
            {
                ("mmada_generations_running", "Generations in the last round"): num_running,
                ("mmada_generations_waiting", "Generations that wait for their turn"): num_waiting,
                ("mmada_cache_bytes", "Keys and values that generations keep, or will fill"): cache_bytes,
            }
        )
        r.register(self._gauges)
        if folder is not None:
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
            values.ValueClass = values.MultiProcessValue()  # type: ignore[no-untyped-call]
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

    def counted(self) -> Samples:
        """Counters and histograms of this process."""
        return {
            (metric.name, sample.name, tuple(sample.labels.items())): sample.value
            for metric in self.registry.collect()
            if metric.type != "gauge"
            for sample in metric.samples
            if not sample.name.endswith("_created")
        }

    def text(self, counted: Samples | None = None) -> bytes:
        """In the exposition format, version 0.0.4. counted: sums that stand in the place of this process's own counters."""
        if counted is not None:
            summed = CollectorRegistry()
            summed.register(self._gauges)
            summed.register(_Counted(self.registry, counted))
            return generate_latest(summed)
        if self._folder is None:
            return generate_latest(self.registry)
        summed = CollectorRegistry()
        summed.register(self._gauges)
        MultiProcessCollector(summed, str(self._folder))  # type: ignore[no-untyped-call]
        return generate_latest(summed)


class _Gauges(Collector):
    """Numbers that are asked for when somebody looks: (name, help) -> function."""

    def __init__(self, gauges: Mapping[tuple[str, str], Callable[[], float]]) -> None:
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        for (name, text), number in self._gauges.items():
            yield GaugeMetricFamily(name, text, value=number())


class _Counted(Collector):
    """Samples under the names and descriptions that a registry has."""

    def __init__(self, registry: CollectorRegistry, counted: Samples) -> None:
        self._registry, self._counted = registry, counted

    def collect(self) -> Iterator[Metric]:
        for known in self._registry.collect():
            if known.type == "gauge":
                continue
            metric = Metric(known.name, known.documentation, known.type)
            for (name, sample, labels), value in self._counted.items():
                if name == known.name:
                    metric.add_sample(sample, dict(labels), value)
            yield metric
