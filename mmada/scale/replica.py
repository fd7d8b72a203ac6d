"""A whole server inside this process, asked without a network: a body means exactly what it means over HTTP.

    async with Replica(model, settings).running() as replica:
        response = await replica.answer(line)      # {"status_code": 200, "request_id": ..., "body": {...}}

Requests that are asked at the same time share the engine's rounds, as those of several clients do.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import Any

from mmada.errors import InputError, MissingDependencyError, MMaDAError
from mmada.hub import checkpoint
from mmada.hub.adapters import adapter_of
from mmada.hub.family import family_of
from mmada.hub.networks import check_transformer, quantization
from mmada.model.quantized import check_name
from mmada.pipeline import MMaDA
from mmada.sampling.params import named_cache
from mmada.scale.batch_lines import BatchLine
from mmada.serve.board import Place

__all__ = ["Replica", "ReplicaDownError", "batch_settings", "check_loading", "check_packages", "load"]

_DAY = 86400.0


class ReplicaDownError(MMaDAError):
    """The engine of a replica has stopped, and answers nothing more."""


def check_packages() -> None:
    """Raises MissingDependencyError unless what the server needs is installed."""
    missing = [package for package in ("fastapi", "prometheus_client", "python_multipart") if find_spec(package) is None]
    if missing:
        raise MissingDependencyError(f"a batch is answered by the server, which needs {', '.join(missing)}: pip install 'mmada[serve]'")


def batch_settings(name: str, *, in_flight: int, max_num_batched_tokens: int, timeout: float | None = None) -> dict[str, Any]:
    """Fields of ServeConfig for a server that only a batch asks: nobody is turned away because others wait.

    timeout  seconds until a request is given up, from when it was asked; None: a day
    """
    from mmada.serve.config import ServeConfig

    seconds = _DAY if timeout is None else timeout
    return {
        "name": name,
        "max_queue": in_flight * ServeConfig(max_queue=128).max_n,
        "max_num_batched_tokens": max_num_batched_tokens,
        "request_timeout": seconds,
        "decode_timeout": seconds,
    }


def check_loading(model: str, loading: Mapping[str, Any]) -> None:
    """Raises what `load` would raise, in a moment: no weights are read. For who starts processes that would load, fail and be tried again.

    Of a hub name only what says what it is gets fetched. Where RAY_ADDRESS names a cluster, its nodes fetch it, and it is not looked up here.
    """
    quantize, cache, images = (loading.get(name) for name in ("quantize", "cache", "image_tokenizer"))
    if quantize is not None:
        check_name(quantize)
    if cache is not None:
        named_cache(cache)
    if images is not None:
        checkpoint.local(images)
    if model == "debug":
        return
    directory = checkpoint.local(model)
    if directory is None:
        if not os.environ.get("RAY_ADDRESS"):
            checkpoint.read_config(checkpoint.find(model, patterns=("*.json",)))
    elif (adapter := adapter_of(directory)) is not None:
        check_loading(adapter.base, loading)
    elif quantization(directory) is not None or "quantization_config" not in checkpoint.read_config(
        directory
    ):  # else transformers reads it
        check_transformer(directory, family=family_of(directory, names=[model]), quantize_as=quantize)


def load(model: str, loading: Mapping[str, Any]) -> MMaDA:
    """loading: arguments of MMaDA.from_pretrained, and `cache`."""
    options = dict(loading)
    cache = options.pop("cache", None)
    pipeline = MMaDA.from_pretrained(model, **options)
    return pipeline if cache is None else pipeline.use(cache=cache)


class Replica:
    """A model with its engine and its application.

    settings  fields of ServeConfig
    place     counts that it shares with other replicas
    created, metrics_text  as in create_app
    """

    def __init__(
        self,
        pipeline: MMaDA,
        settings: Mapping[str, Any],
        *,
        place: Place | None = None,
        created: int | None = None,
        metrics_text: Callable[[], Awaitable[bytes]] | None = None,
    ) -> None:
        from mmada.serve.config import ServeConfig
        from mmada.serve.engine import ServingEngine
        from mmada.serve.http import create_app
        from mmada.serve.request_parser import RequestParser

        config = ServeConfig(**settings)
        kept, device = pipeline.bytes_per_token, pipeline.model.device
        factor = pipeline.pixels_per_code
        self.engine = ServingEngine(pipeline.planner, pipeline.denoiser, config, device=device, bytes_per_token=kept, place=place)
        parser = RequestParser(pipeline.planner, config, factor=factor)
        self.app = create_app(self.engine, parser, config, created=created, metrics_text=metrics_text)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Replica]:
        """Start its engine, and stop it in the end."""
        async with self.app.router.lifespan_context(self.app):
            yield self

    async def answer(self, line: BatchLine) -> dict[str, Any]:
        """Status, request id and body. Raises ReplicaDownError if the engine has stopped: then nothing was answered."""
        status, request_id, data = await _post(self.app, line.url, line.body)
        if status == 503:
            raise ReplicaDownError(f"{json.loads(data)['error']['message']}; what was answered is kept, and the same command goes on")
        return {"status_code": status, "request_id": request_id, "body": json.loads(data)}


async def _post(app: Any, path: str, body: bytes) -> tuple[int, str, bytes]:
    """Status, request id and bytes of what an ASGI application answers to JSON."""
    status, request_id, pieces = 0, "", []
    arrivals = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if arrivals:
            return arrivals.pop()
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]  # the client stays

    async def send(message: Mapping[str, Any]) -> None:
        nonlocal status, request_id
        if message["type"] == "http.response.start":
            status = message["status"]
            request_id = dict(message["headers"]).get(b"x-request-id", b"").decode()
        else:
            pieces.append(message.get("body", b""))

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": headers,
        "client": ("127.0.0.1", 0),
        "server": ("localhost", 80),
    }
    await app(scope, receive, send)
    if not status:
        raise InputError(f"url={path!r} was not answered; use a path of the server")
    return status, request_id, b"".join(pieces)
