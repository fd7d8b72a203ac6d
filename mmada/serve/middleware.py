"""Middleware: authentication, origin, size and time limits: the key, where it comes from, size and time of its body.

client ──► Guard ──► application          every answer carries an x-request-id
             401 no key, or a wrong one
             403 sent by another site's page
             421 sent to a name that is not this server's
             408 a body that does not arrive
             413 a body that is too large
             503 cut off at the end of the process

A body that the answer does not wait for is read to its end and thrown away before it. A connection that is closed with bytes unread is reset,
and then the client does not get to read the answer.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from starlette.exceptions import HTTPException

from mmada.serve.config import ServeConfig
from mmada.serve.hosts import is_allowed
from mmada.serve.refusals import error_body

__all__ = ["RequestMiddleware"]

_log = logging.getLogger("mmada.serve")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_OPEN_TO_ALL = ("/health", "/openapi.json")
_CUT_OFF = "the server shut down before the request was finished; send it again"
_DISCARD_BYTES = 256 * 2**20
_DISCARD_SECONDS, _DISCARD_PAUSE = 10.0, 1.0
"""For all of a body that nobody wants, and without anything of it."""


class RequestMiddleware:
    """ASGI middleware around the application."""

    def __init__(self, app: App, config: ServeConfig) -> None:
        self._app, self._config = app, config
        self._keys = [_digest(key.encode()) for key in config.api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        number = scope.get("request_id") or secrets.token_hex(8)  # a proxy in front may have given one
        begun = False

        headers = dict(scope["headers"])
        body = _Body(receive, self._config, headers)

        async def send_with_id(message: MutableMapping[str, Any]) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                await body.discard()
                begun = True
                message = {**message, "headers": [*message.get("headers", []), (b"x-request-id", number.encode())]}
            await send(message)

        problem = self._problem(scope, headers)
        if problem is None and body.announced_too_large:
            problem = 413, error_body(body.too_large, "invalid_request_error", code="body_too_large")
        if problem is not None:
            await _answer(send_with_id, *problem)
            return
        try:
            await self._app(scope, body.receive, send_with_id)
        except asyncio.CancelledError:  # the process ends, and does not wait any longer
            if not begun:
                await _answer(send_with_id, 503, error_body(_CUT_OFF, "server_error", code="unavailable"))
        except Exception as error:
            _log.error("request %s failed", number, exc_info=True)
            if not begun:
                text = f"the server failed ({type(error).__name__}); its log says more, at request {number}"
                await _answer(send_with_id, 500, error_body(text, "server_error"))

    def _problem(self, scope: Scope, headers: dict[bytes, bytes]) -> tuple[int, dict[str, Any]] | None:
        path = scope["path"]
        # A request without Host is no browser's.
        if not is_allowed(headers.get(b"host", b"localhost").decode("latin-1"), self._config.allowed_hosts):
            name = headers[b"host"].decode("latin-1")[:80]
            message = f"this server does not answer to the name {name!r}; use its address, or start it with --allowed-host"
            return 421, error_body(message, "invalid_request_error", code="unknown_host")
        if scope["method"] not in ("GET", "HEAD", "OPTIONS") and _is_of_another_site(headers) and not self._allows(headers):
            message = "the request comes from another site's page; call the server from its own, or start it with --allow-origin"
            return 403, error_body(message, "invalid_request_error")
        if self._keys and path not in _OPEN_TO_ALL and (path.startswith("/v1/") or path == "/metrics") and not self._has_key(headers):
            message = "the API key is missing or wrong; send it as 'Authorization: Bearer KEY'"
            return 401, error_body(message, "authentication_error", code="invalid_api_key")
        return None

    def _allows(self, headers: Mapping[bytes, bytes]) -> bool:
        """Whether the page's site was named when the server was started."""
        return "*" in self._config.allow_origins or headers.get(b"origin", b"").decode("latin-1") in self._config.allow_origins

    def _has_key(self, headers: dict[bytes, bytes]) -> bool:
        """Whether the header has one of the keys; takes as long for a wrong one, whatever it shares with a right one."""
        scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
        digest = _digest(key.strip())
        matches = [hmac.compare_digest(digest, known) for known in self._keys]
        return any(matches) and scheme.lower() == b"bearer"


def _is_of_another_site(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a browser says that another site's page sends this. It says so in Sec-Fetch-Site where the server has https or is on this
    machine; elsewhere its Origin is all that there is. A proxy may have changed Host, so that Origin counts only without the former."""
    site = headers.get(b"sec-fetch-site")
    if site is not None:
        return site == b"cross-site"
    origin = headers.get(b"origin")
    return origin is not None and origin.partition(b"://")[2] != headers.get(b"host")


class _Body:
    """The body of a request, as it arrives. Raises HTTPException when it is too large, or too slow."""

    def __init__(self, receive: Receive, config: ServeConfig, headers: Mapping[bytes, bytes]) -> None:
        self._receive, self._config = receive, config
        self._size = 0
        self._length = headers.get(b"content-length", b"0")
        self._has_none = self._length == b"0" and b"transfer-encoding" not in headers
        self._complete, self._is_held_back = False, b"expect" in headers
        self._deadline = time.monotonic() + config.body_timeout

    @property
    def too_large(self) -> str:
        return f"the body has more than {self._config.max_body_bytes} bytes; send smaller or fewer images"

    @property
    def announced_too_large(self) -> bool:
        return self._length.isdigit() and int(self._length) > self._config.max_body_bytes

    async def receive(self) -> MutableMapping[str, Any]:
        self._is_held_back = False
        if self._complete:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), max(0.001, self._deadline - time.monotonic()))
        except (TimeoutError, asyncio.TimeoutError) as error:
            self._is_held_back = True
            raise HTTPException(408, f"the body did not arrive within {self._config.body_timeout:g} seconds") from error
        self._note(message)
        if self._size > self._config.max_body_bytes:
            raise HTTPException(413, self.too_large)
        return message

    async def discard(self) -> None:
        """Read the rest for nothing, up to a limit. A client that sends none yet, or no longer, is not waited for.

        Where there is no body, nobody may read here: the application may be reading, too, to see the client go, and takes the only message.
        """
        if self._has_none or self._is_held_back:
            return
        deadline = time.monotonic() + _DISCARD_SECONDS
        while not self._complete and self._size < _DISCARD_BYTES:
            left = min(_DISCARD_PAUSE, deadline - time.monotonic())
            try:
                self._note(await asyncio.wait_for(self._receive(), max(0.001, left)))
            except (TimeoutError, asyncio.TimeoutError):
                return

    def _note(self, message: MutableMapping[str, Any]) -> None:
        self._size += len(message.get("body", b""))
        self._complete = message["type"] != "http.request" or not message.get("more_body", False)


async def _answer(send: Send, status: int, body: dict[str, Any]) -> None:
    data = json.dumps(body).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": data})


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
