"""200 requests of every kind at random moments, 30 % of them cancelled: each answer is what the request gets alone, and nothing stays behind."""

from __future__ import annotations

import asyncio
import base64
import io
import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmada.canvas import Hole
from mmada.generation.requests import ChatRequest, DrawRequest, EmptyAnswerError, FillRequest
from mmada.model.precision import multiplies_bfloat16
from mmada.pipeline import MMaDA

from ..lazy import later
from .process import Server, png, serving

openai = later("openai")

NUM_REQUESTS, CANCELLED = 200, 0.3


@dataclass
class Case:
    """A call through the client, and what the pipeline is asked for the same."""

    call: Callable[[openai.AsyncOpenAI], Any]
    request: object
    arrives: float
    leaves: float | None


def make_case(rng: random.Random, debug: Any, picture: Image.Image, *, within: float) -> Case:
    """within: seconds in which all arrive."""
    seed, words = rng.randrange(2**31), " ".join(rng.choices(["cat", "dog", "two", "über", "日本"], k=rng.randint(1, 12)))
    messages = [{"role": "user", "content": words}]
    stream = rng.random() < 0.5
    kind = rng.choice(["chat", "chat", "warm", "see", "think", "fill", "draw", "draw", "plan"])
    call: Callable[[openai.AsyncOpenAI], Any]
    request: object
    if kind == "fill":
        room = rng.randint(1, 12)
        request = FillRequest([words, Hole(room), " end"], seed=seed)

        def call(client):
            return client.completions.create(model="debug", prompt=words, suffix=" end", max_tokens=room, seed=seed, stream=stream)
    elif kind in ("draw", "plan"):
        size, scale, steps = rng.choice([(32, 32), (24, 48), (16, 16)]), rng.choice([0.0, 1.0, 2.5]), rng.randint(2, 10)
        think, best_of = kind == "plan", 1 if stream else rng.choice([1, 1, 2])
        request = DrawRequest(words, size=size, steps=steps, guidance_scale=scale, think=think, seed=seed, best_of=best_of)
        extra = {"guidance_scale": scale, "steps": steps, "seed": seed, "thinking": think, "best_of": best_of}

        def call(client):
            return client.images.generate(
                prompt=words, size=f"{size[1]}x{size[0]}", stream=stream, partial_images=1 if stream else 0, extra_body=extra
            )
    else:
        room, temperature = rng.randint(4, 40), 1.0 if kind == "warm" else 0.0
        block = rng.choice([4, 8, 16])
        params = debug.planner.text_params(temperature=temperature, block_length=block)
        images = [picture] if kind == "see" else []
        request = ChatRequest(words, images, kind == "think", room, params, seed)
        effort = "low" if kind == "think" else "none"
        if images:
            url = "data:image/png;base64," + base64.b64encode(png(picture)).decode()
            messages[0]["content"] = [{"type": "text", "text": words}, {"type": "image_url", "image_url": {"url": url}}]

        def call(client):
            return client.chat.completions.create(
                model="debug",
                messages=messages,
                max_completion_tokens=room,
                temperature=temperature,
                seed=seed,
                reasoning_effort=effort,
                stream=stream,
                extra_body={"block_length": block},
            )

    return Case(call, request, rng.uniform(0, within), rng.uniform(0, 0.3) if rng.random() < CANCELLED else None)


async def collect(reply: Any) -> Any:
    """What was answered, streamed or not, as text or as pixels."""
    if not isinstance(reply, openai.AsyncStream):
        if hasattr(reply, "choices"):
            choice = reply.choices[0]
            return choice.text if hasattr(choice, "text") else (choice.message.content, choice.message.reasoning_content or "")
        return pixels(reply.data[0].b64_json)
    text = thinking = ""
    is_chat, image = False, None
    async for event in reply:
        if hasattr(event, "b64_json"):
            image = event.b64_json
        elif hasattr(event.choices[0], "delta"):
            is_chat = True
            text += event.choices[0].delta.content or ""
            thinking += getattr(event.choices[0].delta, "reasoning_content", "")
        else:
            text += event.choices[0].text
    return pixels(image) if image else (text, thinking) if is_chat else text


def pixels(b64_json: str) -> bytes:
    return Image.open(io.BytesIO(base64.b64decode(b64_json))).convert("RGB").tobytes()


