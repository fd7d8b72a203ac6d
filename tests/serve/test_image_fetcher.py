"""Fetching images: the public internet and nothing else. No test leaves this machine."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import uvicorn

from mmada.errors import ImageError
from mmada.serve import image_fetcher
from mmada.serve.config import ServeConfig
from mmada.serve.engine import ServingEngine
from mmada.serve.http import create_app
from mmada.serve.image_fetcher import Fetcher, fetch, is_public
from mmada.serve.request_parser import RequestParser

from .process import png


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


class _Gate:
    """What /gate... does: it answers once it is opened, and counts who waits."""

    opened = threading.Event()
    count = threading.Lock()
    num_open = most = 0
    body = b""


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
        if self.path.startswith("/gate"):
            with _Gate.count:
                _Gate.num_open += 1
                _Gate.most = max(_Gate.most, _Gate.num_open)
            _Gate.opened.wait(60)
            with _Gate.count:
                _Gate.num_open -= 1
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.send_response(200)
                self.end_headers()
                self.wfile.write(_Gate.body)
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
    monkeypatch.setattr(image_fetcher, "is_public", lambda _: True)
    _Gate.opened.clear()
    _Gate.num_open = _Gate.most = 0
    yield f"http://127.0.0.1:{server.server_port}"
    _Gate.opened.set()
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


def test_a_name_that_is_never_found_holds_nothing(site, monkeypatch):
    """The system's look-up has no time limit; its thread is left behind, and the next request is served."""
    answered, real = threading.Event(), socket.getaddrinfo

    def look_up(host: str, *args: object, **kwargs: object) -> object:
        if host == "slow.example":
            answered.wait(60)
        return real(host if host != "slow.example" else "127.0.0.1", *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    fetcher = Fetcher(max_bytes=100, timeout=0.3, num_threads=1)

    async def check() -> None:
        with pytest.raises(ImageError, match=r"did not arrive within 0\.3 seconds|cannot be fetched \(TimeoutError"):
            await fetcher.bodies(["http://slow.example/40"])
        fetcher._timeout = 30.0
        assert await fetcher.bodies([f"{site}/40"]) == {f"{site}/40": b"x" * 40}

    asyncio.run(check())
    answered.set()


def test_the_addresses_of_a_request_have_one_deadline(site):
    """Sixteen slow addresses once took sixteen times as long as one."""
    began = time.monotonic()
    with pytest.raises(ImageError, match=r"did not arrive within 0.3 seconds; send them as data: URLs|cannot be fetched \(TimeoutError"):
        asyncio.run(Fetcher(max_bytes=100, timeout=0.3).bodies([f"{site}/gate{i}" for i in range(16)]))
    assert time.monotonic() - began < 2
    assert _Gate.most <= 4  # of one request at a time


def test_the_addresses_of_a_request_have_one_limit_and_are_fetched_once(site):
    urls = [f"{site}/40", f"{site}/41", f"{site}/40"]
    assert asyncio.run(Fetcher(max_bytes=100).bodies(urls)) == {urls[0]: b"x" * 40, urls[1]: b"x" * 41}
    with pytest.raises(ImageError, match="more than 80 bytes together"):
        asyncio.run(Fetcher(max_bytes=80).bodies(urls))
    with pytest.raises(ImageError, match="status 302"):
        asyncio.run(Fetcher(max_bytes=80).bodies([f"{site}/40", f"{site}/moved"]))


def seen(url: str) -> dict[str, object]:
    parts = [{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": url}}]
    return {"messages": [{"role": "user", "content": parts}], "max_completion_tokens": 4, "seed": 1}


@pytest.fixture
def address(debug) -> Iterator[str]:
    """A server in this process, where `site` is taken for a public one."""
    config = ServeConfig(allow_remote_images=True, max_images=4)
    engine = ServingEngine(debug.planner, debug.denoiser, config)
    app = create_app(engine, RequestParser(debug.planner, config, factor=debug.image_tokenizer.factor), config)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join(60)


def post(address: str, path: str, body: object) -> tuple[int, dict[str, object]]:
    connection = http.client.HTTPConnection(address, timeout=60)
    for _ in range(200):
        with contextlib.suppress(ConnectionRefusedError):
            connection.connect()
            break
        time.sleep(0.05)
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    with contextlib.closing(connection):
        return answer.status, json.loads(answer.read())


def test_nobody_waits_for_the_fetches_of_others(address, site, picture):
    """Four threads once read everything, and eight slow addresses kept them from a plain chat."""
    _Gate.body = png(picture)
    with ThreadPoolExecutor(9) as clients:
        slow = [clients.submit(post, address, "/v1/chat/completions", seen(f"{site}/gate{i}")) for i in range(8)]
        deadline = time.monotonic() + 8
        while _Gate.num_open < 8:
            assert time.monotonic() < deadline, f"only {_Gate.num_open} of 8 addresses are fetched at a time"
            time.sleep(0.01)
        plain = {"messages": [{"role": "user", "content": "hi"}], "max_completion_tokens": 4}
        status, _ = clients.submit(post, address, "/v1/chat/completions", plain).result(30)
        assert status == 200
        assert not any(future.done() for future in slow)
        _Gate.opened.set()
        replies = [future.result() for future in slow]
    assert [status for status, _ in replies] == [200] * 8
    _, as_data = post(address, "/v1/chat/completions", seen("data:image/png;base64," + base64.b64encode(_Gate.body).decode()))
    assert all(reply["choices"] == as_data["choices"] for _, reply in replies)


def test_edits_fetch_image_and_mask(address, site, mask):
    _Gate.body = png(mask)
    _Gate.opened.set()
    gate, moved = {"image_url": f"{site}/gate"}, {"image_url": f"{site}/moved"}
    body = {"images": [gate], "mask": gate, "prompt": "x", "seed": 1, "steps": 2}
    assert post(address, "/v1/images/edits", body)[0] == 200
    status, reply = post(address, "/v1/images/edits", {**body, "mask": moved})
    assert (status, reply["error"]["code"]) == (400, "invalid_image")
    assert "status 302" in reply["error"]["message"]
    status, reply = post(address, "/v1/images/edits", {**body, "images": [{"image_url": f"{site}/gate{i}"} for i in range(5)]})
    assert "more than 4 images" in reply["error"]["message"]
    assert _Gate.most == 1  # the same address is fetched once, and those of too many images are not fetched at all
