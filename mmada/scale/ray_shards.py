"""Shards made over Ray: an actor holds the image tokenizer, and makes one shard at a time.

    write_shards(reader, "codes", run=over_ray(8), ...)

All machines read the same input and write to one folder, so both lie where all of them have them. An actor that dies is started again by Ray,
and makes its shard again: a shard is a function of its number, so that twice is as good as once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmada.data.shard_workers import settle
from mmada.data.shard_writer import ShardJob, ShardRunner
from mmada.data.shards import Shard
from mmada.errors import InputError
from mmada.scale.ray_cluster import connected

__all__ = ["over_ray"]

_MAX_DEATHS = 3
"""Actors that may die of one shard."""
_AHEAD = 2
"""Shards that an actor has or waits for."""


class _Actor:
    """Lives in a process of its own, with a GPU of its own if the tokenizer was on one."""

    def __init__(self, shared: list[Any], folder: str, num_processes: int) -> None:
        """A reference to the job, in a list so that Ray leaves it alone; where its paths start; and the processes of one machine."""
        import ray

        with suppress(OSError):  # where paths are whole, the folder may be missing
            os.chdir(folder)
        self._job: ShardJob = ray.get(shared[0])
        settle(self._job, 0, num_processes)

    def make(self, number: int) -> Shard:
        return self._job.make(number)


def over_ray(num_workers: int | None = None) -> ShardRunner:
    """The runner of `write_shards` that makes shards on the cluster that RAY_ADDRESS names, or else on this machine.

    num_workers  actors; None: one for each GPU of the cluster if the tokenizer is on one, else for each core
    What it returns raises MissingDependencyError without Ray, InputError for more actors than the cluster has room for, or for a shard whose
    actors die again and again.
    """

    def run(job: ShardJob, numbers: range, on_share: Callable[[float], None]) -> Generator[tuple[int, Shard], None, None]:
        if not len(numbers):
            return
        with connected("--ray") as ray:
            on_cpu = next(job.image_tokenizer.parameters()).device.type == "cpu"
            room = int(ray.cluster_resources().get("CPU" if on_cpu else "GPU", 0))
            wanted = room if num_workers is None else num_workers
            if wanted > room:
                raise InputError(f"workers={wanted} need a {'core' if on_cpu else 'GPU'} each, and the cluster has {room}; ask for fewer")
            count = min(wanted, len(numbers))
            cores = max([1, *(int(node["Resources"].get("CPU", 1)) for node in ray.nodes())])
            options = {"num_cpus": 1, "num_gpus": 0 if on_cpu else 1, "max_restarts": -1, "max_task_retries": _MAX_DEATHS - 1}
            actor = ray.remote(**options)(_Actor)
            shared = [ray.put(job)]
            actors = [actor.remote(shared, str(Path.cwd()), min(count, cores)) for _ in range(count)]
            try:
                yield from _made(ray, actors, numbers)
            finally:
                for each in actors:
                    ray.kill(each)

    return run


def _made(ray: Any, actors: list[Any], numbers: range) -> Iterator[tuple[int, Shard]]:
    """In the order in which they are done."""
    waiting: dict[Any, tuple[int, Any]] = {}
    left = iter(numbers)
    free = actors * _AHEAD
    while True:
        while free and (number := next(left, None)) is not None:
            actor = free.pop()
            waiting[actor.make.remote(number)] = (number, actor)
        if not waiting:
            return
        (done,), _ = ray.wait(list(waiting), num_returns=1)
        number, actor = waiting.pop(done)
        free.append(actor)
        yield number, _result(ray, done, number)


def _result(ray: Any, done: Any, number: int) -> Shard:
    try:
        shard: Shard = ray.get(done)
        return shard
    except ray.exceptions.RayTaskError as error:  # raised in the actor, which lives on
        raise error.cause if isinstance(error.cause, Exception) else error from error
    except ray.exceptions.RayActorError as error:
        raise InputError(
            f"shard {number:05d} was begun {_MAX_DEATHS} times, and each process died meanwhile; repeat the command to go on, "
            "with a smaller --batch-size"
        ) from error
