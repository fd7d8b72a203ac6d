"""The engine: everybody gets what they would get alone, and nobody's trouble is somebody else's."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from mmada.canvas import Hole
from mmada.errors import InputError
from mmada.generation.engine import EngineError, ExpiredError
from mmada.generation.requests import ChatRequest, DrawRequest, EmptyAnswerError, FillRequest
from mmada.generation.scheduler import BusyError, ClosedError
from mmada.sampling import Denoising, fast_text, named_cache
from mmada.serve.config import ServeConfig
from mmada.serve.engine import ServingEngine
from mmada.serve.outputs import Admitted, Draft, EngineRequest, Failed, ImageOutput, PartialImage, TextDelta, TextOutput


class Followed:
    """An engine, and what it tells."""

    def __init__(self, model, config: ServeConfig, denoiser=None) -> None:
        self.engine = ServingEngine(model.planner, denoiser or model.denoiser, config)
        self.received: queue.Queue = queue.Queue()
        self.events: dict[int, list] = {}

    def submit(self, *engine_requests: EngineRequest) -> list:
        first = len(self.events)
        self.events.update((first + i, []) for i in range(len(engine_requests)))
        return self.engine.submit(engine_requests, lambda i, event: self.received.put((first + i, event)))

    def wait(self, *numbers: int) -> list:
        """The last event of each."""
        while not all(self.events[n] and isinstance(self.events[n][-1], (TextOutput, ImageOutput, Failed)) for n in numbers):
            number, event = self.received.get(timeout=180)
            self.events[number].append(event)
        return [self.events[n][-1] for n in numbers]

    def metric(self, name: str, **labels: str) -> float:
        return self.engine.metrics.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture
def followed(debug) -> Iterator[Followed]:
    served = Followed(debug, ServeConfig())
    served.engine.start()
    yield served
    served.engine.stop()


def alone(model, request):
    try:
        return model.run([request])[0]
    except EmptyAnswerError as error:
        return error.results[0]


@pytest.fixture(scope="module")
def mixture(picture):
    return [
        ChatRequest("hello", seed=1),
        ChatRequest("a longer question", max_new_tokens=40, params=fast_text(threshold=0.5, block_length=8, temperature=1.0), seed=2),
        ChatRequest("guided", max_new_tokens=16, params=fast_text(block_length=8).with_(guidance_scale=1.5)),
        ChatRequest("one block at a time", params=fast_text(block_length=8, full_attention=False), seed=3),
        ChatRequest("what?", images=[picture], max_new_tokens=24, seed=3),
        ChatRequest("think", think=True, params=fast_text(temperature=0.7), seed=4),
        DrawRequest("a cat", seed=6),
        DrawRequest("a dog", negative_prompt="a cat", size=(24, 48), guidance_scale=2.0, steps=5, seed=8),
        DrawRequest("think first", think=True, seed=10),
        DrawRequest("wider", image=picture, extend=(0, 4, 8, 0), seed=12),
        FillRequest(["The ", Hole(5), " sat."], seed=13),
    ]


@pytest.fixture(scope="module")
def expected(debug, mixture):
    """What each of them gets alone."""
    return [alone(debug, request) for request in mixture]


def same(result, expected) -> bool:
    if isinstance(result, ImageOutput):
        drawing = result.drawing
        equal = drawing.codes.tolist() == expected.codes.tolist() and drawing.image.tobytes() == expected.image.tobytes()
        return equal and (drawing.thinking, drawing.prompt, drawing.num_forwards) == (
            expected.thinking,
            expected.prompt,
            expected.num_forwards,
        )
    return (result.token_ids, result.num_forwards) == (expected.token_ids, expected.num_forwards)


def test_each_of_many_is_as_alone(followed, mixture, expected):
    followed.submit(*(EngineRequest(request=request) for request in mixture))
    for result, request, own in zip(followed.wait(*range(len(mixture))), mixture, expected, strict=True):
        assert same(result, own), request
        if isinstance(request, ChatRequest):
            assert (result.answer, result.thinking, result.finish_reason) == (own.text, own.thinking, own.finish_reason)
    assert followed.engine.num_live == 0
    assert followed.metric("mmada_generations_running") == followed.metric("mmada_generations_waiting") == 0
    assert followed.metric("mmada_rounds_total") < sum(own.num_forwards for own in expected) / 2


@pytest.mark.slow
def test_a_small_budget_changes_nothing_but_the_time(debug, mixture, expected):
    served = Followed(debug, ServeConfig(max_num_batched_tokens=200))
    served.engine.start()
    served.submit(*(EngineRequest(request=request) for request in mixture))
    assert all(same(result, own) for result, own in zip(served.wait(*range(len(mixture))), expected, strict=True))
    served.engine.stop()


@pytest.mark.slow
def test_little_room_for_caches_changes_nothing_but_the_time(debug, first_fill):
    params = debug.planner.text_params(block_length=8, full_attention=False, cache=named_cache("prefix"))
    requests = [ChatRequest(f"hello {i}", params=params, seed=i) for i in range(5)]
    alone_tokens = first_fill(debug.planner, requests[0]).num_kept
    assert alone_tokens == len(first_fill(debug.planner, requests[0]).canvas)
    served = Followed(debug, ServeConfig(max_cache_bytes=2 * alone_tokens + 8))
    served.submit(*(EngineRequest(request=request) for request in requests))
    sizes = []
    choose = served.engine._scheduler.schedule
    served.engine._scheduler.schedule = lambda now: (found := choose(now), sizes.append(len(found.scheduled_sequences)))[0]
    served.engine.start()
    assert all(same(result, alone(debug, request)) for result, request in zip(served.wait(*range(5)), requests, strict=True))
    assert max(sizes) == 2
    assert served.metric("mmada_cache_bytes") == 0
    served.engine.stop()


@pytest.mark.parametrize("think", [False, True])
def test_a_stream_is_the_answer(debug, followed, think):
    request = ChatRequest("hello", think=think, params=fast_text(block_length=8, temperature=1.5, threshold=0.3), seed=5)
    followed.submit(EngineRequest(request=request, streams=True))
    (result,) = followed.wait(0)
    words = [event for event in followed.events[0] if isinstance(event, TextDelta)]
    assert isinstance(followed.events[0][0], Admitted)
    assert len(words) > 3
    assert "".join(w.answer for w in words) == result.answer == alone(debug, request).text
    assert "".join(w.thinking for w in words) == (result.thinking or "")


def test_a_stop_string_ends_the_computation_too(debug, followed):
    request = ChatRequest("hello", params=fast_text(block_length=4), seed=1)
    text = alone(debug, request).text
    stop = text[6:8]
    followed.submit(EngineRequest(request=request, stop=(stop,)), EngineRequest(request=request, stop=(stop,), streams=True))
    quiet, streamed = followed.wait(0, 1)
    assert quiet == streamed
    assert quiet.answer == text[: text.index(stop)]
    assert quiet.finish_reason == "stop"
    assert quiet.num_forwards < alone(debug, request).num_forwards


def test_max_forwards_gives_what_is_final(debug, followed):
    request = ChatRequest("hello", params=fast_text(block_length=4), seed=1)
    followed.submit(EngineRequest(request=request, max_forwards=9))
    (result,) = followed.wait(0)
    assert (result.num_forwards, result.finish_reason) == (9, "length")
    assert len(result.answer) >= 8
    assert alone(debug, request).text.startswith(result.answer)


def test_drafts_show_the_whole_text_and_how_sure_it_is(debug, followed):
    request = ChatRequest("hello", params=fast_text(block_length=8), seed=1)
    followed.submit(EngineRequest(request=request, drafts=True))
    (result,) = followed.wait(0)
    drafts = [event for event in followed.events[0] if isinstance(event, Draft)]
    assert len(drafts) == result.num_forwards
    sure = [sum(piece.confidence is not None for piece in draft.pieces) for draft in drafts]
    assert sure == sorted(sure)
    assert sure[-1] == len(result.token_ids)
    assert all(0 <= piece.confidence <= 1 for piece in drafts[-1].pieces)
    assert "".join(piece.text for piece in drafts[-1].pieces).strip() == result.answer


@pytest.mark.parametrize(("wanted", "expected"), [(0, 0), (1, 1), (3, 3), (64, 7)])
def test_previews_are_spread_over_the_steps(debug, followed, wanted, expected):
    followed.submit(EngineRequest(request=DrawRequest("a cat", seed=6), num_previews=wanted))
    (result,) = followed.wait(0)
    previews = [event for event in followed.events[0] if isinstance(event, PartialImage)]
    assert [preview.index for preview in previews] == list(range(expected))
    assert all(preview.image.size == result.drawing.image.size for preview in previews)
    assert same(result, alone(debug, DrawRequest("a cat", seed=6)))


def test_what_is_counted(debug, followed):
    chat = ChatRequest("hello", max_new_tokens=20, params=fast_text(block_length=8), seed=1)
    followed.submit(EngineRequest(request=chat), EngineRequest(request=DrawRequest("a cat", steps=5, seed=1)))
    text, drawn = followed.wait(0, 1)
    assert followed.metric("mmada_blocks_total") == 3 + 1  # 8 + 8 + 4 tokens; a drawing is one block
    assert followed.metric("mmada_tokens_total", kind="chat") == text.num_new_tokens
    assert followed.metric("mmada_tokens_total", kind="draw") == drawn.num_new_tokens == 64
    assert followed.metric("mmada_generation_forwards_sum", kind="draw") == 5
    assert followed.metric("mmada_first_block_seconds_count", kind="chat") == 1
    assert followed.metric("mmada_rounds_total") == text.num_forwards  # the drawing's were the same rounds


def test_nobody_waits_for_the_pictures_of_others(debug, picture, monkeypatch):
    """Pictures are encoded and decoded apart from the engine's thread; what comes of them has the same bits."""
    encode, requests = (
        debug.image_tokenizer.encode_images,
        [ChatRequest(f"what {i}?", images=[picture], max_new_tokens=4) for i in range(3)],
    )
    expected = [alone(debug, request) for request in requests]

    def slow_encode(*args, **settings):
        time.sleep(1.0)
        return encode(*args, **settings)

    monkeypatch.setattr(debug.image_tokenizer, "encode_images", slow_encode)
    served = Followed(debug, ServeConfig())
    served.engine.start()
    served.submit(*(EngineRequest(request=request) for request in requests), EngineRequest(request=ChatRequest("hello", max_new_tokens=4)))
    served.wait(3)
    assert not any(isinstance(event, (Admitted, TextOutput)) for event in served.events[2])  # the third picture is encoded after 3 seconds
    assert all(same(result, one) for result, one in zip(served.wait(0, 1, 2), expected, strict=True))
    served.engine.stop()


