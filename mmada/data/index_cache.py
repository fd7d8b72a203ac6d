"""Where the records of a large file start: found once, then kept beside the file.

index = cached_index(path, build, MIN_CACHED_BYTES)      build(path), unless FILE.index.npz has it and the file is unchanged
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mmada.data.addresses import DataFile, RemoteFile

__all__ = ["MIN_CACHED_BYTES", "Integers", "cached_index"]

Integers: TypeAlias = NDArray[np.int64]

MIN_CACHED_BYTES = 2**20
"""Smaller files are indexed anew each time, which takes milliseconds; no file appears beside them."""
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmada" / "indexes"
"""Of files at addresses."""


def cached_index(path: DataFile, build: Callable[[DataFile], Integers], min_cached_bytes: int) -> Integers:
    """`build(path)`, cached while size and modification time stay the same: beside the file, or, of an address, in a folder of the user's."""
    if isinstance(path, RemoteFile):
        cache, stamp, num_bytes = _CACHE / f"{path.version()}.index.npz", np.array([path.size()], np.int64), path.size()
    else:
        status = path.stat()
        num_bytes, stamp = status.st_size, np.array([status.st_size, status.st_mtime_ns], np.int64)
        cache = path.with_name(f"{path.name}.index.npz")
    if num_bytes < min_cached_bytes:
        return build(path)
    try:
        with np.load(cache) as kept:
            if np.array_equal(kept["stamp"], stamp):
                index: Integers = kept["index"]
                return index
    except (OSError, ValueError, KeyError, EOFError):  # absent, or damaged: built again
        pass
    index = build(path)
    scratch = cache.with_name(f"{cache.name}.{os.getpid()}.tmp")
    try:
        if isinstance(path, RemoteFile):
            cache.parent.mkdir(parents=True, exist_ok=True)
        with scratch.open("wb") as stream:
            np.savez(stream, index=index, stamp=stamp)
        scratch.replace(cache)
    except OSError:  # a folder that cannot be written: the index lives as long as the reader
        with suppress(OSError):
            scratch.unlink(missing_ok=True)
    return index
