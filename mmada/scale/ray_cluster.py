"""A connection to Ray."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mmada.errors import InputError, MissingDependencyError

__all__ = ["connected", "on_cpus", "raised"]

_RAISED = re.compile(r"^(?:\w+\.)*\w+(?:Error|Exception): (.+)$", re.MULTILINE)


def raised(report: str) -> str:
    """What the last error of a report of Ray says, which holds tracebacks; the report itself if it holds none."""
    found = _RAISED.findall(report)
    return found[-1] if found else report


@contextmanager
def connected(setting: str, *, environment: Mapping[str, str] | None = None) -> Iterator[Any]:
    """The module `ray`, connected to the cluster that RAY_ADDRESS names, or else to one on this machine, which ends with the block.

    setting      what asked for it, such as --ray, for the error
    environment  variables of the processes that are started through this connection
    A connection that is there already is used, and stays. Raises MissingDependencyError without Ray, InputError if the cluster is not reached.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise MissingDependencyError(f"{setting} needs ray; install the extra: pip install 'mmada[scale]'") from error
    was_connected = ray.is_initialized()
    if not was_connected:
        variables = {"runtime_env": {"env_vars": dict(environment)}} if environment else {}
        try:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level="error", **variables)
        except ConnectionError as error:
            address = os.environ.get("RAY_ADDRESS", "")
            raise InputError(
                f"{setting} does not reach the Ray cluster of RAY_ADDRESS={address!r} ({error}); see that it runs, and that RAY_AUTH_MODE "
                "is the same here and there"
            ) from error
    try:
        yield ray
    finally:
        if not was_connected:
            ray.shutdown()


def on_cpus(device: str | None, resources: Mapping[str, float]) -> bool:
    """Whether replicas run on CPUs: because that is asked for, or the cluster has no GPU. Raises InputError if one is asked for all the same."""
    if str(device or "").startswith("cpu"):
        return True
    if str(device or "").startswith("cuda") and not resources.get("GPU"):
        raise InputError(f"device={device!r} cannot be used: the cluster has no GPU; try cpu, or leave it out")
    return not resources.get("GPU")