def test_a_cancelled_generation_is_heard_of_no_more(debug, followed, mixture):
    scheduled_sequences = followed.submit(*(EngineRequest(request=replace_seed(mixture[0], i), streams=True) for i in range(8)))
    followed.engine.cancel(scheduled_sequences[:4])
    followed.engine.cancel(scheduled_sequences[:2])  # twice is nothing
    results = followed.wait(*range(4, 8))
    assert all(same(result, alone(debug, replace_seed(mixture[0], i))) for i, result in zip(range(4, 8), results, strict=True))
    assert not any(isinstance(event, (TextOutput, Failed)) for i in range(4) for event in followed.events[i])
    assert followed.engine.num_live == 0
    assert followed.metric("mmada_generations_total", kind="chat", outcome="cancelled") == 4
    assert not followed.engine._active


def replace_seed(request, seed):
    return replace(request, seed=seed)


def test_a_bad_request_fails_alone(debug, followed, mixture):
    followed.submit(
        EngineRequest(request=ChatRequest("x" * 2000)), EngineRequest(request=mixture[0]), EngineRequest(request=DrawRequest(" "))
    )
    long, good, empty = followed.wait(0, 1, 2)
    assert isinstance(long.error, InputError)
    assert "context has 1024" in str(long.error)
    assert "prompt='' is empty" in str(empty.error)
    assert same(good, alone(debug, mixture[0]))


