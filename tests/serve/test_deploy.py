"""deploy/: the containers' commands answer their own health check and end when they are told to; systemd accepts the unit."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .process import serving

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def lines(name: str, instruction: str) -> list[str]:
    return re.findall(rf"^{instruction} (.*)$", (DEPLOY / name).read_text(), re.MULTILINE)


@pytest.mark.parametrize("name", ["Dockerfile", "space.Dockerfile"])
def test_a_container_serves_until_it_is_stopped(name, tmp_path):
    command = [word for part in (*lines(name, "ENTRYPOINT"), *lines(name, "CMD")) for word in json.loads(part)]
    (exposed,) = lines(name, "EXPOSE")
    assert command[:2] == ["mmada", "serve"]
    assert command[command.index("--port") + 1] == exposed
    (health,) = lines("Dockerfile", "HEALTHCHECK CMD")
    assert ":8000/health" in health
    options = ["0" if word == exposed else word for word in command[2:]]
    with serving(tmp_path / "log", *options, MMADA_API_KEY="secret") as server:
        code = shlex.split(health)[2].replace(":8000/", f":{server.address[1]}/")
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
        assert server.stop() == 0


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
