"""The server as an application of Ray Serve: replicas over a cluster, each the whole server, behind Ray's proxies.

    client ──► proxy of a node ──► replica 0     model, engine, application: what `mmada serve` is
                             └───► replica 1     ──► counts (serve_counts.py)

    serve run mmada.scale.serve:build model=mmada-emoji-max replicas=2 server.max_queue=64
    mmada serve --replicas 2                     the same, until a signal comes

A proxy gives a request to the replica that has fewer of two, and passes messages of ASGI both ways. So a stream comes piece by piece, and a
client that goes cancels its generations. A replica that is replaced finishes what it has. One that dies takes its requests with it, and Ray
starts another. Ray's own answers are put into our shape by serve_proxy.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from dataclasses import asdict, replace
from queue import SimpleQueue
from typing import Any

from mmada.errors import InputError, MissingDependencyError
from mmada.generation.scheduler import ClosedError
from mmada.scale.ray_cluster import connected, on_cpus, raised
from mmada.scale.replica import Replica, check_loading, check_packages, load
from mmada.scale.serve_config import KEYS, ReplicasConfig, replicas_config
from mmada.scale.serve_counts import PERIOD, Counts, RemotePlace
from mmada.scale.serve_proxy import CALLBACK

__all__ = ["NAME", "ServeCounts", "ServeReplica", "application", "build", "serve_replicas"]

_log = logging.getLogger("mmada.serve")

NAME = "mmada"
"""of the application in Ray Serve"""
_HEARTBEAT = 1.0
"""Seconds after which a replica says that it lives, though nothing has changed; counters go with it."""
_COUNTS_SECONDS = 5.0
"""That the counts may take to answer."""
_BEYOND_DRAIN = 30.0
"""Seconds beyond the drain that Ray may take to end the replicas."""
_ATTEMPTS = 3
"""Times that Ray loads a model before it gives the application up."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class ServeCounts:
    """`Counts` in a process of its own."""

    def __init__(self) -> None:
        self._counts = Counts()

    async def created(self) -> int:
        """Seconds since 1970 that all replicas say of their model."""
        return self._counts.created()

    async def exchange(self, replica: str, numbers: Mapping[str, int]) -> dict[str, int]:
        """Enter a replica's numbers; returns the sums over the others."""
        return self._counts.exchange(replica, numbers)

    async def add(self, replica: str, counted: Any) -> None:
        """Enter what a replica has counted since it began."""
        self._counts.add(replica, counted)

    async def total(self, replica: str, counted: Any) -> Any:
        """The same, and the sums over all replicas that there were."""
        return self._counts.total(replica, counted)


class ServeReplica:
    """One server. Ray makes it in a process of its own, and gives it requests as ASGI."""

    async def __init__(self, config: ReplicasConfig, counts: Any) -> None:  # type: ignore[misc]  # Ray awaits it
        from ray import serve

        logging.getLogger("mmada.serve").setLevel(logging.INFO)
        self._number, self._counts, self._place = serve.get_replica_context().replica_tag, counts, RemotePlace()
        self._replica = _loaded(config, self._place, created=await counts.created.remote(), metrics_text=self._metrics_text)
        _HERE["application"] = _RequestIds(self._replica.app)
        self._exchanging = asyncio.ensure_future(self._exchange())

    def check_health(self) -> None:
        """Ray starts another replica if the engine has stopped. Raises ClosedError then."""
        if not self._replica.engine.healthy:
            raise ClosedError("the engine has stopped; its log says more")

    async def pid(self) -> int:
        """Of the process, for tests."""
        return os.getpid()

    async def _exchange(self) -> None:
        """Tell numbers when they have changed, and at every heartbeat counters, too."""
        before: dict[str, int] = {}
        waited = _HEARTBEAT
        while True:
            with contextlib.suppress(Exception):  # the counts are being started again, or end before the replicas do
                if (own := self._place.own()) != before or waited >= _HEARTBEAT:
                    others = await asyncio.wait_for(self._counts.exchange.remote(self._number, own), _COUNTS_SECONDS)
                    self._place.others.clear()
                    self._place.others.update(others)
                    before = own
                if waited >= _HEARTBEAT:
                    waited = 0.0
                    await asyncio.wait_for(self._counts.add.remote(self._number, self._replica.engine.metrics.counted()), _COUNTS_SECONDS)
            await asyncio.sleep(PERIOD)
            waited += PERIOD

    async def _metrics_text(self) -> bytes:
        """Sums over all replicas. Raises ClosedError while they are not known: smaller ones would look as if a counter had been reset."""
        metrics = self._replica.engine.metrics
        try:
            total = await asyncio.wait_for(self._counts.total.remote(self._number, metrics.counted()), _COUNTS_SECONDS)
        except Exception as error:
            raise ClosedError("the counters of the other replicas cannot be read now; ask again later") from error
        return metrics.text(total)


class _RequestIds:
    """The application, with the number that Ray's proxy gives each request in the place of its own. The proxy adds it to the answer."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [entry for entry in message["headers"] if entry[0] != b"x-request-id"]}
            await send(message)

        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        number = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        await self._app({**scope, "request_id": number} if _REQUEST_ID.fullmatch(number) else scope, receive, send_on)


_HERE: dict[str, Any] = {}
"""The application of this process. Ray's wrapper asks a function without arguments for it, after it has made the replica."""


