"""A real server process on the debug model."""

from __future__ import annotations

import contextlib
import re
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path

from PIL import Image

from .. import processes
from ..lazy import later

openai = later("openai")


class Server:
    """`mmada serve --model debug` with options, in a process of its own. start: what the process calls with these words."""

    def __init__(
        self, log: Path, *options: str, start: Callable[[Sequence[str]], None] = processes.command_line, **environment: str
    ) -> None:
        self.log = log
        words = ["serve", "--model", "debug", "--device", "cpu", "--port", "0", *options]
        self.process = processes.start(start, words, out=log, env=environment, preload=processes.SERVING)

    def wait(self) -> Server:
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline and self.process.is_alive():
            if found := re.search(r"running on (http://\S+)", self.log.read_text()):
                self.url = found[1]
                return self
            time.sleep(0.05)
        raise AssertionError(f"the server did not start:\n{self.log.read_text()}")

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        return host, int(port)

    def pids(self) -> list[int]:
        """Of the processes that serve, in the order of their starts."""
        return [int(pid) for pid in re.findall(r"Started server process \[(\d+)\]", self.log.read_text())]

    def client(self, *, api_key: str = "any", max_retries: int = 0) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=api_key, max_retries=max_retries, timeout=300)

    def metrics(self) -> dict[str, float]:
        """Name with labels -> value."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=60) as answer:
            lines = answer.read().decode().splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}

    def settled(self, seconds: float = 60) -> dict[str, float]:
        """Metrics once nothing is running or waiting any more."""
        deadline = time.monotonic() + seconds
        while True:
            metrics = self.metrics()
            if not metrics["mmada_generations_running"] and not metrics["mmada_generations_waiting"]:
                return metrics
            assert time.monotonic() < deadline, metrics
            time.sleep(0.05)

    def wait_for(self, name: str, value: float, seconds: float = 60) -> None:
        """Until a metric has a value."""
        deadline = time.monotonic() + seconds
        while (seen := self.metrics().get(name, 0)) != value:
            assert time.monotonic() < deadline, f"{name} is {seen}, not {value}"
            time.sleep(0.05)

    def stop(self) -> int | None:
        """End it as a terminal does. Returns its exit code."""
        self.process.terminate()
        self.process.join(180)
        return self.process.exitcode


@contextlib.contextmanager
def serving(
    log: Path, *options: str, start: Callable[[Sequence[str]], None] = processes.command_line, **environment: str
) -> Iterator[Server]:
    server = Server(log, *options, start=start, **environment)
    try:
        yield server.wait()
    finally:
        server.process.kill()
        server.process.join(10)


def png(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
