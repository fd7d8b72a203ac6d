"""What a change does to a loaded server: the same load on two checkouts, one after the other, several times.

    git worktree add ../before COMMIT
    python scripts/bench_throughput.py --before ../before --after-options "--workers 2" -o docs/results/serve_throughput.json

Each checkout serves in a process of its own, with its default settings and the options given. Four loads are measured:

    images    16 clients draw, without thinking            drawings per second
    planned   16 clients draw, with the model's defaults   drawings per second
    text      64 clients chat, with the model's defaults   chats per second
    alone     one client chats, alone and then beside 16 clients who draw    95th percentile of its seconds

Options of a third server, of the new checkout, make a third arm: --also-options "--workers 2 --dtype bfloat16".

A client sends its next request when the last one is answered, over a connection of its own. The client is a few lines of asyncio, since an
official client takes as long as a small model. Checkouts take turns, and medians over the turns are reported.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from mmada.eval import report
from mmada.hub.checkpoint import DEFAULT_MODEL

DRAWERS, CHATTERS = 16, 64
LONGEST = 40.0
"""Seconds in which no further chat beside the drawings begins."""
PROMPTS = ("two red hearts above a dog", "a blue star beside a cat", "three green apples", "a sun above a house")
QUESTIONS = ("Tom has 3 apples and buys 4. How many has he?", "What is 7 plus 5?", "What colour is the sky?", "What is 9 minus 4?")

Body = dict[str, Any]
Request = tuple[str, Body]


def chat(i: int) -> Request:
    messages = [{"role": "user", "content": QUESTIONS[i % len(QUESTIONS)]}]
    return "/v1/chat/completions", {"model": "bench", "messages": messages, "seed": i}


def plan_and_draw(i: int) -> Request:
    return "/v1/images/generations", {"model": "bench", "prompt": PROMPTS[i % len(PROMPTS)], "seed": i}


def draw(i: int) -> Request:
    path, body = plan_and_draw(i)
    return path, {**body, "thinking": False}


class Client:
    """One connection that is kept, and one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def post(self, request: Request) -> Body:
        path, body = request
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        self._writer.write(head.encode() + data)
        lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
        length = next(int(line.partition(":")[2]) for line in lines if line.startswith("content-length"))
        reply: Body = json.loads(await self._reader.readexactly(length))
        if not lines[0].endswith("200 ok"):
            raise SystemExit(f"{lines[0]}: {reply}")
        return reply


@asynccontextmanager
async def client(address: tuple[str, int]) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection(*address, limit=2**24)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()


async def load(address: tuple[str, int], num_clients: int, requests: Iterator[Request]) -> list[float]:
    """Seconds of each request, of clients who share them."""
    seconds: list[float] = []

    async def work() -> None:
        async with client(address) as one:
            for request in requests:
                begin = time.perf_counter()
                await one.post(request)
                seconds.append(time.perf_counter() - begin)

    await asyncio.gather(*(work() for _ in range(num_clients)))
    return seconds


async def rate(address: tuple[str, int], num_clients: int, make: Callable[[int], Request], count: int) -> float:
    """Requests per second."""
    begin = time.perf_counter()
    await load(address, num_clients, map(make, range(count)))
    return count / (time.perf_counter() - begin)


async def beside(address: tuple[str, int], count: int) -> list[float]:
    """Seconds of chats of one client while others draw all the time."""

    def forever() -> Iterator[Request]:
        i = 0
        while True:
            yield draw(i)
            i += 1

    drawing = asyncio.ensure_future(load(address, DRAWERS, forever()))
    try:
        await asyncio.sleep(2)
        end = time.monotonic() + LONGEST
        return await load(address, 1, map(chat, itertools.takewhile(lambda _: time.monotonic() < end, range(count))))
    finally:
        drawing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await drawing


def p95(seconds: Sequence[float]) -> float:
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]


def measured(address: tuple[str, int], *, scale: float) -> dict[str, float]:
    """All loads, after a warm-up."""

    async def run() -> dict[str, float]:
        await rate(address, 8, draw, 8)
        await rate(address, 8, chat, 8)
        images = await rate(address, DRAWERS, draw, int(96 * scale))
        planned = await rate(address, DRAWERS, plan_and_draw, int(96 * scale))
        text = await rate(address, CHATTERS, chat, int(512 * scale))
        alone = await load(address, 1, map(chat, range(int(100 * scale))))
        loaded = await beside(address, int(60 * scale))
        return {
            "images_per_second": images,
            "planned_images_per_second": planned,
            "texts_per_second": text,
            "chat_alone_p50_seconds": statistics.median(alone),
            "chat_alone_p95_seconds": p95(alone),
            "chat_loaded_p50_seconds": statistics.median(loaded),
            "chat_loaded_p95_seconds": p95(loaded),
            "chat_p95_loaded_over_alone": p95(loaded) / p95(alone),
        }

    return asyncio.run(run())


