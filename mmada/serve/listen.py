"""The process: it listens, closes connections that keep it waiting, and ends when a signal comes.

    run(create_app(engine, parser, config), engine, config, host="127.0.0.1", port=8000)

uvicorn has a time limit between requests, and none for a first request that never comes or comes a letter at a time. Here a connection that
has no request under way has `header_timeout` seconds to send one. Nor has it one for a client that does not read: an answer that was not
streamed waited for it without end. Here it must read on within `write_timeout` seconds (unread.py).
A body may not come in thousands of tiny pieces, which are a megabyte to whoever sends them, and minutes to the event loop that takes them.
Requests that are no HTTP are refused in OpenAI's shape, as others are.
A worker (workers.py) does not listen: its connections are handed to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import secrets
import signal
import socket
from collections.abc import Callable
from http import HTTPStatus
from types import FrameType
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from mmada.serve.config import ServeConfig
from mmada.serve.engine import ServingEngine
from mmada.serve.refusals import error_body
from mmada.serve.unread import WatchedTransport
from mmada.serve.workers import LEAVE, Worker

__all__ = ["address_of", "allow_many_connections", "run"]

_KEEP_ALIVE = 30
"""Seconds from an answer to the next request of the same connection."""
_LAST_REQUESTS = 1.0
"""Seconds for requests of connections that came just before a worker was to leave."""
_LAST_ANSWERS = 5
"""Seconds in which those whose requests are given up at the end are told so."""
_MAX_HEADERS = 32768
"""Bytes of a request's line and headers."""
_FREE_PIECES, _LEAST_PIECE = 4096, 256
"""Chunks of a body that may be of any size, and bytes of each further one, on average."""
_MAX_FILES = 65536


def allow_many_connections() -> None:
    """Raise the limit of open files, which connections are, to what the system lets this process have.

    It is 1,024 on many systems. As many idle connections keep everybody else waiting until their time is over.
    """
    with contextlib.suppress(ImportError, ValueError, OSError):  # not on Windows
        import resource

        least, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = _MAX_FILES if most == resource.RLIM_INFINITY else min(most, _MAX_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(least, wanted), most))


class _Server(uvicorn.Server):
    """On the first signal takes nothing new and finishes what it has; a second one ends it at once."""

    def __init__(
        self,
        config: uvicorn.Config,
        engine: ServingEngine,
        ready: Callable[[str], None] | None,
        worker: Worker | None,
        drain_seconds: float,
    ) -> None:
        super().__init__(config)
        self._engine, self._ready, self._worker, self._drain_seconds = engine, ready, worker, drain_seconds
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

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """What is not finished in time is given up by the engine, which says so, a moment before uvicorn cuts off what is left."""
        giving_up = asyncio.get_running_loop().call_later(self._drain_seconds, self._engine.give_up)
        try:
            await super().shutdown(sockets=sockets)
        finally:
            giving_up.cancel()

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


class _Connection(h11.Connection):
    """h11's reading of a connection, with limits of its own. problem: why the last request was refused."""

    problem: h11.RemoteProtocolError | None = None
    _num_pieces = _num_bytes = 0
    _is_chunked = False

    def next_event(self) -> Any:
        try:
            event = super().next_event()
            if isinstance(event, h11.Request):
                self._begin(event)
            elif isinstance(event, h11.Data) and self._is_chunked:
                self._count(len(event.data))
        except h11.RemoteProtocolError as error:
            self.problem = error
            raise
        return event

    def _begin(self, request: h11.Request) -> None:
        self._num_pieces = self._num_bytes = 0
        self._is_chunked = any(name == b"transfer-encoding" for name, _ in request.headers)
        if len(request.target) + sum(len(name) + len(value) for name, value in request.headers) > _MAX_HEADERS:
            raise h11.RemoteProtocolError("too long", error_status_hint=431)

    def _count(self, num_bytes: int) -> None:
        self._num_pieces += 1
        self._num_bytes += num_bytes
        if self._num_pieces > _FREE_PIECES + self._num_bytes // _LEAST_PIECE:
            raise h11.RemoteProtocolError(
                f"its body comes in more than {_FREE_PIECES} chunks of fewer than {_LEAST_PIECE} bytes; send larger ones"
            )


def _refusal(problem: h11.RemoteProtocolError | None) -> tuple[int, str]:
    """Status and sentence for a request that was not understood."""
    status = 400 if problem is None else problem.error_status_hint
    if status == 431:
        return status, f"the request's line and headers have more than {_MAX_HEADERS} bytes; send fewer headers, or shorter ones"
    return status, f"the request cannot be read as HTTP/1.1: {str(problem)[:120]}"


def _timed(config: ServeConfig, closed: Callable[[], None]) -> type[asyncio.Protocol]:
    """uvicorn's protocol, with limits for what stands before a body, for its pieces and for the answer. closed: told of each connection that ends."""

    class Protocol(H11Protocol):
        _alarm: asyncio.TimerHandle | None = None

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.conn = _Connection(h11.SERVER, _MAX_HEADERS)

        def connection_made(self, transport: Any) -> None:
            super().connection_made(WatchedTransport(transport, config.write_timeout, self.loop))  # type: ignore[arg-type]
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()
            if self._is_answering() and len(self.conn.trailing_data[0]) <= _MAX_HEADERS:
                self.flow.resume_reading()  # uvicorn stops at a next request that comes early, and then would not notice that the client goes

        def connection_lost(self, exc: Exception | None) -> None:
            self._relax()
            self.transport.done()  # type: ignore[attr-defined]
            closed()
            super().connection_lost(exc)

        def on_response_complete(self) -> None:
            self._relax()  # the next request has its own time, and the one between requests is uvicorn's
            super().on_response_complete()

        def send_400_response(self, msg: str) -> None:
            """Refuse what is no HTTP, where there is still something to be answered, and close."""
            if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                status, sentence = _refusal(self.conn.problem)  # type: ignore[attr-defined]
                data = json.dumps(error_body(sentence, "invalid_request_error")).encode()
                about = {"content-type": "application/json", "content-length": str(len(data)), "x-request-id": secrets.token_hex(8)}
                reason = HTTPStatus(status).phrase
                head = h11.Response(status_code=status, headers=[*about.items(), ("connection", "close")], reason=reason)
                self.transport.write(b"".join(self.conn.send(event) or b"" for event in (head, h11.Data(data=data), h11.EndOfMessage())))
            if self.cycle is not None and not self.cycle.response_complete:
                self.cycle.disconnected = True  # the application may be about to answer, too
                self.cycle.message_event.set()
            self.transport.close()

        def _unsupported_upgrade_warning(self) -> None:
            """Some clients ask for HTTP/2 with every request. That they get HTTP/1.1 is nothing to warn of."""

        def _is_answering(self) -> bool:
            return self.cycle is not None and not self.cycle.more_body and not self.cycle.response_complete

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
        timeout_graceful_shutdown=math.ceil(drain_seconds) + _LAST_ANSWERS,
    )
    logging.getLogger("uvicorn.access").addFilter(_without_query)
    _Server(settings, engine, ready, worker, drain_seconds).run(sockets=None if worker is None else [])
