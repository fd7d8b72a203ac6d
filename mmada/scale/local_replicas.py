"""Replicas in processes of this machine, without Ray: each holds a whole model, and a request goes to the one that has the fewest.

    async with local_replicas(model, settings, loading, count=2) as replicas:
        response = await replicas.answer(line)

A process that is killed takes no request with it: what it had is asked again, of the others. They end with the caller, however it ends.
"""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from mmada.errors import MMaDAError
from mmada.scale.batch import LostError
from mmada.scale.batch_lines import BatchLine
from mmada.scale.replica import Replica, ReplicaDownError, load

__all__ = ["LocalReplicas", "local_replicas"]

_MAX_DEATHS = 3
"""Processes that may die of one request."""


class _DeadError(Exception):
    """A process is gone, and has not answered."""


@dataclass(slots=True, eq=False)
class _Member:
    process: Any
    connection: Connection
    ready: asyncio.Future[None]
    is_up: bool = True
    asked: dict[int, asyncio.Future[dict[str, Any]]] = field(default_factory=dict)


class LocalReplicas:
    """Answers requests by processes. num_lost counts requests that were asked again because their process had died."""

    def __init__(self, members: list[_Member]) -> None:
        self._members, self._numbers = members, itertools.count()
        self.num_lost = 0

    def __len__(self) -> int:
        return len(self._members)

    @property
    def pids(self) -> list[int]:
        """Of the processes that live."""
        return [member.process.pid for member in self._members if member.is_up]

    async def answer(self, line: BatchLine) -> dict[str, Any]:
        """Ask the least busy process, and another if it dies. Raises ReplicaDownError if none lives, LostError after several deaths."""
        for _ in range(_MAX_DEATHS):
            living = [member for member in self._members if member.is_up]
            if not living:
                raise ReplicaDownError(
                    "no process is left that answers, perhaps for lack of memory; the same command goes on with what is left"
                )
            member, number = min(living, key=lambda one: len(one.asked)), next(self._numbers)
            answered: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
            member.asked[number] = answered
            try:
                member.connection.send((number, line))
                return await answered
            except (_DeadError, OSError):
                self.num_lost += 1
                member.is_up = False
            finally:
                member.asked.pop(number, None)
        raise LostError(f"the request of line {line.number} was asked {_MAX_DEATHS} times, and each process died meanwhile; ask for less")


@asynccontextmanager
async def local_replicas(
    model: str, settings: Mapping[str, Any], loading: Mapping[str, Any], *, count: int
) -> AsyncIterator[LocalReplicas]:
    """Processes with a share of the cores each, and of the GPUs in turn, once all have loaded. Raises what loading raises.

    model, loading  as in `mmada.scale.replica.load`
    settings        fields of ServeConfig
    """
    context, loop = _context(), asyncio.get_running_loop()
    members: list[_Member] = []
    try:
        for number in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, number, count, model, dict(settings), dict(loading)))
            process.start()
            theirs.close()
            members.append(_Member(process, ours, loop.create_future()))
            threading.Thread(target=_listen, args=(members[-1], loop), daemon=True).start()
        await asyncio.gather(*(member.ready for member in members))
        yield LocalReplicas(members)
    finally:
        for member in members:
            member.process.kill()  # what is not answered is asked by the next run
        for member in members:
            await asyncio.to_thread(member.process.join)


def _context() -> Any:
    """Not forked from this process: torch has threads here, which a fork would lack. A server of forks imports torch once for all."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", __name__])
    return context


def _listen(member: _Member, loop: asyncio.AbstractEventLoop) -> None:
    """In a thread: answers go to those who wait for them, until the process is gone."""
    with suppress(EOFError, OSError):
        while True:
            number, answer = member.connection.recv()
            loop.call_soon_threadsafe(_settle, member.ready if number is None else member.asked.get(number), answer)
    with suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(_lose, member)


def _lose(member: _Member) -> None:
    member.is_up = False
    _settle(
        member.ready, ReplicaDownError("a process was killed while it loaded the model, perhaps for lack of memory; give fewer --workers")
    )
    for waiting in list(member.asked.values()):
        _settle(waiting, _DeadError())


def _settle(waiting: asyncio.Future[Any] | None, answer: Any) -> None:
    if waiting is None or waiting.done():
        return
    if isinstance(answer, Exception):
        waiting.set_exception(answer)
    else:
        waiting.set_result(answer)


def _serve(channel: Connection, number: int, count: int, model: str, settings: dict[str, Any], loading: dict[str, Any]) -> None:
    """In a process of its own, until the caller is gone."""
    import torch

    from mmada.serve.threads import available
    from mmada.serve.workers import device_of_worker

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller ends this process
    try:
        torch.set_num_threads(available(count))
        device = device_of_worker(number, loading.get("device"), torch.cuda.device_count())
        if device is not None and device.startswith("cuda"):
            torch.cuda.set_device(device)
        replica = Replica(load(model, {**loading, "device": device}), settings)
    except Exception as error:
        channel.send((None, _sendable(error)))
        return
    asyncio.run(_answer_all(channel, replica))


def _sendable(error: Exception) -> Exception:
    """The package's errors as they are; what another process may not know as its words."""
    if isinstance(error, MMaDAError):
        with suppress(Exception):
            pickle.loads(pickle.dumps(error))
            return error
    return ReplicaDownError(f"a process cannot go on ({type(error).__name__}: {error}); the same command goes on with what is left")


async def _answer_all(channel: Connection, replica: Replica) -> None:
    running: set[asyncio.Task[None]] = set()

    async def answer(number: int, line: BatchLine) -> None:
        try:
            found: Any = await replica.answer(line)
        except Exception as error:
            found = _sendable(error)
        channel.send((number, found))

    async with replica.running():
        channel.send((None, None))
        while True:
            try:
                number, line = await asyncio.to_thread(channel.recv)
            except (EOFError, OSError):
                os._exit(1)  # nobody is there to be answered
            task = asyncio.ensure_future(answer(number, line))
            running.add(task)
            task.add_done_callback(running.discard)
