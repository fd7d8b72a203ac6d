"""One thread that runs rounds: a denoising step of every generation whose turn it is, in one forward pass.

    every round    take what arrived: plan it (generation/planner.py), or refuse it
                   choose whose turn it is (scheduler.py)
                   denoiser([d.inputs() for d in chosen])        text and images, guided pairs included, in one call
                   d.advance(logits) for each, then tell whoever waits for it what is new

Each generation has a `Denoising` of its own, so it does not depend on who shares its rounds. Only this thread touches the model, the
tokenizers and the denoisings; others see tickets and events. Events are delivered in the engine's thread, by the caller's function.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from mmada.errors import MMaDAError
from mmada.generation.planner import Job, Planner
from mmada.generation.requests import ChatRequest, Drawing, DrawRequest, FillRequest, Request
from mmada.sampling import Denoiser, Denoising, Ranking
from mmada.serve.config import ServeConfig
from mmada.serve.metrics import Metrics
from mmada.serve.scheduler import BusyError, ClosedError, Scheduler, Ticket
from mmada.serve.stream import TextStream

__all__ = [
    "Begun",
    "Draft",
    "Drawn",
    "Engine",
    "EngineError",
    "Event",
    "ExpiredError",
    "Failed",
    "Order",
    "Piece",
    "Preview",
    "Thought",
    "Words",
    "Written",
]

_log = logging.getLogger("mmada.serve")


class EngineError(MMaDAError):
    """The model failed on a generation, for a reason that is in the log."""


class ExpiredError(MMaDAError):
    """A generation was not finished in time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """A request, and how it is to be followed.

    stop          texts that end an answer
    max_forwards  model evaluations after which a text ends with what is final
    streams       send what is final as soon as it is
    drafts        send the whole text as it looks, each round
    num_previews  pictures to send on the way to a drawing
    """

    request: Request
    stop: tuple[str, ...] = ()
    max_forwards: int | None = None
    streams: bool = False
    drafts: bool = False
    num_previews: int = 0

    @property
    def kind(self) -> str:
        return {ChatRequest: "chat", FillRequest: "fill", DrawRequest: "draw"}[type(self.request)]


# What the engine tells.


@dataclass(frozen=True, slots=True)
class Begun:
    """The request is a good one and waits for its turn."""

    num_prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Words:
    """More of an answer, and of the thinking before it."""

    thinking: str
    answer: str


@dataclass(frozen=True, slots=True)
class Piece:
    """A token of a draft. confidence is that with which it was committed, None while it is open."""

    text: str
    confidence: float | None


@dataclass(frozen=True, slots=True)
class Draft:
    """A text as it looks after a round."""

    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class Thought:
    """What was thought before a drawing, and what is drawn now."""

    thinking: str | None
    prompt: str


@dataclass(frozen=True, slots=True, eq=False)
class Preview:
    """A drawing as it looks on the way."""

    index: int
    image: Image.Image


@dataclass(frozen=True, slots=True)
class Written:
    """A finished text; counts in tokens, num_forwards in model evaluations."""

    answer: str
    thinking: str | None
    finish_reason: Literal["stop", "length"]
    token_ids: tuple[int, ...]
    num_prompt_tokens: int
    num_new_tokens: int
    num_thinking_tokens: int
    num_forwards: int


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """A finished drawing; num_new_tokens are those that were drawn."""

    drawing: Drawing
    num_prompt_tokens: int
    num_new_tokens: int
    num_thinking_tokens: int


@dataclass(frozen=True, slots=True)
class Failed:
    """There is no result, and why."""

    error: MMaDAError


Event = Begun | Words | Draft | Thought | Preview | Written | Drawn | Failed


@dataclass(slots=True, eq=False)
class _Live:
    """A generation in the engine's hands."""

    ticket: Ticket
    order: Order
    tell: Callable[[Event], None]
    arrived: float
    job: Job | None = None
    stream: TextStream | None = None
    denoising: Denoising | Ranking | None = None
    num_prompt_tokens: int = 0
    num_thinking_tokens: int = 0
    num_final: int = 0
    num_blocks: int = 0
    num_previews: int = 0
    num_noted: int = 0
    confidence: list[float | None] | None = None