def _application() -> Any:
    return _HERE["application"]


def _loaded(config: ReplicasConfig, place: RemotePlace, *, created: int, metrics_text: Callable[[], Awaitable[bytes]]) -> Replica:
    import torch

    torch.set_num_threads(config.cpus)
    keys = (*config.server.api_keys, *os.environ.get(KEYS, "").split())
    num_decoders = config.server.num_decoders or config.cpus
    settings = {**asdict(config.server), "api_keys": tuple(dict.fromkeys(keys)), "num_decoders": num_decoders}
    return Replica(load(config.model, config.loading), settings, place=place, created=created, metrics_text=metrics_text)


def application(config: ReplicasConfig) -> Any:
    """The application for `serve.run`. Raises MissingDependencyError without Ray Serve."""
    serve = _serve()
    counts = serve.deployment(
        ServeCounts,
        name="counts",
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=1000,
    )
    replicas = serve.deployment(
        serve.ingress(_application)(ServeReplica),
        name="server",
        num_replicas=config.replicas,
        ray_actor_options={"num_cpus": config.cpus, "num_gpus": config.gpus},
        max_ongoing_requests=config.max_ongoing_requests,
        max_queued_requests=config.server.max_queue,
        graceful_shutdown_timeout_s=config.drain,
        graceful_shutdown_wait_loop_s=0.2,
        health_check_period_s=5,
        max_constructor_retry_count=_ATTEMPTS,
    )
    return replicas.bind(config, counts.bind())


def build(args: dict[str, Any]) -> Any:
    """The application of a RayService, or of `serve run`: fields of ReplicasConfig, such as model, replicas and server.max_queue."""
    return application(replicas_config(args))


def serve_replicas(config: ReplicasConfig, *, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve on the cluster that RAY_ADDRESS names, or else on this machine, until SIGTERM or SIGINT. Then what is under way is finished.

    SIGHUP replaces the replicas one after the other: each finishes its requests, and its successor loads the model anew.

    config  its `gpus` are chosen here: one for each replica, where the cluster has any and `device` is no CPU
    ready   called with the server's address when all replicas take requests
    Raises MissingDependencyError without Ray Serve, InputError for a port that is taken, a cluster that has Ray Serve already, or no room.
    Before Ray is started, it raises what loading the model would raise.
    """
    from mmada.serve.listen import address_of
    from mmada.serve.workers import listen

    check_packages()
    serve = _serve()
    check_loading(config.model, config.loading)
    variable, value = CALLBACK
    os.environ.setdefault(variable, value)
    free = listen(host, port)  # an error now, and not in a proxy
    port = free[0].getsockname()[1]
    for one in free:
        one.close()
    with connected("--replicas", environment={variable: os.environ[variable]}):
        if serve.status().proxies:
            raise InputError("Ray Serve runs on the cluster already, with an address of its own; use `serve deploy` there, or end it first")
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        config = replace(config, gpus=_gpus(config))
        _check_room(config)
        try:
            serve.start(proxy_location="EveryNode", http_options={"host": host, "port": port})
            with _signals() as came:
                _deploy(config)
                ready(address_of(host, port))
                while came.get() == signal.SIGHUP:
                    _deploy(config)
                    _log.info("%d replicas were replaced", config.replicas)
            _drain(config)
        finally:
            serve.shutdown()


@contextlib.contextmanager
def _signals() -> Iterator[SimpleQueue[int]]:
    """Signals in the order in which they come. Afterwards they do what they did before, so that a second one ends the process at once."""
    came: SimpleQueue[int] = SimpleQueue()
    before = {one: signal.signal(one, lambda number, _: came.put(number)) for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        yield came
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _drain(config: ReplicasConfig) -> None:
    """Take nothing new, and wait until the replicas have ended."""
    serve = _serve()
    serve.delete(NAME, _blocking=False)
    deadline = time.monotonic() + config.drain + _BEYOND_DRAIN
    while NAME in serve.status().applications and time.monotonic() < deadline:
        time.sleep(0.1)


def _deploy(config: ReplicasConfig) -> None:
    serve = _serve()
    try:
        serve.run(application(config), name=NAME, route_prefix="/")
    except RuntimeError as error:
        raise InputError(f"the replicas could not be started: {_reason() or error}") from error


def _reason() -> str:
    """What the last replica that did not start had raised; empty if Ray does not say."""
    found = _serve().status().applications.get(NAME)
    return raised("\n".join(deployment.message for deployment in found.deployments.values())) if found else ""


def _serve() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        from ray import serve
    except ImportError as error:
        raise MissingDependencyError("--replicas needs ray[serve]; install the extra: pip install 'mmada[scale]'") from error
    return serve


def _gpus(config: ReplicasConfig) -> float:
    import ray

    return 0.0 if on_cpus(config.device, ray.cluster_resources()) else 1.0


def _check_room(config: ReplicasConfig) -> None:
    import ray

    cluster = ray.cluster_resources()
    for name, each in (("CPU", float(config.cpus)), ("GPU", config.gpus)):
        if config.replicas * each > (room := cluster.get(name, 0.0)):
            raise InputError(f"replicas={config.replicas} need {each:g} {name} each, and the cluster has {room:g}; ask for fewer")
