"""The engine: programs of every kind share denoising steps, and each runs on as soon as it has what it asked for.

    engine = Engine(denoiser, layout)
    state = engine.add(program)          # runs it up to the first thing that it asks for
    engine.step()                        # one step of every sequence whose turn it is; look at `state` meanwhile
    results = engine.run(programs)       # all of them, from beginning to end

    a step     take what executors computed, and let those programs run on
               choose whose turn it is, within budgets of tokens and logits (scheduler.py)
               denoiser([what each is asked])        text and images, guided pairs included, in one call
               advance, and let programs run on whose fill is done

A result does not depend on who shares a step: rows draw from their own generators. The engine belongs to one thread; its
scheduler may be asked by others.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from mmada.canvas import Query, VocabLayout
from mmada.errors import MMaDAError, StoppedError
from mmada.generation.scheduler import ScheduledSequence, Scheduler
from mmada.generation.steps import BegunProgram, Fill, Program, Rank, RequestState, SequenceState, Work
from mmada.sampling import Denoiser, Denoising, JointDenoising, JointParams, Ranking

__all__ = ["MAX_LOGITS", "Engine", "EngineError", "ExpiredError", "Report"]

_T = TypeVar("_T")
_log = logging.getLogger(__name__)

MAX_LOGITS = 2**27
"""Numbers that one step is told: 512 MiB in float32, of which the sampler makes a few copies."""


class EngineError(MMaDAError):
    """The model failed on a request, for a reason that is in the log."""


class ExpiredError(MMaDAError):
    """A request was not finished in time."""


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """What a step did: who took it, and how many tokens were evaluated."""

    advanced: tuple[RequestState[Any], ...]
    num_tokens: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class _Turn:
    """What one denoising or ranking is asked in a step: rows of it, on behalf of requests."""

    states: tuple[RequestState[Any], ...]
    of: Denoising | JointDenoising | Ranking
    rows: tuple[int, ...] = ()

    def inputs(self) -> Query:
        return self.of.inputs() if isinstance(self.of, Ranking) else self.of.inputs(self.rows)


class Engine:
    """Runs programs with one model.

    denoiser    evaluates queries
    layout      mask, end and begin tokens
    device      where the denoiser wants its queries
    max_tokens, max_logits  budgets of a step; a single longer request still runs, alone, and its rows one after the other
    scheduler   one that also limits the queue and what caches keep; its budgets count instead
    isolate     a request that fails has an `error`, and nobody else's step is spoiled. Otherwise errors are raised, and requests of equal
                settings that begin together are rows of one denoising, which is faster
    executor    where `Work` is done; None: at once, in the engine's thread
    on_ready    called, in any thread, when an executor has finished something
    """

    def __init__(
        self,
        denoiser: Denoiser,
        layout: VocabLayout,
        *,
        device: torch.device | str = "cpu",
        max_tokens: int = 65536,
        max_logits: int = MAX_LOGITS,
        scheduler: Scheduler | None = None,
        isolate: bool = False,
        executor: Executor | None = None,
        on_ready: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._denoiser, self._layout, self._device = denoiser, layout, device
        if scheduler is None:
            scheduler = Scheduler(max_num_batched_tokens=max_tokens, max_num_batched_logits=max_logits)
        self.scheduler = scheduler
        self._isolate, self._executor, self._on_ready, self._clock = isolate, executor, on_ready, clock
        self._states: dict[int, RequestState[Any]] = {}
        self._futures: list[tuple[RequestState[Any], Future[Any], Callable[[Future[Any]], None]]] = []
        self._finished: list[RequestState[Any]] = []

    @property
    def num_ready(self) -> int:
        """Requests that wait for their turn at the model."""
        return self.scheduler.num_ready

    @property
    def has_work(self) -> bool:
        """Whether a step has something to do, now."""
        return bool(self._finished) or self.num_ready > 0 or any(future.done() for _, future, _ in self._futures)

    @property
    def states(self) -> tuple[RequestState[Any], ...]:
        """Requests that are not finished."""
        return tuple(self._states.values())

    def run(self, programs: Sequence[Program[_T]]) -> list[_T]:
        """The results of programs, which share their steps.

        Raises what a program raises; nothing is evaluated if one of them does so at its beginning.
        """
        states = [self.add(program) for program in programs]
        self.drive()
        return [state.result for state in states]  # type: ignore[misc]

    def drive(self, *, on_step: Callable[[], None] | None = None, agree: Callable[[bool], bool] = bool) -> None:
        """Step until every program that was added has its result. Not for an engine with an executor.

        on_step  called after every step
        agree    whether any process has something to do, where all of them must evaluate equally often (sharded weights)
        """
        while agree(self.num_ready > 0):
            if self.num_ready:
                self.step()
                if on_step is not None:
                    on_step()
            else:
                self.idle()

    def add(
        self,
        program: Program[_T] | BegunProgram[_T],
        *,
        scheduled: ScheduledSequence | None = None,
        record: bool = False,
        num_alternatives: int = 0,
    ) -> RequestState[_T]:
        """Take a program and run it to the first thing that it asks for, unless it was begun already.

        scheduled  from `scheduler.submit`: its place and deadline; None: a new one
        record  keep what every step commits
        num_alternatives  how many of the likeliest ids it keeps with each
        """
        if scheduled is None:
            (scheduled,) = self.scheduler.submit(1, now=self._clock())
        begun = program if isinstance(program, BegunProgram) else BegunProgram(program)
        state: RequestState[_T] = RequestState(begun.program, scheduled, record, num_alternatives)
        self._states[scheduled.number] = state
        if begun.result is not None:
            self._end(state, result=begun.result)
        else:
            self._go_on(state, lambda: next(state.program) if begun.asked is None else begun.asked)
        return state

    def step(self) -> Report:
        """One step of everything whose turn it is."""
        self._collect()
        now = self._clock()
        chosen = self.scheduler.schedule(now)
        for state in [self._states[scheduled.number] for scheduled in chosen.expired if scheduled.number in self._states]:
            self._expire(state)
        for state in {id(state): state for state, _, _ in self._futures if state.scheduled.deadline <= now}.values():
            self._expire(state)
        states = self._begun(
            [self._states[scheduled.number] for scheduled in chosen.scheduled_sequences if scheduled.number in self._states]
        )
        num_tokens = 0
        for turns in self._shares(states):
            num_tokens += self._evaluate(turns)
        advanced = tuple(state for state in states if state.error is None)
        for state in advanced:
            self._settle(state)
        return Report(advanced, num_tokens)

    def take_finished(self) -> list[RequestState[Any]]:
        """Requests that have a result or an error, since the last call."""
        finished, self._finished = self._finished, []
        return finished

    def idle(self) -> None:
        """Evaluate a single token, for processes that must evaluate as often as others do."""
        first = torch.full((1, 1), self._layout.eos_id, device=self._device)
        origin = torch.zeros(1, 1, dtype=torch.long, device=self._device)
        self._denoiser([Query(first, ((0, 1),), origin, self._layout.text_ids)])

    def cut(self, state: RequestState[Any]) -> None:
        """End the fill of a request with what is committed; its program runs on."""
        if state.done or not state.sequences or not isinstance(state.asked, Fill):
            return
        state.cut = True
        for sequence in state.sequences:
            if not sequence.done:
                sequence.denoising.drop(sequence.row)
        self._settle(state)

    def cancel(self, state: RequestState[Any]) -> None:
        """Forget a request; it has neither result nor error, and is not among the finished."""
        self.scheduler.remove(state.scheduled)
        self._forget(state)

    def later(self, state: RequestState[Any], function: Callable[[], _T], then: Callable[[_T], None]) -> None:
        """Compute something about a request where `Work` is done, and hand it on in the engine's thread, in the order of these calls.

        It is dropped if the request ends otherwise meanwhile, or the function fails.
        """

        def deliver(future: Future[_T]) -> None:
            if (error := future.exception()) is not None:
                _log.warning("something about request %d could not be computed", state.scheduled.number, exc_info=error)
            else:
                then(future.result())

        self._submit(state, function, deliver)

    # Programs.

    def _go_on(self, state: RequestState[Any], resume: Callable[[], Any]) -> None:
        """Run a program to the next thing that it asks the model for, or to its end."""
        try:
            while True:
                state.asked = resume()
                if not isinstance(state.asked, Work):
                    break
                if self._executor is not None:
                    self.scheduler.pause(state.scheduled)
                    self._submit(state, state.asked.function, lambda future: self._go_on(state, lambda: self._send(state, future)))
                    return
                resume = self._sender(state, state.asked.function())
        except StopIteration as stop:
            self._end(state, result=stop.value)
            return
        except Exception as error:
            if not self._isolate:
                self.cancel(state)
                raise
            self._end(state, error=error) if isinstance(error, MMaDAError) else self._fail(state, error)
            return
        asked = state.asked
        if isinstance(asked, Fill) and state.num_prompt_tokens is None:
            state.num_prompt_tokens = int((asked.canvas.tokens != self._layout.mask_id).sum())
        num_kept = asked.num_kept if isinstance(asked, Fill) else 0
        self.scheduler.resize(state.scheduled, asked.num_tokens, num_kept, num_logits=asked.num_logits)

    @staticmethod
    def _sender(state: RequestState[Any], value: object) -> Callable[[], Any]:
        return lambda: state.program.send(value)

    @staticmethod
    def _send(state: RequestState[Any], future: Future[Any]) -> Any:
        error = future.exception()
        return state.program.throw(error) if error is not None else state.program.send(future.result())

    def _settle(self, state: RequestState[Any]) -> None:
        """After a step: run the program on if it has what it asked for, or say what its next step costs."""
        if state.ranking is not None:
            if state.ranking.done:
                ranking, state.ranking = state.ranking, None
                self._go_on(state, self._sender(state, ranking))
            return
        unfinished = [sequence for sequence in state.sequences if not sequence.done]
        if not unfinished:
            self._go_on(state, self._sender(state, state.sequences))
            return
        num_tokens = sum(sequence.denoising.num_tokens(sequence.row) for sequence in unfinished)
        num_logits = sum(sequence.denoising.num_logits(sequence.row) for sequence in unfinished)
        self.scheduler.update(state.scheduled, num_tokens, num_logits=num_logits)

    def _end(self, state: RequestState[Any], *, result: object = None, error: Exception | None = None) -> None:
        is_first = self.scheduler.finish(state.scheduled, self._clock()) if error is None else self.scheduler.remove(state.scheduled)
        self._forget(state)
        if is_first:  # not cancelled meanwhile
            state.result, state.error, state.done = result, error, True
            self._finished.append(state)

    def _expire(self, state: RequestState[Any]) -> None:
        self.scheduler.remove(state.scheduled)
        self._forget(state)
        state.error, state.done = ExpiredError("the request was not finished in time; ask for less, or try later"), True
        self._finished.append(state)

    def _forget(self, state: RequestState[Any]) -> None:
        self._states.pop(state.scheduled.number, None)
        self._futures = [entry for entry in self._futures if entry[0] is not state]
        for sequence in state.sequences:
            if not sequence.done:
                sequence.denoising.drop(sequence.row)

    def _submit(self, state: RequestState[Any], function: Callable[[], Any], then: Callable[[Future[Any]], None]) -> None:
        future: Future[Any] = Future()
        if self._executor is None:
            try:
                future.set_result(function())
            except Exception as error:
                future.set_exception(error)
            then(future)
            return
        future = self._executor.submit(function)
        self._futures.append((state, future, then))
        future.add_done_callback(lambda _: self._on_ready())

    def _collect(self) -> None:
        """Hand on what was computed elsewhere, in the order in which it was asked for by each request."""
        waiting = self._futures
        self._futures, held = [], set[int]()
        for entry in waiting:
            state, future, then = entry
            if state.done or state.scheduled.gone:
                continue
            if not future.done() or id(state) in held:
                held.add(id(state))
                self._futures.append(entry)
            else:
                then(future)

    # A step.

    def _begun(self, states: Sequence[RequestState[Any]]) -> list[RequestState[Any]]:
        """The same, each begun with what it asked for; without those that fail at that."""
        groups: dict[tuple[object, ...], list[RequestState[Any]]] = {}
        for state in states:
            asked = state.asked
            if isinstance(asked, Rank) and state.ranking is None:
                groups[state.scheduled.number,] = [state]
            elif isinstance(asked, Fill) and not (state.sequences and state.sequences[0].fill is asked):
                key = (asked.params, asked.canvas.fields[0].ids, state.record, state.num_alternatives)
                groups.setdefault((*key, state.scheduled.number) if self._isolate else key, []).append(state)
        for group in groups.values():
            try:
                self._rank(group[0]) if isinstance(group[0].asked, Rank) else self._fill(group)
            except Exception as error:
                if not self._isolate:
                    raise
                self._fail(group[0], error)
        return [state for state in states if state.error is None]

    def _rank(self, state: RequestState[Any]) -> None:
        assert isinstance(state.asked, Rank)
        state.ranking = Ranking([canvas.to(self._device) for canvas in state.asked.canvases], mask_id=self._layout.mask_id)

    def _fill(self, states: Sequence[RequestState[Any]]) -> None:
        """One denoising for fills of equal settings."""
        fills = [state.asked for state in states if isinstance(state.asked, Fill)]
        params = fills[0].params
        if isinstance(params, JointParams):
            for state, fill in zip(states, fills, strict=True):
                self._fill_jointly(state, fill, params)
            return
        rows = [(fill, seed) for fill in fills for seed in fill.seeds]
        denoising = Denoising(
            [fill.canvas.to(self._device) for fill, _ in rows],
            params,
            mask_id=self._layout.mask_id,
            eos_id=self._layout.eos_id,
            stop_ids=[i for i in self._layout.end_ids if i != self._layout.eos_id],
            seeds=[seed for _, seed in rows],
            negatives=[fill.negatives[k].to(self._device) for k in range(len(fills[0].negatives)) for fill, _ in rows] or None,
            guides=[fill.guide for fill, _ in rows],
            record=states[0].record,
            num_alternatives=states[0].num_alternatives,
        )
        first = 0
        for state, fill in zip(states, fills, strict=True):
            if state.sequence is not None:
                state.finished.append(state.sequence)
            state.sequences = tuple(SequenceState(fill, denoising, first + i) for i in range(len(fill.seeds)))
            first += len(fill.seeds)

    def _fill_jointly(self, state: RequestState[Any], fill: Fill, params: JointParams) -> None:
        """A joint denoising for each seed."""
        if state.sequence is not None:
            state.finished.append(state.sequence)
        canvas, negatives = fill.canvas.to(self._device), [negative.to(self._device) for negative in fill.negatives]
        made = [
            JointDenoising(
                canvas,
                params,
                mask_id=self._layout.mask_id,
                negatives=negatives,
                seed=seed,
                record=state.record,
                num_alternatives=state.num_alternatives,
            )
            for seed in fill.seeds
        ]
        state.sequences = tuple(SequenceState(fill, denoising, 0) for denoising in made)

    def _shares(self, states: Sequence[RequestState[Any]]) -> list[list[_Turn]]:
        """What is evaluated together: all of the step, unless a single request alone is above the budget of logits."""
        turns: list[_Turn] = [_Turn((state,), state.ranking) for state in states if state.ranking is not None]
        together: dict[int, list[RequestState[Any]]] = {}
        for state in states:
            if state.ranking is None:
                together.setdefault(id(state.sequences[0].denoising), []).append(state)
        for group in together.values():
            denoisings = {id(s.denoising): s.denoising for state in group for s in state.sequences if not s.done}
            for denoising in denoisings.values():
                rows = tuple(s.row for state in group for s in state.sequences if not s.done and s.denoising is denoising)
                turns.append(_Turn(tuple(group), denoising, rows))
        limit = self.scheduler.max_num_batched_logits
        if len(states) != 1 or limit is None or not turns[0].rows or states[0].scheduled.num_logits <= limit:
            return [turns] if turns else []
        if len(turns) > 1:
            return [[turn] for turn in turns]
        (turn,) = turns
        assert not isinstance(turn.of, Ranking)
        size = max(1, limit // turn.of.num_logits(turn.rows[0]))
        return [[_Turn(turn.states, turn.of, turn.rows[i : i + size])] for i in range(0, len(turn.rows), size)]

    def _evaluate(self, turns: Sequence[_Turn]) -> int:
        """Ask, and advance; the number of tokens. If all together fail, each is tried alone, so that one cannot spoil the others."""
        turns = [turn for turn in turns if not any(state.done for state in turn.states)]
        if not turns:
            return 0
        try:
            queries = [turn.inputs() for turn in turns]
            answers: list[Tensor] = list(self._denoiser(queries))
        except StoppedError:  # there is nothing to try again with
            raise
        except Exception as error:  # whatever a device raises, out of memory above all
            if not self._isolate:
                raise
            if len(turns) == 1:
                self._fail(turns[0].states[0], error)
                return 0
            _log.warning("a step of %d requests failed (%s: %s); trying each alone", len(turns), type(error).__name__, error)
        else:
            for turn, logits in zip(turns, answers, strict=True):
                try:
                    turn.of.advance(logits)
                except Exception as error:
                    if not self._isolate:
                        raise
                    self._fail(turn.states[0], error)
            return sum(query.num_evaluated for query in queries)
        # Outside the handler: the error holds what the failed pass had in memory.
        return sum(self._evaluate([turn]) for turn in turns)

    def _fail(self, state: RequestState[Any], error: Exception) -> None:
        """An error that is not the caller's fault."""
        _log.error("request %d failed", state.scheduled.number, exc_info=error)
        what = f"the model failed on generation {state.scheduled.number} ({type(error).__name__})"
        self._end(state, error=EngineError(f"{what}; the server's log says more"))