def test_a_failure_of_the_model_hits_only_who_caused_it(debug, mixture, caplog):
    """Such as memory that does not suffice for one of a round: the others are evaluated alone and go on."""

    def denoiser(queries):
        if any(query.tokens.shape[1] > 60 for query in queries):
            raise RuntimeError("out of memory")
        return debug.denoiser(queries)

    served = Followed(debug, ServeConfig(), denoiser)
    served.engine.start()
    served.submit(EngineRequest(request=mixture[0]), EngineRequest(request=ChatRequest("y" * 60)), EngineRequest(request=mixture[10]))
    good, bad, fill = served.wait(0, 1, 2)
    assert isinstance(bad.error, EngineError)
    assert "RuntimeError" in str(bad.error)
    assert "out of memory" in caplog.text
    assert same(good, alone(debug, mixture[0]))
    assert same(fill, alone(debug, mixture[10]))
    assert served.engine.healthy
    served.engine.stop()


def test_a_failure_before_the_model_hits_only_who_caused_it(debug, mixture, monkeypatch):
    inputs = Denoising.inputs

    def failing(self, rows=None):
        if self.canvases[0].tokens.shape[0] > 60:
            raise RuntimeError("out of memory")
        return inputs(self, rows)

    monkeypatch.setattr(Denoising, "inputs", failing)
    served = Followed(debug, ServeConfig())
    served.engine.start()
    served.submit(EngineRequest(request=mixture[0]), EngineRequest(request=ChatRequest("y" * 60)))
    good, bad = served.wait(0, 1)
    assert isinstance(bad.error, EngineError)
    assert same(good, alone(debug, mixture[0]))
    assert served.engine.healthy
    served.engine.stop()


