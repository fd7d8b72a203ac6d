"""A server whose model two processes hold: answers of many clients, and what happens when one of the processes is gone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mmada.generation.requests import ChatRequest
from mmada.pipeline import MMaDA

from .process import Server

pytestmark = pytest.mark.slow

QUESTIONS = [f"What are {i} and {i + 1}?" for i in range(8)]


def asked(server, question):
    body = {"model": "debug", "messages": [{"role": "user", "content": question}], "max_tokens": 32, "seed": 3}
    request = urllib.request.Request(f"{server.url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.loads(answer.read())["choices"][0]["message"]["content"]


def status(server, path="/health"):
    try:
        return urllib.request.urlopen(f"{server.url}{path}", timeout=60).status
    except urllib.error.HTTPError as error:
        return error.code


def test_many_clients_share_passes_of_two_processes(tmp_path):
    server = Server(tmp_path / "log.txt", "--tensor-parallel", "2", "--threads", "1", "--cache", "dual").wait()
    try:
        with ThreadPoolExecutor(8) as clients:
            answers = list(clients.map(lambda question: asked(server, question), QUESTIONS))
        alone = MMaDA.debug().use(cache="dual")
        assert answers == [result.text for result in alone.run([ChatRequest(q, max_new_tokens=32, seed=3) for q in QUESTIONS])]
        assert status(server) == 200
        listed = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(server.process.pid)], capture_output=True, text=True, check=True)
        (follower,) = (int(line.split()[0]) for line in listed.stdout.splitlines() if "mmada.pipeline.followers" in line)
        os.kill(follower, signal.SIGKILL)
        with pytest.raises(urllib.error.HTTPError) as gone:
            asked(server, "Hello")
        assert gone.value.code == 503
        assert "the engine failed, and the server must be started again" in gone.value.read().decode()
        assert status(server) == 503
    finally:
        server.process.terminate()
        server.process.join(60)
    assert not server.process.is_alive()


def test_followers_end_with_their_server(tmp_path):
    server = Server(tmp_path / "log.txt", "--tensor-parallel", "2", "--threads", "1").wait()
    listed = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(server.process.pid)], capture_output=True, text=True, check=True)
    (follower,) = (int(line.split()[0]) for line in listed.stdout.splitlines() if "mmada.pipeline.followers" in line)
    server.process.terminate()
    server.process.join(60)
    assert server.process.exitcode == 0
    deadline = time.monotonic() + 30
    while Path(f"/proc/{follower}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(f"/proc/{follower}").exists()
