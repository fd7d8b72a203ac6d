"""Results on disk: each is written once, and what is written stays.

A result is one line, appended and flushed to the disk before it counts as done. Whatever kills the process can cut only the last line,
which has no line end then; the next run cuts it off and asks that request again. A lock keeps a second run away.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import RawIOBase
from pathlib import Path
from typing import Any

from mmada.errors import InputError
from mmada.scale.batch_lines import BatchLine

__all__ = ["ResultFile", "result_file"]


class ResultFile:
    """Results of this run and of earlier ones. Made by `result_file`."""

    def __init__(self, path: Path, file: RawIOBase, done: dict[str, str | None]) -> None:
        self._path, self._file = path, file
        self._done = set(done)
        self._named = {custom_id for custom_id in done.values() if custom_id is not None}

    def __len__(self) -> int:
        return len(self._done)

    def has(self, line: BatchLine) -> bool:
        """Whether a request has its result. Raises InputError if its custom_id has that of another request."""
        if line.id in self._done:
            return True
        if line.custom_id in self._named:
            raise InputError(
                f"output={str(self._path)!r} has a result of custom_id={line.custom_id!r} that belongs to another request: line {line.number} "
                "was changed; give another file"
            )
        return False

    def write(self, results: Sequence[dict[str, Any]]) -> None:
        """Append results. They are on the disk when this returns. Raises InputError if the disk takes no more."""
        lines = [json.dumps(result, ensure_ascii=False, separators=(",", ":")) + "\n" for result in results]
        left = memoryview("".join(lines).encode("utf-8", "replace"))
        try:
            while left:
                left = left[self._file.write(left) or 0 :]
            os.fsync(self._file.fileno())
        except OSError as error:
            raise InputError(
                f"output={str(self._path)!r} cannot be written ({error.strerror}); make room, and repeat the command to go on"
            ) from error
        self._done.update(result["id"] for result in results)


@contextmanager
def result_file(path: Path) -> Iterator[ResultFile]:
    """Open results for more of them. Raises InputError for a file that holds something else, or that another run writes."""
    with path.open("ab", buffering=0) as file:
        _lock(file, path)
        done, end = _read(path)
        file.truncate(end)
        yield ResultFile(path, file, done)


def _read(path: Path) -> tuple[dict[str, str | None], int]:
    """Ids with their custom_ids, and the bytes that whole lines have."""
    done: dict[str, str | None] = {}
    end = 0
    with path.open("rb") as file:
        for number, data in enumerate(file, 1):
            if not data.endswith(b"\n"):
                break  # cut off: the request is asked again
            try:
                result = json.loads(data)
                key, custom_id = result["id"], result["custom_id"]
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(f"output={str(path)!r} line {number} is no result of a batch; give another file") from error
            if key in done:
                raise InputError(f"output={str(path)!r} has two results of {custom_id!r}, the second on line {number}; give another file")
            done[key] = custom_id
            end += len(data)
    return done, end


def _lock(file: RawIOBase, path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows keeps no such lock
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise InputError(f"output={str(path)!r} is being written by another run; wait for it, or give another file") from error
