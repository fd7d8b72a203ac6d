"""The engine without a server: budgets, programs that run on at once, failures, and what others see meanwhile."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Event

import pytest
import torch

from mmada.errors import InputError
from mmada.generation.engine import Engine, EngineError, ExpiredError
from mmada.generation.programs import program_of
from mmada.generation.requests import ChatRequest, DrawRequest
from mmada.generation.scheduler import Scheduler
from mmada.pipeline import MMaDA
from mmada.sampling import fast_text


def programs(model, *requests):
    return [program_of(request, model.planner) for request in requests]


def make(model, denoiser=None, **settings) -> Engine:
    return Engine(denoiser or model.denoiser, model.layout, **settings)


def watched(model, sizes):
    """The model's denoiser, which notes how many numbers each call is told."""

    def denoiser(queries):
        sizes.append(sum(q.positions.numel() * (q.ids.stop - q.ids.start) for q in queries))
        return model.denoiser(queries)

    return denoiser


def test_a_step_keeps_to_its_budget_of_logits(debug):
    requests = [DrawRequest("a cat", seed=seed, steps=3) for seed in range(12)]
    sizes: list[int] = []
    one = 2 * 64 * 64  # a guided pair, 64 codes, 64 ids
    small = make(debug, watched(debug, sizes), max_logits=4 * one).run(programs(debug, *requests))
    assert max(sizes) <= 4 * one
    assert len(sizes) == 3 * 3
    whole = make(debug).run(programs(debug, *requests))
    assert [a.codes.tolist() for a in small] == [b.codes.tolist() for b in whole]


def test_many_drawings_of_one_request_keep_to_the_budget_too(debug):
    sizes: list[int] = []
    one = 2 * 64 * 64
    (small,) = make(debug, watched(debug, sizes), max_logits=2 * one).run(programs(debug, DrawRequest("a cat", best_of=5, steps=2)))
    assert sizes[:3] == [2 * one, 2 * one, one]
    assert max(sizes) == 2 * one
    assert small.codes.tolist() == debug.draw("a cat", best_of=5, steps=2).codes.tolist()


def test_the_pipeline_keeps_to_its_budget(debug):
    sizes: list[int] = []
    model = MMaDA(debug.model, debug.prompts, debug.image_tokenizer, defaults=debug.defaults, max_tokens=1024)
    model.denoiser = watched(debug, sizes)
    requests = [DrawRequest("a cat", seed=seed, steps=2) for seed in range(32)]
    tokens = 64 + 64  # at least, of a guided pair
    found = model.run(requests)
    assert max(sizes) <= (1024 // tokens) * 2 * 64 * 64
    assert [one.codes.tolist() for one in found[:2]] == [debug.draw("a cat", seed=seed, steps=2).codes.tolist() for seed in range(2)]


def test_a_thought_that_is_done_is_drawn_while_others_think(debug):
    short = replace(debug.defaults, max_thinking_tokens=8)
    model = MMaDA(debug.model, debug.prompts, debug.image_tokenizer, defaults=short)
    seen = []
    requests = [DrawRequest("a cat", think=True, steps=2), ChatRequest("long", max_new_tokens=40)]
    results = model.run(requests, on_step=lambda p: seen.append((p.is_drawing(0), p.text(1))))
    first = next(i for i, (draws, _) in enumerate(seen) if draws)
    assert len(seen) == max(result.num_forwards for result in results)  # nobody waited for anybody
    assert len(seen[first][1]) < len(results[1].text)


@pytest.mark.parametrize("in_one_row", [False, True])
def test_progress_never_runs_backwards(debug, in_one_row):
    model = MMaDA(debug.model, debug.prompts, debug.image_tokenizer, defaults=replace(debug.defaults, reasons_in_one_row=in_one_row))
    fractions: list[float] = []
    model.draw("a cat", think=True, on_step=lambda progress: fractions.append(progress.fraction))
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert fractions[len(fractions) // 2] < 1.0


def test_a_thought_too_long_to_draw_is_said(debug):
    defaults = replace(debug.defaults, reasons_in_one_row=False, max_thinking_tokens=200, guidance_scale=0.0)
    model = MMaDA(debug.model, debug.prompts, debug.image_tokenizer, defaults=defaults)
    drawing = model.draw("a cat", size=(120, 120), think=True, steps=1)
    assert drawing.prompt == "a cat"
    assert "the model's context has 1024" in (drawing.warning or "")
    assert model.draw("a cat", steps=1).warning is None


def test_without_isolation_errors_are_raised(debug):
    engine = make(debug)
    with pytest.raises(InputError, match="prompt='' is empty"):
        engine.run(programs(debug, ChatRequest("fine"), DrawRequest(" ")))

    def broken(queries):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        make(debug, broken).run(programs(debug, ChatRequest("hello")))


def test_with_isolation_a_failure_is_its_own(debug):
    def denoiser(queries):
        if any(query.tokens.shape[1] > 100 for query in queries):
            raise RuntimeError("out of memory")
        return debug.denoiser(queries)

    engine = make(debug, denoiser, isolate=True)
    good, long, empty = (engine.add(p) for p in programs(debug, ChatRequest("hi"), ChatRequest("y" * 120), DrawRequest(" ")))
    engine.drive()
    assert good.result.token_ids == debug.chat("hi").token_ids
    assert isinstance(long.error, EngineError)
    assert isinstance(empty.error, InputError)
    assert {id(state) for state in engine.take_finished()} == {id(good), id(long), id(empty)}
    assert engine.states == ()


def test_a_deadline_ends_a_request_even_one_that_waits_for_a_picture(debug):
    now, gate = [0.0], Event()
    with ThreadPoolExecutor(1) as executor:
        engine = make(debug, isolate=True, executor=executor, clock=lambda: now[0], scheduler=Scheduler(max_num_batched_tokens=1000))
        executor.submit(gate.wait)
        scheduled_sequences = engine.scheduler.submit(2, now=0.0, deadline=5.0)
        picture = torch.zeros(3)  # never looked at: its turn does not come
        slow = engine.add(program_of(ChatRequest("what?", images=[picture]), debug.planner), scheduled=scheduled_sequences[0])
        text = engine.add(program_of(ChatRequest("hi"), debug.planner), scheduled=scheduled_sequences[1])
        engine.step()
        now[0] = 6.0
        engine.step()
        gate.set()
    assert isinstance(slow.error, ExpiredError)
    assert isinstance(text.error, ExpiredError)
    assert engine.states == ()


def test_what_is_cut_keeps_what_is_final(debug):
    params = fast_text(block_length=4)
    engine = make(debug)
    state = engine.add(program_of(ChatRequest("hello", params=params, seed=1), debug.planner))
    for _ in range(9):
        engine.step()
    engine.cut(state)
    assert state.done
    assert state.cut
    final = state.sequence.num_final
    assert 8 <= final < state.sequence.fill.num_open
    whole = debug.chat("hello", params=params, seed=1)
    assert state.sequence.ids[:final].tolist() == list(whole.token_ids[:final])
    assert engine.num_ready == 0


def test_a_cancelled_request_is_heard_of_no_more(debug):
    engine = make(debug)
    kept, gone = (engine.add(program) for program in programs(debug, ChatRequest("a"), ChatRequest("b")))
    engine.step()
    engine.cancel(gone)
    engine.drive()
    assert kept.result.token_ids == debug.chat("a").token_ids
    assert (gone.done, gone.result) == (False, None)
    assert engine.take_finished() == [kept]
