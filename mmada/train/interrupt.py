"""Stopping politely: the first SIGTERM or Ctrl-C is noted, a second one acts as usual."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["signals_noted"]


@contextmanager
def signals_noted() -> Iterator[Callable[[], bool]]:
    """Inside: whether SIGTERM or SIGINT has come. Elsewhere than in the main thread, where Python takes no signals, never."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event.is_set
        return
    kinds = (signal.SIGTERM, signal.SIGINT)
    before = {kind: signal.getsignal(kind) for kind in kinds}

    def stop(kind: int, frame: object) -> None:
        event.set()
        for each, handler in before.items():
            signal.signal(each, handler)

    for kind in kinds:
        signal.signal(kind, stop)
    try:
        yield event.is_set
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
