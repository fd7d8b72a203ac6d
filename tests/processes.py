"""Processes for tests, forked from one that has imported what they need: `import torch` takes seconds, a fork takes none.

A process that starts from nothing is another matter, and tests/test_startup.py's.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from multiprocessing.process import BaseProcess
from pathlib import Path
from subprocess import CompletedProcess

ROOT = Path(__file__).parents[1]
TRAINING = ("tests.train.tiny", "tests.rl.tiny", "torch.distributed.fsdp", "torch._dynamo", "torch.utils.tensorboard")
SERVING = ("mmada.pipeline", "mmada.hub.checkpoint", "mmada.serve.http", "mmada.cli.serve")
_FORKS = multiprocessing.get_context("forkserver")


def start(
    function: Callable[..., object],
    *arguments: object,
    out: Path | None = None,
    error: Path | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    preload: Sequence[str] = TRAINING,
) -> BaseProcess:
    """Call a module's function in a process of its own.

    out, error  files for what it prints; `error` is by default the file of `out`
    env         is added to the environment of the test
    preload     what is imported before the first fork
    """
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    _FORKS.set_forkserver_preload(list(preload))
    for path in (out, error):
        if path is not None:
            path.touch()
    process = _FORKS.Process(target=_child, args=(function, arguments, out, error or out, cwd, {**os.environ, **(env or {})}))
    process.start()
    return process


def _child(function, arguments, out, error, cwd, env) -> None:
    os.environ.clear()
    os.environ.update(env)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for descriptor, path in ((1, out), (2, error)):
        if path is not None:
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    if cwd is not None:
        os.chdir(cwd)
    import torch

    torch.set_num_threads(1)
    function(*arguments)


def command_line(words: Sequence[str], path: Sequence[str] = ()) -> None:
    """`mmada WORDS`, with further folders to import from. For `start`."""
    from mmada.cli import main

    sys.path[:0] = path
    sys.argv = ["mmada", *words]
    main()


def mmada(words: Sequence[str], *, cwd: Path, path: Sequence[str] = (), **options) -> CompletedProcess[str]:
    """Run a command to its end, as subprocess.run does."""
    with tempfile.TemporaryDirectory() as folder:
        out, error = Path(folder) / "out", Path(folder) / "error"
        process = start(command_line, words, path, out=out, error=error, cwd=cwd, **options)
        process.join(300)
        assert process.exitcode is not None, words
        return CompletedProcess(list(words), process.exitcode, out.read_text(), error.read_text())


def free_ports(number: int) -> list[str]:
    """Ports that nobody listens on now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        return [str(free.getsockname()[1]) for free in sockets]


def start_ranks(
    function: Callable[..., object], *arguments: object, size: int = 2, env: Mapping[str, str] | None = None, **options
) -> list[BaseProcess]:
    """Call a function in processes that are the ranks of one run on the CPU. env: of a launcher, or added to that of the test."""
    port, next_port = free_ports(2)
    shared = {**(env or {}), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NEXT_PORT": next_port, "ACCELERATE_USE_CPU": "true"}
    shared |= {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    return [start(function, *arguments, env={**shared, "RANK": str(i), "LOCAL_RANK": str(i)}, **options) for i in range(size)]


def ranks(function: Callable[..., object], *arguments: object, **options) -> list[int | None]:
    """Run them to their end. Returns their exit codes."""
    run = start_ranks(function, *arguments, **options)
    for process in run:
        process.join(300)
    return [process.exitcode for process in run]
