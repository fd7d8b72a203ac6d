"""Random numbers that depend only on a key, not on shared state or on the order of calls.

    integer("noise", seed, flow, index)        seeds a torch.Generator
    uniforms(4, "row", seed, flow, index)      four numbers in [0, 1)
    generator("shapes", seed, task, index)     a numpy generator (Philox, counter-based), the same on every machine

So a row and its noise do not depend on the batch, the number of processes, or a resume.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np

__all__ = ["generator", "integer", "uniforms"]


def integer(*key: int | str) -> int:
    """A whole number in [0, 2^63), evenly spread over keys."""
    return int.from_bytes(_digest(key, 8), "little") >> 1


def uniforms(count: int, *key: int | str) -> tuple[float, ...]:
    """At most 8 numbers in [0, 1), independent of each other."""
    words = _digest(key, 8 * count)
    return tuple((int.from_bytes(words[i : i + 8], "little") >> 11) / 2**53 for i in range(0, len(words), 8))


def generator(*key: int | str) -> np.random.Generator:
    """A numpy generator (Philox) that depends on the key alone, with the same numbers on every machine."""
    return np.random.Generator(np.random.Philox(key=np.frombuffer(_digest(key, 16), np.uint64)))


def _digest(key: tuple[int | str, ...], size: int) -> bytes:
    return blake2b("\x1f".join(map(str, key)).encode(), digest_size=size).digest()
