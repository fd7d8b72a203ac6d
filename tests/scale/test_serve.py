"""Ray Serve: replicas behind one address answer as one server does. What needs no Ray is tried without it; starting Ray is slow."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import subprocess
import threading
import time
import types
import urllib.request
from collections.abc import Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mmada.errors import InputError, MissingDependencyError, MMaDAError
from mmada.scale import serve
from mmada.scale.batch_lines import BatchLine
from mmada.scale.ray_cluster import connected, on_cpus
from mmada.scale.replica import Replica, check_loading
from mmada.scale.serve_config import KEYS, ReplicasConfig, replicas_config
from mmada.scale.serve_counts import Counts
from mmada.scale.serve_proxy import CALLBACK, ProxyMiddleware, middlewares
from mmada.serve.config import ServeConfig

from ..lazy import later
from ..serve.process import Server, serving

ROOT = Path(__file__).parents[2]
typer_testing = later("typer.testing")


# Settings.


def test_the_arguments_of_a_service_fill_the_settings():
    nested = replicas_config({"model": "debug", "replicas": 2, "gpus": 1, "server": {"max_queue": 16}})
    dotted = replicas_config({"model": "debug", "replicas": "2", "gpus": "1", "server.max_queue": "16"})
    assert nested == dotted
    assert (nested.server.name, nested.server.max_queue, nested.replicas, nested.gpus) == ("debug", 16, 2, 1.0)
    assert nested.loading["device"] is None  # that of the GPU which Ray gives it
    assert replicas_config({}).loading["device"] == "cpu"
    assert nested.max_ongoing_requests > nested.server.max_queue


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"replica": 2}, "unknown setting replica: .*replicas"),
        ({"server": {"max_que": 2}}, "unknown setting server.max_que"),
        ({"server": {"api_keys": ["secret"]}}, f"set {KEYS} in the environment"),
        ({"server": {"write_timeout": 5}}, "write_timeout=5 cannot be in force"),
        ({"replicas": 0}, "replicas=0 and cpus=1 must be at least 1"),
        ({"gpus": -1}, "gpus=-1.0 must not be negative"),
        ({"drain": -1}, "drain=-1.0 must not be negative"),
    ],
)
def test_wrong_arguments_are_refused(args, words):
    with pytest.raises(InputError, match=words):
        replicas_config(args)


def test_options_that_would_have_no_effect_are_refused():
    from mmada.cli import app

    for options in (["--workers", "2"], ["--access-log"], ["--header-timeout", "3"]):
        done = typer_testing.CliRunner().invoke(app, ["serve", "--model", "debug", "--replicas", "2", *options])
        assert isinstance(done.exception, InputError)
        assert options[0].strip("-").replace("-", "_") in str(done.exception).replace("-", "_")


def test_without_ray_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    monkeypatch.setitem(__import__("sys").modules, "ray.serve", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'mmada\[scale\]'"):
        serve.build({})
    with pytest.raises(MissingDependencyError, match=r"pip install 'mmada\[scale\]'"):
        serve.serve_replicas(ReplicasConfig(), host="127.0.0.1", port=0, ready=print)


def test_a_cluster_that_is_not_reached_is_a_sentence(monkeypatch):
    def init(**_):
        raise ConnectionError("refused")

    ray = types.SimpleNamespace(is_initialized=lambda: False, init=init)
    monkeypatch.setitem(__import__("sys").modules, "ray", ray)
    monkeypatch.setenv("RAY_ADDRESS", "nowhere:6379")
    with (
        pytest.raises(InputError, match=r"--ray does not reach the Ray cluster of RAY_ADDRESS='nowhere:6379' \(refused\)"),
        connected("--ray"),
    ):
        pass


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "owner/nosuch"}, "'owner/nosuch' is not in the local cache|is neither a directory nor a repository"),
        ({"model": "cut"}, "its header promises"),
        ({"model": "adapter"}, "its header promises"),
        ({"cache": "doual"}, "cache='doual' is unknown: did you mean 'dual'"),
        ({"quantize": "int3"}, "quantize='int3' is unknown"),
        ({"image_tokenizer": "nosuch"}, "'nosuch' is no directory"),
    ],
)
def test_what_cannot_be_loaded_is_said_before_ray_is_started(debug, tmp_path, monkeypatch, changes, words):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tmp_path / "cut")}))
    debug.save_pretrained(tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(serve, "_serve", lambda: None)
    monkeypatch.setattr(serve, "connected", lambda *_, **__: pytest.fail("Ray is started"))
    with pytest.raises(MMaDAError, match=words):
        serve.serve_replicas(ReplicasConfig(**changes), host="127.0.0.1", port=0, ready=print)


def test_what_a_node_has_to_fetch_is_not_looked_up_here(debug, tmp_path, monkeypatch):
    monkeypatch.setattr("mmada.hub.checkpoint.find", lambda *_, **__: pytest.fail("a hub name is looked up"))
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    check_loading("owner/nosuch", {})
    debug.save_pretrained(tmp_path / "whole")
    check_loading(str(tmp_path / "whole"), {"quantize": "int8", "cache": "prefix"})


def test_a_gpu_is_asked_for_where_there_is_one():
    asked = [on_cpus("cpu", {"GPU": 2.0}), on_cpus(None, {}), on_cpus("mps", {}), on_cpus(None, {"GPU": 2.0})]
    assert asked == [True, True, True, False]
    with pytest.raises(InputError, match="device='cuda:0' cannot be used: the cluster has no GPU"):
        on_cpus("cuda:0", {"CPU": 4.0})


# Counts.


def test_replicas_know_what_the_others_have_to_do(monkeypatch):
    counts, now = Counts(), [100.0]
    monkeypatch.setattr("mmada.scale.serve_counts.time", types.SimpleNamespace(monotonic=lambda: now[0], time=time.time))
    assert counts.exchange("a", {"waiting": 3, "live": 4}) == {}
    assert counts.exchange("b", {"waiting": 1, "live": 1}) == {"waiting": 3, "live": 4}
    assert counts.exchange("c", {"waiting": 0, "live": 0}) == {"waiting": 4, "live": 5}
    now[0] += 4
    counts.exchange("b", {"waiting": 2, "live": 2})
    now[0] += 4
    assert counts.exchange("c", {"waiting": 0, "live": 0}) == {"waiting": 2, "live": 2}  # `a` has died


def test_what_a_dead_replica_counted_stays():
    counts, key = Counts(), ("mmada_rounds", "mmada_rounds_total", ())
    counts.add("a", {key: 5.0})
    assert counts.total("b", {key: 2.0}) == {key: 7.0}
    assert counts.total("b", {key: 3.0}) == {key: 8.0}


# A replica, with Ray's part played by the test.


class Handle:
    """Of the counts, as Ray gives it to replicas: method.remote() is awaited."""

    def __init__(self, counts: Counts) -> None:
        self.counts, self.is_down = counts, False

    def __getattr__(self, name: str) -> types.SimpleNamespace:
        async def call(*arguments):
            if self.is_down:
                raise ConnectionError("the counts have died")
            return getattr(self.counts, name)(*arguments)

        return types.SimpleNamespace(remote=call)


@asynccontextmanager
async def replica(monkeypatch, name: str, handle: Handle, **settings):
    ray = types.ModuleType("ray")
    ray.serve = types.SimpleNamespace(get_replica_context=lambda: types.SimpleNamespace(replica_tag=name))  # type: ignore[attr-defined]
    monkeypatch.setitem(__import__("sys").modules, "ray", ray)
    made = serve.ServeReplica.__new__(serve.ServeReplica)
    await made.__init__(ReplicasConfig(model="debug", device="cpu", server=ServeConfig(name="debug", **settings)), handle)
    application = serve._application()
    try:
        async with made._replica.running():
            yield made, application
    finally:
        made._exchanging.cancel()


async def asked(application, path, body=None, headers=()):
    """Status, headers and body of an answer."""
    data = b"" if body is None else json.dumps(body).encode()
    arrivals, sent = [{"type": "http.request", "body": data, "more_body": False}], []

    async def receive():
        return arrivals.pop() if arrivals else await asyncio.get_running_loop().create_future()

    async def send(message):
        sent.append(message)

    plain = [(b"host", b"localhost"), (b"content-type", b"application/json"), *headers]
    scope = {"type": "http", "method": "POST" if data else "GET", "path": path, "query_string": b"", "headers": plain, "root_path": ""}
    await application(scope, receive, send)
    return sent[0]["status"], dict(sent[0]["headers"]), b"".join(message.get("body", b"") for message in sent[1:])


def samples(text: bytes) -> dict[str, float]:
    lines = [line.rpartition(" ") for line in text.decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def words(i: int, *, room: int = 16, stream: bool = False) -> dict[str, object]:
    messages = [{"role": "user", "content": f"Say {i}"}]
    return {"messages": messages, "seed": i, "max_completion_tokens": room, "block_length": 1, "stream": stream}


FINISHED = 'mmada_generations_total{kind="chat",outcome="finished"}'


def test_two_replicas_tell_sums_and_share_the_queue(monkeypatch):
    monkeypatch.setattr(serve, "PERIOD", 0.01)

    async def run():
        handle = Handle(Counts())
        async with (
            replica(monkeypatch, "a", handle, max_queue=2, max_n=2, max_num_batched_tokens=1) as (_, first),
            replica(monkeypatch, "b", handle, max_queue=2, max_n=2, max_num_batched_tokens=1) as (one, second),
        ):
            for application in (first, second, second):
                assert (await asked(application, "/v1/chat/completions", words(1)))[0] == 200
            for application in (first, second):
                found = samples((await asked(application, "/metrics"))[2])
                if application is second:
                    assert found[FINISHED] == 3
                    assert found["mmada_round_seconds_count"] == found['mmada_round_seconds_bucket{le="+Inf"}']
            long = []
            for numbers in (
                {"running": 1},
                {"running": 1, "waiting": 1},
                {"running": 1, "waiting": 2},
            ):  # one after the other, or three wait
                long.append(asyncio.ensure_future(asked(first, "/v1/chat/completions", words(1, room=900))))
                async with asyncio.timeout(20):
                    while any(one._place.elsewhere(name) != number for name, number in numbers.items()):
                        await asyncio.sleep(0.01)
            assert json.loads((await asked(second, "/health"))[2])["generations"] == 3
            status, headers, body = await asked(second, "/v1/chat/completions", words(4))
            assert (status, json.loads(body)["error"]["code"]) == (429, "queue_full")
            assert int(headers[b"retry-after"]) >= 1
            handle.is_down = True
            status, headers, body = await asked(second, "/metrics")
            assert (status, json.loads(body)["error"]["code"]) == (503, "unavailable")
            for task in long:
                task.cancel()

    asyncio.run(run())


def test_a_request_has_the_number_that_the_proxy_gave_it(monkeypatch):
    async def run():
        async with replica(monkeypatch, "a", Handle(Counts())) as (made, application):
            _, headers, _ = await asked(application, "/health", headers=[(b"x-request-id", b"abc-1")])
            assert b"x-request-id" not in headers  # the proxy adds it
            made._replica.engine.drain()
            with pytest.raises(Exception, match="the engine has stopped"):
                made.check_health()

    asyncio.run(run())


# The proxy.


def through(messages, *, headers=()):
    """What the client gets where Ray's proxy sends some messages, and what the proxy gets."""
    got, seen = [], {}

    async def proxy(scope, receive, send):
        seen.update(scope)
        for message in messages:
            await send(message)

    async def send(message):
        got.append(message)

    scope = {"type": "http", "path": "/v1/completions", "headers": list(headers)}
    asyncio.run(ProxyMiddleware(proxy)(scope, None, send))
    return got, seen


