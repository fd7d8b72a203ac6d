"""Start the processes that hold a split model together with this one (model/mirror.py).

    this process   leads: it has the tokenizers, the sampler or the server, and a part of the weights
    followers      python -m mmada.pipeline.followers FOLDER RANK LEADER: a part of the weights each

They meet by a file of a folder that only their user can read. They speak over the machine itself, for the sums of every block need the links
of one server. Followers end with their leader, whatever happens to it. A keyboard interrupt is the leader's alone.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from mmada.errors import CheckpointError, InputError, MMaDAError
from mmada.families import named
from mmada.hub import networks
from mmada.model.mirror import LeadingDenoiser, follow
from mmada.model.tensor_parallel import SplitTransformer, TPGroup, check_split

__all__ = ["Part", "check_devices", "follow_in", "lead"]

_IDLE = timedelta(days=3650)
"""How long followers wait for the next queries."""
_END = 10.0
"""Seconds that followers have to end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """What all processes of a model must know.

    directory, family, dtype  of the checkpoint
    device  its type: each process takes the one of its number
    size    processes
    """

    directory: str
    family: str
    dtype: str
    device: str
    size: int


def check_devices(size: int, device: torch.device) -> None:
    """Raises InputError if there are not enough devices for `size` processes, or one is named for all."""
    given = f"tensor_parallel={size}"
    if size < 2:
        raise InputError(f"{given} must be at least 1; 1 leaves the model in one process")
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"{given} runs on cuda, and for tests on cpu, not on {device.type}; leave it out")
    if str(device) != device.type:
        raise InputError(
            f"{given} takes the first {size} devices, and device={device} names one; give {device.type}, and CUDA_VISIBLE_DEVICES"
        )
    if device.type == "cuda" and torch.cuda.device_count() < size:
        raise InputError(f"{given} needs as many GPUs, and {torch.cuda.device_count()} are here; give fewer")


def lead(part: Part) -> LeadingDenoiser:
    """Start followers and load this process's part. `model` of the result is that part, its `close` ends the followers.

    Raises InputError if the model cannot be split or this process has met others before, CheckpointError if a follower cannot load its part.
    """
    check_split(networks.transformer_config(Path(part.directory), family=named(part.family)), part.size)
    if dist.is_initialized():
        raise InputError(
            f"tensor_parallel={part.size} brings processes together, and this one has met others before; load one such model in a process"
        )
    folder = Path(tempfile.mkdtemp(prefix="mmada-"))
    (folder / "part.json").write_text(json.dumps(asdict(part)), encoding="utf-8")
    followers = [_started(folder, rank, part) for rank in range(1, part.size)]
    try:
        store = _store(folder, part.size)
        _await(store, "up", followers)
        model, group = _joined(store, 0, part)
        _await(store, "loaded", followers)
    except BaseException:
        _end(followers, folder)
        raise
    return LeadingDenoiser(model, group, on_close=partial(_end, followers, folder))


def follow_in(folder: Path, rank: int, leader: int) -> None:
    """Be a follower, until the leader ends; `leader` is its process id. Raises SystemExit."""
    threading.Thread(target=_watch, args=(leader, folder), daemon=True).start()
    part = Part(**json.loads((folder / "part.json").read_text(encoding="utf-8")))
    store = _store(folder, part.size)
    store.set(f"up-{rank}", "")
    try:
        model, group = _joined(store, rank, part)
    except MMaDAError as error:
        store.set(f"error-{rank}", str(error))
        raise SystemExit(1) from error
    store.set(f"loaded-{rank}", "")
    try:
        follow(model, group)
    except RuntimeError as error:  # of a connection that is closed
        raise SystemExit(1) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    dist.destroy_process_group()


def _watch(parent: int, folder: Path) -> None:
    """End with the parent, which left its folder: a connection may outlive it, in processes that it has started."""
    while os.getppid() == parent:
        time.sleep(1)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def _started(folder: Path, rank: int, part: Part) -> subprocess.Popen[bytes]:
    environ = dict(os.environ)
    if part.device == "cpu":
        environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // part.size))
    command = [sys.executable, "-m", "mmada.pipeline.followers", str(folder), str(rank), str(os.getpid())]
    return subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)


def _store(folder: Path, size: int) -> Any:
    return dist.FileStore(str(folder / "store"), size)  # type: ignore[attr-defined]


def _await(store: Any, what: str, followers: Sequence[subprocess.Popen[bytes]]) -> None:
    """Until all followers are up, or have loaded. Raises CheckpointError if one of them has ended instead."""
    for rank, process in enumerate(followers, 1):
        while not store.check([f"{what}-{rank}"]):
            if process.poll() is not None:
                reason = store.get(f"error-{rank}").decode() if store.check([f"error-{rank}"]) else f"status {process.returncode}"
                raise CheckpointError(f"process {rank} of the model ended while it was loading ({reason}); what it wrote says more")
            time.sleep(0.01)


def _joined(store: Any, rank: int, part: Part) -> tuple[SplitTransformer, dist.ProcessGroup]:
    """Meet the others, and read a part of the weights. Returns the group for messages, too."""
    device = torch.device("cpu")
    if part.device == "cuda":
        device = torch.device("cuda", rank)
        torch.cuda.set_device(device)
    with _on_this_machine():
        dist.init_process_group("cpu:gloo,cuda:nccl" if part.device == "cuda" else "gloo", store=store, rank=rank, world_size=part.size)
        group = dist.new_group(backend="gloo", timeout=_IDLE)
    assert isinstance(group, dist.ProcessGroup)
    model = networks.load_part(Path(part.directory), TPGroup(rank, part.size), dtype=part.dtype, device=device, family=named(part.family))
    return model, group


@contextmanager
def _on_this_machine() -> Iterator[None]:
    """Connections that are made inside are those of the machine with itself, and nobody else can make one."""
    name = "GLOO_SOCKET_IFNAME"
    before = os.environ.get(name)
    if sys.platform == "linux":
        os.environ[name] = before or "lo"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)


def _end(followers: Sequence[subprocess.Popen[bytes]], folder: Path) -> None:
    """Wait for followers that were told to end, and kill those that do not."""
    if dist.is_initialized():
        dist.destroy_process_group()
    deadline = time.monotonic() + _END
    for process in followers:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    follow_in(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
