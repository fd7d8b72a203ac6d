"""Replicas over Ray Serve as a value, which a RayService's `args` or `serve run` fill."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmada.errors import InputError
from mmada.hub.checkpoint import DEFAULT_MODEL
from mmada.serve.config import ServeConfig
from mmada.serve.hosts import usual_hosts
from mmada.train.values import fill

__all__ = ["KEYS", "ReplicasConfig", "replicas_config"]

KEYS = "MMADA_API_KEY"
"""The variable of the replicas' environment that holds the keys, apart by spaces."""

_PROXY_ONLY = ("header_timeout", "write_timeout")
"""Limits of connections, which Ray's proxies hold."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplicasConfig:
    """A model, how often it is served, and with which limits. Raises InputError for a value that cannot be used."""

    model: str = DEFAULT_MODEL
    """a checkpoint's directory on every node, a hub name, or a built-in model"""
    replicas: int = 1
    """processes over the cluster, each with the whole model"""
    cpus: int = 1
    """cores of a replica, and its threads where it runs on them"""
    gpus: float = 0.0
    """of a replica; below 1, several share one. 0: it runs on CPUs"""
    image_tokenizer: str | None = None
    """as --image-tokenizer"""
    device: str | None = None
    """as --device"""
    dtype: str = "auto"
    """as --dtype"""
    quantize: str | None = None
    """as --quantize"""
    cache: str | None = None
    """as --cache"""
    drain: float = 60.0
    """seconds that a replica has to finish its requests when it is replaced or stopped"""
    server: ServeConfig = field(default_factory=ServeConfig)
    """limits of the server, over all replicas where they share them"""

    def __post_init__(self) -> None:
        if self.replicas < 1 or self.cpus < 1:
            raise InputError(f"replicas={self.replicas} and cpus={self.cpus} must be at least 1")
        if not self.gpus >= 0:
            raise InputError(f"gpus={self.gpus} must not be negative; 0 serves on CPUs")
        if not self.drain >= 0:
            raise InputError(f"drain={self.drain} must not be negative; 0 cuts off what is under way")
        usual = ServeConfig()
        for name in _PROXY_ONLY:
            if getattr(self.server, name) != getattr(usual, name):
                raise InputError(
                    f"{name}={getattr(self.server, name):g} cannot be in force, because connections end at the proxies of Ray Serve; leave it out"
                )

    @property
    def loading(self) -> dict[str, Any]:
        """Arguments of `mmada.scale.replica.load`."""
        names = ("image_tokenizer", "device", "dtype", "quantize", "cache")
        return {name: getattr(self, name) for name in names} | ({} if self.gpus else {"device": self.device or "cpu"})

    @property
    def max_ongoing_requests(self) -> int:
        """Requests that a replica holds. Each that runs has a token in a round, so the server's own queue is full before this is reached."""
        return self.server.max_queue + self.server.max_num_batched_tokens


def replicas_config(args: Mapping[str, Any]) -> ReplicasConfig:
    """The value of a builder's arguments: nested as in YAML, or dotted with texts as values, as on the command line of `serve run`.

    Raises InputError for what is unknown, mistyped or does not fit, and for keys, which would be shown to all who see the configuration.
    """
    import yaml

    values: dict[str, Any] = {}
    for dotted, value in args.items():
        *sections, last = dotted.split(".")
        node = values
        for section in sections:
            node = node.setdefault(section, {})
        node[last] = yaml.safe_load(value) if isinstance(value, str) and value and last not in ("model", "name") else value
    server = dict(values.get("server") or {})
    if "api_keys" in server:
        raise InputError(f"server.api_keys would be shown with the configuration; set {KEYS} in the environment of the replicas")
    server.setdefault("name", Path(str(values.get("model", DEFAULT_MODEL))).name)
    server.setdefault("allowed_hosts", usual_hosts("0.0.0.0", has_keys=True))  # reached by the names of services
    return fill(ReplicasConfig(), {**values, "server": server})