class Engine:
    """Serves orders with one model.

    planner   turns requests into jobs
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
        self._planner, self._denoiser, self._device, self._config = planner, denoiser, device, config
        self._scheduler = Scheduler(
            max_queue=config.max_queue,
            max_round_tokens=config.max_round_tokens,
            max_kept_tokens=config.max_cache_bytes // bytes_per_token,
        )
        self._changed = threading.Condition()  # guards the scheduler, the inbox and _stopping
        self._inbox: list[_Live] = []
        self._cancelled: list[Ticket] = []
        self._stopping = False
        self._lives: dict[int, _Live] = {}
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
            self._fail(live, ClosedError(reason))

    def _turn(self) -> bool:
        """Take what arrived, and run a round; False when it is time to stop."""
        with self._changed:
            while not (self._inbox or self._cancelled or len(self._scheduler) or self._stopping):
                self._changed.wait()
            arrivals, self._inbox = self._inbox, []
            cancelled, self._cancelled = self._cancelled, []
            stopping = self._stopping
        self._lives.update((live.ticket.number, live) for live in arrivals)
        for ticket in cancelled:
            live = self._lives.pop(ticket.number)  # whoever removes a ticket from the scheduler, and nobody else, ends its life
            self.metrics.generations.labels(live.order.kind, "cancelled").inc()
        if stopping:
            return False
        for live in arrivals:
            if not live.ticket.gone:
                self._guarded(live, self._plan)
        self._round()
        return True

    def _round(self) -> None:
        began = time.monotonic()
        with self._changed:
            chosen = self._scheduler.round(began)
        for ticket in chosen.expired:
            error = ExpiredError(f"the generation was not finished in {self._config.request_timeout:g} seconds; ask for less, or try later")
            self._tell_end(self._lives[ticket.number], Failed(error), "expired")
        lives = [self._lives[ticket.number] for ticket in chosen.tickets if self._guarded(self._lives[ticket.number], self._start)]
        if not lives:
            return
        answers = self._evaluate(lives)
        for live, logits in zip(lives, answers, strict=True):
            if logits is not None and not live.ticket.gone:
                self._guarded(live, lambda live, logits=logits: self._advance(live, logits))  # type: ignore[misc]
        self.metrics.rounds.inc()
        self.metrics.round_size.observe(len(lives))
        self.metrics.round_seconds.observe(time.monotonic() - began)

    def _plan(self, live: _Live) -> None:
        live.job = job = self._planner.job(live.order.request)
        live.num_prompt_tokens = len(job.canvas) - job.num_slots - (len(job.later.positions) if job.later is not None else 0)
        if not isinstance(live.order.request, DrawRequest):
            live.stream = TextStream(live.order.stop, plain=isinstance(live.order.request, FillRequest))
        with self._changed:
            self._scheduler.resize(live.ticket, job.num_evaluated, job.num_kept)
        live.tell(Begun(live.num_prompt_tokens))

    def _start(self, live: _Live) -> None:
        """Make the denoising, at the first turn of a job or of what comes after its first half."""
        assert live.job is not None
        if live.denoising is None:
            (live.denoising,) = self._planner.start([live.job], device=self._device, trace=live.order.drafts)
            live.num_blocks, live.num_noted, live.confidence = 0, 0, [None] * live.job.num_slots

    def _evaluate(self, lives: Sequence[_Live]) -> list[Tensor | None]:
        """Logits for each; None for those that failed. If all together fail, each is tried alone, so that one cannot spoil the others."""
        try:
            queries = [live.denoising.inputs() for live in lives if live.denoising is not None]
            self.metrics.evaluated.inc(sum(stop - start for query in queries for start, stop in query.windows or query.spans))
            return list(self._denoiser(queries))
        except Exception as error:  # whatever a device raises, out of memory above all
            if len(lives) == 1:
                self._fail_on(lives[0], error)
                return [None]
            _log.warning("a round of %d generations failed (%s: %s); trying each alone", len(lives), type(error).__name__, error)
        # Behind the handler: the error holds what the failed pass had in memory.
        return [answer for live in lives for answer in self._evaluate([live])]

    def _advance(self, live: _Live, logits: Tensor) -> None:
        job, denoising = live.job, live.denoising
        assert job is not None
        assert denoising is not None
        denoising.advance(logits)
        if isinstance(denoising, Ranking):
            if denoising.done:
                self._end(live, job, cut=False)
            return
        self._count_blocks(live, denoising.num_blocks_done(0))
        if job.draws_now:
            self._show_drawing(live, job)
        else:
            self._show_text(live, job)
        enough = live.order.max_forwards is not None and denoising.num_forwards[0] >= live.order.max_forwards
        stopped = live.stream is not None and live.stream.shown.stopped
        if stopped or (live.stream is not None and enough) or denoising.done:
            self._end(live, job, cut=not denoising.done)
        else:
            with self._changed:
                self._scheduler.update(live.ticket, denoising.num_evaluated)

    def _count_blocks(self, live: _Live, num_blocks: int) -> None:
        if not live.num_blocks and num_blocks and not (live.job is not None and live.job.thinks):
            self.metrics.first_block.labels(live.order.kind).observe(time.monotonic() - live.arrived)
        self.metrics.blocks.inc(num_blocks - live.num_blocks)
        live.num_blocks = num_blocks

    def _show_text(self, live: _Live, job: Job) -> None:
        if live.order.drafts:
            live.tell(self._draft(live, job))
        if live.stream is None or not (live.order.streams or live.order.stop):
            return
        num_final = job.denoising.num_final(job.row)
        if num_final > live.num_final and not job.denoising.done:
            live.num_final = num_final
            delta = live.stream.push(self._planner.prompts.decode(job.denoising.token_ids(job.row)[:num_final]))
            if delta and live.order.streams:
                live.tell(Words(delta.thinking, delta.answer))

    def _draft(self, live: _Live, job: Job) -> Draft:
        assert live.confidence is not None
        trace = job.denoising.trace
        for step in trace[live.num_noted :]:
            for slot, score in zip(step.slots, step.scores, strict=True):
                live.confidence[slot] = score
        live.num_noted = len(trace)
        layout, prompts = self._planner.layout, self._planner.prompts
        tokens = job.denoising.preview(job.row).tolist()
        words = {token: "" if token == layout.mask_id else prompts.decode([token]) for token in set(tokens)}
        return Draft(tuple(Piece(words[token], confidence) for token, confidence in zip(tokens, live.confidence, strict=True)))

    def _show_drawing(self, live: _Live, job: Job) -> None:
        wanted, steps, step = live.order.num_previews, job.recipe.steps or 1, job.denoising.num_forwards[job.row]
        # Evenly spread over the steps, without the last, which is the result; never two for one step.
        if wanted and step < steps and (step * (wanted + 1)) // steps > ((step - 1) * (wanted + 1)) // steps:
            live.tell(Preview(live.num_previews, self._planner.preview(job)))
            live.num_previews += 1

    def _end(self, live: _Live, job: Job, *, cut: bool) -> None:
        """A denoising is done, or cut short: go on with the job, or give its result."""
        if live.stream is not None:
            self._finish(live, self._written(live, live.stream, job, cut=cut))
            return
        thought = job.thinks
        if self._planner.go_on(job):
            live.denoising = None
            with self._changed:
                self._scheduler.resize(live.ticket, job.num_evaluated, job.num_kept)
            if thought:
                live.num_thinking_tokens = self._num_said(job.denoising.token_ids(job.row).tolist())
                live.tell(Thought(job.thinking, job.prompt))
        else:
            drawing = self._planner.result(job)
            assert isinstance(drawing, Drawing)
            self._finish(live, Drawn(drawing, live.num_prompt_tokens, job.num_slots, live.num_thinking_tokens))

    def _written(self, live: _Live, stream: TextStream, job: Job, *, cut: bool) -> Written:
        denoising, prompts = job.denoising, self._planner.prompts
        ids = denoising.token_ids(job.row)
        said = ids[: denoising.num_final(job.row)] if cut else ids
        delta = stream.push(prompts.decode(said), whole=True)
        if delta and live.order.streams:
            live.tell(Words(delta.thinking, delta.answer))
        shown = stream.shown
        reason = "stop" if shown.stopped else "length" if cut else job.finish_reason
        num_thinking = len(prompts.encode(shown.thinking)) if shown.thinking else 0
        num_new = self._num_said(said.tolist())
        forwards = denoising.num_forwards[job.row]
        return Written(shown.answer, shown.thinking, reason, tuple(ids.tolist()), live.num_prompt_tokens, num_new, num_thinking, forwards)

    def _num_said(self, ids: list[int]) -> int:
        """Tokens up to the first end token, which counts."""
        ends = (self._planner.layout.eos_id, self._planner.layout.eot_id)
        return next((i + 1 for i, token in enumerate(ids) if token in ends), len(ids))

    def _finish(self, live: _Live, result: Written | Drawn) -> None:
        now, kind = time.monotonic(), live.order.kind
        with self._changed:
            if live.ticket.gone:  # cancelled during this very round
                return
            self._scheduler.finish(live.ticket, now)
        forwards = result.num_forwards if isinstance(result, Written) else result.drawing.num_forwards
        num_tokens = result.num_new_tokens + (0 if isinstance(result, Written) else result.num_thinking_tokens)
        self.metrics.tokens.labels(kind).inc(num_tokens)
        self.metrics.seconds.labels(kind).observe(now - live.arrived)
        self.metrics.forwards.labels(kind).observe(forwards)
        self.metrics.tokens_per_forward.labels(kind).observe(num_tokens / max(1, forwards))
        _log.info("%s %d finished: %d tokens, %d forwards, %.3f s", kind, live.ticket.number, num_tokens, forwards, now - live.arrived)
        self._tell_end(live, result, "finished")

    def _guarded(self, live: _Live, do: Callable[[_Live], None]) -> bool:
        """Do something for one generation; if it fails, that one has failed, and nobody else."""
        try:
            do(live)
        except MMaDAError as error:
            self._fail(live, error)
        except Exception as error:
            self._fail_on(live, error)
        else:
            return True
        return False

    def _fail_on(self, live: _Live, error: Exception) -> None:
        """An error that is not the caller's fault."""
        _log.error("%s %d failed", live.order.kind, live.ticket.number, exc_info=error)
        self._fail(
            live, EngineError(f"the model failed on generation {live.ticket.number} ({type(error).__name__}); the server's log says more")
        )

    def _fail(self, live: _Live, error: MMaDAError) -> None:
        with self._changed:
            if not self._scheduler.remove(live.ticket):
                return
        self._tell_end(live, Failed(error), "failed")

    def _tell_end(self, live: _Live, event: Event, outcome: str) -> None:
        self.metrics.generations.labels(live.order.kind, outcome).inc()
        del self._lives[live.ticket.number]
        live.tell(event)