def slow(model, seconds):
    def denoiser(queries):
        time.sleep(seconds)
        return model.denoiser(queries)

    return denoiser


def test_what_takes_too_long_is_given_up(debug, mixture):
    served = Followed(debug, ServeConfig(request_timeout=0.2), slow(debug, 0.05))
    served.engine.start()
    served.submit(EngineRequest(request=mixture[0]))
    (result,) = served.wait(0)
    assert isinstance(result.error, ExpiredError)
    assert "0.2 seconds" in str(result.error)
    assert served.metric("mmada_generations_total", kind="chat", outcome="expired") == 1
    assert served.engine.num_live == 0
    served.engine.stop()


def test_a_full_queue_and_a_drained_engine_refuse(debug, mixture):
    served = Followed(debug, ServeConfig(max_queue=2, max_n=2, max_num_batched_tokens=1), slow(debug, 0.02))
    served.engine.start()
    served.submit(EngineRequest(request=mixture[0]), EngineRequest(request=mixture[0]))
    with pytest.raises(BusyError):
        served.submit(EngineRequest(request=mixture[0]), EngineRequest(request=mixture[0]))
    served.engine.drain()
    with pytest.raises(ClosedError):
        served.submit(EngineRequest(request=mixture[0]))
    assert not served.engine.healthy
    assert all(isinstance(result, TextOutput) for result in served.wait(0, 1))  # what was there is finished
    served.engine.stop()


def test_stopping_tells_those_who_wait(debug, mixture):
    served = Followed(debug, ServeConfig(), slow(debug, 0.05))
    served.engine.start()
    served.submit(EngineRequest(request=mixture[0]))
    served.engine.stop()
    (result,) = served.wait(0)
    assert isinstance(result.error, ClosedError)
    assert not served.engine.healthy


def test_what_is_given_up_is_told_at_once(debug, mixture):
    served = Followed(debug, ServeConfig(), slow(debug, 0.05))
    served.engine.start()
    served.submit(EngineRequest(request=mixture[0]))
    served.engine.give_up()
    assert "before the generation was finished" in str(served.wait(0)[0].error)
    served.engine.stop()


def test_a_client_that_lags_gets_fewer_drafts_and_no_less_in_the_last(debug):
    """Drafts of a client that did not read piled up without end."""
    served = Followed(debug, ServeConfig())
    served.engine.start()
    order = EngineRequest(request=ChatRequest("hi", max_new_tokens=8), drafts=True, num_alternatives=2)
    drafts = []
    for number, lags in enumerate((False, True)):
        served.events[number] = []
        served.engine.submit([order], lambda _, event, n=number: served.received.put((n, event)), lags=lambda lags=lags: lags)
        served.wait(number)
        drafts.append([event for event in served.events[number] if isinstance(event, Draft)])
    many, (one,) = drafts
    assert len(many) == 8
    assert [piece.text for piece in one.pieces] == [piece.text for piece in many[-1].pieces]
    assert all(len(piece.alternatives) == 2 for piece in one.pieces)
    served.engine.stop()


def test_an_engine_that_breaks_says_so(debug, mixture, monkeypatch, caplog):
    served = Followed(debug, ServeConfig())
    monkeypatch.setattr(served.engine, "_round", lambda: torch.ones(2).reshape(3))
    served.engine.start()
    served.submit(EngineRequest(request=mixture[0]))
    (result,) = served.wait(0)
    assert isinstance(result.error, ClosedError)
    assert "the engine stopped" in caplog.text
    assert not served.engine.healthy


def test_a_prompt_that_cannot_be_drawn_is_a_refusal_of_that_request_alone(debug, followed, monkeypatch):
    class Reader:
        def check_plan(self, prompt: str, plan: str | None) -> str | None:
            return "it is no dog" if prompt != "a dog" else None

        def asked(self, prompt: str) -> str:
            return prompt

        def restated(self, prompt: str) -> str | None:
            return None

    monkeypatch.setattr(debug.planner, "world", Reader)
    monkeypatch.setattr(debug.planner, "defaults", replace(debug.defaults, reasons_in_one_row=False))
    followed.submit(*(EngineRequest(request=DrawRequest(prompt, think=False, steps=2)) for prompt in ("a dog", "a cat")))
    drawn, refused = followed.wait(0, 1)
    assert isinstance(drawn, ImageOutput)
    assert isinstance(refused, Failed)
    assert isinstance(refused.error, InputError)
    assert str(refused.error) == "prompt='a cat' cannot be drawn: it is no dog."
