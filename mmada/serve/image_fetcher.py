"""Fetch images from the internet, and from nowhere else.

A server that fetches addresses for strangers must not reach its own network (server-side request forgery). So the name is resolved
once, every address it has must be public, and the connection goes to exactly that address; redirects are not followed.

    fetch      one address, in the caller's thread
    Fetcher    the addresses of requests, in threads of its own: a slow site delays those who named it, and nobody else
"""

from __future__ import annotations

import asyncio
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from urllib.parse import SplitResult, urlsplit

from mmada.errors import ImageError

__all__ = ["Fetcher", "fetch", "is_public"]

_CHUNK = 65536
_MAX_LOOKUPS = 64
_lookups = threading.BoundedSemaphore(_MAX_LOOKUPS)
# Addresses that carry an IPv4 address inside: NAT64 (RFC 6052).
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class Fetcher:
    """Fetches what requests name.

    max_bytes        of all images of a request together
    timeout          seconds for all images of a request together
    num_threads      fetches at a time
    num_per_request  of these, for one request
    """

    def __init__(self, *, max_bytes: int, timeout: float = 10.0, num_threads: int = 32, num_per_request: int = 4) -> None:
        self._max_bytes, self._timeout, self._num_per_request = max_bytes, timeout, num_per_request
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="mmada-fetch")

    async def bodies(self, urls: Sequence[str]) -> dict[str, bytes]:
        """What is behind each URL; an address that is named twice is fetched once.

        Raises ImageError as `fetch` does, and if all together are too slow or too large.
        """
        deadline = time.monotonic() + self._timeout
        places = asyncio.Semaphore(self._num_per_request)
        bodies: dict[str, bytes] = {}

        def until_deadline(url: str) -> bytes:
            return fetch(url, max_bytes=self._max_bytes, timeout=deadline - time.monotonic())

        async def one(url: str) -> None:
            async with places:
                bodies[url] = await asyncio.get_running_loop().run_in_executor(self._threads, until_deadline, url)
            if sum(map(len, bodies.values())) > self._max_bytes:
                raise ImageError(f"the images of the request have more than {self._max_bytes} bytes together; send smaller or fewer ones")

        tasks = [asyncio.ensure_future(one(url)) for url in dict.fromkeys(urls)]
        try:
            async with asyncio.timeout(self._timeout):
                await asyncio.gather(*tasks)
        except TimeoutError as error:
            raise ImageError(
                f"the images of the request did not arrive within {self._timeout:g} seconds; send them as data: URLs"
            ) from error
        finally:
            for task in tasks:  # what runs in a thread ends by its own deadline
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return bodies


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
        address = _public_address(host, port or (443 if parts.scheme == "https" else 80), deadline)
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


def _public_address(host: str, port: int, deadline: float) -> tuple[str, int]:
    found = [(ip, port) for ip in _looked_up(host, port, deadline)]
    if not found or not all(is_public(ip.partition("%")[0]) for ip, _ in found):
        raise ImageError(f"the image address names {host!r}, which is not on the public internet; send the image as a data: URL")
    return found[0]


def _looked_up(host: str, port: int, deadline: float) -> list[str]:
    """The addresses of a name. Raises OSError if there are none, TimeoutError if they are not known in time.

    The system's own look-up has no time limit and cannot be stopped. So it has a thread of its own, which is left behind; the caller's thread
    is free at the deadline, and no more than `_MAX_LOOKUPS` are left at a time.
    """
    if not _lookups.acquire(timeout=max(0.0, deadline - time.monotonic())):
        raise TimeoutError
    found: Future[list[str]] = Future()

    def look_up() -> None:
        try:
            found.set_result([str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)])
        except Exception as error:
            found.set_exception(error)
        finally:
            _lookups.release()

    threading.Thread(target=look_up, name="mmada-lookup", daemon=True).start()
    return found.result(max(0.0, deadline - time.monotonic()))


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
