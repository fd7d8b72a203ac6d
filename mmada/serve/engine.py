"""One thread that steps the generation engine, and tells whoever waits what is new.

    every turn    take what arrived: its program runs to the first thing that it asks for, or it is refused
                  engine.step()                     a denoising step of every generation whose turn it is (generation/engine.py)
                  tell of each what is new, and end those that have a result

Pictures are encoded and decoded by a thread of their own, so that nobody else waits for them. Only the engine's thread touches the
denoisings; others see scheduled sequences and events. Events are delivered in the engine's thread, by the caller's function.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mmada.errors import InputError, MMaDAError
from mmada.generation.engine import Engine, ExpiredError
from mmada.generation.planner import Planner
from mmada.generation.programs import program_of
from mmada.generation.requests import Drawing
from mmada.generation.scheduler import BusyError, ClosedError, ScheduledSequence, Scheduler
from mmada.generation.steps import RequestState
from mmada.sampling import Denoiser
from mmada.serve.board import Place
from mmada.serve.config import ServeConfig
from mmada.serve.metrics import Metrics
from mmada.serve.outputs import Admitted, EngineRequest, Event, Failed, ImageOutput, OutputProcessor, TextDelta

__all__ = ["ServingEngine"]

_log = logging.getLogger("mmada.serve")

_SMALL_ROUND = 320
"""Tokens of a round on a CPU while texts are asked for. Matrix products of so many rows are as fast as they get; a round of four drawings."""


@dataclass(slots=True, eq=False)
class _ActiveRequest:
    """A generation that is not finished."""

    scheduled: ScheduledSequence
    engine_request: EngineRequest
    on_event: Callable[[Event], None]
    arrived: float
    lags: Callable[[], bool]
    output: OutputProcessor | None = None
    state: RequestState[Any] | None = None
    begun: bool = False
    has_block: bool = False
    num_blocks: int = 0


class ServingEngine:
    """Serves engine requests with one model.

    planner   turns requests into programs
    denoiser  evaluates queries; called by the engine's thread only
    device    where it wants its queries
    bytes_per_token  of a cache, keys and values of all layers: config.num_kept_values times the size of a number
    place   its row of the counts that several processes of one server share; None: the only one
    folder  where workers of one machine keep their counters (metrics.py)
    """

    def __init__(
        self,
        planner: Planner,
        denoiser: Denoiser,
        config: ServeConfig,
        *,
        device: torch.device | str = "cpu",
        bytes_per_token: int = 1,
        place: Place | None = None,
        folder: Path | None = None,
    ) -> None:
        self._planner, self._config = planner, config
        self._place = place = Place() if place is None else place
        self._bytes_per_token = bytes_per_token
        self._scheduler = Scheduler(
            max_queue=config.max_queue,
            max_num_batched_tokens=config.max_num_batched_tokens,
            max_num_batched_logits=config.max_num_batched_logits,
            max_kept_tokens=config.max_cache_bytes // bytes_per_token // place.board.num_workers,
            small_round=_SMALL_ROUND if torch.device(device).type == "cpu" else None,
            waiting_elsewhere=lambda: place.elsewhere("waiting"),
        )
        self._changed = threading.Condition()  # guards the inbox, _cancelled and _stopping
        self._inbox: list[_ActiveRequest] = []
        self._cancelled: list[ScheduledSequence] = []
        self._stopping = False
        self._active: dict[int, _ActiveRequest] = {}
        # One, so that the pictures of a generation come in order.
        self._pictures = ThreadPoolExecutor(1, thread_name_prefix="mmada-pictures")
        self._engine = Engine(
            denoiser,
            planner.layout,
            device=device,
            scheduler=self._scheduler,
            isolate=True,
            executor=self._pictures,
            on_ready=self._wake,
        )
        self._thread = threading.Thread(target=self._run, name="mmada-engine", daemon=True)
        self.metrics = Metrics(
            num_running=lambda: self._scheduler.num_running + place.elsewhere("running"),
            num_waiting=lambda: self._scheduler.num_waiting + place.elsewhere("waiting"),
            cache_bytes=lambda: self._scheduler.num_kept * bytes_per_token + place.elsewhere("cache_bytes"),
            folder=folder,
        )

    # For other threads.

    def start(self) -> None:
        """Begin to run, and say on the board that this worker takes requests."""
        self._thread.start()
        self._place.write("takes", 1)

    @property
    def healthy(self) -> bool:
        """Whether the engine runs and accepts requests."""
        return self._thread.is_alive() and not self._scheduler.closed

    @property
    def num_live(self) -> int:
        """Generations that are not finished, of all workers."""
        return len(self._scheduler) + self._place.elsewhere("live")

    def submit(
        self,
        engine_requests: Sequence[EngineRequest],
        on_event: Callable[[int, Event], None],
        *,
        priority: int = 0,
        arrived: float | None = None,
        lags: Callable[[], bool] = lambda: False,
    ) -> list[ScheduledSequence]:
        """Take the engine requests of one request, all or none; tell(i, event) is called with what happens to request i.

        arrived  when the request came (time.monotonic), from which its time is counted; None: now
        lags     whether so much waits to be read that drafts are left out
        Raises BusyError if the queue is full, ClosedError after `drain`.
        """
        now = time.monotonic() if arrived is None else arrived
        with self._changed:
            try:
                scheduled_sequences = self._scheduler.submit(
                    len(engine_requests),
                    now=now,
                    deadline=now + self._config.request_timeout,
                    priority=priority,
                    urgent=any(engine_request.kind != "draw" for engine_request in engine_requests),
                )
            except (BusyError, ClosedError):
                for engine_request in engine_requests:
                    self.metrics.generations.labels(engine_request.kind, "refused").inc()
                raise
            for i, (scheduled, engine_request) in enumerate(zip(scheduled_sequences, engine_requests, strict=True)):
                self._inbox.append(_ActiveRequest(scheduled, engine_request, lambda event, i=i: on_event(i, event), now, lags))  # type: ignore[misc]
            self._publish()
            self._changed.notify()
        return scheduled_sequences

    def cancel(self, scheduled_sequences: Sequence[ScheduledSequence]) -> None:
        """Give up what is not finished of them; no more events come."""
        with self._changed:
            self._cancelled += [scheduled for scheduled in scheduled_sequences if self._scheduler.remove(scheduled)]
            self._changed.notify()

    def drain(self) -> None:
        """Take nothing new, finish what is there. May be called from a signal handler."""
        self._scheduler.closed = True
        self._place.write("takes", 0)

    def give_up(self) -> None:
        """Take nothing new, and give up what is there after the round that is under way: whoever waits is told."""
        self.drain()
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def stop(self) -> None:
        """Give up everything and end the thread."""
        self.give_up()
        self._thread.join()
        self._pictures.shutdown(cancel_futures=True)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify()

    def _publish(self) -> None:
        """Tell other workers how much there is to do."""
        self._place.write("live", len(self._scheduler))
        self._place.write("running", self._scheduler.num_running)
        self._place.write("waiting", self._scheduler.num_waiting)
        self._place.write("cache_bytes", self._scheduler.num_kept * self._bytes_per_token)

    # The engine's thread.

    def _run(self) -> None:
        try:
            while self._turn():
                pass
            reason = "the server shut down before the generation was finished; send the request again"
        except Exception:
            _log.critical("the engine stopped", exc_info=True)
            reason = "the engine failed, and the server must be started again; its log says more"
        self.drain()
        with self._changed:
            self._active.update((active_request.scheduled.number, active_request) for active_request in self._inbox)
        for active_request in list(self._active.values()):
            if self._scheduler.remove(active_request.scheduled):
                self._end(active_request, Failed(ClosedError(reason)), "failed")

    def _turn(self) -> bool:
        """Take what arrived, and step; False when it is time to stop."""
        with self._changed:
            while not (self._inbox or self._cancelled or self._engine.has_work or self._stopping):
                # Whoever waits for a picture alone may run out of time meanwhile.
                if not self._changed.wait(timeout=1.0 if self._active else None):
                    break
            arrivals, self._inbox = self._inbox, []
            cancelled, self._cancelled = self._cancelled, []
            stopping = self._stopping
        self._active.update((active_request.scheduled.number, active_request) for active_request in arrivals)
        for scheduled in cancelled:
            active_request = self._active.pop(scheduled.number)  # only the remover of a sequence finalizes it
            self.metrics.generations.labels(active_request.engine_request.kind, "cancelled").inc()
            if active_request.state is not None:
                self._engine.cancel(active_request.state)
        if stopping:
            return False
        for active_request in arrivals:
            if not active_request.scheduled.gone:
                self._begin(active_request)
        self._round()
        self._publish()
        return True

    def _begin(self, active_request: _ActiveRequest) -> None:
        def later(draw: Callable[[], Event]) -> None:
            assert active_request.state is not None
            self._engine.later(active_request.state, draw, lambda event: self._tell(active_request, event))

        active_request.output = OutputProcessor(active_request.engine_request, self._planner, later)
        begun = active_request.engine_request.begun
        active_request.state = self._engine.add(
            program_of(active_request.engine_request.request, self._planner) if begun is None else begun,
            scheduled=active_request.scheduled,
            record=active_request.engine_request.drafts or active_request.engine_request.traces,
            num_alternatives=active_request.engine_request.num_alternatives,
        )

    def _round(self) -> None:
        began = time.monotonic()
        report = self._engine.step()
        if report.advanced:
            self.metrics.evaluated.inc(report.num_tokens)
            self.metrics.rounds.inc()
            self.metrics.round_size.observe(len(report.advanced))
            self.metrics.round_seconds.observe(time.monotonic() - began)
        for active_request in self._active.values():
            if not active_request.begun and active_request.state is not None and active_request.state.num_prompt_tokens is not None:
                active_request.begun = True
                self._tell(active_request, Admitted(active_request.state.num_prompt_tokens))
        for state in report.advanced:
            if (live_ := self._active.get(state.scheduled.number)) is not None:
                self._show(live_, state)
        for state in self._engine.take_finished():
            if (live_ := self._active.get(state.scheduled.number)) is not None:
                self._finish(live_, state)

    def _show(self, active_request: _ActiveRequest, state: RequestState[Any]) -> None:
        """Tell what is new after a step, and cut a text that is long enough."""
        assert active_request.output is not None
        assert state.sequence is not None
        self._count_blocks(active_request, state)
        for event in active_request.output.after_step(state, lags=active_request.lags()):
            self._tell(active_request, event)
        if active_request.output.is_enough(state):
            self._engine.cut(state)

    def _count_blocks(self, active_request: _ActiveRequest, state: RequestState[Any]) -> None:
        row = state.sequence
        assert row is not None
        own = row.denoising.num_blocks_done(row.row)
        num_blocks = own + sum(before.fill.num_blocks for before in state.finished)
        is_thought = active_request.engine_request.kind == "draw" and row.fill.init is None
        if own and not is_thought and not active_request.has_block:
            active_request.has_block = True
            self.metrics.first_block.labels(active_request.engine_request.kind).observe(time.monotonic() - active_request.arrived)
        self.metrics.blocks.inc(num_blocks - active_request.num_blocks)
        active_request.num_blocks = num_blocks

    def _finish(self, active_request: _ActiveRequest, state: RequestState[Any]) -> None:
        """Tell the result, or what went wrong."""
        if isinstance(state.error, ExpiredError):
            limit = f"{self._config.request_timeout:g} seconds"
            self._end(
                active_request, Failed(ExpiredError(f"the generation was not finished in {limit}; ask for less, or try later")), "expired"
            )
            return
        if state.error is not None:
            assert isinstance(state.error, MMaDAError)
            self._end(active_request, Failed(state.error), "failed")
            return
        if isinstance(state.result, Drawing) and state.result.problem:
            self._end(active_request, Failed(InputError(state.result.problem)), "failed")
            return
        assert active_request.output is not None
        for result in active_request.output.at_end(state):
            if isinstance(result, TextDelta):
                self._tell(active_request, result)
                continue
            seconds, kind = time.monotonic() - active_request.arrived, active_request.engine_request.kind
            num_tokens = result.num_new_tokens + (result.num_text_tokens if isinstance(result, ImageOutput) else 0)
            self.metrics.tokens.labels(kind).inc(num_tokens)
            self.metrics.seconds.labels(kind).observe(seconds)
            self.metrics.forwards.labels(kind).observe(result.num_forwards)
            self.metrics.tokens_per_forward.labels(kind).observe(num_tokens / max(1, result.num_forwards))
            _log.info(
                "%s %d finished: %d tokens, %d forwards, %.3f s",
                kind,
                active_request.scheduled.number,
                num_tokens,
                result.num_forwards,
                seconds,
            )
            self._end(active_request, result, "finished")

    def _tell(self, active_request: _ActiveRequest, event: Event) -> None:
        if active_request.scheduled.number in self._active:
            active_request.on_event(event)

    def _end(self, active_request: _ActiveRequest, event: Event, outcome: str) -> None:
        self.metrics.generations.labels(active_request.engine_request.kind, outcome).inc()
        del self._active[active_request.scheduled.number]
        active_request.on_event(event)
