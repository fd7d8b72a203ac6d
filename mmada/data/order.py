"""One order over records that never ends, shuffled anew each epoch, and one process's share of it.

    Epochs(reader, seed=0)[index]   the endless order: each epoch has every record once, in its own order
    Stream(epochs, start, rank, num_ranks)
                                    one process's share of it; `state` is one integer, the same for all of them

Everything is a function of (seed, index). There are no buffers to save, and no worker repeats another's records.
A run may resume with a different number of processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Generic, Protocol, TypeVar

from mmada.errors import InputError

__all__ = ["DataPosition", "Endless", "Epochs", "Indexed", "Stream", "permuted", "scrambled", "worker_share"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Indexed(Protocol[T_co]):
    """0 <= index < len -> item; IndexError outside."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> T_co: ...


class Endless(Protocol[T_co]):
    """index >= 0 -> item, without end: a pure function of the index."""

    def __getitem__(self, index: int, /) -> T_co: ...


@dataclass(frozen=True, slots=True)
class DataPosition:
    """Where an endless order is: `position` records of an epoch are behind it, over all processes together."""

    epoch: int
    position: int
    seed: int


def permuted(position: int, n: int, *, key: tuple[int, ...]) -> int:
    """Where 0 <= position < n goes in the permutation of 0..n-1 that belongs to the key, in constant time and memory.

    A Feistel network permutes the numbers of as many bits as n needs; what lands outside 0..n-1 is permuted again.
    Source: Black and Rogaway 2002, "Ciphers with arbitrary finite domains" (cycle walking).
    """
    if not 0 <= position < n:
        raise InputError(f"position={position} must lie in 0..{n - 1}")
    bits = max(2, (n - 1).bit_length())
    keys = _round_keys(key)
    while True:
        right_bits = bits // 2
        left_bits = bits - right_bits
        left, right = position >> right_bits, position & ((1 << right_bits) - 1)
        for round_key in keys:  # an even number of rounds: the halves change places each time
            left, right = right, left ^ (scrambled(right ^ round_key) & ((1 << left_bits) - 1))
            left_bits, right_bits = right_bits, left_bits
        position = left << right_bits | right
        if position < n:
            return position


@lru_cache(maxsize=1024)
def _round_keys(key: tuple[int, ...]) -> tuple[int, ...]:
    digest = blake2b(repr(key).encode(), digest_size=64).digest()
    return tuple(int.from_bytes(digest[i : i + 8], "little") for i in range(0, 64, 8))


def scrambled(x: int) -> int:
    """64 bits -> 64 bits, each depending on all (the finaliser of SplitMix64, Steele et al. 2014)."""
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    x = (x ^ x >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    return x ^ x >> 31


class Epochs(Generic[T]):
    """A finite sequence as an endless one. Each epoch has every item once, in an order that depends only on (seed, epoch).

    shuffle  False: as they are, in every epoch
    """

    def __init__(self, items: Indexed[T], *, seed: int = 0, shuffle: bool = True) -> None:
        if not len(items):
            raise InputError("there is no record to read; give a source with at least one")
        self.items, self.seed, self.shuffle = items, seed, shuffle

    def __getitem__(self, index: int) -> T:
        epoch, position = divmod(index, len(self.items))
        return self.items[permuted(position, len(self.items), key=(self.seed, epoch)) if self.shuffle else position]

    def place(self, index: int) -> DataPosition:
        """Epoch and position of an index; `index` is the way back."""
        epoch, position = divmod(index, len(self.items))
        return DataPosition(epoch, position, self.seed)

    def index(self, place: DataPosition) -> int:
        """The index at a place. Raises InputError if the place belongs to another order."""
        if place.seed != self.seed or not 0 <= place.position < len(self.items):
            raise InputError(
                f"{place} is not a place of an order with seed={self.seed} over {len(self.items)} records; resume with its own"
            )
        return place.epoch * len(self.items) + place.position


class Stream(Generic[T]):
    """One process's share of an endless sequence: of every num_ranks consecutive items, the one at its rank.

    state  index of the next item that any process will read: the same number in all of them. A Stream that starts there goes on
           exactly, also with another number of processes
    """

    def __init__(self, items: Endless[T], *, start: int = 0, rank: int = 0, num_ranks: int = 1) -> None:
        if not 0 <= rank < num_ranks or start < 0:
            raise InputError(f"rank={rank} must lie in 0..num_ranks-1={num_ranks - 1}, and start={start} must not be negative")
        self.items, self.state, self.rank, self.num_ranks = items, start, rank, num_ranks

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        item = self.items[self.state + self.rank]
        self.state += self.num_ranks
        return item


def worker_share(rank: int = 0, num_ranks: int = 1) -> tuple[int, int]:
    """(rank, num_ranks) for a `Stream` inside a worker of a torch DataLoader: its workers divide the share of their process."""
    from torch.utils.data import get_worker_info

    worker = get_worker_info()
    return (rank, num_ranks) if worker is None else (rank * worker.num_workers + worker.id, num_ranks * worker.num_workers)
