"""Whose turn it is: no model, no tensors."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmada.errors import InputError
from mmada.generation import scheduler
from mmada.generation.scheduler import A_WHILE, OVERHEAD, QUANTUM, SLOWDOWN, BusyError, ClosedError, ScheduledSequence, Scheduler


def make(*, max_queue: int = 100, max_num_batched_tokens: int = 100, max_kept_tokens: int = 100) -> Scheduler:
    return Scheduler(max_queue=max_queue, max_num_batched_tokens=max_num_batched_tokens, max_kept_tokens=max_kept_tokens)


def submit(scheduler: Scheduler, num_tokens: int, num_kept: int = 0, *, priority: int = 0, deadline: float = 1e9) -> ScheduledSequence:
    (scheduled,) = scheduler.submit(1, now=0.0, deadline=deadline, priority=priority)
    scheduler.resize(scheduled, num_tokens, num_kept)
    return scheduled


def test_it_holds_no_tensors():
    tree = ast.parse(Path(scheduler.__file__).read_text())
    roots = {name.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    roots |= {str(node.module).split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert roots <= {"__future__", "math", "collections", "dataclasses", "threading", "mmada"}


def test_a_round_is_first_come_first_served_within_its_budget():
    s = make(max_num_batched_tokens=100)
    a, b, c, d = (submit(s, n) for n in (60, 50, 30, 10))
    assert s.schedule(0.0).scheduled_sequences == (a, c, d)  # b does not fit beside a; what is left goes to those that do
    assert (s.num_running, s.num_waiting) == (3, 1)
    s.finish(a, 1.0)
    assert s.schedule(1.0).scheduled_sequences == (b, c, d)
    for scheduled in (b, c, d):
        s.finish(scheduled, 2.0)
    assert s.schedule(2.0).scheduled_sequences == ()
    assert (len(s), s.num_running, s.num_waiting) == (0, 0, 0)


def test_what_is_above_the_budget_runs_alone():
    s = make(max_num_batched_tokens=100)
    large, small = submit(s, 500), submit(s, 10)
    assert s.schedule(0.0).scheduled_sequences == (large,)
    s.finish(large, 0.0)
    assert s.schedule(0.0).scheduled_sequences == (small,)


def test_what_keeps_something_begins_when_there_is_room_for_it():
    s = make(max_kept_tokens=100)
    a, b, c, d = (submit(s, 1, kept) for kept in (60, 50, 30, 0))
    assert s.schedule(0.0).scheduled_sequences == (a, d)  # c would fit, but must not go before b, which would never begin
    assert s.num_kept == 60
    assert s.schedule(0.0).scheduled_sequences == (a, d)
    s.remove(a)
    assert s.num_kept == 0
    assert s.schedule(1.0).scheduled_sequences == (b, c, d)
    s.resize(b, 1)  # its second half keeps nothing
    e = submit(s, 1, 70)
    assert s.schedule(2.0).scheduled_sequences == (b, c, d, e)
    assert s.num_kept == 100


def test_what_evaluates_less_makes_room_for_others():
    s = make(max_num_batched_tokens=100, max_kept_tokens=1000)
    a, b = submit(s, 80, 80), submit(s, 80, 80)
    assert s.schedule(0.0).scheduled_sequences == (a,)
    s.update(a, 10)  # it keeps the rest
    assert s.schedule(0.0).scheduled_sequences == (a, b)
    assert s.num_kept == 160


def test_what_keeps_more_than_the_budget_runs_when_nothing_else_is_kept():
    s = make(max_kept_tokens=100)
    small, large = submit(s, 1, 10), submit(s, 1, 500)
    assert s.schedule(0.0).scheduled_sequences == (small,)
    s.finish(small, 0.0)
    assert s.schedule(0.0).scheduled_sequences == (large,)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(0, 80), st.integers(1, 9), st.integers(-1, 1)), min_size=1, max_size=30),
    st.randoms(),
)
def test_what_is_kept_stays_within_its_budget_and_everybody_finishes(jobs, chance):
    s = make(max_kept_tokens=100)
    left = {submit(s, tokens, kept, priority=priority): rounds for tokens, kept, rounds, priority in jobs}
    for second in range(1000):
        for scheduled in s.schedule(second).scheduled_sequences:
            left[scheduled] -= 1
            if not left[scheduled] or chance.random() < 0.05:
                s.finish(scheduled, second)
        assert s.num_kept <= 100
        if not len(s):
            break
    assert not len(s)


def test_what_is_not_planned_is_not_scheduled():
    s = make()
    (scheduled,) = s.submit(1, now=0.0, deadline=0.5)
    assert s.schedule(1.0) == scheduler.SchedulerOutput((), ())  # nor given up: its owner does not know of it yet
    s.resize(scheduled, 5)
    assert s.schedule(1.0).expired == (scheduled,)
    with pytest.raises(InputError, match="at least 1"):
        s.resize(scheduled, 0)


def test_a_long_generation_does_not_starve_short_ones():
    s = make(max_num_batched_tokens=100)
    long = submit(s, 100)
    for _ in range(QUANTUM):
        assert s.schedule(0.0).scheduled_sequences == (long,)
    short = submit(s, 100)
    for _ in range(QUANTUM):
        assert s.schedule(0.0).scheduled_sequences == (short,)


def test_a_stream_of_short_generations_does_not_starve_a_long_one():
    s = make(max_queue=10**6, max_num_batched_tokens=100)
    long = submit(s, 100)
    waited = longest = 0
    for _ in range(20 * QUANTUM):  # more work arrives than can be done: a short generation each round, which needs all of one
        (scheduled,) = s.schedule(0.0).scheduled_sequences
        waited = 0 if scheduled is long else waited + 1
        longest = max(longest, waited)
        if scheduled is not long:
            s.finish(scheduled, 0.0)
        submit(s, 100)
    assert long.num_steps > 5 * QUANTUM
    assert longest <= SLOWDOWN + QUANTUM


def test_priorities():
    s = make(max_num_batched_tokens=10)
    normal, flexible, urgent = submit(s, 10), submit(s, 10, priority=-1), submit(s, 10, priority=1)
    order = []
    while len(s):
        (scheduled,) = s.schedule(0.0).scheduled_sequences
        order.append(scheduled)
        s.finish(scheduled, 0.0)
    assert order == [urgent, normal, flexible]


def test_the_queue_is_bounded_and_recovers():
    s = make(max_queue=4, max_num_batched_tokens=10)
    running = submit(s, 10)
    assert s.schedule(0.0).scheduled_sequences == (running,)
    waiting = s.submit(4, now=0.0, deadline=1e9)
    with pytest.raises(BusyError, match="4 generations wait and the queue holds 4") as caught:
        s.submit(1, now=0.0, deadline=1e9)
    assert caught.value.retry_after == 1
    assert len(s) == 5  # a refused request leaves nothing behind
    s.remove(waiting[0])
    s.submit(1, now=0.0, deadline=1e9)
    with pytest.raises(BusyError):
        s.submit(2, now=0.0, deadline=1e9)  # all or none


def test_retry_after_follows_the_rate():
    s = make(max_queue=20, max_num_batched_tokens=10)
    for i in range(10):
        s.finish(submit(s, 10), now=float(i))  # about one a second
    s.submit(20, now=9.0, deadline=1e9)
    assert 8 <= s.retry_after(9.0) <= 10
    assert s.retry_after(10_000.0) == 60


def test_deadlines_and_removal():
    s = make()
    a, b = submit(s, 10, deadline=5.0), submit(s, 10)
    assert s.schedule(5.0) == scheduler.SchedulerOutput((b,), (a,))
    assert a.gone
    assert not s.remove(a)
    assert s.remove(b)
    assert (len(s), s.num_running) == (0, 0)


def test_draining_takes_nothing_new_and_finishes_what_is_there():
    s = make()
    a = submit(s, 10)
    s.closed = True
    with pytest.raises(ClosedError, match="shutting down"):
        s.submit(1, now=0.0, deadline=1.0)
    assert s.schedule(0.0).scheduled_sequences == (a,)


arrivals = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 150), st.integers(1, 200), st.integers(-1, 1)), min_size=1, max_size=25)


@settings(deadline=None)
@given(arrivals)
def test_everything_is_finished_within_the_work_there_is(requests):
    """(arrival, tokens, rounds, priority): the budget is kept, no round is wasted, and all ends after at most the sum of rounds."""
    s = make(max_num_batched_tokens=100)
    needs: dict[int, int] = {}
    pending = sorted(requests)
    rounds = 0
    while pending or len(s):
        while pending and pending[0][0] <= rounds:
            _, num_tokens, need, priority = pending.pop(0)
            needs[submit(s, num_tokens, priority=priority).number] = need
        chosen = s.schedule(0.0).scheduled_sequences
        assert bool(chosen) == bool(len(s))
        assert sum(t.num_tokens for t in chosen) <= 100 or len(chosen) == 1
        assert len(set(chosen)) == len(chosen)
        for scheduled in chosen:
            if scheduled.num_steps == needs[scheduled.number]:
                s.finish(scheduled, 0.0)
        rounds += 1
        assert rounds <= 31 + sum(need for _, _, need, _ in requests)
    assert (s.num_running, s.num_waiting) == (0, 0)


# Urgent sequences.


def steps_of(scheduler, sequences, rounds):
    """How often each is scheduled in some rounds."""
    before = [sequence.num_steps for sequence in sequences]
    for now in range(rounds):
        scheduler.schedule(now)
    return [sequence.num_steps - had for sequence, had in zip(sequences, before, strict=True)]


def test_beside_an_urgent_sequence_the_others_have_as_much_of_the_time():
    scheduler = Scheduler(max_num_batched_tokens=10_000, small_round=300)
    drawings = scheduler.submit(8, now=0)
    for drawing in drawings:
        scheduler.resize(drawing, 75)
    assert steps_of(scheduler, drawings, 1) == [1] * 8  # alone, all share a round
    (text,) = scheduler.submit(1, now=0, urgent=True)
    scheduler.resize(text, 4)
    (steps_of_text, *others) = steps_of(scheduler, [text, *drawings], 60)
    assert steps_of_text == 60
    assert 60 * (OVERHEAD + 4) - 2 * 75 <= 75 * sum(others) <= 60 * (OVERHEAD + 4)


def test_after_an_urgent_sequence_rounds_stay_small_for_a_while():
    scheduler = Scheduler(max_num_batched_tokens=10_000, small_round=300)
    (text,) = scheduler.submit(1, now=0, urgent=True)
    scheduler.resize(text, 4)
    scheduler.schedule(0)
    scheduler.finish(text, 0)
    drawings = scheduler.submit(8, now=0)
    for drawing in drawings:
        scheduler.resize(drawing, 75)
    assert sum(steps_of(scheduler, drawings, A_WHILE - 1)) == 4 * (A_WHILE - 1)
    assert len(scheduler.schedule(0).scheduled_sequences) == 8


def test_a_sequence_above_every_limit_still_runs_beside_urgent_ones():
    scheduler = Scheduler(max_num_batched_tokens=10_000, small_round=300)
    (large,) = scheduler.submit(1, now=0)
    scheduler.resize(large, 2_000)
    (text,) = scheduler.submit(1, now=0, urgent=True)
    scheduler.resize(text, 4)
    steps_of_large, steps_of_text = steps_of(scheduler, [large, text], 100)
    assert steps_of_text == 100
    assert steps_of_large == 100 * (OVERHEAD + 4) // 2_000


def test_the_limit_of_the_queue_counts_who_waits_elsewhere():
    scheduler = Scheduler(max_num_batched_tokens=10, max_queue=3, waiting_elsewhere=lambda: 2)
    scheduler.submit(1, now=0)
    with pytest.raises(BusyError, match="3 generations wait"):
        scheduler.submit(1, now=0)
