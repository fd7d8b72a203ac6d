"""One thread that steps the generation engine, and tells whoever waits what is new.

    every turn    take what arrived: its program runs to the first thing that it asks for, or it is refused
                  engine.step()                     a denoising step of every generation whose turn it is (generation/engine.py)
                  tell of each what is new, and end those that have a result

Pictures are encoded and decoded by a thread of their own, so that nobody else waits for them. Only the engine's thread touches the
denoisings; others see tickets and events. Events are delivered in the engine's thread, by the caller's function.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch

from mmada.errors import MMaDAError
from mmada.generation.engine import Engine as GenerationEngine
from mmada.generation.engine import ExpiredError
from mmada.generation.planner import Planner
from mmada.generation.programs import program_of
from mmada.generation.scheduler import BusyError, ClosedError, Scheduler, Ticket
from mmada.generation.steps import RequestState
from mmada.sampling import Denoiser
from mmada.serve.config import ServeConfig
from mmada.serve.metrics import Metrics
from mmada.serve.outputs import Begun, Drawn, Event, Failed, Order, OutputStream, Words

__all__ = ["Engine"]

_log = logging.getLogger("mmada.serve")


@dataclass(slots=True, eq=False)
class _Live:
    """A generation that is not finished."""

    ticket: Ticket
    order: Order
    tell: Callable[[Event], None]
    arrived: float
    output: OutputStream | None = None
    state: RequestState[Any] | None = None
    begun: bool = False
    has_block: bool = False
    num_blocks: int = 0


class Engine:
    """Serves orders with one model.

    planner   turns requests into programs
    denoiser  evaluates queries; called by the engine's thread only
    device    where it wants its queries
    bytes_per_token  of a cache, keys and values of all layers: config.num_kept_values times the size of a number
    """

    def __init__(
        self,
        planner: Planner,
        denoiser: Denoiser,
        config: ServeConfig,
        *,
        device: torch.device | str = "cpu",
        bytes_per_token: int = 1,
    ) -> None:
        self._planner, self._config = planner, config
        self._scheduler = Scheduler(
            max_queue=config.max_queue,
            max_round_tokens=config.max_round_tokens,
            max_round_logits=config.max_round_logits,
            max_kept_tokens=config.max_cache_bytes // bytes_per_token,
        )
        self._changed = threading.Condition()  # guards the inbox, _cancelled and _stopping
        self._inbox: list[_Live] = []
        self._cancelled: list[Ticket] = []
        self._stopping = False
        self._lives: dict[int, _Live] = {}
        # One, so that the pictures of a generation come in order.
        self._pictures = ThreadPoolExecutor(1, thread_name_prefix="mmada-pictures")
        self._engine = GenerationEngine(
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
            num_running=lambda: self._scheduler.num_running,
            num_waiting=lambda: self._scheduler.num_waiting,
            cache_bytes=lambda: self._scheduler.num_kept * bytes_per_token,
        )

    # For other threads.

    def start(self) -> None:
        self._thread.start()

    @property
    def healthy(self) -> bool:
        """Whether the engine runs and takes orders."""
        return self._thread.is_alive() and not self._scheduler.closed

    @property
    def num_live(self) -> int:
        """Generations that are not finished."""
        return len(self._scheduler)

    def submit(
        self, orders: Sequence[Order], tell: Callable[[int, Event], None], *, priority: int = 0, arrived: float | None = None
    ) -> list[Ticket]:
        """Take the orders of one request, all or none; tell(i, event) is called with what happens to order i.

        arrived  when the request came (time.monotonic), from which its time is counted; None: now
        Raises BusyError if the queue is full, ClosedError after `drain`.
        """
        now = time.monotonic() if arrived is None else arrived
        with self._changed:
            try:
                tickets = self._scheduler.submit(len(orders), now=now, deadline=now + self._config.request_timeout, priority=priority)
            except (BusyError, ClosedError):
                for order in orders:
                    self.metrics.generations.labels(order.kind, "refused").inc()
                raise
            for i, (ticket, order) in enumerate(zip(tickets, orders, strict=True)):
                self._inbox.append(_Live(ticket, order, lambda event, i=i: tell(i, event), now))  # type: ignore[misc]
            self._changed.notify()
        return tickets

    def cancel(self, tickets: Sequence[Ticket]) -> None:
        """Give up what is not finished of them; no more events come."""
        with self._changed:
            self._cancelled += [ticket for ticket in tickets if self._scheduler.remove(ticket)]
            self._changed.notify()

    def drain(self) -> None:
        """Take nothing new, finish what is there. May be called from a signal handler."""
        self._scheduler.closed = True

    def stop(self) -> None:
        """Give up everything and end the thread."""
        self.drain()
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()
        self._pictures.shutdown(cancel_futures=True)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify()

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
            self._lives.update((live.ticket.number, live) for live in self._inbox)
        for live in list(self._lives.values()):
            if self._scheduler.remove(live.ticket):
                self._end(live, Failed(ClosedError(reason)), "failed")

    def _turn(self) -> bool:
        """Take what arrived, and step; False when it is time to stop."""
        with self._changed:
            while not (self._inbox or self._cancelled or self._engine.has_work or self._stopping):
                # Whoever waits for a picture alone may run out of time meanwhile.
                if not self._changed.wait(timeout=1.0 if self._lives else None):
                    break
            arrivals, self._inbox = self._inbox, []
            cancelled, self._cancelled = self._cancelled, []
            stopping = self._stopping
        self._lives.update((live.ticket.number, live) for live in arrivals)
        for ticket in cancelled:
            live = self._lives.pop(ticket.number)  # whoever removes a ticket from the scheduler, and nobody else, ends its life
            self.metrics.generations.labels(live.order.kind, "cancelled").inc()
            if live.state is not None:
                self._engine.cancel(live.state)
        if stopping:
            return False
        for live in arrivals:
            if not live.ticket.gone:
                self._begin(live)
        self._round()
        return True

    def _begin(self, live: _Live) -> None:
        def later(draw: Callable[[], Event]) -> None:
            assert live.state is not None
            self._engine.later(live.state, draw, lambda event: self._tell(live, event))

        live.output = OutputStream(live.order, self._planner, later)
        live.state = self._engine.add(program_of(live.order.request, self._planner), ticket=live.ticket, record=live.order.drafts)

    def _round(self) -> None:
        began = time.monotonic()
        report = self._engine.step()
        if report.advanced:
            self.metrics.evaluated.inc(report.num_tokens)
            self.metrics.rounds.inc()
            self.metrics.round_size.observe(len(report.advanced))
            self.metrics.round_seconds.observe(time.monotonic() - began)
        for live in self._lives.values():
            if not live.begun and live.state is not None and live.state.num_prompt_tokens is not None:
                live.begun = True
                self._tell(live, Begun(live.state.num_prompt_tokens))
        for state in report.advanced:
            if (live_ := self._lives.get(state.ticket.number)) is not None:
                self._show(live_, state)
        for state in self._engine.take_finished():
            if (live_ := self._lives.get(state.ticket.number)) is not None:
                self._finish(live_, state)

    def _show(self, live: _Live, state: RequestState[Any]) -> None:
        """Tell what is new after a step, and cut a text that is long enough."""
        assert live.output is not None
        assert state.sequence is not None
        self._count_blocks(live, state)
        for event in live.output.after_step(state):
            self._tell(live, event)
        if live.output.is_enough(state):
            self._engine.cut(state)

    def _count_blocks(self, live: _Live, state: RequestState[Any]) -> None:
        row = state.sequence
        assert row is not None
        own = row.denoising.num_blocks_done(row.row)
        num_blocks = own + sum(before.fill.params.num_blocks(before.fill.num_open) for before in state.finished)
        is_thought = live.order.kind == "draw" and row.fill.init is None
        if own and not is_thought and not live.has_block:
            live.has_block = True
            self.metrics.first_block.labels(live.order.kind).observe(time.monotonic() - live.arrived)
        self.metrics.blocks.inc(num_blocks - live.num_blocks)
        live.num_blocks = num_blocks

    def _finish(self, live: _Live, state: RequestState[Any]) -> None:
        """Tell the result, or what went wrong."""
        if isinstance(state.error, ExpiredError):
            limit = f"{self._config.request_timeout:g} seconds"
            self._end(live, Failed(ExpiredError(f"the generation was not finished in {limit}; ask for less, or try later")), "expired")
            return
        if state.error is not None:
            assert isinstance(state.error, MMaDAError)
            self._end(live, Failed(state.error), "failed")
            return
        assert live.output is not None
        for result in live.output.at_end(state):
            if isinstance(result, Words):
                self._tell(live, result)
                continue
            seconds, kind = time.monotonic() - live.arrived, live.order.kind
            num_tokens = result.num_new_tokens + (result.num_thinking_tokens if isinstance(result, Drawn) else 0)
            self.metrics.tokens.labels(kind).inc(num_tokens)
            self.metrics.seconds.labels(kind).observe(seconds)
            self.metrics.forwards.labels(kind).observe(result.num_forwards)
            self.metrics.tokens_per_forward.labels(kind).observe(num_tokens / max(1, result.num_forwards))
            _log.info("%s %d finished: %d tokens, %d forwards, %.3f s", kind, live.ticket.number, num_tokens, result.num_forwards, seconds)
            self._end(live, result, "finished")

    def _tell(self, live: _Live, event: Event) -> None:
        if live.ticket.number in self._lives:
            live.tell(event)

    def _end(self, live: _Live, event: Event, outcome: str) -> None:
        self.metrics.generations.labels(live.order.kind, outcome).inc()
        del self._lives[live.ticket.number]
        live.tell(event)
