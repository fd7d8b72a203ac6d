"""Hostile bytes cost whoever sends them: an innocent client beside each attack, on a real server process.

The innocent's delay is compared with its time alone, on the same server a moment before: this machine may be busy with other things.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mmada.serve.hosts import is_allowed, usual_hosts

from .hostile import (
    gif_of_comments,
    jpeg_of_comments,
    jpeg_with_junk,
    many_scans,
    names_that_are_never_found,
    png_of_chunks,
    webp_of_frames,
)
from .process import Server, serving

pytestmark = pytest.mark.integration

CHAT = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "hi"}], "max_completion_tokens": 4, "temperature": 0}


@pytest.fixture(scope="module")
def short(tmp_path_factory) -> Iterator[Server]:
    """A server that waits for headers, bodies and readers for a second, logs every request and decodes one picture at a time."""
    options = ["--header-timeout", "1", "--body-timeout", "1.5", "--write-timeout", "1", "--access-log", "--num-decoders", "1"]
    with serving(tmp_path_factory.mktemp("short") / "log", *options) as server:
        yield server


def head(path: str, length: int, **more: str) -> bytes:
    fields = {"Host": "localhost", "Content-Type": "application/json", "Content-Length": str(length), "Connection": "close", **more}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode()


def opened(server: Server) -> socket.socket:
    return socket.create_connection(server.address, timeout=120)


def sent(server: Server, path: str, body: object) -> socket.socket:
    """A connection on which a request was sent."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection = opened(server)
    connection.sendall(head(path, len(data)))
    with contextlib.suppress(OSError):  # it may be refused before its end
        connection.sendall(data)
    return connection


def answer(connection: socket.socket) -> tuple[int, dict]:
    """Status and body."""
    data = b""
    with contextlib.closing(connection), contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            data += piece
    top, _, body = data.partition(b"\r\n\r\n")
    return int(top.split()[1]), json.loads(body) if body.startswith(b"{") else {}


def chat(server: Server) -> float:
    """Seconds that an innocent client waits."""
    begun = time.monotonic()
    assert answer(sent(server, CHAT, HELLO))[0] == 200
    return time.monotonic() - begun


def looking(data: bytes) -> dict:
    return looking_at("data:image/jpeg;base64," + base64.b64encode(data).decode())


