"""Clients that do not read: a transport that is cut when what waits in it does not move.

    written ──► [ waits here ] ──► system's buffers ──► client

A look each `timeout` seconds while anything waits: of what waited at the look before, all or `LEAST` bytes must be gone. So an answer of S
bytes is held for timeout * (S / LEAST + 2) seconds at most, and whoever reads a stream slowly but steadily keeps it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import Any

__all__ = ["LEAST", "WatchedTransport"]

LEAST = 16384
"""Bytes."""
_AT_ONCE = struct.pack("ii", 1, 0)
"""SO_LINGER: a reset, without which the system would keep its buffers for minutes."""


class WatchedTransport:
    """An asyncio transport, otherwise as it is."""

    def __init__(self, transport: asyncio.Transport, timeout: float, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._timeout, self._loop = transport, timeout, loop
        self._written = self._wanted = 0
        self._alarm: asyncio.TimerHandle | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """As the transport does; from then on it is watched."""
        self._written += len(data)
        self._transport.write(data)
        if self._alarm is None:
            self._expect()

    def done(self) -> None:
        """The connection is lost."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _expect(self) -> None:
        """See later whether it moved, if anything waits."""
        waiting = self._transport.get_write_buffer_size()
        self._wanted = self._written - waiting + min(waiting, LEAST)
        self._alarm = self._loop.call_later(self._timeout, self._look) if waiting else None

    def _look(self) -> None:
        if self._written - self._transport.get_write_buffer_size() >= self._wanted:
            self._expect()
            return
        self._alarm = None
        connection = self._transport.get_extra_info("socket")
        with contextlib.suppress(OSError), socket.fromfd(connection.fileno(), connection.family, connection.type) as same:
            same.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        self._transport.abort()
