"""What goes wrong: hostile clients, bad bodies, too many requests, a server that is told to stop."""

from __future__ import annotations

import asyncio
import base64
import http.client
import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import pytest
from PIL import Image

from mmada.serve.config import ServeConfig
from mmada.serve.middleware import _DISCARD_PAUSE, RequestMiddleware

from ..lazy import later
from .process import Server, png, serving

openai = later("openai")

KEY, OTHER_KEY = "a-secret-key", "another-secret-key"
HELLO = [{"role": "user", "content": "hello"}]
CANCELLED = 'mmada_generations_total{kind="chat",outcome="cancelled"}'
FRIEND = "https://friend.example"
LONG = {"model": "debug", "messages": HELLO, "max_completion_tokens": 600, "stream": True}


@pytest.fixture(scope="module")
def narrow(tmp_path_factory) -> Iterator[Server]:
    """A server with keys and small limits, which evaluates one generation at a time."""
    options = ["--max-queue", "4", "--max-n", "4", "--max-num-batched-tokens", "1", "--max-body-mib", "0.25", "--max-image-pixels", "10000"]
    options += ["--allow-origin", FRIEND]
    with serving(tmp_path_factory.mktemp("narrow") / "log", *options, MMADA_API_KEY=f"{OTHER_KEY} {KEY}") as server:
        yield server


def ask(server: Server, path: str, body: bytes | Iterator[bytes] = b"{}", *, method: str = "POST", **headers: str):
    """Status, headers and body of one request."""
    connection = http.client.HTTPConnection(*server.address, timeout=180)
    fields = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
    try:
        connection.request(method, path, body, fields)
        answer = connection.getresponse()
        return answer.status, dict(answer.headers), json.loads(answer.read() or b"null")
    finally:
        connection.close()


def assert_error(body, status: int) -> None:
    assert set(body) == {"error"}, body
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    assert body["error"]["type"] == (
        "authentication_error" if status == 401 else "rate_limit_error" if status == 429 else "invalid_request_error"
    )


# Keys.


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Bearer wrong", f"Basic {KEY}", KEY, f"Bearer {KEY}x", f"Bearer {KEY[:-1]}"])
@pytest.mark.parametrize("path", ["/v1/models", "/metrics"])
def test_without_a_key_nothing_is_told(narrow, header, path):
    status, headers, body = ask(narrow, path, b"", method="GET", Authorization=header)
    assert status == 401
    assert headers["www-authenticate"] == "Bearer"
    assert_error(body, 401)


def test_a_large_body_that_is_refused_is_read_before_the_answer(narrow):
    """A client that asks to close the connection was reset while it sent, and never read why."""
    for key, expected in (("wrong", 401), (KEY, 413)):
        status, _, body = ask(narrow, "/v1/nothing", b"x" * 8_000_000, Authorization=f"Bearer {key}", Connection="close")
        assert status == expected
        assert_error(body, expected)


@pytest.mark.integration
def test_any_of_the_keys_opens(narrow):
    assert [len(narrow.client(api_key=key).models.list().data) for key in (KEY, OTHER_KEY)] == [1, 1]
    with pytest.raises(openai.AuthenticationError):
        narrow.client(api_key="guess").models.list()
    assert ask(narrow, "/health", b"", method="GET", Authorization="")[0] == 200


def test_other_sites_cannot_use_a_visitors_browser(narrow):
    # On plain http in a local network a browser says no more than where the page is from.
    for origin, expected in (("http://elsewhere.example", 403), ("null", 403), (narrow.url, 400)):
        assert ask(narrow, "/v1/chat/completions", b"{", Origin=origin)[0] == expected
    status, _, body = ask(narrow, "/v1/chat/completions", Sec_Fetch_Site="cross-site")
    assert status == 403
    assert_error(body, 403)


