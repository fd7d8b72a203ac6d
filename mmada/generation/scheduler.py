"""Whose turn it is. Plain records and counts: no tensors, no clock of its own. Several threads may use it.

A `ScheduledSequence` stands for one generation. A step evaluates as many of them as the budgets of tokens and logits hold, in the order of

    priority_key = step of arrival + SLOWDOWN * (whole quanta of steps that it has had) - BOOST * priority

Generations of usual length are served first come, first served. A long one falls behind newcomers once it has had a quantum, so it
does not starve short ones. It does not starve either: its key stays, while the keys of newcomers grow with time.
What is left of the budgets goes to the next sequence that fits. The first one runs even if it alone exceeds them.

Where a step takes as long as it has tokens (`small_round`), somebody reads urgent sequences along: texts, of which a step evaluates few
tokens. Beside them the others get as much of the time as they do, by a credit of tokens. A while after them rounds stay small, so that the next
urgent one does not wait for a large round to end.

Putting a generation aside is free if its tokens are all that it has between two steps. One with a cache also keeps keys and values, from
its first step to its last. So it begins only when a second budget, of kept tokens, has space for it, and none that keeps any begins before it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import RLock

from mmada.errors import InputError, MMaDAError

__all__ = [
    "A_WHILE",
    "BOOST",
    "OVERHEAD",
    "QUANTUM",
    "SLOWDOWN",
    "BusyError",
    "ClosedError",
    "ScheduledSequence",
    "Scheduler",
    "SchedulerOutput",
]

QUANTUM = 64
"""Rounds after which a generation falls behind; above the steps of a usual drawing or answer, so that those are not cut up."""
SLOWDOWN = 2 * QUANTUM
BOOST = 8 * QUANTUM
"""Rounds of arrival that a priority is worth."""
OVERHEAD = 48
"""Tokens that take as long as what a step costs besides its tokens."""
A_WHILE = 128
"""Rounds that stay small after an urgent one."""


class BusyError(MMaDAError):
    """The queue is full. retry_after is in seconds."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ClosedError(MMaDAError):
    """The server is shutting down and takes nothing new."""


