"""Several processes behind one port: a supervisor accepts connections and hands each to a worker, which serves it from then on.

    client ──► supervisor ──► worker 0     its own model, engine and picture decoders
                         └──► worker 1

    worker = supervise(2, listening, drain_seconds=60, ready=print)
    if worker is not None:  # this process is one of the workers: load a model, and serve what comes through worker.channel

A connection goes to the worker that has fewest connections and generations. The kernel's own choice (SO_REUSEPORT) is a hash: of 16 connections
a worker gets 12 or more in one case of thirteen. Bytes do not pass through the supervisor, so streams, limits and disconnections are the same
as with one process.

Workers are forked, after what they import was imported and before anything was computed. One that dies is started again, and takes its own
connections with it. Workers whose supervisor dies finish what they have, as after SIGTERM.

SIGHUP replaces the workers one after the other: each gets no more connections, finishes what it has, ends, and is started again.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import selectors
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mmada.errors import InputError
from mmada.serve.board import Board, Place

__all__ = ["LEAVE", "Worker", "device_of_worker", "listen", "supervise"]

_log = logging.getLogger("mmada.serve")

_BACKLOG = 2048
_SOON = 5.0
"""Seconds; a worker that lives shorter is started again later and later."""
_LATEST = 30.0
_BEYOND_DRAIN = 30.0
"""Seconds beyond the drain after which a worker that has not ended is killed."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
LEAVE = b"q"
"""What a supervisor says to a worker that is to finish what it has and end."""


@dataclass(frozen=True, slots=True, eq=False)
class Worker:
    """What a worker has of its supervisor.

    place    its row of what all workers share
    channel  connections come through it, and its end is the supervisor's
    folder   where the workers keep their counters (metrics.py)
    """

    place: Place
    channel: socket.socket
    folder: Path


@dataclass(slots=True, eq=False)
class _Process:
    """A worker, as its supervisor sees it. channel None: it does not run, and is started at `start_at`."""

    number: int
    channel: socket.socket | None = None
    pid: int = 0
    started: float = 0.0
    start_at: float = 0.0
    delay: float = 0.0
    is_ready: bool = False
    is_leaving: bool = False
    kill_at: float = math.inf
    num_sent: int = 0


def device_of_worker(number: int, device: str | None, num_gpus: int) -> str | None:
    """Where a worker's model goes: the workers take the GPUs in turn, unless `device` names one, as cuda:1 and cpu do.

    None: where a model goes without workers.
    """
    if device not in (None, "cuda") or not num_gpus:
        return device
    return f"cuda:{number % num_gpus}"


