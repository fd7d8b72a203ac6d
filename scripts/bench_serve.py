"""Load a server with 1, 4, 16 and 64 clients: requests per second, latency, time to the first block. Then overload it.

    python scripts/bench_serve.py -o docs/results/serve.json

Starts `mmada serve` as a process of its own, with as many threads as torch takes, and drives it with the official client.
Each client sends its next request when the last one is answered, until all requests of the level are sent.
Half of the requests are streamed questions, half are drawings without thinking. The results also report each kind apart.
The first block of an answer is its first words. A drawing has one block, the image. A warm-up is not counted.
Overload sends more requests at once than the server can run and queue.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai

from mmada.eval import report
from mmada.hub.checkpoint import DEFAULT_MODEL

LEVELS = (1, 4, 16, 64)
PROMPTS = ("two red hearts above a dog", "a blue star beside a cat", "three green apples", "a sun above a house")
QUESTIONS = ("Tom has 3 apples and buys 4. How many has he?", "What is 7 plus 5?", "What colour is the sky?", "What is 9 minus 4?")


@dataclass(frozen=True, slots=True)
class Served:
    """One answered request; seconds."""

    kind: str
    latency: float
    first_block: float


async def chat(client: openai.AsyncOpenAI, model: str, i: int) -> Served:
    begin, first = time.perf_counter(), None
    messages: Any = [{"role": "user", "content": QUESTIONS[i % len(QUESTIONS)]}]
    async for chunk in await client.chat.completions.create(model=model, messages=messages, seed=i, stream=True):
        if first is None and chunk.choices and chunk.choices[0].delta.content:
            first = time.perf_counter() - begin
    latency = time.perf_counter() - begin
    return Served("chat", latency, latency if first is None else first)


async def draw(client: openai.AsyncOpenAI, model: str, i: int) -> Served:
    begin = time.perf_counter()
    await client.images.generate(model=model, prompt=PROMPTS[i % len(PROMPTS)], extra_body={"seed": i, "thinking": False})
    latency = time.perf_counter() - begin
    return Served("draw", latency, latency)


async def level(url: str, model: str, concurrency: int, num_requests: int) -> dict[str, Any]:
    """`concurrency` clients share `num_requests`, questions and drawings in turn."""
    todo = iter(range(num_requests))
    served: list[Served] = []

    async def work(client: openai.AsyncOpenAI) -> None:
        for i in todo:
            served.append(await (chat if i % 2 else draw)(client, model, i // 2))

    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=600) as client:
        begin = time.perf_counter()
        await asyncio.gather(*(work(client) for _ in range(concurrency)))
        seconds = time.perf_counter() - begin
    return {
        "concurrency": concurrency,
        "requests": len(served),
        "seconds": round(seconds, 2),
        "requests_per_second": round(len(served) / seconds, 3),
        "all": spread(served),
        **{kind: spread([s for s in served if s.kind == kind]) for kind in ("chat", "draw")},
    }


def spread(served: Sequence[Served]) -> dict[str, float]:
    latency, first = sorted(s.latency for s in served), sorted(s.first_block for s in served)
    return {
        "p50_seconds": round(statistics.median(latency), 4),
        "p95_seconds": round(latency[min(len(latency) - 1, int(0.95 * len(latency)))], 4),
        "first_block_p50_seconds": round(statistics.median(first), 4),
        "first_block_p95_seconds": round(first[min(len(first) - 1, int(0.95 * len(first)))], 4),
    }


async def overload(url: str, model: str, num_requests: int) -> dict[str, Any]:
    """All requests at once: how many are refused with 429, and how long a request takes afterward."""

    async def attempt(client: openai.AsyncOpenAI, i: int) -> str:
        try:
            await draw(client, model, i)
        except openai.RateLimitError:
            return "refused"
        return "served"

    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=600) as client:
        outcomes = await asyncio.gather(*(attempt(client, i) for i in range(num_requests)))
        begin = time.perf_counter()
        await draw(client, model, 0)
        after = time.perf_counter() - begin
    return {
        "requests": num_requests,
        "served": outcomes.count("served"),
        "refused": outcomes.count("refused"),
        "latency_afterwards_seconds": round(after, 4),
    }


@contextmanager
def server(model: str, *options: str) -> Iterator[str]:
    """The address of a server that runs inside the `with` block."""
    with tempfile.TemporaryFile("w+") as log:
        command = [
            sys.executable,
            "-c",
            "from mmada.cli import main; main()",
            "serve",
            "--model",
            model,
            "--port",
            "0",
            "--name",
            "bench",
            *options,
        ]
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            while True:
                log.seek(0)
                text = log.read()
                if found := re.search(r"running on (http://\S+)", text):
                    break
                if process.poll() is not None:
                    raise SystemExit(f"the server did not start:\n{text}")
                time.sleep(0.1)
            yield f"{found[1]}/v1"
        finally:
            process.terminate()
            process.wait(60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--dtype", default="auto", help="of the model, as `mmada serve` takes it")
    parser.add_argument("--requests", type=int, default=64, help="of each level; at least its clients")
    parser.add_argument("--levels", type=int, nargs="+", default=LEVELS)
    parser.add_argument("--queue", type=int, default=16, help="of the overloaded server")
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/results/serve.json"))
    arguments = parser.parse_args()

    levels = []
    with server(arguments.model, "--dtype", arguments.dtype, "--max-queue", "256") as url:
        asyncio.run(level(url, "bench", 4, 8))
        for concurrency in arguments.levels:
            levels.append(asyncio.run(level(url, "bench", concurrency, max(arguments.requests, concurrency))))
            one = levels[-1]
            print(
                f"{concurrency:>3} clients  {one['requests_per_second']:.2f} requests/s  p50 {one['all']['p50_seconds']:.2f} s", flush=True
            )
    with server(
        arguments.model, "--dtype", arguments.dtype, "--max-queue", str(arguments.queue), "--max-num-batched-tokens", "1024"
    ) as url:
        overloaded = asyncio.run(overload(url, "bench", 8 * arguments.queue))
    print(f"overload: {overloaded['served']} served, {overloaded['refused']} refused with 429", flush=True)
    rates = {one["concurrency"]: one["requests_per_second"] for one in levels}
    results = {
        "suite": "serve",
        "environment": report.environment(" ".join(["python", "scripts/bench_serve.py", *sys.argv[1:]])),
        "settings": {
            "model": arguments.model,
            "dtype": arguments.dtype,
            "requests": arguments.requests,
            "queue_of_overload": arguments.queue,
        },
        "levels": levels,
        "throughput_16_over_1": round(rates[16] / rates[1], 3) if {1, 16} <= set(rates) else None,
        "overload": overloaded,
    }
    report.save(arguments.output, results)


if __name__ == "__main__":
    main()
