"""Stopping politely: the first SIGTERM or Ctrl-C is noted; one that comes later, when stopping takes too long, acts as usual."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["signals_noted"]

_SAME = 3.0
"""Seconds within which further signals count as one request to stop: torchrun passes on to its processes what the terminal has told them already."""


@contextmanager
def signals_noted() -> Iterator[Callable[[], bool]]:
    """Inside: whether SIGTERM or SIGINT has come. Elsewhere than in the main thread, where Python takes no signals, never."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event.is_set
        return
    kinds = (signal.SIGTERM, signal.SIGINT)
    before = {kind: signal.getsignal(kind) for kind in kinds}

    noted = 0.0

    def stop(kind: int, frame: object) -> None:
        nonlocal noted
        if not event.is_set():
            noted = time.monotonic()
            event.set()
        elif time.monotonic() - noted > _SAME:
            for each, handler in before.items():
                signal.signal(each, handler)
            signal.raise_signal(kind)

    for kind in kinds:
        signal.signal(kind, stop)
    try:
        yield event.is_set
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
