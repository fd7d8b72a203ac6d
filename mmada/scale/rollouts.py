"""Rollouts of reinforcement learning by workers over Ray: each holds a whole model, and samples with the sampler of the package.

    with ray_rollouts(config) as remote:
        run(config, remote=remote)

    a round:  weights that are trained -> object store -> workers      an adapter alone with LoRA, for the rest never changes
              prompts, dealt out in turn -> workers -> rollouts, in the order of the prompts

A rollout depends on the weights, its prompt and the seed alone, so workers give what one process would. Several rounds may be asked for at
once, each by weights of its own (rl/weight_versions.py). What a worker that died had not given is sampled again by another, and counted.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import Tensor

from mmada.errors import InputError
from mmada.rl.config import RLConfig
from mmada.rl.records import Prompt, Rollout
from mmada.rl.rollout import Decoding
from mmada.scale.ray_cluster import connected

__all__ = ["AskedRollouts", "RayRollouts", "RolloutWorker", "ray_rollouts"]

_MAX_DEATHS = 3
"""Workers that may die of the same prompts."""


class RolloutWorker:
    """Lives in a process of its own. It begins with the weights that the run begins with."""

    def __init__(self, config: RLConfig, num_threads: int) -> None:
        import torch

        from mmada.data.find_world import find_world
        from mmada.rl.setup import load_policy

        torch.set_num_threads(num_threads)
        data = config.data
        parts, policy = load_policy(config, find_world(data.world, data.options) if data.world else None)
        self._device = torch.device("cuda" if config.rollout_gpus else "cpu")
        self._policy, self._planner = policy.to(self._device).eval(), parts.planner
        if self._planner.layout.codebook_size:
            self._planner.image_tokenizer.to(self._device)
        self._is_autocast = config.loop.precision == "bf16"
        self._version = 0

    def pid(self) -> int:
        """Of the process; it answers when the model is loaded."""
        return os.getpid()

    def sample(
        self, version: int, weights: Sequence[Any], prompts: Sequence[Prompt], decoding: Decoding, num: int, seed: int, record: bool
    ) -> list[Rollout]:
        """Rollouts by the weights of a version, which are fetched once. weights: their reference, in a list so that Ray leaves it alone."""
        import ray
        import torch

        from mmada.rl.rollout import generate_rollouts

        if version != self._version:
            found = ray.get(weights[0])
            with torch.no_grad():
                for name, tensor in found.items():
                    self._policy.get_parameter(name).copy_(tensor)
            self._version = version
        with torch.no_grad(), torch.autocast(self._device.type, torch.bfloat16) if self._is_autocast else nullcontext():
            return generate_rollouts(
                prompts, self._planner, self._denoise, decoding, num=num, seed=seed, device=self._device, record=record
            )

    def _denoise(self, queries: Sequence[Any]) -> list[Tensor]:
        logits: list[Tensor] = self._policy(queries=queries)
        return logits


class RayRollouts:
    """`RemoteRollouts` by workers, which start when they are first needed. num_again counts prompts that were sampled again."""

    def __init__(self, config: RLConfig) -> None:
        self._config, self._workers, self._version = config, list[Any](), 0
        self.num_again = 0

    def pids(self) -> list[int]:
        """Processes of the workers, whose models are loaded when this returns.

        Raises InputError for more workers than the cluster has room for.
        """
        import ray
        import torch

        config = self._config
        if not self._workers:
            cluster, workers = ray.cluster_resources(), config.rollout_workers
            for name, each in (("CPU", 1.0), ("GPU", config.rollout_gpus)):
                if workers * each > (room := cluster.get(name, 0.0)):
                    raise InputError(
                        f"rollout_workers={workers} need {each:g} {name} each, and the cluster has {room:g}; ask for fewer workers"
                    )
            self._num_threads = max(1, torch.get_num_threads() // workers)
            self._workers = [self._started() for _ in range(workers)]
        found: list[int] = ray.get([worker.pid.remote() for worker in self._workers])
        return found

    def begin(
        self, weights: Mapping[str, Tensor], prompts: Sequence[Prompt], decoding: Decoding, *, num: int, seed: int, record: bool
    ) -> AskedRollouts:
        """Ask the workers, who sample what they were asked for in turn."""
        import ray

        if not self._workers:
            self.pids()
        self._version += 1
        return AskedRollouts(self, self._version, [ray.put(dict(weights))], prompts, (decoding, num, seed, record))

    def worker(self, place: int) -> Any:
        """The actor at a place, which `replace` may have changed."""
        return self._workers[place]

    def replace(self, place: int, dead: Any) -> None:
        """Start a worker in the place of one that died. Several rounds may find that it did."""
        if self._workers[place] is dead:
            self._workers[place] = self._started()

    def __len__(self) -> int:
        return len(self._workers)

    def _started(self) -> Any:
        import ray

        kind = ray.remote(num_cpus=1, num_gpus=self._config.rollout_gpus, max_restarts=0, max_task_retries=0)(RolloutWorker)
        return kind.remote(self._config, self._num_threads)


class AskedRollouts:
    """`PendingRollouts` of workers: prompts are dealt out in turn, at once."""

    def __init__(self, team: RayRollouts, version: int, weights: list[Any], prompts: Sequence[Prompt], how: tuple[Any, ...]) -> None:
        self._team, self._version, self._weights, self._prompts, self._how = team, version, weights, prompts, how
        parts = [range(place, len(prompts), len(team)) for place in range(len(team))]
        self._asked = dict(self._ask(place, part, 1) for place, part in enumerate(parts) if part)

    def result(self) -> tuple[list[Rollout], int]:
        """Wait for them. Raises InputError if workers died of the same prompts again and again."""
        import ray
        from ray.exceptions import RayActorError

        num, num_again = self._how[1], 0
        groups: dict[int, list[Rollout]] = {}
        while self._asked:
            (done,), _ = ray.wait(list(self._asked), num_returns=1)
            place, worker, part, deaths = self._asked.pop(done)
            try:
                with _own_errors():
                    rollouts = ray.get(done)
            except RayActorError as error:
                if deaths == _MAX_DEATHS:
                    raise InputError(
                        f"{deaths} rollout workers died of the same prompts, {self._prompts[part[0]].place} among them ({_first_line(error)}); "
                        "give them less at once (group, max_tokens), or more memory"
                    ) from error
                self._team.replace(place, worker)
                num_again += len(part)
                self._asked |= [self._ask(place, part, deaths + 1)]
                continue
            groups |= {index: rollouts[j * num : (j + 1) * num] for j, index in enumerate(part)}
        self._team.num_again += num_again
        return [rollout for index in range(len(self._prompts)) for rollout in groups[index]], num_again

    def _ask(self, place: int, part: Sequence[int], deaths: int) -> tuple[Any, tuple[int, Any, Sequence[int], int]]:
        worker, own = self._team.worker(place), [self._prompts[i] for i in part]
        return worker.sample.remote(self._version, self._weights, own, *self._how), (place, worker, part, deaths)


@contextmanager
def ray_rollouts(config: RLConfig) -> Iterator[RayRollouts]:
    """Workers on the cluster that RAY_ADDRESS names, or else on this machine. Raises MissingDependencyError without Ray."""
    with connected("rollouts=ray"):
        yield RayRollouts(config)


@contextmanager
def _own_errors() -> Iterator[None]:
    """The package's errors as they were raised in a worker, which lives on."""
    from ray.exceptions import RayTaskError

    try:
        yield
    except RayTaskError as error:
        raise error.cause if isinstance(error.cause, Exception) else error from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