def test_a_site_that_was_named_may_call(narrow):
    """A page of one's own had no way to use the server."""
    for site in ({"Sec_Fetch_Site": "cross-site"}, {}):
        status, headers, _ = ask(narrow, "/v1/chat/completions", b"{", Origin=FRIEND, **site)
        assert (status, headers["access-control-allow-origin"]) == (400, FRIEND)
        assert ask(narrow, "/v1/chat/completions", b"{", Origin="https://friend.example.evil.example", **site)[0] == 403
    for origin, expected in ((FRIEND, 200), ("https://x.example", 400)):  # what a browser asks first, without a key
        connection = http.client.HTTPConnection(*narrow.address, timeout=180)
        asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
        connection.request("OPTIONS", "/v1/chat/completions", headers={"Origin": origin, **asks})
        answer = connection.getresponse()
        assert answer.status == expected
        assert (answer.headers["access-control-allow-origin"] == origin) is (expected == 200)
        connection.close()
    status, headers, _ = ask(narrow, "/v1/models", b"", method="GET", Authorization="", Origin=FRIEND)
    assert (status, headers["access-control-allow-origin"]) == (401, FRIEND)  # a page reads why


def test_health_answers_head_as_get(narrow):
    status, headers, body = ask(narrow, "/health", b"", method="HEAD", Authorization="")
    assert (status, body) == (200, None)
    assert headers["content-length"] == ask(narrow, "/health", b"", method="GET", Authorization="")[1]["content-length"]


# Bodies.

BAD_BODIES = {
    "no JSON": (b"{", 400, "no JSON"),
    "empty": (b"", 400, "JSON object"),
    "a list": (b"[1]", 400, "JSON object"),
    "null": (b"null", 400, "JSON object"),
    "bytes": (b"\xff\xfe\x00", 400, ""),
    "deep": (b"[" * 100_000, 400, ""),
    "no messages": (b"{}", 400, "messages"),
    "empty messages": (b'{"messages": []}', 400, "messages"),
    "wrong type": (b'{"messages": "hello"}', 400, "messages"),
    "wrong role": (b'{"messages": [{"role": "robot", "content": "x"}]}', 400, "messages.0.role"),
    "no content": (b'{"messages": [{"role": "user", "content": null}]}', 400, "messages.0.content"),
    "a part of the wrong form": (
        b'{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "data:x"}]}]}',
        400,
        "messages.0.content.0.image_url=",
    ),
    "a part without its value": (
        b'{"messages": [{"role": "user", "content": [{"type": "text"}]}]}',
        400,
        "messages.0.content.0.text is missing",
    ),
    "no text": (b'{"messages": [{"role": "user", "content": 5}]}', 400, "messages.0.content=5 must be"),
    "number as text": (b'{"messages": [{"role": "user", "content": "x"}], "n": "2"}', 400, 'n="2" must be'),
    "true as number": (b'{"messages": [{"role": "user", "content": "x"}], "n": true}', 400, "n=true must be"),
    "infinity": (b'{"messages": [{"role": "user", "content": "x"}], "temperature": 1e999}', 400, "temperature"),
    "nan": (b'{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}', 400, "temperature"),
    "huge number": (b'{"messages": [{"role": "user", "content": "x"}], "seed": ' + b"9" * 60 + b"}", 400, "seed"),
    "a number of many digits": (b'{"messages": [], "seed": ' + b"9" * 4000 + b"}", 400, "a number of 4000 characters, 999"),
    "a field twice": (b'{"messages": [{"role": "user", "content": "x"}], "n": 1, "n": 2}', 400, "n is given twice"),
    "a field twice inside": (b'{"messages": [{"role": "user", "content": "x", "content": "y"}]}', 400, "content is given twice"),
    "half a character": (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', 400, "surrogate"),
    "half a character in a name": (b'{"\\ud800": 1}', 400, "unknown"),
    "half a character in a tag": (b'{"messages": [{"role": "user", "content": [{"type": "\\ud800"}]}]}', 400, "messages.0"),
    "misspelled": (b'{"messages": [{"role": "user", "content": "x"}], "max_token": 5}', 400, "did you mean 'max_tokens'"),
    "empty prompt": (b'{"messages": [{"role": "user", "content": " "}]}', 400, "is empty"),
    "last is the assistant's": (b'{"messages": [{"role": "assistant", "content": "x"}]}', 400, "must be the user's"),
    "too long": (json.dumps({"messages": [{"role": "user", "content": "x" * 1100}]}).encode(), 400, "context has 1024"),
    "steps do not divide": (b'{"messages": [{"role": "user", "content": "x"}], "steps": 33}', 400, "must be a multiple"),
    "another model": (b'{"messages": [{"role": "user", "content": "x"}], "model": "gpt"}', 404, "use 'debug'"),
    "stream of a bad request": (b'{"messages": [{"role": "user", "content": " "}], "stream": true}', 400, "is empty"),
}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_bad_bodies(narrow, name):
    body, status, message = BAD_BODIES[name]
    got, _, answer = ask(narrow, "/v1/chat/completions", body)
    assert got == status, answer
    assert_error(answer, status)
    assert message in answer["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/images/edits", "/v1/images/variations"])
