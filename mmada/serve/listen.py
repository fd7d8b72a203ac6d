"""The process: it listens, closes connections that keep it waiting, and ends when a signal comes.

    run(create_app(engine, parser, config), engine, config, host="127.0.0.1", port=8000)

uvicorn has a time limit between requests, and none for a first request that never comes or comes a letter at a time. Here a connection that
has no request under way has `header_timeout` seconds to send one. Nor has it one for a client that does not read: an answer that was not
streamed waited for it without end. Here it must read on within `write_timeout` seconds (unread.py).
A worker (workers.py) does not listen: its connections are handed to it.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from mmada.serve.config import ServeConfig
from mmada.serve.engine import ServingEngine
from mmada.serve.unread import WatchedTransport
from mmada.serve.workers import LEAVE, Worker

__all__ = ["address_of", "run"]

_KEEP_ALIVE = 30
"""Seconds from an answer to the next request of the same connection."""
_LAST_REQUESTS = 1.0
"""Seconds for requests of connections that came just before a worker was to leave."""
_MAX_HEADERS = 32768
"""Bytes of a request's line and headers."""


class _Server(uvicorn.Server):
    """On the first signal takes nothing new and finishes what it has; a second one ends it at once."""

    def __init__(self, config: uvicorn.Config, engine: ServingEngine, ready: Callable[[str], None] | None, worker: Worker | None) -> None:
        super().__init__(config)
        self._engine, self._ready, self._worker = engine, ready, worker
        self._opening: set[asyncio.Task[None]] = set()
        self._is_signaled = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if not self.started:
            return
        if self._worker is not None:
            self._worker.channel.setblocking(False)
            asyncio.get_running_loop().add_reader(self._worker.channel, self._take, self._worker)
            self._worker.channel.send(b"r")
        elif self._ready is not None:
            self._ready(address_of(self.config.host, self.servers[0].sockets[0].getsockname()[1]))

    async def on_tick(self, counter: int) -> bool:
        if self._worker is not None and not self._engine.healthy:
            self.should_exit = True  # and the supervisor starts another
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._engine.drain()
        self.force_exit = self._is_signaled
        self.should_exit = self._is_signaled = True

    def _take(self, worker: Worker) -> None:
        """A connection from the supervisor, or its end."""
        try:
            said, descriptors, *_ = socket.recv_fds(worker.channel, 1, 1)
        except BlockingIOError:
            return
        except OSError:
            said, descriptors = b"", []
        if not said:
            asyncio.get_running_loop().remove_reader(worker.channel)
            self.handle_exit(signal.SIGTERM, None)
        if said == LEAVE:
            asyncio.get_running_loop().call_later(_LAST_REQUESTS, self._leave)
        for descriptor in descriptors:
            task = asyncio.ensure_future(self._open(socket.socket(fileno=descriptor), worker))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    def _leave(self) -> None:
        """End as after a signal, but answer what still comes meanwhile: nobody is told that the server ends, for it does not."""
        self.should_exit = True

    async def _open(self, connection: socket.socket, worker: Worker) -> None:
        connection.setblocking(False)

        def protocol() -> asyncio.Protocol:
            made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
                config=self.config, server_state=self.server_state, app_state=self.lifespan.state
            )
            return made

        try:
            await asyncio.get_running_loop().connect_accepted_socket(protocol, connection)
        except OSError:
            connection.close()
            worker.place.add("closed", 1)


def address_of(host: str, port: int) -> str:
    """Where a server is reached from this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _timed(config: ServeConfig, closed: Callable[[], None]) -> type[asyncio.Protocol]:
    """uvicorn's protocol, with time limits for what stands before a body and for the answer. closed: told of each connection that ends."""

    class Protocol(H11Protocol):
        _alarm: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(WatchedTransport(transport, config.write_timeout, self.loop))  # type: ignore[arg-type]
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._relax()
            self.transport.done()  # type: ignore[attr-defined]
            closed()
            super().connection_lost(exc)

        def on_response_complete(self) -> None:
            self._relax()  # the next request has its own time, and the one between requests is uvicorn's
            super().on_response_complete()

        def _watch(self) -> None:
            """The alarm runs while nothing is asked: from the first moment, or from the first byte of a further request."""
            if self.cycle is not None and not self.cycle.response_complete:
                self._relax()
            elif self._alarm is None and not self.transport.is_closing():
                self._alarm = self.loop.call_later(config.header_timeout, self.transport.close)

        def _relax(self) -> None:
            if self._alarm is not None:
                self._alarm.cancel()
                self._alarm = None

    return Protocol


def _without_query(record: logging.LogRecord) -> bool:
    """Cut the query off an access log's line: clients put keys there, and no path of this server has one."""
    if isinstance(record.args, tuple) and len(record.args) == 5 and isinstance(record.args[2], str):
        client, method, path, *rest = record.args
        record.args = (client, method, str(path).partition("?")[0], *rest)
    return True


def run(
    app: FastAPI,
    engine: ServingEngine,
    config: ServeConfig,
    *,
    host: str,
    port: int,
    drain_seconds: float = 60.0,
    access_log: bool = False,
    ready: Callable[[str], None] | None = None,
    worker: Worker | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; what is under way then has `drain_seconds` to finish.

    ready is told the server's address on this machine as soon as it answers.
    worker  serve the connections that come from its supervisor, and listen to none
    """
    settings = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=_timed(config, lambda: None if worker is None else worker.place.add("closed", 1)),
        loop="asyncio",  # the limits rest on its transports, and on the protocol above, whatever else is installed (uvicorn[standard])
        ws="none",
        log_level="info",
        access_log=access_log,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE,
        h11_max_incomplete_event_size=_MAX_HEADERS,
        timeout_graceful_shutdown=int(drain_seconds),
    )
    logging.getLogger("uvicorn.access").addFilter(_without_query)
    _Server(settings, engine, ready, worker).run(sockets=None if worker is None else [])
