"""The generations of one HTTP request, as its coroutine sees them: the bridge from the engine's thread to the event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from mmada.serve.engine import Begun, Drawn, Engine, Event, Failed, Order, Written

__all__ = ["Calls"]


class Calls:
    """Submits orders, and delivers what happens to them. Raises BusyError, ClosedError.

    arrived  when the request came (time.monotonic), from which its time is counted; None: now

    Whoever makes it cancels it in the end, which does nothing to what is finished.
    """

    def __init__(self, engine: Engine, orders: Sequence[Order], *, priority: int = 0, arrived: float | None = None) -> None:
        loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._engine, self._count = engine, len(orders)

        def tell(index: int, event: Event) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, so nobody waits any more
                loop.call_soon_threadsafe(self._events.put_nowait, (index, event))

        self._tickets = engine.submit(orders, tell, priority=priority, arrived=arrived)
        self._early: list[tuple[int, Event]] = []

    async def begun(self) -> None:
        """Wait until every order was found to be a good one. Raises the error of one that was not."""
        left = self._count
        while left:
            index, event = await self._events.get()
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Begun):
                left -= 1
            else:
                self._early.append((index, event))

    async def events(self, *, every: float | None = None) -> AsyncIterator[tuple[int, Event] | None]:
        """What happens, until all orders are finished; None when nothing did for `every` seconds. Raises the error of one that failed."""
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
            if isinstance(event, Failed):
                raise event.error
            left -= isinstance(event, (Written, Drawn))
            yield index, event

    async def results(self) -> list[Written | Drawn]:
        """What came of each order. Raises the error of one that failed."""
        results: dict[int, Written | Drawn] = {}
        async for told in self.events():
            if told is not None and isinstance(told[1], (Written, Drawn)):
                results[told[0]] = told[1]
        return [results[i] for i in range(self._count)]

    def cancel(self) -> None:
        self._engine.cancel(self._tickets)
