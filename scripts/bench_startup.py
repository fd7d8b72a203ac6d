"""Seconds from the start of a process to its end, for commands that need a model and commands that need none.

    python scripts/bench_startup.py -o docs/results/startup.json

Each command runs in processes of its own, all commands in turn, so that a busy minute falls on all of them. `ratio` is the median in
units of `python -c "import torch"`. What each command imports is kept by tests/test_startup.py.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

MAIN = ("-c", "import sys; from mmada.cli import main; main()")
COMMANDS: dict[str, tuple[str, ...]] = {
    "import torch": ("-c", "import torch"),
    "import mmada": ("-c", "import mmada"),
    "python": ("-c", "pass"),
    "mmada --help": (*MAIN, "--help"),
    "mmada draw --nonsense": (*MAIN, "draw", "--nonsense"),
    "mmada ask missing.png": (*MAIN, "ask", "missing.png", "what?"),
    "mmada chat --model /no/such/dir": (*MAIN, "chat", "hello", "--model", "/no/such/dir"),
    "mmada chat": (*MAIN, "chat", "what is a dog?"),
    "mmada ask": (*MAIN, "ask", "red.png", "what is this?"),
    "mmada draw": (*MAIN, "draw", "a red heart", "-o", "out.png"),
}


def seconds(arguments: tuple[str, ...], directory: str) -> float:
    """Of one run."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=directory, capture_output=True, check=False)
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--out", type=Path, help="JSON file to write")
    parser.add_argument("-n", "--runs", type=int, default=7)
    options = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as directory:
        Image.new("RGB", (64, 64), "red").save(Path(directory) / "red.png")
        for arguments in COMMANDS.values():
            seconds(arguments, directory)  # files into the cache of the machine
        for _ in range(options.runs):
            for name, arguments in COMMANDS.items():
                times[name].append(seconds(arguments, directory))
    unit = statistics.median(times["import torch"])
    results = {
        name: {"median": round(statistics.median(t), 3), "least": round(min(t), 3), "ratio": round(statistics.median(t) / unit, 2)}
        for name, t in times.items()
    }
    where = {"machine": f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}", "runs": options.runs}
    text = json.dumps({**where, "load": round(os.getloadavg()[0], 2), "seconds": results}, indent=2) + "\n"
    print(text)
    if options.out is not None:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