@pytest.mark.parametrize("content_type", ["application/json", "multipart/form-data", "multipart/form-data; boundary=x", "text/plain", ""])
@pytest.mark.parametrize("body", [b"", b"{}", b"--x\r\n\r\n", b"\x00" * 100])
def test_bad_forms(narrow, path, content_type, body):
    status, _, answer = ask(narrow, path, body, Content_Type=content_type)
    assert status == 400
    assert_error(answer, 400)


def test_unknown_paths_and_methods(narrow):
    for method, path, expected in [("GET", "/v1/nothing", 404), ("DELETE", "/v1/models", 405), ("GET", "/v1/chat/completions", 405)]:
        status, _, body = ask(narrow, path, b"", method=method)
        assert status == expected
        assert_error(body, status)
    assert body["error"]["message"] == "/v1/chat/completions does not take GET; use POST"
    assert ask(narrow, "/v1/responses")[2]["error"]["message"].startswith(
        "this server has no path '/v1/responses'; GET /openapi.json lists"
    )


@pytest.mark.parametrize(
    ("method", "path", "meant"),
    [
        ("POST", "/v1/chat/completions/", "/v1/chat/completions"),
        ("POST", "/v1//chat/completions", "/v1/chat/completions"),
        ("POST", "/v1/v1/images/edits", "/v1/images/edits"),
        ("POST", "/chat/completions", "/v1/chat/completions"),
        ("GET", "/v1/models/", "/v1/models"),
        ("GET", "/v1/health", "/health"),
    ],
)
def test_a_path_that_is_nearly_one_is_named(narrow, method, path, meant):
    """A slash behind a path was a redirect, which a client may follow without its body."""
    status, _, body = ask(narrow, path, b"{}", method=method)
    assert status == 404
    assert_error(body, status)
    assert body["error"]["message"] == f"this server has no path {path!r}; use {meant!r}"


HOSTILE = ["nothing", "text", "half", "flipped", "bomb", "svg", "header alone", "postscript", "tiff"]


@cache
def hostile_images() -> dict[str, bytes]:
    bomb = io.BytesIO()
    Image.new("1", (20000, 20000)).save(bomb, "PNG")  # 400 million pixels
    whole = png(Image.effect_noise((64, 64), 50))
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    return {
        "nothing": b"",
        "text": b"hello",
        "half": whole[: len(whole) // 2],
        "flipped": bytes(flipped),
        "bomb": bomb.getvalue(),
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "header alone": b"\x89PNG\r\n\x1a\n",
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "tiff": b"II*\x00\x08\x00\x00\x00",
    }


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_images(narrow, name, mask):
    assert set(hostile_images()) == set(HOSTILE)
    data = hostile_images()[name]
    client = narrow.client(api_key=KEY)
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    with pytest.raises(openai.BadRequestError, match="image"):
        client.chat.completions.create(
            model="debug", messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]
        )
    with pytest.raises(openai.BadRequestError):
        client.images.edit(image=("a.png", data), mask=("m.png", png(mask)), prompt="x")