def looking_at(*urls: str) -> dict:
    return {**HELLO, "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}} for url in urls]}]}


def messages(count: int) -> bytes:
    return b'{"messages":[' + b",".join([b'{"role":"user","content":"a"}'] * count) + b"]}"


ATTACKS: dict[str, tuple[str, Callable[[], object], int, str]] = {
    "messages": (CHAT, lambda: messages(590_000), 400, "more values"),
    "a few too many messages": (CHAT, lambda: messages(1500), 400, "messages has 1500 messages, 1024 are allowed"),
    "parts": (
        CHAT,
        lambda: {**HELLO, "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * 1500}]},
        400,
        "messages has 1500 parts",
    ),
    "stop strings": (CHAT, lambda: {**HELLO, "stop": ["a" * 400_000 + str(i) for i in range(16)]}, 400, "stop has 64000"),
    "escapes": (CHAT, lambda: b'{"messages":[{"role":"user","content":"' + b"\\n" * 5_000_000 + b'"}]}', 400, "longer texts"),
    "a value that is shown": (CHAT, lambda: {**HELLO, "model": ["b" * 5_000_000]}, 400, "must be a text"),
    "names": (CHAT, lambda: {**HELLO, **{f"x{i}": i for i in range(20_000)}}, 400, "x0=0 is unknown"),
    "a prompt to draw": ("/v1/images/generations", lambda: {"prompt": "two hearts and " * 4300}, 400, "tokens"),
    "scans": (CHAT, lambda: looking(many_scans(5000, side=4000)), 400, "more than 32 scans"),
    "chunks of a PNG": (CHAT, lambda: looking(png_of_chunks(300_000)), 400, "has more than 16384"),
    "comments of a GIF": (CHAT, lambda: looking(gif_of_comments(300_000)), 400, "has more than 16384"),
    "comments of a JPEG": (CHAT, lambda: looking(jpeg_of_comments(300_000)), 400, "has more than 16384"),
    "junk in a JPEG": (CHAT, lambda: looking(jpeg_with_junk(10**6)), 400, "has more than 16384"),
    "frames of a WebP": (CHAT, lambda: looking(webp_of_frames(30_000)), 400, "has more than 16384"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_innocent_client_beside_an_attack(server, name):
    path, body, status, message = ATTACKS[name]
    body = body()
    alone = max(chat(server) for _ in range(3))
    attackers = [sent(server, path, body) for _ in range(2)]
    beside = [chat(server) for _ in range(2)]
    for attacker in attackers:
        code, refusal = answer(attacker)
        assert (code, set(refusal["error"])) == (status, {"message", "type", "param", "code"})
        assert message in refusal["error"]["message"]
    # The work of an attack is below a tenth of a second. Before, the chat took hundreds of times as long as alone.
    assert min(beside) < 5 * alone + 1


def test_pictures_of_clients_that_hang_up(short):
    """Their decoder is freed; a picture within the limits was still enough to hold it for as long as it took."""
    alone = max(chat(short) for _ in range(3))
    body = looking(many_scans(20, side=4000))
    for connection in [sent(short, CHAT, body) for _ in range(4)]:
        connection.close()
    assert chat(short) < 5 * alone + 1
    assert answer(sent(short, CHAT, looking(many_scans(1, side=16))))[0] == 200  # by the one decoder, without a wait for the four


def test_addresses_whose_names_are_never_found(tmp_path):
    """The look-up of a name has no time limit of its own; the request has, and nobody waits beside it."""
    with serving(tmp_path / "log", "--allow-remote-images", "--timeout", "5", start=names_that_are_never_found) as server:
        alone = max(chat(server) for _ in range(3))
        attackers = [sent(server, CHAT, looking_at(*(f"http://{i}-{j}.slow.example/" for j in range(4)))) for i in range(8)]
        beside = [chat(server) for _ in range(3)]
        assert min(beside) < 5 * alone + 1
        for attacker in attackers:
            code, refusal = answer(attacker)
            assert (code, refusal["error"]["code"]) == (400, "invalid_image")
            assert re.search(r"did not arrive within|cannot be fetched", refusal["error"]["message"])


# Connections.


def closed_after(connection: socket.socket) -> float:
    begun = time.monotonic()
    with contextlib.suppress(ConnectionResetError):
        assert connection.recv(1) == b""
    return time.monotonic() - begun


def test_connections_that_send_nothing_or_send_slowly_are_closed(short):
    idle = opened(short)
    begun = time.monotonic()
    slow = opened(short)
    with contextlib.suppress(OSError):
        for letter in b"GET /health HTTP/1.1\r\nX: " + b"x" * 200:
            slow.send(bytes([letter]))
            time.sleep(0.1)
            if time.monotonic() - begun > 30:
                break
    assert time.monotonic() - begun < 20  # of the 23 that it would have taken
    assert closed_after(idle) < 5
    again = opened(short)  # the second request of a connection has a time of its own
    for _ in range(2):
        again.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        data = b""
        while not data.endswith(b"}"):
            data += again.recv(4096)
        assert data.startswith(b"HTTP/1.1 200")
        time.sleep(1.2)
    again.sendall(b"GET /health HTTP/1.1\r\n")
    assert closed_after(again) < 20


def test_a_body_that_stops_is_answered_with_408(short):
    connection = opened(short)
    connection.sendall(head(CHAT, 100) + b'{"messages"')
    status, body = answer(connection)
    assert (status, body["error"]["type"]) == (408, "invalid_request_error")


def test_an_upload_that_is_given_up_is_no_error(short):
    for path, kind in ((CHAT, "application/json"), ("/v1/images/edits", "multipart/form-data; boundary=x")):
        connection = opened(short)
        connection.sendall(head(path, 1000, **{"Content-Type": kind}) + b"--x\r\n")
        time.sleep(0.2)
        connection.close()
    time.sleep(0.5)
    chat(short)
    log = short.log.read_text()
    assert "Traceback" not in log
    assert "ERROR" not in log


def test_keys_in_query_strings_are_not_logged(short):
    connection = opened(short)
    connection.sendall(b"GET /v1/models?api_key=swordfish HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert answer(connection)[0] == 200
    log = short.log.read_text()
    assert '"GET /v1/models HTTP/1.1" 200' in log
    assert "swordfish" not in log


def unread(server: Server, data: bytes) -> socket.socket:
    """A connection whose answers are not read. What the system takes of them is little, so that the rest waits in the server."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(120)
    connection.connect(server.address)
    connection.sendall(data)
    return connection


def drafts(length: int) -> bytes:
    """A request for a stream of many words."""
    data = json.dumps({**HELLO, "max_completion_tokens": length, "stream": True, "stream_options": {"include_drafts": True}}).encode()
    return head(CHAT, len(data)) + data


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def num_open(server: Server) -> int:
    """Sockets of the server's process."""
    count = 0
    for one in Path(f"/proc/{server.process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            count += str(one.readlink()).startswith("socket")
    return count


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts the sockets of a process in /proc")
def test_an_answer_that_nobody_reads_is_given_up(short):
    """It held its connection and its memory without end: only streams had a limit."""
    alone = max(chat(short) for _ in range(3))
    before = num_open(short)
    whole = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"  # an answer that is not streamed
    stalled = [*(unread(short, whole * 100) for _ in range(2)), unread(short, drafts(600))]
    until(lambda: num_open(short) == before + 3)
    assert min(chat(short) for _ in range(2)) < 5 * alone + 1  # the first may come while the answers are written
    until(lambda: num_open(short) == before)
    for connection in stalled:
        with contextlib.closing(connection), pytest.raises(ConnectionResetError):
            all(iter(lambda one=connection: one.recv(65536), b""))
    assert short.settled()["mmada_generations_running"] == 0
    assert "Traceback" not in short.log.read_text()


def test_who_reads_slowly_but_steadily_gets_all(short):
    connection, data = unread(short, drafts(120)), b""
    begun = time.monotonic()
    with contextlib.closing(connection):
        while piece := connection.recv(65536):
            data += piece
            time.sleep(max(0, len(data) / 200_000 - (time.monotonic() - begun)))  # 200 kB in a second
    assert time.monotonic() - begun > 2, "twice what a reader may stand still"
    assert b"data: [DONE]" in data


# Names.


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("127.0.0.1:80", 200),
        ("[::1]:8000", 200),
        ("a.localhost", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
    ],
)
def test_a_name_that_was_bound_to_this_machine_by_others_is_refused(short, host, status):
    """DNS rebinding: a browser takes the server for the site of the page."""
    connection = opened(short)
    connection.sendall(f"GET /v1/models HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    code, body = answer(connection)
    assert code == status
    assert status == 200 or re.search("does not answer to the name '.*evil", body["error"]["message"])


def test_which_names_are_answered():
    assert usual_hosts("0.0.0.0", has_keys=True) == ("*",)
    everywhere, here = usual_hosts("0.0.0.0", has_keys=False), usual_hosts("127.0.0.1", has_keys=False)
    own = socket.gethostname()
    assert is_allowed(own, everywhere)
    assert not is_allowed("evil.example", everywhere)
    assert is_allowed("LOCALHOST.:80", here)
    assert is_allowed("10.0.0.1", here)  # an address cannot be bound to another machine
    assert is_allowed("gpu.lan:8000", usual_hosts("gpu.lan", has_keys=False))
    assert is_allowed("a.example.com", ("*.example.com",))
    assert not is_allowed("example.com", ("*.example.com",))
    assert not is_allowed("", here)


def test_the_limits_rest_on_one_protocol_whatever_else_is_installed():
    """uvicorn takes httptools and uvloop where they are installed, as with ray[serve]; under them the limit for readers failed."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    from mmada.serve.config import ServeConfig
    from mmada.serve.listen import _timed

    assert issubclass(_timed(ServeConfig(), lambda: None), H11Protocol)