@contextmanager
def server(tree: Path, model: str, options: Sequence[str]) -> Iterator[tuple[str, int]]:
    """The address of a server of a checkout, inside the `with` block."""
    with tempfile.TemporaryFile("w+") as log:
        start = ["serve", "--model", model, "--port", "0", "--name", "bench", "--max-queue", "256", *options]
        command = [sys.executable, "-c", "from mmada.cli import main; main()", *start]
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=tree, env={**os.environ, "PYTHONPATH": str(tree)})
        try:
            while True:
                log.seek(0)
                text = log.read()
                if found := re.search(r"running on http://([^\s:]+):(\d+)", text):
                    break
                if process.poll() is not None:
                    raise SystemExit(f"the server did not start:\n{text}")
                time.sleep(0.1)
            yield found[1], int(found[2])
        finally:
            process.terminate()
            process.wait(60)


def commit_of(tree: Path) -> str:
    done = subprocess.run(["git", "-C", str(tree), "describe", "--always", "--dirty=+"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="a checkout of the old commit")
    parser.add_argument("--after", type=Path, default=Path(__file__).resolve().parents[1], help="a checkout of the new one")
    parser.add_argument("--before-options", default="", help="further options of its `mmada serve`")
    parser.add_argument("--after-options", default="", help="the same of the new one")
    parser.add_argument("--also-options", help="of a third server, of the new checkout; default: none")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of requests")
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/results/serve_throughput.json"))
    arguments = parser.parse_args()

    trees = {"before": arguments.before.resolve(), "after": arguments.after.resolve()}
    options = {"before": arguments.before_options.split(), "after": arguments.after_options.split()}
    if arguments.also_options is not None:
        trees["also"], options["also"] = trees["after"], arguments.also_options.split()
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in trees}
    for _ in range(arguments.turns):
        for name, tree in trees.items():
            with server(tree, arguments.model, options[name]) as address:
                turns[name].append(measured(address, scale=arguments.scale))
            print(name, {key: round(value, 3) for key, value in turns[name][-1].items()}, flush=True)
        report.save(arguments.output, summary(turns, arguments, {name: commit_of(tree) for name, tree in trees.items()}))


def summary(turns: dict[str, list[dict[str, float]]], arguments: argparse.Namespace, commits: dict[str, str]) -> dict[str, Any]:
    """Medians over the turns so far, and what they are to each other."""
    medians = {name: {key: round(statistics.median(turn[key] for turn in found), 4) for key in found[0]} for name, found in turns.items()}
    before = medians["before"]

    def ratios(name: str) -> dict[str, float]:
        after, suffix = medians[name], "" if name == "after" else f"_{name}"
        return {
            f"images_ratio{suffix}": round(after["images_per_second"] / before["images_per_second"], 2),
            f"planned_images_ratio{suffix}": round(after["planned_images_per_second"] / before["planned_images_per_second"], 2),
            f"text_ratio{suffix}": round(after["texts_per_second"] / before["texts_per_second"], 2),
            f"chat_p95_loaded_over_alone{suffix}": after["chat_p95_loaded_over_alone"],
        }

    return {
        "suite": "serve throughput",
        "environment": report.environment(" ".join(["python", "scripts/bench_throughput.py", *sys.argv[1:]])),
        "settings": {
            "model": arguments.model,
            "turns": len(turns["before"]),
            "drawing_clients": DRAWERS,
            "chatting_clients": CHATTERS,
            **{f"{name}_commit": commit for name, commit in commits.items()},
            "before_options": arguments.before_options,
            "after_options": arguments.after_options,
            **({} if arguments.also_options is None else {"also_options": arguments.also_options}),
        },
        **medians,
        **{key: value for name in medians if name != "before" for key, value in ratios(name).items()},
        "turns": {name: [{key: round(value, 4) for key, value in turn.items()} for turn in found] for name, found in turns.items()},
    }


if __name__ == "__main__":
    main()
