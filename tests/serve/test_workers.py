"""Two workers behind one port answer as one does; one that is killed takes its own connections alone."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator

import pytest

from mmada.errors import InputError
from mmada.serve.board import Board, Place
from mmada.serve.workers import _Terminal, device_of_worker, listen

from .process import Server, serving

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not hasattr(os, "fork") or not hasattr(socket, "send_fds"), reason="needs fork and send_fds"),
]


def words(i: int, *, room: int = 16, stream: bool = False) -> dict[str, object]:
    messages = [{"role": "user", "content": f"Say {i}"}]
    return {"messages": messages, "seed": i, "max_completion_tokens": room, "block_length": 1, "stream": stream}


class Connection:
    """One that is kept. A worker has it for good."""

    def __init__(self, server: Server) -> None:
        self.socket = socket.create_connection(server.address, timeout=60)
        self.file = self.socket.makefile("rb")

    def send(self, body: dict[str, object]) -> None:
        data = json.dumps(body).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        self.socket.sendall(head.encode() + data)

    def head(self) -> dict[str, str]:
        status, *lines = iter(lambda: self.file.readline().decode().strip(), "")
        return {"status": status.split()[1], **{name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}}

    def answer(self, body: dict[str, object]) -> str:
        self.send(body)
        head = self.head()
        reply = json.loads(self.file.read(int(head["content-length"])))
        assert head["status"] == "200", reply
        return reply["choices"][0]["message"]["content"]

    def begin(self, body: dict[str, object]) -> None:
        """Ask for a stream, and read its first event."""
        self.send(body)
        assert self.head()["status"] == "200"
        assert self.chunk().startswith("data: ")

    def chunk(self) -> str:
        """The next chunk of a stream; "" at its end."""
        line = self.file.readline()
        if not line:
            raise ConnectionError("cut off")
        size = int(line, 16)
        text = self.file.read(size).decode()
        if len(text) < size:
            raise ConnectionError("cut off")
        self.file.readline()
        return text

    def rest(self) -> str:
        return "".join(iter(self.chunk, ""))

    def close(self) -> None:
        self.file.close()
        self.socket.close()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("workers") / "log", "--workers", "2") as running:
        yield running


def until(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_connections_are_spread_and_both_workers_answer_as_one(two, server):
    connections = [Connection(two) for _ in range(4)]
    alone = Connection(server)
    before = two.settled()
    for i, connection in enumerate(connections):
        assert connection.answer(words(i)) == alone.answer(words(i))
    rounds = re.findall(r"chat (\d+) finished", two.log.read_text())
    assert len(rounds) == 4
    assert rounds.count("0") == 2  # each worker counts its own: two of four connections went to each
    after = two.settled()
    finished = 'mmada_generations_total{kind="chat",outcome="finished"}'
    assert after[finished] - before.get(finished, 0) == 4  # whichever worker is asked
    assert after['mmada_generation_seconds_count{kind="chat"}'] - before.get('mmada_generation_seconds_count{kind="chat"}', 0) == 4
    for connection in (*connections, alone):
        connection.close()


def test_a_stream_is_the_whole_answer_and_a_client_that_goes_cancels_it(two):
    asking, going = Connection(two), Connection(two)
    whole = asking.answer(words(7))
    asking.begin(words(7, stream=True))
    events = [json.loads(line[6:]) for line in asking.rest().splitlines() if line.startswith("data: {")]
    assert "".join(event["choices"][0]["delta"].get("content") or "" for event in events if event["choices"]) == whole
    cancelled = 'mmada_generations_total{kind="chat",outcome="cancelled"}'
    before = two.metrics().get(cancelled, 0)
    going.begin(words(8, room=400, stream=True))
    going.close()
    two.wait_for(cancelled, before + 1)
    asking.close()


def test_the_queue_is_shared_and_health_counts_all(tmp_path):
    with serving(tmp_path / "log", "--workers", "2", "--max-queue", "2", "--max-n", "2", "--max-num-batched-tokens", "1") as server:
        connections = [Connection(server) for _ in range(8)]
        statuses: list[str] = []

        def ask(connection: Connection) -> None:
            with contextlib.suppress(OSError, ValueError):  # hung up below
                connection.send(words(1, room=200))
                statuses.append(connection.head()["status"])

        threads = [threading.Thread(target=ask, args=(connection,)) for connection in connections]
        for thread in threads:
            thread.start()
        until(lambda: statuses.count("429") >= 3)
        with urllib.request.urlopen(f"{server.url}/health", timeout=60) as answer:
            assert 2 <= json.load(answer)["generations"] <= 5  # two run, two wait, and one may slip in between two looks
        for connection in connections:
            connection.socket.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()


def test_a_worker_that_is_killed_takes_its_streams_alone_and_is_started_again(two):
    streams = [Connection(two) for _ in range(2)]
    for i, stream in enumerate(streams):
        stream.begin(words(i, room=300, stream=True))
    first = two.pids()[0]
    os.kill(first, signal.SIGKILL)
    outcomes = []
    for stream in streams:
        try:
            outcomes.append("[DONE]" in stream.rest())
        except (ConnectionError, OSError):
            outcomes.append(False)
    assert sorted(outcomes) == [False, True]
    during = Connection(two)
    assert during.answer(words(3))
    until(lambda: len(two.pids()) == 3)
    assert f"(process {first}) ended with -9" in two.log.read_text()
    before = two.settled()
    again = [Connection(two) for _ in range(2)]
    assert again[0].answer(words(3)) == again[1].answer(words(3)) == during.answer(words(3))
    finished = 'mmada_generations_total{kind="chat",outcome="finished"}'
    assert two.settled()[finished] - before[finished] == 3  # what the dead one had counted is still there
    for connection in (during, *again, *streams):
        connection.close()


def test_a_signal_drains_all_workers_and_one_that_is_being_replaced(two):
    streams = [Connection(two) for _ in range(2)]
    for i, stream in enumerate(streams):
        stream.begin(words(i, room=400, stream=True))
    workers = two.pids()
    os.kill(two.process.pid, signal.SIGHUP)
    until(lambda: two.log.read_text().count("Shutting down") == 1)
    two.process.terminate()
    assert all("[DONE]" in stream.rest() for stream in streams)
    two.process.join(60)
    assert two.process.exitcode == 0
    for pid in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(two.address, timeout=5)


def test_workers_are_replaced_in_turn_without_losing_or_refusing_requests(tmp_path):
    with serving(tmp_path / "log", "--workers", "2") as server:
        before = server.pids()
        streams = [Connection(server) for _ in range(2)]
        for i, stream in enumerate(streams):
            stream.begin(words(i, room=400, stream=True))
        assert server.process.pid is not None
        os.kill(server.process.pid, signal.SIGHUP)
        until(lambda: "Shutting down" in server.log.read_text())
        assert "finished" not in server.log.read_text()  # the worker ends while its stream runs
        answers = []
        while len(server.pids()) < 4 or server.log.read_text().count("Application startup complete") < 4:
            asking = Connection(server)  # a new one each time: a worker that leaves closes those that wait
            answers.append(asking.answer(words(1)))
            asking.close()
        for stream in streams:
            assert "[DONE]" in stream.rest()
            stream.close()
        assert len(set(answers)) == 1
        for pid in before:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)
        text = server.log.read_text()
        assert text.count("finishes its requests, and is replaced") == 2
        assert "it is started again" not in text
        assert server.stop() == 0


def test_a_closed_terminal_is_no_request_to_replace():
    pid, terminal = pty.fork()
    if not pid:
        found, seen = _Terminal(), []
        signal.signal(signal.SIGHUP, lambda *_: seen.append(found.has_closed()))
        signal.alarm(30)
        os.kill(os.getpid(), signal.SIGHUP)
        os.write(1, b"!")
        while len(seen) < 2:  # a signal that came before does not end a pause
            time.sleep(0.01)
        os._exit(0 if seen == [False, True] else 1)
    assert os.read(terminal, 1) == b"!"
    os.close(terminal)
    assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.parametrize(
    ("number", "device", "num_gpus", "chosen"),
    [
        (0, None, 2, "cuda:0"),
        (3, None, 2, "cuda:1"),
        (1, "cuda", 2, "cuda:1"),
        (1, "cuda:0", 2, "cuda:0"),
        (1, "cpu", 2, "cpu"),
        (1, None, 0, None),
    ],
)
def test_workers_take_the_gpus_in_turn(number, device, num_gpus, chosen):
    assert device_of_worker(number, device, num_gpus) == chosen


def test_a_wrong_model_and_a_taken_port_are_errors_once(tmp_path):
    server = Server(tmp_path / "log", "--workers", "2", "--image-tokenizer", "nowhere")
    server.process.join(60)
    assert server.process.exitcode not in (0, None)
    assert server.log.read_text().count("nowhere") == 1
    (taken,) = listen("127.0.0.1", 0)
    with pytest.raises(InputError, match="choose another --port"):
        listen("127.0.0.1", taken.getsockname()[1])
    taken.close()


def test_a_board_sums_over_the_others():
    places = [Place(board, worker) for board in [Board(3)] for worker in range(3)]
    for worker, place in enumerate(places):
        place.write("waiting", 10**worker)
        place.add("closed", 1)
    assert [place.elsewhere("waiting") for place in places] == [110, 101, 11]
    places[0].board.clear(1)
    assert [place.elsewhere("waiting") for place in places] == [100, 101, 1]
    assert places[0].elsewhere("closed") == 1
