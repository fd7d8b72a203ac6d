"""Replicas over Ray: an actor holds a whole model, and a request goes to the one that has the fewest.

    async with ray_replicas(model, settings, loading, count=8) as replicas:
        response = await replicas.answer(line)

An actor that dies is started again by Ray. What it had not answered is asked again, of whoever has the fewest then; the driver alone writes
results, so that no request has two. A request whose replicas die three times is given up: it may be what kills them.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from mmada.errors import InputError
from mmada.scale.batch import LostError
from mmada.scale.batch_lines import BatchLine
from mmada.scale.ray_cluster import connected, on_cpus, raised
from mmada.scale.replica import Replica, ReplicaDownError, check_loading, load

__all__ = ["RayReplicas", "ray_replicas"]

_MAX_DEATHS = 3
"""Replicas that may die of one request."""
_REVIVAL = 1800.0
"""Seconds that a dead replica has to load its model again."""
_PENDING = 4096
"""Calls that an actor may hold, waiting ones included."""


class _Actor:
    """Lives in a process of its own."""

    def __init__(self, model: str, settings: Mapping[str, Any], loading: Mapping[str, Any], num_threads: int | None) -> None:
        if num_threads is not None:
            import torch

            torch.set_num_threads(num_threads)
        self._replica = Replica(load(model, loading), settings)
        self._running: Any = None

    async def answer(self, line: BatchLine) -> dict[str, Any]:
        if self._running is None:
            self._running = self._replica.running()
            await self._running.__aenter__()
        return await self._replica.answer(line)

    async def pid(self) -> int:
        return os.getpid()


@dataclass(slots=True, eq=False)
class _Member:
    handle: Any
    num_asked: int = 0
    is_up: bool = True
    reviving: asyncio.Task[None] | None = None


class RayReplicas:
    """Answers requests by actors. num_lost counts requests that were asked again because their replica had died."""

    def __init__(self, handles: list[Any]) -> None:
        self._members = [_Member(handle) for handle in handles]
        self.num_lost = 0

    def __len__(self) -> int:
        return len(self._members)

    async def answer(self, line: BatchLine) -> dict[str, Any]:
        """Ask the least busy replica, and another if it dies. Raises ReplicaDownError if none comes back, LostError after several."""
        from ray.exceptions import RayActorError, RayTaskError

        for _ in range(_MAX_DEATHS):
            member = await self._least_busy()
            member.num_asked += 1
            try:
                return await member.handle.answer.remote(line)  # type: ignore[no-any-return]
            except RayTaskError as error:  # raised in the actor, which lives on
                raise error.cause if isinstance(error.cause, Exception) else error from error
            except RayActorError:
                self.num_lost += 1
                self._is_down(member)
            finally:
                member.num_asked -= 1
        raise LostError(f"the request of line {line.number} was asked {_MAX_DEATHS} times, and each replica died meanwhile; ask for less")

    async def pids(self) -> list[int]:
        """Processes of the replicas, which are loaded when this returns."""
        for member in self._members:
            if member.reviving is not None:
                await member.reviving
        return [await member.handle.pid.remote() for member in self._members]

    def close(self) -> None:
        """Wait no longer for replicas that are being started again."""
        for member in self._members:
            if member.reviving is not None:
                member.reviving.cancel()

    async def _least_busy(self) -> _Member:
        """Of those that live; while none does, wait. Raises ReplicaDownError if none comes back."""
        while not (living := [member for member in self._members if member.is_up]):
            tasks = [member.reviving for member in self._members if member.reviving is not None and not member.reviving.done()]
            if not tasks:
                raise ReplicaDownError("no replica could be started again; the same command goes on with what is left")
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return min(living, key=lambda member: member.num_asked)

    def _is_down(self, member: _Member) -> None:
        """Nothing goes there until it answers again: calls to an actor that is being started fail at once."""
        if member.is_up:
            member.is_up = False
            member.reviving = asyncio.ensure_future(_answers_again(member))


async def _answers_again(member: _Member) -> None:
    from ray.exceptions import RayActorError

    deadline = time.monotonic() + _REVIVAL
    while time.monotonic() < deadline:
        try:
            await member.handle.pid.remote()
        except RayActorError:
            await asyncio.sleep(0.2)
        else:
            member.is_up = True
            return


@asynccontextmanager
async def ray_replicas(
    model: str,
    settings: Mapping[str, Any],
    loading: Mapping[str, Any],
    *,
    count: int | None = None,
    num_threads: int | None = None,
) -> AsyncIterator[RayReplicas]:
    """Actors on the cluster that RAY_ADDRESS names, or else on this machine.

    count        replicas; None: one for each GPU of the cluster, or one
    num_threads  of torch, in each; None: torch's own choice
    Raises MissingDependencyError without Ray, InputError for more replicas than the cluster has room for, or replicas that do not start. Before
    Ray is started, it raises what loading the model would raise.
    """
    check_loading(model, loading)
    with connected("--ray") as ray:
        cluster = ray.cluster_resources()
        on_cpu = on_cpus(loading.get("device"), cluster)
        room = int(cluster.get("CPU" if on_cpu else "GPU", 0))
        wanted = (1 if on_cpu else room) if count is None else count
        if wanted > room:
            raise InputError(f"replicas={wanted} need a {'core' if on_cpu else 'GPU'} each, and the cluster has {room}; ask for fewer")
        actor = ray.remote(
            num_cpus=1,
            num_gpus=0 if on_cpu else 1,
            max_restarts=-1,
            max_task_retries=0,
            max_concurrency=_PENDING,
        )(_Actor)
        replicas = RayReplicas([actor.remote(model, dict(settings), dict(loading), num_threads) for _ in range(wanted)])
        try:
            await replicas.pids()
        except ray.exceptions.RayActorError as error:
            raise InputError(f"the replicas could not be started: {raised(str(error))}") from error
        try:
            yield replicas
        finally:
            replicas.close()