def listen(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen on every address of a name; port 0 is a free one. Raises InputError if that cannot be."""
    sockets: list[socket.socket] = []
    try:
        for family, *_, address in dict.fromkeys(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)):
            chosen = sockets[0].getsockname()[1] if sockets else port
            sockets.append(socket.create_server((address[0], chosen), family=family, backlog=_BACKLOG))
    except OSError as error:
        for one in sockets:
            one.close()
        raise InputError(f"the server cannot listen on {host} port {port} ({error}); choose another --port or --host") from error
    return sockets


def supervise(num_workers: int, sockets: Sequence[socket.socket], *, drain_seconds: float, ready: Callable[[], None]) -> Worker | None:
    """Fork workers and give them connections until a signal comes and they have ended: then None. In a worker, at once: what it is.

    ready  called when all workers take requests
    Raises InputError where processes cannot be forked, and SystemExit if the first worker does not start.
    """
    if not hasattr(os, "fork") or not hasattr(socket, "send_fds"):
        raise InputError(f"workers={num_workers} needs a system that can fork and pass on connections; use 1 here")
    own, folder = os.getpid(), Path(tempfile.mkdtemp(prefix="mmada-"))
    try:
        return _Supervisor(num_workers, sockets, folder, drain_seconds, ready).run()
    finally:
        if os.getpid() == own:
            shutil.rmtree(folder, ignore_errors=True)


class _Supervisor:
    def __init__(
        self, num_workers: int, sockets: Sequence[socket.socket], folder: Path, drain_seconds: float, ready: Callable[[], None]
    ) -> None:
        self._board, self._folder, self._drain_seconds, self._ready = Board(num_workers), folder, drain_seconds, ready
        self._processes = [_Process(number) for number in range(num_workers)]
        self._sockets, self._accepts = list(sockets), False
        self._selector = selectors.DefaultSelector()
        self._wakes = socket.socketpair()
        self._terminal = _Terminal()
        self._to_replace: list[_Process] = []
        self._num_signals = self._num_passed_on = 0
        self._has_begun = self._is_announced = False
        self._kill_at = math.inf

    def run(self) -> Worker | None:
        before = {sig: signal.signal(sig, self._count) for sig in _SIGNALS}
        before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)  # it shall end a wait
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, self._hung_up)
        for one in (*self._sockets, *self._wakes):
            one.setblocking(False)
        signal.set_wakeup_fd(self._wakes[0].fileno())
        self._selector.register(self._wakes[1], selectors.EVENT_READ, self._woken)
        try:
            while not (self._num_passed_on and not any(process.pid for process in self._processes)):
                worker = self._start_due()
                if worker is not None:
                    return worker
                self._wait()
        except BaseException:
            self._kill()
            raise
        signal.set_wakeup_fd(-1)
        for sig, handler in before.items():
            signal.signal(sig, handler)
        return None

    def _count(self, *_: object) -> None:
        self._num_signals += 1

    def _hung_up(self, *_: object) -> None:
        """Replace the workers, or end if it was the terminal that was closed; nohup lets the server live on."""
        if not self._terminal.has_closed():
            self._to_replace = [process for process in self._processes if not process.is_leaving]
        elif not self._terminal.is_ignored:
            self._count()

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wakes[1].recv(4096)

    def _wait(self) -> None:
        """Until something happens, and what is to be done then."""
        now = time.monotonic()
        times = [process.start_at for process in self._processes if self._has_begun and not process.pid and not self._num_passed_on]
        until = min([self._kill_at, *times, *(process.kill_at for process in self._processes)])
        for key, _ in self._selector.select(None if until == math.inf else max(0.0, until - now)):
            key.data()
        for process in self._processes:
            if process.pid:
                done, status = os.waitpid(process.pid, os.WNOHANG)
                if done:
                    self._ended(process, os.waitstatus_to_exitcode(status))
        if self._num_signals > self._num_passed_on:
            self._pass_on()
        if time.monotonic() >= self._kill_at:
            self._kill()
        for process in self._processes:
            if process.pid and time.monotonic() >= process.kill_at:
                process.kill_at = math.inf
                os.kill(process.pid, signal.SIGKILL)
        self._replace_next()
        self._watch(any(process.is_ready and not process.is_leaving for process in self._processes) and not self._num_passed_on)

    # Processes.

    def _replace_next(self) -> None:
        """Once all workers take requests, have one leave: so only one is ever missing, and none if its successor cannot start."""
        if self._num_signals or not self._to_replace or not all(process.is_ready and not process.is_leaving for process in self._processes):
            return
        process = self._to_replace.pop(0)
        assert process.channel is not None
        process.is_leaving, process.kill_at = True, time.monotonic() + self._drain_seconds + _BEYOND_DRAIN
        _log.info("worker %d (process %d) finishes its requests, and is replaced", process.number, process.pid)
        with contextlib.suppress(OSError):  # it is about to end
            process.channel.send(LEAVE)

    def _start_due(self) -> Worker | None:
        """Start what is to run and does not: the first alone, so that a wrong model is an error once."""
        for process in self._processes:
            is_due = not process.pid and process.start_at <= time.monotonic() and (self._has_begun or process.number == 0)
            if is_due and not self._num_passed_on:
                worker = self._start(process)
                if worker is not None:
                    return worker
        return None

    def _start(self, process: _Process) -> Worker | None:
        ours, theirs = socket.socketpair()
        sys.stdout.flush()
        sys.stderr.flush()
        process.pid = os.fork()
        if not process.pid:
            ours.close()
            self._leave()
            return Worker(Place(self._board, process.number), theirs, self._folder)
        theirs.close()
        ours.setblocking(False)
        process.channel, process.started, process.num_sent = ours, time.monotonic(), 0
        self._selector.register(ours, selectors.EVENT_READ, partial(self._heard, process))
        return None

    def _leave(self) -> None:
        """In a new process: nothing of the supervisor's stays, and a terminal's Ctrl-C is for the supervisor alone."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a group that is signalled is the supervisor's matter
        os.setsid()
        self._selector.close()
        for one in (*self._sockets, *self._wakes, *(process.channel for process in self._processes)):
            if one is not None:
                one.close()

    def _heard(self, process: _Process) -> None:
        """A worker says that it takes requests, or its end of the channel is closed."""
        assert process.channel is not None
        try:
            said = process.channel.recv(64)
        except OSError:
            said = b""
        if not said:
            self._hang_up(process)
            return
        process.is_ready = self._has_begun = True
        if not self._is_announced and all(process.is_ready for process in self._processes):
            self._is_announced = True
            self._ready()

    def _hang_up(self, process: _Process) -> None:
        if process.channel is not None:
            self._selector.unregister(process.channel)
            process.channel.close()
        process.channel, process.is_ready = None, False

    def _ended(self, process: _Process, code: int) -> None:
        self._hang_up(process)
        self._board.clear(process.number)
        pid, process.pid = process.pid, 0
        if self._num_signals:
            return
        if not self._has_begun:
            raise SystemExit(code if code > 0 else 1)
        was_replaced, process.is_leaving, process.kill_at = process.is_leaving and code == 0, False, math.inf
        if was_replaced:
            process.start_at = 0.0
            return
        now = time.monotonic()
        process.delay = min(_LATEST, 2 * process.delay + 1) if now - process.started < _SOON else 0.0
        process.start_at = now + process.delay
        _log.error("worker %d (process %d) ended with %d; it is started again", process.number, pid, code)

    def _pass_on(self) -> None:
        """The first signal drains the workers, a second one ends them at once."""
        self._num_passed_on = self._num_signals
        self._watch(False)
        for one in self._sockets:
            one.close()
        self._sockets = []
        self._kill_at = min(self._kill_at, time.monotonic() + self._drain_seconds + _BEYOND_DRAIN)
        self._tell(signal.SIGTERM)

    def _kill(self) -> None:
        self._kill_at = math.inf
        self._tell(signal.SIGKILL)

    def _tell(self, sig: signal.Signals) -> None:
        for process in self._processes:
            if process.pid:
                os.kill(process.pid, sig)  # not reaped yet, so the number is its own

    # Connections.

    def _watch(self, accepts: bool) -> None:
        """Take connections, or leave them to the kernel's queue."""
        if accepts == self._accepts:
            return
        self._accepts = accepts
        for one in self._sockets:
            if accepts:
                self._selector.register(one, selectors.EVENT_READ, partial(self._accept, one))
            else:
                self._selector.unregister(one)

    def _accept(self, listening: socket.socket) -> None:
        try:
            connection, _ = listening.accept()
        except BlockingIOError:
            return
        except OSError as error:  # no more descriptors, or the client is gone
            _log.warning("a connection could not be taken (%s)", error)
            time.sleep(0.05)
            return
        with connection:
            for process in sorted(self._processes, key=self._load):
                if process.channel is None or not process.is_ready or process.is_leaving:
                    continue
                try:
                    socket.send_fds(process.channel, [b"c"], [connection.fileno()])
                except OSError:  # it is about to end, or does not listen
                    continue
                process.num_sent += 1
                return

    def _load(self, process: _Process) -> tuple[bool, int]:
        """Open connections and generations; those that take nothing come last."""
        num_open = process.num_sent - self._board.read(process.number, "closed")
        return not self._board.read(process.number, "takes"), num_open + self._board.read(process.number, "live")


class _Terminal:
    """The terminal that started this process, if one did: SIGHUP means that it was closed, or that somebody asks for something."""

    def __init__(self) -> None:
        self.is_ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        self._is_there = self._answers()

    def has_closed(self) -> bool:
        """Since this was asked last."""
        before, self._is_there = self._is_there, self._answers()
        return before and not self._is_there

    @staticmethod
    def _answers() -> bool:
        try:
            os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
        except OSError:
            return False
        return True
