"""Shards made by several processes of this machine.

    write_shards(reader, "codes", run=in_processes(8), ...)

Each process holds the image tokenizer, reads its own records and writes its own files; the manifest is the caller's. They end with the caller,
however it ends: what they were at is made again by the next call.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from mmada.data.shard_writer import ShardJob, ShardRunner
from mmada.data.shards import Shard
from mmada.errors import InputError

__all__ = ["in_processes", "settle"]

_AHEAD = 2
"""Shards that are begun or waiting for each process: it never waits, and little is made in vain."""
_job: ShardJob
"""of this process"""


def in_processes(num_workers: int) -> ShardRunner:
    """The runner of `write_shards` that makes shards in so many processes; GPUs are given out in turn.

    What it returns raises InputError if a process is killed, as by a lack of memory.
    """

    def run(job: ShardJob, numbers: range, on_share: Callable[[float], None]) -> Generator[tuple[int, Shard], None, None]:
        count = min(num_workers, len(numbers))
        if not count:
            return
        # Not forked from this process: torch has threads here, which a fork would lack. A server of forks imports torch once for all.
        kind = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        context: Any = multiprocessing.get_context(kind)
        if kind == "forkserver":
            context.set_forkserver_preload(["__main__", __name__])
        places = context.Value("i", 0)
        pool = ProcessPoolExecutor(count, mp_context=context, initializer=_begin, initargs=(pickle.dumps(job), places, count))
        try:
            yield from _in_order_of_completion(pool, numbers, count)
        except BrokenProcessPool as error:
            raise InputError(
                f"workers={num_workers}: a process that made shards was killed, perhaps for lack of memory; repeat the command to go on, "
                "with fewer workers or a smaller --batch-size"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)

    return run


def _in_order_of_completion(pool: ProcessPoolExecutor, numbers: range, count: int) -> Iterator[tuple[int, Shard]]:
    waiting: dict[Future[Shard], int] = {}
    left = iter(numbers)
    while True:
        while len(waiting) < _AHEAD * count and (number := next(left, None)) is not None:
            waiting[pool.submit(_make, number)] = number
        if not waiting:
            return
        done, _ = wait(waiting, return_when=FIRST_COMPLETED)
        for future in done:
            yield waiting.pop(future), future.result()


def _begin(pickled: bytes, places: Any, count: int) -> None:
    """In a new process."""
    global _job
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the caller says what there is to say
    with places.get_lock():
        place = places.value
        places.value += 1
    _job = pickle.loads(pickled)
    settle(_job, place, count)


def settle(job: ShardJob, place: int, count: int) -> None:
    """Take this process's part of the machine: one of the GPUs, or of the cores."""
    import torch

    if next(job.image_tokenizer.parameters()).device.type == "cuda":
        job.image_tokenizer.to(f"cuda:{place % torch.cuda.device_count()}")
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // count))


def _make(number: int) -> Shard:
    return _job.make(number)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
