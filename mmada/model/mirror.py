"""A split model behind one process: the leader answers the sampler, and followers compute along.

    leader      queries -> to all followers -> forward pass -> logits
    follower    queries <- the leader       -> forward pass    (its logits are the same, and nobody asks for them)

So chat, drawing and a server run on the leader as they do with a whole model. A follower has a KV cache for each of the leader's, with its own
heads in it, for as long as the leader has its. An error that the queries themselves cause is raised by all, before or after the same sums, and
the next queries are answered. After any other error the model has stopped.
"""

from __future__ import annotations

import io
import pickle
import signal
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mmada.canvas import KVCache, Query
from mmada.errors import InputError, MMaDAError, StoppedError
from mmada.model.denoiser import TransformerDenoiser
from mmada.model.tensor_parallel import SplitTransformer

__all__ = ["LeadingDenoiser", "LedTransformer", "follow"]

_CACHE, _TENSOR = "cache", "tensor"


class LedTransformer(SplitTransformer):
    """The leader's part: it computes what `LeadingDenoiser` is asked, and refuses what followers would not hear of."""

    asking_thread: int | None = None

    def trunk(self, *args: Any, **kwargs: Any) -> Tensor:
        """As in `Transformer`. Raises InputError if anything but the denoiser asks, for followers would not hear of it."""
        self._check()
        return super().trunk(*args, **kwargs)

    def head(self, *args: Any, **kwargs: Any) -> Tensor:
        """As in `Transformer`, with the errors of `trunk`."""
        self._check()
        return super().head(*args, **kwargs)

    def _check(self) -> None:
        if self.asking_thread != threading.get_ident():
            raise InputError(
                f"a model with tensor_parallel={self.tp.size} answers the sampler's queries (model.denoiser) and nothing else; load it with tensor_parallel=1"
            )


class LeadingDenoiser(TransformerDenoiser):
    """model(queries) for the sampler, with followers. Threads may call it; they wait for each other.

    group  of all processes, for messages of CPU tensors
    on_close  called when the followers were let go
    """

    def __init__(self, model: SplitTransformer, group: dist.ProcessGroup, *, on_close: Callable[[], None] = lambda: None) -> None:
        super().__init__(model)
        model.__class__ = LedTransformer
        self._channel, self._lock = _Channel(group), threading.Lock()
        self._numbers: weakref.WeakKeyDictionary[KVCache, int] = weakref.WeakKeyDictionary()
        self._num_caches, self._gone = 0, list[int]()
        self._problem = ""
        self.close = weakref.finalize(self, self._channel.end, on_close)
        """lets the followers end; called at the end of this process, at the latest"""

    @property
    def size(self) -> int:
        """Processes that hold the model together."""
        model: Any = self.model
        return int(model.tp.size)

    @torch.inference_mode()
    def __call__(self, queries: Sequence[Query]) -> list[Tensor]:
        """As TransformerDenoiser's. Raises StoppedError if a follower is gone."""
        model: Any = self.model
        with self._lock, _uninterrupted():
            self._check()
            model.asking_thread = threading.get_ident()
            try:
                self._channel.send(self._message(queries))
                return self.logits(queries)
            except MMaDAError:
                raise
            except BaseException as error:
                self._problem = f"{type(error).__name__}: {error}".splitlines()[0]
                if isinstance(error, Exception):
                    self._check(error)
                raise
            finally:
                model.asking_thread = None

    def _check(self, cause: Exception | None = None) -> None:
        problem = self._problem or ("" if self.close.alive else "it was closed")
        if problem:
            raise StoppedError(
                f"the model, which several processes hold together, has stopped ({problem}); load it again, or start the server again"
            ) from cause

    def _message(self, queries: Sequence[Query]) -> bytes:
        stream = io.BytesIO()
        num_gone = len(self._gone)
        _Pickler(stream, self._number).dump((self._gone[:num_gone], self.max_tokens, tuple(queries)))
        del self._gone[:num_gone]  # others may have been added by another thread
        return stream.getvalue()

    def _number(self, cache: KVCache) -> int:
        if cache not in self._numbers:
            self._num_caches += 1
            self._numbers[cache] = self._num_caches
            weakref.finalize(cache, self._gone.append, self._num_caches).atexit = False
        return self._numbers[cache]


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """A keyboard interrupt comes after what is inside: half a pass would leave followers waiting for the other half."""
    if threading.current_thread() is not threading.main_thread() or (handler := signal.getsignal(signal.SIGINT)) is None:
        yield
        return
    noted: list[tuple[int, FrameType | None]] = []
    signal.signal(signal.SIGINT, lambda number, frame: noted.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if noted and callable(handler):
        handler(*noted[0])


def follow(model: SplitTransformer, group: dist.ProcessGroup) -> None:
    """Compute along until the leader ends. Raises RuntimeError if it is gone without a word."""
    channel, denoiser = _Channel(group), TransformerDenoiser(model)
    caches: dict[int, KVCache] = {}
    while message := channel.receive():
        gone, denoiser.max_tokens, queries = _Unpickler(io.BytesIO(message), caches, model.device).load()
        for number in gone:
            caches.pop(number, None)
        with suppress(MMaDAError):  # the leader has it, too, and tells it
            denoiser(queries)


class _Channel:
    """Bytes from the leader to all others."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self._group = group

    def send(self, message: bytes) -> None:
        dist.broadcast(torch.tensor([len(message)]), 0, group=self._group)
        if message:
            dist.broadcast(torch.frombuffer(bytearray(message), dtype=torch.uint8), 0, group=self._group)

    def receive(self) -> bytes:
        """Waits; empty: the leader ends."""
        size = torch.zeros(1, dtype=torch.long)
        dist.broadcast(size, 0, group=self._group)
        message = torch.empty(int(size), dtype=torch.uint8)
        if len(message):
            dist.broadcast(message, 0, group=self._group)
        return message.numpy().tobytes()

    def end(self, then: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # of a follower that is gone
            self.send(b"")
        then()


class _Pickler(pickle.Pickler):
    """Queries for another process: a KV cache as its number, tensors as arrays."""

    def __init__(self, stream: io.BytesIO, number: Callable[[KVCache], int]) -> None:
        super().__init__(stream, pickle.HIGHEST_PROTOCOL)
        self._number = number

    def persistent_id(self, value: Any) -> Any:
        if isinstance(value, KVCache):
            return _CACHE, self._number(value)
        if isinstance(value, Tensor):
            return _TENSOR, value.cpu().numpy(), value.device.type != "cpu"
        return None


class _Unpickler(pickle.Unpickler):
    """The same on another device, with caches of its own."""

    def __init__(self, stream: io.BytesIO, caches: dict[int, KVCache], device: torch.device) -> None:
        super().__init__(stream)
        self._caches, self._device = caches, device

    def persistent_load(self, known: Any) -> Any:
        if known[0] == _CACHE:
            return self._caches.setdefault(known[1], KVCache())
        _, array, on_device = known
        return torch.from_numpy(array).to(self._device if on_device else "cpu")