def alone(debug: Any, request: Any) -> Any:
    try:
        (result,) = debug.run([request])
    except EmptyAnswerError as error:
        (result,) = error.results
    if isinstance(request, DrawRequest):
        return result.image.tobytes()
    if isinstance(request, FillRequest):
        return debug.prompts.decode(result.token_ids)
    return result.text, result.thinking or ""


async def serve(cases: list[Case], server: Server) -> list[Any]:
    """Answers in order; None for those that were cancelled before they had one."""
    client = openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0, timeout=300)

    async def one(case: Case) -> Any:
        await asyncio.sleep(case.arrives)
        try:
            return await asyncio.wait_for(answered(case), case.leaves)
        except asyncio.TimeoutError:
            return None

    async def answered(case: Case) -> Any:
        return await collect(await case.call(client))

    async with client:
        return await asyncio.gather(*(one(case) for case in cases))


def memory(server: Server) -> int:
    """Resident kilobytes of the processes that serve."""
    status = "".join(Path(f"/proc/{pid}/status").read_text() for pid in server.pids())
    return sum(int(kilobytes) for kilobytes in re.findall(r"VmRSS:\s+(\d+)", status))


def growth(cases: list[Case], server: Server) -> int:
    """Kilobytes by which the server grows while it answers."""
    before = memory(server)
    asyncio.run(serve(cases, server))
    return memory(server) - before


def counted(outcome: str, metrics: dict[str, float]) -> float:
    """Generations that ended so, of all kinds."""
    return sum(value for name, value in metrics.items() if name.startswith("mmada_generations_total") and f'"{outcome}"' in name)


@pytest.fixture
def two_workers(tmp_path) -> Iterator[Server]:
    with serving(tmp_path / "log", "--workers", "2", "--threads", "1") as running:
        yield running


@pytest.fixture
def in_bfloat16(tmp_path) -> Iterator[Server]:
    if not multiplies_bfloat16():
        pytest.skip("this CPU has no instructions for products in bfloat16, and others promise no bits")
    with serving(tmp_path / "log", "--dtype", "bfloat16", "--threads", "1") as running:
        yield running


@pytest.mark.slow
@pytest.mark.parametrize("where", ["server", "two_workers", "in_bfloat16"])
def test_200_mixed_requests(where, request, debug, picture):
    if where == "in_bfloat16":
        debug = MMaDA.debug()
        debug.model.bfloat16()
    server: Server = request.getfixturevalue(where)
    rng = random.Random(0)
    within = 4 / len(server.pids())  # as much for each process
    cases = [make_case(rng, debug, picture, within=within) for _ in range(NUM_REQUESTS)]
    before = server.settled()
    answers = asyncio.run(serve(cases, server))

    finished = [(case, answer) for case, answer in zip(cases, answers, strict=True) if answer is not None]
    assert all(answer is not None for case, answer in zip(cases, answers, strict=True) if case.leaves is None)  # nobody starves
    wrong = [case.request for case, answer in finished if answer != alone(debug, case.request)]
    assert not wrong

    after = server.settled()
    assert after["mmada_generations_running"] == after["mmada_generations_waiting"] == after["mmada_cache_bytes"] == 0
    # How many of those that left had reached the engine by then depends on the machine; none of them is finished for nobody.
    deadline = time.monotonic() + 30
    while not counted("cancelled", after) > counted("cancelled", before):  # the engine counts at its next turn
        assert time.monotonic() < deadline
        time.sleep(0.1)
        after = server.metrics()
    num_left = len(cases) - len(finished)  # some leave as their answer comes
    assert counted("finished", after) - counted("finished", before) <= len(finished) + num_left // 4
    assert not any(
        "failed" in name and value > before.get(name, 0) for name, value in after.items() if name.startswith("mmada_generations_total")
    )
    generations, rounds = (
        after[f"mmada_round_generations_{what}"] - before[f"mmada_round_generations_{what}"] for what in ("sum", "count")
    )
    assert generations / rounds > 1.5 / len(server.pids())  # they did share rounds
    if where == "two_workers":
        first = re.findall(r"(?:chat|fill|draw) 0 finished", server.log.read_text())
        assert len(first) == 2, "each worker counts its own: both had something to do"

    # Allocators and thread pools reach their size sooner or later; what leaks grows every time.
    grown = [growth(cases, server)]
    while grown[-1] > 10_000 and len(grown) < 5:
        grown.append(growth(cases, server))
    assert grown[-1] <= 10_000, f"the server grew by {grown} kB"
