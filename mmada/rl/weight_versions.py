"""Weights that earlier rounds began with, for as long as rollouts are made by them, or compared with them.

    staleness K: the rollouts of round r are sampled by version max(0, r - K), the weights that this round began with

    round               0           1           2           3
    asks for            0 1         2           3           4        K = 1: while a round trains, the next one is sampled
    by version          0 0         1           2           3
    learns from         0           1           2           3
    of version          0           0           1           2

The schedule is fixed, so that the same seed gives the same rollouts, however fast the workers are. Copies lie in the memory of the host.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mmada.train.sharding import is_sharded, like, local

__all__ = ["WeightVersions", "rounds_to_ask", "version_of"]


def version_of(number: int, staleness: int) -> int:
    """The round whose first weights sample the rollouts of a round."""
    return max(0, number - staleness)


def rounds_to_ask(number: int, staleness: int, num_rounds: int, asked: Iterable[int]) -> list[int]:
    """What is to be sampled at the start of a round, in order: what is due by then and was not asked for, as after a resume."""
    return [later for later in range(number, min(number + staleness + 1, num_rounds)) if later not in set(asked)]


class WeightVersions:
    """Copies of a module's trained weights; of shards, the rows of this process."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._kept: dict[int, dict[str, Tensor]] = {}

    def __contains__(self, version: int) -> bool:
        return version in self._kept

    def keep(self, version: int, *, first: int) -> None:
        """Copy the weights as they are now, and forget versions before `first`."""
        self._kept = {old: weights for old, weights in self._kept.items() if old >= first}
        self._kept[version] = {name: local(parameter.detach()).cpu().clone() for name, parameter in self._trained()}

    @contextmanager
    def swapped(self, version: int) -> Iterator[None]:
        """Inside, the module has the weights of a version."""
        now = {name: local(parameter.detach()).cpu().clone() for name, parameter in self._trained()}
        self._fill(self._kept[version])
        try:
            yield
        finally:
            self._fill(now)

    def state_dict(self) -> dict[str, Any]:
        """Plain values for torch.save."""
        return {"kept": self._kept, "is_sharded": any(is_sharded(parameter) for _, parameter in self._trained())}

    def load(self, parts: Sequence[Mapping[str, Any]]) -> None:
        """Go on with what the processes of a run had saved, in the order of their ranks; their number may have been another."""
        parts = parts if parts[0]["is_sharded"] else parts[:1]
        trained = dict(self._trained())
        self._kept = {
            version: {name: like(torch.cat([part["kept"][version][name] for part in parts]), trained[name]).clone() for name in weights}
            for version, weights in parts[0]["kept"].items()
        }

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, parameter) for name, parameter in self._module.named_parameters() if parameter.requires_grad)

    @torch.no_grad()
    def _fill(self, weights: Mapping[str, Tensor]) -> None:
        for name, parameter in self._trained():
            local(parameter).copy_(weights[name])