@dataclass(slots=True, eq=False)
class ScheduledSequence:
    """One generation in the scheduler's eyes.

    num_tokens  what a round of it evaluates; 0 while it has nothing to evaluate, and then it is not scheduled
    num_logits  numbers that a round of it is told
    num_kept    tokens whose keys and values it keeps from its first round on
    deadline    when it is given up, in the caller's seconds
    num_steps   how many it has had
    urgent      whether somebody reads it along
    begun       whether it has had one since it was resized
    """

    number: int
    arrived: int
    deadline: float
    priority: int
    num_tokens: int = 0
    num_logits: int = 0
    num_kept: int = 0
    num_steps: int = 0
    urgent: bool = False
    begun: bool = False
    gone: bool = False

    @property
    def priority_key(self) -> tuple[int, int]:
        """Smaller is sooner; equal places go by number."""
        return self.arrived + SLOWDOWN * (self.num_steps // QUANTUM) - BOOST * self.priority, self.number


@dataclass(frozen=True, slots=True)
class SchedulerOutput:
    """What to do next: whose step to evaluate together, and who has waited too long and is out."""

    scheduled_sequences: tuple[ScheduledSequence, ...]
    expired: tuple[ScheduledSequence, ...]


class Scheduler:
    """Admits, orders and forgets sequences.

    max_queue         sequences that may wait, which is all that were not in the last round; None: any number
    max_num_batched_tokens  budget of a round
    max_num_batched_logits  budget of a round; None: any number
    max_kept_tokens   budget of what generations keep between rounds; None: any number
    small_round       tokens of a round while urgent sequences come; None: they are like the others
    waiting_elsewhere  how many wait in other processes that share the queue's limit
    """

    def __init__(
        self,
        *,
        max_num_batched_tokens: int,
        max_num_batched_logits: int | None = None,
        max_queue: int | None = None,
        max_kept_tokens: int | None = None,
        small_round: int | None = None,
        waiting_elsewhere: Callable[[], int] = int,
    ) -> None:
        self._small_round, self._credit, self._small_until = small_round, 0, 0
        self._waiting_elsewhere = waiting_elsewhere
        self.max_queue, self.max_num_batched_tokens = max_queue, max_num_batched_tokens
        self.max_num_batched_logits, self.max_kept_tokens = max_num_batched_logits, max_kept_tokens
        self._lock = RLock()
        self.closed = False
        """set it to drain: nothing new is taken, and what is there is finished"""
        self._scheduled_sequences: dict[int, ScheduledSequence] = {}
        self._running: tuple[ScheduledSequence, ...] = ()
        self._clock = 0
        self._number = 0
        self._finished: deque[float] = deque(maxlen=32)

    def __len__(self) -> int:
        return len(self._scheduled_sequences)

    @property
    def num_running(self) -> int:
        """Sequences of the last round that are not finished."""
        return sum(not scheduled.gone for scheduled in self._running)

    @property
    def num_waiting(self) -> int:
        """Sequences that are in the queue and have not begun."""
        return len(self._scheduled_sequences) - self.num_running

    @property
    def num_kept(self) -> int:
        """Tokens whose keys and values are kept now."""
        with self._lock:
            return sum(scheduled.num_kept for scheduled in self._scheduled_sequences.values() if scheduled.begun)

    @property
    def num_ready(self) -> int:
        """Sequences that have something to evaluate."""
        with self._lock:
            return sum(scheduled.num_tokens > 0 for scheduled in self._scheduled_sequences.values())

    def submit(
        self, count: int, *, now: float, deadline: float = math.inf, priority: int = 0, urgent: bool = False
    ) -> list[ScheduledSequence]:
        """Sequences for `count` generations of one request, all or none. Raises BusyError, ClosedError."""
        with self._lock:
            if self.closed:
                raise ClosedError("the server is shutting down; send the request again later")
            num_waiting = self.num_waiting + self._waiting_elsewhere()
            if self.max_queue is not None and num_waiting + count > self.max_queue:
                raise BusyError(
                    f"{num_waiting} generations wait and the queue holds {self.max_queue}; send the request again later",
                    self.retry_after(now),
                )
            scheduled_sequences = [
                ScheduledSequence(self._number + i, self._clock, deadline, priority, urgent=urgent) for i in range(count)
            ]
            self._number += count
            self._scheduled_sequences.update((scheduled.number, scheduled) for scheduled in scheduled_sequences)
            return scheduled_sequences

    def resize(self, scheduled: ScheduledSequence, num_tokens: int, num_kept: int = 0, *, num_logits: int = 0) -> None:
        """Say what a round of the sequence evaluates and what it will keep, which also makes it ready; what it kept before is given back."""
        if num_tokens < 1 or num_kept < 0:
            raise InputError(f"num_tokens={num_tokens} must be at least 1, and num_kept={num_kept} must not be negative")
        with self._lock:
            scheduled.num_tokens, scheduled.num_logits, scheduled.num_kept, scheduled.begun = num_tokens, num_logits, num_kept, False

    def update(self, scheduled: ScheduledSequence, num_tokens: int, *, num_logits: int = 0) -> None:
        """Say what the next round of a sequence evaluates, where rounds differ; what it keeps stays."""
        with self._lock:
            scheduled.num_tokens, scheduled.num_logits = num_tokens, num_logits

    def pause(self, scheduled: ScheduledSequence) -> None:
        """The sequence has nothing to evaluate for now, and keeps nothing."""
        with self._lock:
            scheduled.num_tokens = scheduled.num_logits = scheduled.num_kept = 0

    def schedule(self, now: float) -> SchedulerOutput:
        """Choose the next round, and count it for those chosen."""
        with self._lock:
            expired = tuple(
                scheduled for scheduled in self._scheduled_sequences.values() if scheduled.num_tokens and scheduled.deadline <= now
            )
            for scheduled in expired:
                self.remove(scheduled)
            ready = sorted((t for t in self._scheduled_sequences.values() if t.num_tokens), key=lambda t: t.priority_key)
            chosen = self._affordable(self._in_turn(ready)) or self._affordable(ready)
            for scheduled in chosen:
                scheduled.num_steps += 1
                scheduled.begun = True
            self._clock += bool(chosen)
            self._running = tuple(chosen)
            return SchedulerOutput(self._running, expired)

    def _affordable(self, ready: Sequence[ScheduledSequence]) -> list[ScheduledSequence]:
        """Those that the budgets hold, in this order."""
        chosen: list[ScheduledSequence] = []
        tokens, kept, full = self.max_num_batched_tokens, self.num_kept, False
        logits = math.inf if self.max_num_batched_logits is None else self.max_num_batched_logits
        most_kept = math.inf if self.max_kept_tokens is None else self.max_kept_tokens
        for scheduled in ready:
            more = 0 if scheduled.begun else scheduled.num_kept
            full = full or bool(more and kept and kept + more > most_kept)
            if more and full:
                continue
            if (scheduled.num_tokens <= tokens and scheduled.num_logits <= logits) or not chosen:
                chosen.append(scheduled)
                tokens -= scheduled.num_tokens
                logits -= scheduled.num_logits
                kept += more
        return chosen

    def _in_turn(self, ready: Sequence[ScheduledSequence]) -> list[ScheduledSequence]:
        """All, unless some are urgent: then these, and as many others as they have paid for. For a while after them a small round."""
        if self._small_round is None:
            return list(ready)
        num_urgent = sum(scheduled.num_tokens for scheduled in ready if scheduled.urgent)
        if num_urgent:
            self._small_until = self._clock + A_WHILE
        elif self._clock >= self._small_until:
            return list(ready)
        turn, space = [], self._small_round
        for scheduled in ready:
            if not scheduled.urgent:
                if scheduled.num_tokens > space and space < self._small_round:
                    continue
                if num_urgent and scheduled.num_tokens > self._credit:
                    continue
                space -= scheduled.num_tokens
                self._credit -= scheduled.num_tokens if num_urgent else 0
            turn.append(scheduled)
        self._credit = self._credit + OVERHEAD + num_urgent if num_urgent and any(not scheduled.urgent for scheduled in ready) else 0
        return turn

    def finish(self, scheduled: ScheduledSequence, now: float) -> bool:
        """The sequence has all that it wanted; False if it was gone already."""
        with self._lock:
            if not self.remove(scheduled):
                return False
            self._finished.append(now)
            return True

    def remove(self, scheduled: ScheduledSequence) -> bool:
        """Forget a sequence, which was finished, cancelled or given up; False if it was gone already."""
        with self._lock:
            scheduled.gone = True
            return self._scheduled_sequences.pop(scheduled.number, None) is not None

    def retry_after(self, now: float) -> int:
        """Seconds, 1 to 60, in which half of those who wait will be finished at the present rate."""
        if len(self._finished) < 2 or now <= self._finished[0]:
            return 1
        rate = len(self._finished) / (now - self._finished[0])
        return min(60, max(1, math.ceil(self.num_waiting / 2 / rate)))
