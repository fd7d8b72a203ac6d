"""Fetching images: the public internet and nothing else. No test leaves this machine."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mmada.errors import ImageError
from mmada.serve import remote
from mmada.serve.remote import fetch, is_public


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_addresses(address):
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",  # metadata of cloud machines
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1",
        "fc00::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
    ],
)
def test_private_addresses(address):
    assert not is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/x.png",
        "http://localhost:1/x.png",
        "http://[::1]/x.png",
        "http://2130706433/x.png",  # 127.0.0.1 as one number
        "http://0x7f.1/x.png",
        "http://169.254.169.254/latest/meta-data",
        "http://user@8.8.8.8/",
        "ftp://8.8.8.8/x.png",
        "file:///etc/passwd",
        "http:///x.png",
        "http://[::1",
        "http://8.8.8.8:99999/",
    ],
)
def test_what_is_not_fetched(url, monkeypatch):
    def never(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("a connection was made")

    monkeypatch.setattr(socket, "create_connection", never)
    with pytest.raises((ImageError, ValueError), match=r"public internet|must be http|cannot be|Invalid"):
        fetch(url, max_bytes=100)


class _Site(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1/secret")
            self.end_headers()
            return
        if self.path == "/drip":
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                for letter in b"HTTP/1.0 200 OK\r\n" + b"X-Long: " + b"x" * 80:
                    self.wfile.write(bytes([letter]))
                    time.sleep(0.05)
            return
        self.send_response(200)
        self.end_headers()
        if self.path == "/slow":
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                for _ in range(50):
                    self.wfile.write(b"x")
                    time.sleep(0.05)
        else:
            self.wfile.write(b"x" * int(self.path.lstrip("/")))

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site(monkeypatch) -> Iterator[str]:
    """A site on this machine whose address is, for once, taken for a public one."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Site)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    monkeypatch.setattr(remote, "is_public", lambda _: True)
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_body_is_fetched(site):
    assert fetch(f"{site}/70000", max_bytes=70000) == b"x" * 70000


def test_limits_of_what_is_fetched(site):
    with pytest.raises(ImageError, match="more than 100 bytes"):
        fetch(f"{site}/101", max_bytes=100)
    with pytest.raises(ImageError, match="status 302"):
        fetch(f"{site}/moved", max_bytes=100)
    with pytest.raises(ImageError, match="TimeoutError"):
        fetch(f"{site}/slow", max_bytes=100, timeout=0.2)
    begin = time.monotonic()
    with pytest.raises(ImageError, match="cannot be fetched"):
        fetch(f"{site}/drip", max_bytes=100, timeout=0.2)  # of a header, which comes a letter at a time
    assert time.monotonic() - begin < 2


def test_a_name_with_one_private_address_is_refused(monkeypatch):
    """So that a name cannot be public when it is checked and private when it is connected to."""
    answers = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, 80)) for ip in ("8.8.8.8", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_kwargs: answers)
    with pytest.raises(ImageError, match="not on the public internet"):
        fetch("http://example.com/", max_bytes=100)
