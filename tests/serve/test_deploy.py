"""deploy/: the containers' commands answer their own health check and end when they are told to; systemd accepts the unit."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
HEALTH = "import urllib.request as u; u.urlopen('http://127.0.0.1:{port}/health')"


def lines(name: str, instruction: str) -> list[str]:
    return re.findall(rf"^{instruction} (.*)$", (DEPLOY / name).read_text(), re.MULTILINE)


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.mark.parametrize("name", ["Dockerfile", "space.Dockerfile"])
def test_a_container_serves_until_it_is_stopped(name, tmp_path):
    command = [word for part in (*lines(name, "ENTRYPOINT"), *lines(name, "CMD")) for word in json.loads(part)]
    (exposed,) = lines(name, "EXPOSE")
    assert command[0] == "mmada"
    assert command[command.index("--port") + 1] == exposed
    port = free_port()
    command = [sys.executable, "-c", "from mmada.cli import main; main()", *(port if word == exposed else word for word in command[1:])]
    health = (
        shlex.split(lines(name, "HEALTHCHECK CMD")[0])[2].replace(exposed, port) if "HEALTHCHECK" in (DEPLOY / name).read_text() else ""
    )
    assert health in ("", HEALTH.format(port=port))
    log = tmp_path / "log"
    with log.open("w") as file:
        env = {**os.environ, "OMP_NUM_THREADS": "1", "MMADA_API_KEY": "secret"}
        process = subprocess.Popen([*command, "--model", "debug"], stdout=file, stderr=file, env=env)
    try:
        deadline = time.monotonic() + 120
        while subprocess.run([sys.executable, "-c", HEALTH.format(port=port)], capture_output=True, check=False).returncode:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()


def test_a_container_is_built_from_what_the_repository_has():
    for name in ("Dockerfile", "space.Dockerfile"):
        assert lines(name, "COPY") == [". /src"]
        assert "'/src[serve]'" in lines(name, "RUN")[0]
    assert {"runs", ".git", ".venv"} <= set((ROOT / ".dockerignore").read_text().split())


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_accepts_the_unit(tmp_path):
    unit = tmp_path / "mmada.service"
    text = (DEPLOY / "mmada.service").read_text()
    unit.write_text(text.replace("/opt/mmada/bin/mmada", sys.executable))  # which must exist
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    complaints = [line for line in done.stderr.splitlines() if "mmada.service" in line]
    assert not complaints


def test_the_unit_waits_longer_than_a_drain():
    text = (DEPLOY / "mmada.service").read_text()
    page = (ROOT / "docs" / "serve.md").read_text()
    drain = re.search(r"`--drain` \| (\d+) s", page)
    stop = re.search(r"TimeoutStopSec=(\d+)", text)
    assert drain is not None
    assert stop is not None
    assert int(stop[1]) > int(drain[1])