@pytest.mark.parametrize("url", ["http://127.0.0.1/x.png", "https://example.com/x.png", "file:///etc/passwd", "data:,x", "", "\x00"])
def test_addresses_are_not_fetched(narrow, url):
    with pytest.raises(openai.BadRequestError, match="data:"):
        narrow.client(api_key=KEY).chat.completions.create(
            model="debug", messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]
        )


def test_bodies_of_100_megabytes(narrow):
    status, _, body = ask(narrow, "/v1/chat/completions", b"x" * 100 * 2**20)
    assert status == 413
    assert body["error"]["code"] == "body_too_large"
    assert_error(body, 413)
    chunks = (b"x" * 2**16 for _ in range(100))  # of a length that is not announced
    status, _, body = ask(narrow, "/v1/chat/completions", chunks)
    assert status == 413
    assert_error(body, 413)
    assert ask(narrow, "/v1/models", b"", method="GET")[0] == 200


def run_guard(config: ServeConfig, messages: list, app) -> list:
    """What a guarded application sends when the client sends these messages, then nothing more."""
    sent = []

    async def receive():
        if messages:
            return messages.pop(0)
        await asyncio.sleep(60)
        return None

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/x", "headers": []}
    asyncio.run(RequestMiddleware(app, config)(scope, receive, send))
    return sent


def test_a_body_that_does_not_arrive():
    from starlette.exceptions import HTTPException

    seen = []

    async def app(_scope, receive, _send):
        await receive()
        try:
            await receive()
        except HTTPException as error:
            seen.append((error.status_code, error.detail))

    run_guard(ServeConfig(body_timeout=0.05), [{"type": "http.request", "body": b"x", "more_body": True}], app)
    assert seen == [(408, "the body did not arrive within 0.05 seconds")]


def test_a_body_that_is_not_there_is_not_waited_for():
    """Files are sent while somebody listens for the client's end (Starlette 1.10). Each took a second, and the studio had 27 of them."""

    async def app(_scope, receive, send):
        listening = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        assert (await listening)["type"] == "http.request"

    before = time.monotonic()
    assert len(run_guard(ServeConfig(), [{"type": "http.request", "body": b""}], app)) == 1
    assert time.monotonic() - before < 0.5 * _DISCARD_PAUSE


def test_an_error_that_nobody_foresaw(caplog):
    async def app(_scope, _receive, _send):
        raise ZeroDivisionError

    start, body = run_guard(ServeConfig(), [], app)
    assert start["status"] == 500
    number = dict(start["headers"])[b"x-request-id"].decode()
    error = json.loads(body["body"])["error"]
    assert (error["type"], number in error["message"]) == ("server_error", True)
    assert f"request {number} failed" in caplog.text


def test_what_is_cut_off_at_the_end_is_told_so(caplog):
    async def app(_scope, _receive, _send):
        raise asyncio.CancelledError

    start, body = run_guard(ServeConfig(), [], app)
    assert start["status"] == 503
    assert json.loads(body["body"])["error"]["code"] == "unavailable"
    assert not caplog.text


# Clients that go away.


def ask_and_keep(server: Server, body: dict) -> socket.socket:
    """A connection on which a request for an answer was sent."""
    data = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\n"
    connection = socket.create_connection(server.address, timeout=180)
    connection.sendall(head.encode() + f"Content-Length: {len(data)}\r\n\r\n".encode() + data)
    return connection


