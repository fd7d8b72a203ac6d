"""The generations of one HTTP request, as its coroutine sees them: the bridge from the engine's thread to the event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from mmada.serve.engine import ServingEngine
from mmada.serve.outputs import Admitted, EngineRequest, Event, Failed, ImageOutput, TextOutput

__all__ = ["OutputStream"]

_MOST_WAITING = 32
"""Events of a generation that may wait for its client before drafts are left out."""


class OutputStream:
    """Submits engine requests, and delivers what happens to them. Raises BusyError, ClosedError.

    arrived  when the request came (time.monotonic), from which its time is counted; None: now

    Whoever makes it cancels it in the end, which does nothing to what is finished.
    """

    def __init__(
        self, engine: ServingEngine, engine_requests: Sequence[EngineRequest], *, priority: int = 0, arrived: float | None = None
    ) -> None:
        loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._engine, self._count = engine, len(engine_requests)

        self._num_sent = self._num_taken = 0

        def on_event(index: int, event: Event) -> None:
            self._num_sent += 1
            with contextlib.suppress(RuntimeError):  # the loop is closed, so nobody waits any more
                loop.call_soon_threadsafe(self._events.put_nowait, (index, event))

        self._scheduled_sequences = engine.submit(engine_requests, on_event, priority=priority, arrived=arrived, lags=self._lags)
        self._early: list[tuple[int, Event]] = []
        self.num_prompt_tokens = [0] * self._count
        """of each engine request, once it was found to be a good one"""

    async def begun(self) -> None:
        """Wait until every engine request was found to be a good one. Raises the error of one that was not."""
        left = self._count
        while left:
            index, event = await self._events.get()
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Admitted):
                self.num_prompt_tokens[index] = event.num_prompt_tokens
                left -= 1
            else:
                self._early.append((index, event))
                continue
            self._num_taken += 1

    async def events(self, *, every: float | None = None) -> AsyncIterator[tuple[int, Event] | None]:
        """What happens, until all engine requests are finished; None when nothing did for `every` seconds. Raises the error of one that failed."""
        left = self._count
        while left:
            if self._early:
                index, event = self._early.pop(0)
            else:
                try:
                    index, event = await asyncio.wait_for(self._events.get(), every)
                except (TimeoutError, asyncio.TimeoutError):
                    yield None
                    continue
            self._num_taken += 1
            if isinstance(event, Failed):
                raise event.error
            left -= isinstance(event, (TextOutput, ImageOutput))
            yield index, event

    async def results(self) -> list[TextOutput | ImageOutput]:
        """What came of each engine request. Raises the error of one that failed."""
        results: dict[int, TextOutput | ImageOutput] = {}
        async for item in self.events():
            if item is not None and isinstance(item[1], (TextOutput, ImageOutput)):
                results[item[0]] = item[1]
        return [results[i] for i in range(self._count)]

    def _lags(self) -> bool:
        """Whether the client reads more slowly than there is news; asked in the engine's thread."""
        return self._num_sent - self._num_taken > _MOST_WAITING * self._count

    def cancel(self) -> None:
        """End what is not finished; the engine drops it before its next step."""
        self._engine.cancel(self._scheduled_sequences)
