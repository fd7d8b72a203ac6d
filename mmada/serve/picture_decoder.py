"""Pictures of strangers, decoded in processes that can be killed.

    decoder = PictureDecoder(config)
    image = await decoder.decode(data, deadline=arrived + config.decode_timeout, max_pixels=2**24)

At most `num_decoders` pictures are decoded at a time, in order of arrival, by processes with low priority and limited memory
(picture_worker.py). One that is not done at its deadline is killed, and so is one whose client is gone: its place is free at once.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from PIL import Image

from mmada.errors import ImageError
from mmada.generation.scheduler import BusyError
from mmada.serve import picture_worker
from mmada.serve.config import ServeConfig

__all__ = ["PictureDecoder", "TooManyPixelsError"]

_GRACE = 0.1
"""Seconds in which a picture that nobody wants any more may still be finished: cheaper than a new process."""


_BASE_BYTES, _BYTES_A_PIXEL, _COPIES = 96 * 2**20, 32, 4
"""Memory of a decoder: Python and PIL, a few copies of four channels and what a progressive JPEG keeps, and copies of the file."""


class TooManyPixelsError(ImageError):
    """A picture has more pixels than are left to its request."""

    def __init__(self, num_pixels: int) -> None:
        super().__init__(f"the image has {num_pixels} pixels; send a smaller one")
        self.num_pixels = num_pixels


class PictureDecoder:
    """A pool of decoding processes, each started when it is first needed. Belongs to one event loop."""

    def __init__(self, config: ServeConfig) -> None:
        self._config = config
        self._count = config.num_decoders or os.cpu_count() or 1
        self._max_bytes = _BASE_BYTES + _BYTES_A_PIXEL * config.max_image_pixels + _COPIES * config.max_body_bytes
        self._places = asyncio.Semaphore(self._count)
        self._threads = ThreadPoolExecutor(self._count, thread_name_prefix="mmada-decode")
        self._idle: list[_Worker] = []
        self._busy: set[_Worker] = set()
        self._reclaims: set[asyncio.Task[None]] = set()

    async def warm_up(self) -> None:
        """Start one process, so that the first picture does not wait for it."""
        worker = _Worker(self._max_bytes)
        await asyncio.get_running_loop().run_in_executor(self._threads, worker.start)
        self._idle.append(worker)

    async def decode(self, data: bytes, *, deadline: float, max_pixels: int, is_base64: bool = False) -> Image.Image:
        """A picture as picture_worker.decoded makes it.

        deadline   time.monotonic at which it must be decoded
        is_base64  data is that of the file in base64
        Raises ImageError for what is no picture or above a limit, TooManyPixelsError, or BusyError if its turn does not come in time.
        """
        try:
            await asyncio.wait_for(self._places.acquire(), _until(deadline))
        except (TimeoutError, asyncio.TimeoutError) as error:
            raise BusyError("too many images wait to be decoded; try again later", retry_after=5) from error
        task = {
            "is_base64": is_base64,
            "max_pixels": max_pixels,
            "max_scans": self._config.max_image_scans,
            "max_parts": self._config.max_image_parts,
            "seconds": _until(deadline) + 1,
            "num_bytes": len(data),
        }
        worker = self._idle.pop() if self._idle else _Worker(self._max_bytes)
        self._busy.add(worker)
        work = asyncio.get_running_loop().run_in_executor(self._threads, worker.ask, task, data)
        try:
            await asyncio.wait([work], timeout=_until(deadline))
        except asyncio.CancelledError:
            self._reclaim_later(worker, work, grace=_GRACE)
            raise
        if not work.done():
            self._reclaim_later(worker, work, grace=0)
            limit = f"{self._config.decode_timeout:g} seconds"
            raise ImageError(f"the image takes longer than {limit} to decode; save it again, or send a smaller one")
        self._free(worker)
        return work.result()

    def close(self) -> None:
        """End all processes."""
        for worker in (*self._idle, *self._busy):
            worker.kill()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _reclaim_later(self, worker: _Worker, work: asyncio.Future[Image.Image], *, grace: float) -> None:
        async def reclaim() -> None:
            await asyncio.wait([work], timeout=grace)
            if not work.done():
                worker.kill()
                await asyncio.wait([work])
            work.exception()  # is nobody's business any more
            self._free(worker)

        task = asyncio.ensure_future(reclaim())
        self._reclaims.add(task)
        task.add_done_callback(self._reclaims.discard)

    def _free(self, worker: _Worker) -> None:
        self._busy.discard(worker)
        if worker.is_usable:
            self._idle.append(worker)
        self._places.release()


def _until(deadline: float) -> float:
    return max(0.001, deadline - time.monotonic())


class _Worker:
    """A decoding process, which is started when it is first asked. `kill` may be called in any thread, and ends an `ask` in another."""

    def __init__(self, max_bytes: int) -> None:
        self.is_usable, self._max_bytes = True, max_bytes
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def start(self) -> subprocess.Popen[bytes]:
        """Raises ImageError if it was killed before."""
        with self._lock:
            if not self.is_usable:
                raise ImageError("the image was given up")
            if self._process is None:
                # -P: names of files beside the program are not those of modules. No signal of a terminal reaches a session of its own.
                command = [sys.executable, "-P", picture_worker.__file__, str(self._max_bytes)]
                pipe, null = subprocess.PIPE, subprocess.DEVNULL
                self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=null, start_new_session=True)
            return self._process

    def ask(self, task: dict[str, Any], data: bytes) -> Image.Image:
        """Raises ImageError for what the process says of the picture, and if it dies of it."""
        process = self.start()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(task).encode() + b"\n")
            process.stdin.write(data)
            process.stdin.flush()
            head = json.loads(process.stdout.readline())
            pixels = process.stdout.read(head.get("num_bytes", 0))
            if len(pixels) < head.get("num_bytes", 0):
                raise EOFError
        except (OSError, ValueError, EOFError) as error:  # its pipe is closed, or ends in the middle
            self.kill()
            raise ImageError(f"the image of {len(data)} bytes cannot be decoded; save it again, or send a smaller one") from error
        if "num_pixels" in head:
            raise TooManyPixelsError(head["num_pixels"])
        if "error" in head:
            raise ImageError(head["error"])
        return Image.frombytes(head["mode"], tuple(head["size"]), pixels)

    def kill(self) -> None:
        with self._lock:
            self.is_usable = False
            process = self._process
        if process is not None:
            process.kill()
            process.wait()