def test_a_client_that_leaves_in_mid_stream(server):
    before = server.settled().get(CANCELLED, 0)
    connection = ask_and_keep(server, LONG)
    assert connection.recv(4096).startswith(b"HTTP/1.1 200")
    connection.close()
    server.wait_for(CANCELLED, before + 1)
    server.settled()


def test_a_client_that_does_not_wait_for_its_answer(server):
    before = server.settled().get(CANCELLED, 0)
    connection = ask_and_keep(server, {**LONG, "stream": False})
    server.wait_for("mmada_generations_running", 1)
    connection.close()
    server.wait_for(CANCELLED, before + 1)
    server.settled()


@pytest.mark.integration
def test_a_client_that_does_not_read(server):
    """Holds up nobody: its events wait in its own queue."""
    connection = ask_and_keep(server, {**LONG, "max_completion_tokens": 200, "stream_options": {"include_drafts": True}})
    assert server.client().chat.completions.create(model="debug", messages=HELLO).choices
    server.settled()
    connection.close()


# Too many requests.


@pytest.mark.integration
def test_a_full_queue_is_answered_with_429_and_recovers(narrow):
    client = narrow.client(api_key=KEY)

    def one(i: int) -> str | int:
        try:
            return (
                client.chat.completions.create(model="debug", messages=HELLO, seed=i, max_completion_tokens=96).choices[0].message.content
            )
        except openai.RateLimitError as error:
            assert_error({"error": error.body}, 429)
            return int(error.response.headers["retry-after"])

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(one, range(16)))
    refused = [answer for answer in answers if isinstance(answer, int)]
    served = {answer for answer in answers if isinstance(answer, str)}
    assert refused
    assert all(1 <= seconds <= 60 for seconds in refused)
    assert len(served) == 1  # the arg max does not depend on the seed
    patient = narrow.client(api_key=KEY, max_retries=10)
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda _: patient.images.generate(prompt="x", extra_body={"steps": 2}).data, range(8)))


def test_a_request_of_more_than_the_queue_holds(narrow):
    with pytest.raises(openai.BadRequestError, match="n=5"):
        narrow.client(api_key=KEY).chat.completions.create(model="debug", messages=HELLO, n=5)


def test_the_log_tells_no_secrets(narrow):
    secret = "the-password-is-swordfish"
    client = narrow.client(api_key=KEY)
    client.chat.completions.create(model="debug", messages=[{"role": "user", "content": secret}], max_completion_tokens=2)
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="debug", messages=[{"role": "user", "content": secret * 100}])
    ask(narrow, "/v1/chat/completions", f'{{"{secret}": 1}}'.encode())
    log = narrow.log.read_text()
    assert "finished: 2 tokens" in log
    assert not any(word in log for word in (secret, KEY, "hello", "Traceback"))


# The end.


@pytest.mark.integration
def test_sigterm_under_load_finishes_what_runs(tmp_path):
    with serving(tmp_path / "log", "--host", "0.0.0.0", "--drain", "180") as server:
        server.url = server.url.replace("0.0.0.0", "127.0.0.1")
        client = server.client()
        begun = threading.Barrier(7)

        def stream(i: int) -> tuple[str, str | None]:
            text, reason = "", None
            for n, chunk in enumerate(client.chat.completions.create(**{**LONG, "max_completion_tokens": 100 + i}, seed=i)):
                if n == 1:
                    begun.wait(180)
                text += chunk.choices[0].delta.content or ""
                reason = chunk.choices[0].finish_reason or reason
            return text, reason

        with ThreadPoolExecutor(6) as pool:
            streams = [pool.submit(stream, i) for i in range(6)]
            begun.wait(180)
            assert server.stop() == 0
            results = [s.result(180) for s in streams]
        assert all(reason in ("stop", "length") and text for text, reason in results)
        log = server.log.read_text()
        assert log.count("finished") >= 6
        assert "may be reached by others, and no --api-key is set" in " ".join(log.split())
        assert "Traceback" not in log
        with pytest.raises(openai.APIConnectionError):
            client.models.list()
