"""No body under the limits holds what others wait for: the event loop, the engine's thread, and the threads that read texts, fit pictures
and draw do a bounded amount of work for it. Pictures are decoded in processes of their own, which are killed (test_pictures).

Work is CPU time of the thread, so that a busy machine does not count; the model's own passes, which are the scheduler's to bound, do not either.
Hypothesis looks for the body that costs most, over every field of every endpoint.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, given, settings, target
from hypothesis import strategies as st
from PIL import Image
from pydantic import BaseModel

from mmada.generation.settings import ORDER_NAMES
from mmada.serve.config import ServeConfig
from mmada.serve.engine import ServingEngine
from mmada.serve.http import create_app
from mmada.serve.request_parser import RequestParser
from mmada.serve.schema import ChatBody, CompletionBody, EditBody, GenerationBody, VariationForm

from .hostile import many_scans
from .process import png

BUDGETS = {"loop": 0.15, "engine": 0.15, "read": 0.5, "fit": 0.5, "pictures": 0.5}
"""Seconds of CPU for one turn of the event loop or the engine, and for one piece of work in a thread of each kind.

Each of the attacks that this holds off took seconds, and a body of 20 MB is parsed in 0.03.
"""
CONFIG = ServeConfig(max_n=4, max_steps=64)
PIECE = 65536


class _MeteredLoop(asyncio.SelectorEventLoop):
    """Knows the costliest of its turns."""

    most = 0.0

    def _run_once(self) -> None:
        begun = time.thread_time()
        super()._run_once()  # type: ignore[misc]
        self.most = max(self.most, time.thread_time() - begun)


class _MeteredPool(ThreadPoolExecutor):
    """Knows the costliest piece of work of each kind of thread."""

    most: ClassVar[dict[str, float]] = {}

    def __init__(self, max_workers: int, thread_name_prefix: str) -> None:
        super().__init__(max_workers, thread_name_prefix)
        self._kind = thread_name_prefix.removeprefix("mmada-")

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        def metered() -> Any:
            begun = time.thread_time()
            try:
                return work(*arguments, **named)
            finally:
                self.most[self._kind] = max(self.most.get(self._kind, 0.0), time.thread_time() - begun)

        return super().submit(metered)


class _Meter:
    """An application of the debug model, and what a request costs of all that requests share."""

    def __init__(self, debug) -> None:
        self._passes = self._most = 0.0
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("mmada.serve.engine.ThreadPoolExecutor", _MeteredPool)
            patch.setattr("mmada.serve.http.ThreadPoolExecutor", _MeteredPool)
            self._engine = ServingEngine(debug.planner, self._denoiser(debug.denoiser), CONFIG)
            self._engine._turn = self._metered(self._engine._turn)  # type: ignore[method-assign]
            self._app = create_app(self._engine, RequestParser(debug.planner, CONFIG, factor=debug.image_tokenizer.factor), CONFIG)
        self._runner = asyncio.Runner(loop_factory=_MeteredLoop)
        self._lifespan = self._app.router.lifespan_context(self._app)
        self._runner.run(self._lifespan.__aenter__())

    def close(self) -> None:
        self._runner.run(self._lifespan.__aexit__(None, None, None))
        self._runner.close()

    def _denoiser(self, denoiser) -> Callable[[Any], Any]:
        def metered(queries):
            begun = time.thread_time()
            answers = denoiser(queries)
            self._passes += time.thread_time() - begun
            return answers

        return metered

    def _metered(self, turn: Callable[[], bool]) -> Callable[[], bool]:
        def metered() -> bool:
            self._passes, begun = 0.0, time.thread_time()
            goes_on = turn()
            self._most = max(self._most, time.thread_time() - begun - self._passes)
            return goes_on

        return metered

    def cost(self, path: str, data: bytes, kind: str = "application/json") -> tuple[int, dict[str, float]]:
        """Status, and CPU seconds of the costliest turn or piece of work of each kind."""
        loop = self._runner.get_loop()
        loop.most = self._most = 0.0
        _MeteredPool.most.clear()
        status = self._runner.run(self._ask(path, data, kind))
        return status, {"loop": loop.most, "engine": self._most, **_MeteredPool.most}

    async def _ask(self, path: str, data: bytes, kind: str) -> int:
        pieces = [data[i : i + PIECE] for i in range(0, len(data), PIECE)] or [b""]
        status: list[int] = []

        async def receive() -> dict[str, Any]:
            if pieces:
                return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: dict[str, Any]) -> None:
            status.append(message.get("status", 0))

        headers = [(b"content-type", kind.encode()), (b"host", b"localhost")]
        scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"", "headers": headers}
        await self._app({**scope, "http_version": "1.1", "scheme": "http", "client": None, "root_path": ""}, receive, send)
        return status[0]


@pytest.fixture(scope="module")
def meter(debug) -> Iterator[_Meter]:
    meter = _Meter(debug)
    yield meter
    meter.close()


def within(costs: dict[str, float]) -> float:
    """Of its budget, the share that the costliest takes."""
    return max(cost / BUDGETS[kind] for kind, cost in costs.items())


def form(values: dict[str, object], files: dict[str, bytes]) -> bytes:
    """multipart/form-data with the boundary x."""
    parts = [f'form-data; name="{name}"\r\n\r\n{value}'.encode() for name, value in values.items()]
    parts += [f'form-data; name="{name}"; filename="{name}"\r\n\r\n'.encode() + data for name, data in files.items()]
    return b"".join(b"--x\r\nContent-Disposition: " + part + b"\r\n" for part in parts) + b"--x--\r\n"


class _Body:
    """A body of many bytes, shown by a few. files: of a form; None: it is JSON."""

    def __init__(self, value: dict[str, object], files: dict[str, bytes] | None = None) -> None:
        self.kind = "application/json" if files is None else "multipart/form-data; boundary=x"
        self.data = json.dumps(value, ensure_ascii=False).encode() if files is None else form(value, files)

    def __repr__(self) -> str:
        return f"{len(self.data)} bytes: {self.data[:100]!r}"


PICTURES = {
    "small": png(Image.new("L", (8, 8))),
    "scans": many_scans(20, side=512),
    "large": png(Image.new("1", (4000, 4000))),
    "none": b"x" * 10**6,
    "open": png(Image.new("RGBA", (64, 64))),  # an edit needs no mask beside it
}
letters = st.sampled_from(["a", " ", "é", "\U0001f600", "<think>", "</think>", "\n", ",", "\\", "[MASK]", "red heart and ", "2 + "])
lengths = st.sampled_from([1, 300, 700, 4000, 65536])
counts = st.sampled_from([1, 30, 1024, 1025])
texts = st.builds(lambda letter, length: (letter * length)[:length], letters, lengths)
pictures = st.sampled_from(list(PICTURES.values())).map(lambda data: "data:image/png;base64," + base64.b64encode(data).decode())
looks = pictures.map(lambda url: {"type": "image_url", "image_url": {"url": url}})
parts = st.builds(lambda part, count: [part] * count, st.one_of(looks, texts.map(lambda text: {"type": "text", "text": text})), counts)
messages = st.builds(
    lambda content, count: [{"role": "user", "content": content}] * min(count, 200_000 // len(json.dumps(content)) + 1),
    st.one_of(texts, parts.filter(lambda p: len(p) <= 30)),
    counts,
)
stops = st.builds(
    lambda letter, length, count: [letter * length + str(i) for i in range(count)],
    letters,
    st.sampled_from([1, 250, 4000]),
    st.integers(1, 16),
)
few, tag = st.integers(1, 4), st.just(1)
share, scale = st.sampled_from([0.01, 0.5, 1.0]), st.sampled_from([0.0, 1.0, 7.5])
common = {
    "n": few,
    "stream": st.booleans(),
    "seed": tag,
    "service_tier": st.sampled_from(["flex", "priority"]),
    "metadata": counts.map(lambda count: [[{}]] * count * 30),
    "model": st.sampled_from(["debug", "m" * 10**5]),
}
written = {
    **common,
    "stop": stops,
    "logit_bias": st.integers(1, 301).map(lambda count: {str(i): -1 for i in range(count)}),
    "frequency_penalty": share,
    "presence_penalty": share,
    "repetition_penalty": share.map(lambda value: 1 + value),
    "temperature": scale,
    "top_p": share,
    "top_k": few,
    "min_p": share,
    "ignore_eos": st.booleans(),
    "block_length": st.sampled_from([1, 8, 1024]),
    "threshold": share,
    "steps": st.sampled_from([1, 8, 64]),
    "max_nfe": few,
    "guidance_scale": scale,
    "cache": st.sampled_from(["none", "prefix", "dual"]),
    "stream_options": st.fixed_dictionaries(
        {"include_drafts": st.just(True)}, optional={"top_logprobs": st.just(20), "include_usage": st.booleans()}
    ),
}
drawn = {
    **common,
    "steps": st.sampled_from([1, 2]),
    "num_inference_steps": st.just(2),
    "quality": st.just("low"),
    "guidance_scale": scale,
    "image_cache": st.sampled_from(["none", "max-logit"]),
    "image_threshold": st.sampled_from([0.5, 1]),
    "best_of": few,
    "negative_prompt": texts,
    "size": st.sampled_from(["1024x1024", "120x124", "9" * 10**5]),
    "response_format": st.sampled_from(["b64_json", "url"]),
    "output_format": st.sampled_from(["png", "webp"]),
    "output_compression": st.just(100),
    "background": st.just("opaque"),
    "partial_images": st.sampled_from([1, 64]),
    "include_trace": st.just(True),
    "top_logprobs": st.just(20),
}
FIELDS: dict[type[BaseModel], dict[str, st.SearchStrategy[Any]]] = {
    ChatBody: {
        **written,
        "messages": messages,
        "max_completion_tokens": st.sampled_from([8, 100]),
        "max_tokens": st.just(8),
        "reasoning_effort": st.sampled_from(["none", "low"]),
        "reasoning": st.just({"effort": "low"}),
        "chat_template_kwargs": st.just({"enable_thinking": True}),
        "strict": st.booleans(),
        "calculator": st.just(False),
    },
    CompletionBody: {
        **written,
        "prompt": st.one_of(texts, st.builds(lambda text, count: [text] * min(count, 10**6 // len(text) + 1), texts, counts)),
        "suffix": texts,
        "max_tokens": st.just(8),
    },
    GenerationBody: {**drawn, "prompt": texts, "strict": st.booleans(), "thinking": st.booleans()},
    EditBody: {
        **drawn,
        "prompt": texts,
        "images": st.builds(lambda url, count: [{"image_url": url}] * count, pictures, st.sampled_from([1, 1, 17])),
        "mask": pictures.map(lambda url: {"image_url": url}),
        "image_guidance_scale": scale,
        "order": st.sampled_from(ORDER_NAMES),
        "text_steps": st.sampled_from([1, 8, 1024]),
        "max_completion_tokens": st.sampled_from([8, 100]),
        "restyle": st.booleans(),
        "thinking": st.booleans(),
    },
    VariationForm: {**drawn, "prompt": texts, "strength": share},
}
"""What a client may send in each field."""
NEEDED = {"messages", "prompt", "images"}


def sent(body: type[BaseModel]) -> st.SearchStrategy[dict[str, Any]]:
    """Values for some fields: one or two beside what is needed, since a body of many contradicts itself and is refused."""

    def chosen(names: list[str]) -> st.SearchStrategy[dict[str, Any]]:
        also = {
            "stream_options": ["stream"],
            "partial_images": ["stream"],
            "include_trace": ["stream"],
            "top_logprobs": ["include_trace", "stream"],
        }
        wanted = {*NEEDED & set(FIELDS[body]), *names, *(other for name in names for other in also.get(name, ()))}
        strategies = {name: FIELDS[body][name] for name in wanted}
        return st.fixed_dictionaries({**strategies, **({"stream": st.just(True)} if any(name in also for name in names) else {})})

    return st.lists(st.sampled_from(sorted(FIELDS[body])), max_size=3, unique=True).flatmap(chosen)


uploads = st.sampled_from(list(PICTURES.values()))
BODIES = {
    "/v1/chat/completions": sent(ChatBody).map(_Body),
    "/v1/completions": sent(CompletionBody).map(_Body),
    "/v1/images/generations": sent(GenerationBody).map(_Body),
    "/v1/images/edits": sent(EditBody).map(_Body),
    "/v1/images/variations": st.builds(_Body, sent(VariationForm), uploads.map(lambda data: {"image": data})),
}


def test_every_field_of_every_endpoint_is_tried():
    for body, strategies in FIELDS.items():
        assert set(strategies) - {"metadata"} == set(body.model_fields), body


@pytest.mark.parametrize("path", BODIES)
def test_the_costliest_body(meter, path):
    meter.cost(path, b"{}")  # what is done once

    # Nothing is made smaller: a body that costs too much is found by its beginning.
    phases = [Phase.generate, Phase.target]
    health = list(HealthCheck)

    @settings(max_examples=8, deadline=None, derandomize=True, database=None, suppress_health_check=health, phases=phases)
    @given(BODIES[path])
    def check(body: _Body) -> None:
        status, costs = meter.cost(path, body.data, body.kind)
        assert status in (200, 400, 404, 413), body
        target(within(costs))
        if within(costs) >= 1:  # a collection of garbage may have fallen into it; what costs too much does so again
            _, costs = meter.cost(path, body.data, body.kind)
        assert within(costs) < 1, (body, costs)

    check()


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"--x\r\nContent-Disposition: form-data; name=image; filename=a\r\n\r\n" + b"\r\n--" * 10**6 + b"\r\n--x--", 400),
        (b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\n\r\n" * 20_000, 400),
        (b"--x\r\n" + b"A: b\r\n" * 10**6, 400),
        (b"-" * 10**7, 400),
    ],
)
def test_the_costliest_forms(meter, data, status):
    """A parser that goes from letter to letter took seconds for the first."""
    assert meter.cost("/v1/images/variations", data, "multipart/form-data; boundary=x")[0] == status
    assert within(meter.cost("/v1/images/variations", data, "multipart/form-data; boundary=x")[1]) < 1


def test_the_costliest_json(meter):
    for data in (
        b"[" * 10**7,
        b'{"messages":' + b"[{}," * 10**6,
        b'{"prompt":"' + b"\\n" * 10**6,
        b'{"n":' + b"1" * 10**7 + b"}",
        b'{"a":"' + b"b" * 10**7 + b'"}',
    ):
        status, cost = meter.cost("/v1/completions", data)
        assert status == 400
        assert within(cost) < 1
