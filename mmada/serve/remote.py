"""Fetch an image from the internet, and from nowhere else.

A server that fetches addresses for strangers must not reach its own network (server-side request forgery). So the name is resolved
once, every address it has must be public, and the connection goes to exactly that address; redirects are not followed.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
import time
from contextlib import suppress
from urllib.parse import SplitResult, urlsplit

from mmada.errors import ImageError

__all__ = ["fetch", "is_public"]

_CHUNK = 65536
# Addresses that carry an IPv4 address inside: NAT64 (RFC 6052).
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def fetch(url: str, *, max_bytes: int, timeout: float = 10.0) -> bytes:
    """The body behind an http or https URL. Raises ImageError if it cannot be had, or must not be.

    timeout  seconds for all of it
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ImageError(f"the image address {url[:200]!r} cannot be read ({error}); correct it") from error
    if parts.scheme not in ("http", "https") or not host or parts.username is not None:
        raise ImageError(f"the image address {url[:200]!r} must be http:// or https://, without a user name")
    deadline = time.monotonic() + timeout
    try:
        address = _public_address(host, port or (443 if parts.scheme == "https" else 80))
        return _get(parts, host, address, max_bytes=max_bytes, deadline=deadline)
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        raise ImageError(f"the image at {host} cannot be fetched ({type(error).__name__}); send it as a data: URL") from error


def is_public(address: str) -> bool:
    """Whether an IP address, and the IPv4 address that it may carry, is one of the public internet."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return is_public(str(ip.ipv4_mapped))
        if ip in _NAT64:
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
        if ip.sixtofour is not None or ip.teredo is not None:
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved and not ip.is_unspecified


def _public_address(host: str, port: int) -> tuple[str, int]:
    found = [(str(info[4][0]), port) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    if not found or not all(is_public(ip.partition("%")[0]) for ip, _ in found):
        raise ImageError(f"the image address names {host!r}, which is not on the public internet; send the image as a data: URL")
    return found[0]


def _get(parts: SplitResult, host: str, address: tuple[str, int], *, max_bytes: int, deadline: float) -> bytes:
    def left() -> float:
        seconds = deadline - time.monotonic()
        if seconds <= 0:
            raise TimeoutError
        return seconds

    sock = socket.create_connection(address, timeout=left())

    def hang_up() -> None:
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)

    # A time limit of a socket is for each piece that arrives, and a header may come a letter at a time.
    alarm = threading.Timer(left(), hang_up)
    alarm.daemon = True
    alarm.start()
    connection = http.client.HTTPConnection(host, address[1])
    try:
        if parts.scheme == "https":
            sock = ssl.create_default_context().wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
            sock.do_handshake()
        connection.sock = sock
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", path, headers={"Host": parts.netloc, "User-Agent": "mmada", "Accept": "image/*"})
        with connection.getresponse() as response:
            if response.status != 200:
                raise ImageError(f"the image at {host} was answered with status {response.status}; give the address that it is really at")
            body = bytearray()
            while True:
                sock.settimeout(left())
                chunk = response.read1(min(_CHUNK, max_bytes + 1 - len(body)))
                body += chunk
                if len(body) > max_bytes:
                    raise ImageError(f"the image at {host} has more than {max_bytes} bytes; send a smaller one")
                if not chunk:
                    left()  # what was hung up on may look like an end
                    return bytes(body)
    finally:
        alarm.cancel()
        connection.close()
        sock.close()
