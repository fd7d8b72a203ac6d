"""In front of the replicas: what Ray's proxy answers by itself gets the shape that clients of the server know.

    RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=mmada.scale.serve_proxy.middlewares     in the environment of the proxies

    what happened                                     Ray's proxy                    the client gets
    more requests wait for a replica than may         503, a text                    429, Retry-After, queue_full
    no replica is there, or no application            503 or 404, a text             503, Retry-After, unavailable
    the replica died before its answer began          500, a text                    503, Retry-After, unavailable
    the replica died within a stream                  the connection is cut          a last event with the error, no [DONE]

Headers by which a client could tell the proxy to go on without it are left out.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from mmada.serve.refusals import error_body

__all__ = ["CALLBACK", "ProxyMiddleware", "middlewares"]

CALLBACK = ("RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", "mmada.scale.serve_proxy.middlewares")
"""The variable by which Ray's proxies find the middleware, and its value."""

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_LEFT_OUT = (b"x-request-disconnect-disabled", b"x-request-timeout-seconds")
_DIED = "the replica that worked on the request ended before it was done; send the request again"
_FULL = "the queue is full: too many requests wait for a replica; try again later"
_NOBODY = "no replica takes requests now, as at the start and at the end of the server; try again later"
_LATE = "the request was not answered within the time that Ray Serve allows (request_timeout_s); ask for less, or try later"


class ProxyMiddleware:
    """ASGI middleware around Ray's proxy."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith("/-/"):  # Ray's own pages
            await self._app(scope, receive, send)
            return
        headers = [(name, value) for name, value in scope["headers"] if name.lower() not in _LEFT_OUT]
        answer = _Answer(send)
        await self._app({**scope, "headers": headers}, receive, answer.send)
        await answer.finish()


class _Answer:
    """Passes an answer on, as far as it comes from a replica."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._refusal: Message | None = None
        self._text = b""
        self._is_begun = self._is_whole = self._is_stream = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            kind = dict(message["headers"]).get(b"content-type", b"")
            self._is_begun, self._is_stream = True, kind.startswith(b"text/event-stream")
            if message["status"] >= 400 and kind.startswith(b"text/plain"):  # ours are JSON
                self._refusal = message
                return
        elif message["type"] == "http.response.body":
            self._is_whole = not message.get("more_body", False)
            if self._refusal is not None:
                self._text += message.get("body", b"")
                return
        await self._send(message)

    async def finish(self) -> None:
        if self._refusal is not None:
            await self._refuse(self._refusal["status"])
        elif not self._is_begun:
            await self._error(503, _DIED)
        elif self._is_stream and not self._is_whole:
            body = json.dumps(error_body(_DIED, "server_error", code="unavailable"))
            await self._send({"type": "http.response.body", "body": f"data: {body}\n\n".encode()})

    async def _refuse(self, status: int) -> None:
        if status == 429 or b"backpressure" in self._text.lower():
            await self._error(429, _FULL)
        elif status == 408:
            await self._error(504, _LATE)
        else:
            await self._error(503, _NOBODY)

    async def _error(self, status: int, text: str) -> None:
        kind, code = {
            429: ("rate_limit_error", "queue_full"),
            503: ("server_error", "unavailable"),
            504: ("server_error", "timeout"),
        }[status]
        data = json.dumps(error_body(text, kind, code=code)).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
        if status != 504:
            headers.append((b"retry-after", b"1" if status == 429 else b"5"))
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": data})


def middlewares() -> list[Any]:
    """What Ray's proxies ask for."""
    from starlette.middleware import Middleware

    return [Middleware(ProxyMiddleware)]