def text(status: int, body: bytes) -> list[dict[str, object]]:
    start = {"type": "http.response.start", "status": status, "headers": [[b"content-type", b"text/plain; charset=utf-8"]]}
    return [start, {"type": "http.response.body", "body": body}]


@pytest.mark.parametrize(
    ("messages", "status", "code", "words"),
    [
        (text(503, b"Request dropped due to backpressure (num_queued_requests=2)."), 429, "queue_full", "the queue is full"),
        (text(429, b"too many"), 429, "queue_full", "the queue is full"),
        (text(503, b"deployment is unavailable"), 503, "unavailable", "no replica takes requests"),
        (text(404, b"Path '/' not found."), 503, "unavailable", "no replica takes requests"),
        (text(408, b"Request timed out"), 504, "timeout", "request_timeout_s"),
        ([], 503, "unavailable", "send the request again"),
    ],
)
def test_what_ray_answers_has_our_shape(messages, status, code, words):
    (start, body), _ = through(messages)
    error = json.loads(body["body"])["error"]
    assert (start["status"], error["code"]) == (status, code)
    assert words in error["message"]
    assert (b"retry-after" in dict(start["headers"])) == (status != 504)


def test_a_cut_stream_ends_with_an_error_and_a_whole_one_as_it_is():
    start = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}
    piece = {"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True}
    last = {"type": "http.response.body", "body": b"", "more_body": False}
    (*before, added), _ = through([start, piece])
    assert before == [start, piece]
    assert json.loads(added["body"].removeprefix(b"data: "))["error"]["code"] == "unavailable"
    assert through([start, piece, last])[0] == [start, piece, last]


def test_clients_cannot_ask_to_be_served_after_they_went():
    _, seen = through(text(200, b"ok"), headers=[(b"X-Request-Disconnect-Disabled", b"?1"), (b"accept", b"*/*")])
    assert seen["headers"] == [(b"accept", b"*/*")]
    (made,) = middlewares()
    assert made.cls is ProxyMiddleware
    module, _, name = CALLBACK[1].rpartition(".")
    assert getattr(__import__(module, fromlist=[name]), name) is middlewares


# Ray.


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    pytest.importorskip("ray.serve", reason="Ray Serve is not installed (pip install 'mmada[scale]')")
    options = ["--replicas", "2", "--max-queue", "12"]
    with serving(tmp_path_factory.mktemp("replicas") / "log", *options, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1") as running:
        yield running


def post(server: Server, body: dict[str, object]) -> tuple[int, dict[str, object]]:
    connection = http.client.HTTPConnection(*server.address, timeout=120)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    return answer.status, json.load(answer)


class Stream(threading.Thread):
    """A stream that is read to its end."""

    def __init__(self, server: Server, i: int, room: int) -> None:
        super().__init__()
        self.connection = http.client.HTTPConnection(*server.address, timeout=120)
        self.connection.request(
            "POST", "/v1/chat/completions", json.dumps(words(i, room=room, stream=True)), {"Content-Type": "application/json"}
        )
        self.answer = self.connection.getresponse()
        self.pieces = [self.answer.read1()]
        self.start()

    def run(self) -> None:
        while piece := self.answer.read1():
            self.pieces.append(piece)

    @property
    def text(self) -> str:
        self.join(120)
        lines = [line[6:] for line in b"".join(self.pieces).decode().splitlines() if line.startswith("data: {")]
        deltas = [choice["delta"].get("content") or "" for line in lines for choice in json.loads(line).get("choices", ())]
        return "".join(deltas)

    @property
    def is_whole(self) -> bool:
        self.join(120)
        return self.pieces[-1].endswith(b"[DONE]\n\n")


def pids(server: Server) -> list[int]:
    """Of the replicas of this server, and of no other on the machine: what descends from it by Ray's own processes."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout.splitlines()[1:]
    parent = {int(pid): int(ppid) for pid, ppid, *_ in map(str.split, listed)}

    def is_ours(pid: int) -> bool:
        return pid == server.process.pid or (pid in parent and is_ours(parent[pid]))

    found = [int(line.split()[0]) for line in listed if "ServeReplica:mmada:server" in line]
    return [pid for pid in found if is_ours(pid)]


def both(server: Server) -> list[int]:
    """The same as soon as there are two: Ray names a process after it has started it."""
    deadline = time.monotonic() + 60
    while len(found := pids(server)) < 2:
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    return found


def together(calls):
    """Results of functions that are called at the same time."""
    results: dict[int, object] = {}
    threads = [threading.Thread(target=lambda i=i, call=call: results.update({i: call()})) for i, call in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results[i] for i in range(len(threads))]


@pytest.mark.slow
def test_under_load_replicas_answer_as_one_engine(two, debug):
    async def alone():
        async with Replica(debug, {"name": "debug"}).running() as one:
            return [await one.answer(BatchLine(i, str(i), None, "/v1/chat/completions", json.dumps(words(i)).encode())) for i in range(12)]

    before = two.metrics().get(FINISHED, 0)
    there = together([lambda i=i: post(two, words(i)) for i in range(12)])
    expected = [answer["body"]["choices"] for answer in asyncio.run(alone())]
    assert [(status, body["choices"]) for status, body in there] == [(200, choices) for choices in expected]
    streams = [Stream(two, i, 16) for i in range(4)]
    assert [stream.text for stream in streams] == [choices[0]["message"]["content"] for choices in expected[:4]]
    time.sleep(1.5)  # counters go with the heartbeat
    assert {two.metrics()[FINISHED] - before for _ in range(6)} == {16}  # whichever replica is asked


@pytest.mark.slow
def test_a_stream_comes_in_pieces_and_a_client_that_goes_cancels_it(two):
    stream = Stream(two, 1, 200)
    assert stream.is_whole
    assert len(stream.pieces) > 50
    cancelled = 'mmada_generations_total{kind="chat",outcome="cancelled"}'
    before = two.metrics().get(cancelled, 0)
    for streams in (True, False):
        going = http.client.HTTPConnection(*two.address, timeout=60)
        going.request("POST", "/v1/chat/completions", json.dumps(words(8, room=900, stream=streams)), {"Content-Type": "application/json"})
        if streams:
            going.getresponse().read1()
        else:
            time.sleep(0.3)
        going.sock.close() if going.sock else None
        going.close()
    two.wait_for(cancelled, before + 2)


@pytest.mark.slow
def test_a_replica_that_is_killed_takes_its_requests_alone_and_is_started_again(two):
    first = both(two)
    streams = [Stream(two, i, 600) for i in range(6)]
    os.kill(first[0], signal.SIGKILL)
    outcomes = [stream.is_whole for stream in streams]
    assert set(outcomes) == {True, False}
    for stream in streams:
        if not stream.is_whole:
            assert b"send the request again" in stream.pieces[-1]
    assert post(two, words(3))[0] == 200
    deadline = time.monotonic() + 60
    while len(set(pids(two)) - {first[0]}) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert len(set(pids(two)) - {first[0]}) == 2


@pytest.mark.slow
def test_replicas_are_replaced_without_a_lost_request_and_a_signal_drains_them(two):
    before = both(two)
    streams = [Stream(two, i, 400) for i in range(4)]
    assert two.process.pid is not None
    os.kill(two.process.pid, signal.SIGHUP)
    statuses = set()
    while "were replaced" not in two.log.read_text():
        statuses.add(post(two, words(5))[0])
        time.sleep(0.1)
    assert statuses == {200}
    assert all(stream.is_whole for stream in streams)
    assert not set(before) & set(pids(two))
    streams = [Stream(two, i, 400) for i in range(4)]
    two.process.terminate()
    assert all(stream.is_whole for stream in streams)
    two.process.join(60)
    assert two.process.exitcode == 0
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(two.url, timeout=5)
