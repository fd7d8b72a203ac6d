"""Connections: what is no HTTP, bodies in tiny pieces, headers without end, and the end of the process."""

from __future__ import annotations

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import h11
import pytest

from mmada.serve.listen import _Connection, allow_many_connections

from .process import Server, serving

CHAT = "/v1/chat/completions"
HOST = b"Host: localhost\r\n"
CHUNKED = b"POST /v1/chat/completions HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"


def received(data: bytes) -> h11.RemoteProtocolError | None:
    """Why a connection refuses what a client sends."""
    connection = _Connection(h11.SERVER, 32768)
    connection.receive_data(data)
    try:
        while connection.next_event() not in (h11.NEED_DATA, h11.PAUSED):
            pass
    except h11.RemoteProtocolError:
        return connection.problem
    return None


def test_a_body_in_tiny_chunks_is_refused():
    """A megabyte of single bytes took seconds of the event loop, at a stretch."""
    begun = time.thread_time()
    assert "more than 4096 chunks of fewer than 256 bytes" in str(received(CHUNKED + b"1\r\na\r\n" * 40_000))
    assert time.thread_time() - begun < 0.5
    assert received(CHUNKED + b"1\r\na\r\n" * 4000) is None
    assert received(CHUNKED + (b"100\r\n" + b"a" * 256 + b"\r\n") * 6000) is None


def test_headers_that_arrive_at_once_have_the_limit_of_those_that_do_not():
    def request(length: int) -> bytes:
        return b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * length + b"\r\n\r\n"

    assert received(request(30_000)) is None
    problem = received(request(60_000))
    assert problem is not None
    assert problem.error_status_hint == 431


def answer(server: Server, *pieces: bytes) -> bytes:
    """All that comes back. A further piece is sent when something has come."""
    with socket.create_connection(server.address, timeout=60) as connection:
        connection.sendall(pieces[0])
        data = b""
        for piece in pieces[1:]:
            data += connection.recv(65536)
            connection.sendall(piece)
        while more := connection.recv(65536):
            data += more
    return data


@pytest.mark.parametrize(
    ("data", "status", "message"),
    [
        (b"GET /health HTTP/1.1\r\n\r\n", 400, "Missing mandatory Host"),
        (b"hello\r\n\r\n", 400, "illegal request line"),
        (b"GET /health HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 40_000 + b"\r\n\r\n", 431, "more than 32768 bytes"),
        (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip\r\n\r\n", 501, "chunked"),
        (CHUNKED + b"zz\r\n", 400, "illegal chunk header"),
        (CHUNKED + b"1\r\na\r\n" * 5000, 400, "more than 4096 chunks"),
    ],
)
def test_what_is_no_http_has_an_error_of_the_usual_form(server, data, status, message):
    head, _, body = answer(server, data).partition(b"\r\n\r\n")
    assert int(head.split()[1]) == status
    assert b"x-request-id: " in head
    error = json.loads(body)["error"]
    assert (error["type"], set(error)) == ("invalid_request_error", {"message", "type", "param", "code"})
    assert message in error["message"]


def test_garbage_behind_an_answer_closes_the_connection_and_no_more(server):
    """It was answered twice, which failed in the event loop."""
    lost = b"POST /nothing HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
    begun = time.monotonic()
    data = answer(server, lost, b"zz\r\n")  # the body is not waited for
    assert time.monotonic() - begun < 8
    assert data.startswith(b"HTTP/1.1 404")
    assert data.count(b"HTTP/1.1") == 1
    assert "Fatal error" not in server.log.read_text()


def test_a_client_that_sends_on_and_leaves_is_noticed(server):
    """Behind a request, nothing was read any more until it was answered, the end of the connection neither."""
    cancelled = 'mmada_generations_total{kind="chat",outcome="cancelled"}'
    before = server.settled().get(cancelled, 0)
    body = json.dumps({"messages": [{"role": "user", "content": "hi"}], "max_completion_tokens": 900}).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(server.address, timeout=60) as connection:
        connection.sendall(head.encode() + body)
        server.wait_for("mmada_generations_running", 1)
        for piece in (b"\r\n", head.encode()):
            connection.sendall(piece)
            time.sleep(0.05)
    server.wait_for(cancelled, before + 1)


def test_open_files_are_as_many_as_the_system_allows():
    """Each connection is one, and 1,024 idle ones kept everybody else out for twenty seconds."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(before[0], 512), before[1]))
        allow_many_connections()
        least, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert most == before[1]
        assert least == (65536 if most == resource.RLIM_INFINITY else min(most, 65536))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.integration
@pytest.mark.parametrize("workers", ["1", "2"])
def test_what_is_not_finished_in_time_is_told_so_at_the_end(tmp_path, workers):
    """They were answered with 500 in plain text, streams broke off, and the log had a traceback of each."""
    with serving(tmp_path / "log", "--drain", "0.5", "--workers", workers) as server:

        def asked(stream: bool) -> bytes:
            body = json.dumps({"messages": [{"role": "user", "content": "hi"}], "max_completion_tokens": 900, "stream": stream}).encode()
            head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            return answer(server, head.encode() + b"Connection: close\r\n\r\n" + body)

        with ThreadPoolExecutor(4) as pool:
            streams, wholes = [pool.submit(asked, True) for _ in range(2)], [pool.submit(asked, False) for _ in range(2)]
            server.wait_for("mmada_generations_running", 4)
            assert server.stop() == 0
        for one in streams:
            assert b'data: {"error":{"message":"the server shut down before the generation was finished' in one.result()
            assert one.result().endswith(b"0\r\n\r\n")
        for one in wholes:
            assert one.result().startswith(b"HTTP/1.1 503")
            assert b'"code":"unavailable"' in one.result()
        assert "Traceback" not in server.log.read_text()
