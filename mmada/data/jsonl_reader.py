"""Records from JSON lines, by index: an index of line starts makes random access of a file that is read once.

JsonlReader("my.jsonl")[17]      a Record, or a RecordError with everything that is wrong with it
"""

from __future__ import annotations

import gzip
import io
import json
import os
import zlib
from hashlib import sha256
from typing import BinaryIO

import numpy as np

from mmada.data.addresses import DataFile, Ranges, RemoteFile, data_file
from mmada.data.formats import RecordFormat, parse
from mmada.data.index_cache import MIN_CACHED_BYTES, Integers, cached_index
from mmada.data.record_draft import Folder
from mmada.data.records import Problem, Record, RecordError, SourceLocation
from mmada.errors import InputError

__all__ = ["JsonlReader", "read_json"]


class JsonlReader:
    """A file with one JSON object per line, or such a file compressed by gzip (.gz). Blank lines are skipped.

    A compressed file has no random access, so it is unpacked into memory.

    images            the folder that image paths start from; None: that of the file
    min_cached_bytes  files as large keep their index beside them (FILE.index.npz), if the folder can be written
    Raises InputError if the file is missing, empty or not JSON lines.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        record_format: RecordFormat | None = None,
        images: str | os.PathLike[str] | None = None,
        min_cached_bytes: int = MIN_CACHED_BYTES,
    ) -> None:
        self.path, self.record_format = data_file(os.fspath(path)), record_format or RecordFormat()
        self.pictures = Folder(data_file(os.fspath(images)) if images is not None else self.path.parent)
        self._ranges = Ranges()
        _check_readable(self.path)
        self._unpacked = _unpacked(self.path) if self.path.suffix == ".gz" else None
        with self._open() as stream:
            start = stream.read(64)
        if start.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"[":
            raise InputError(
                f"{self.path} is one JSON list, which has no lines to read one by one; write one object a line, or read it as a table "
                "(format=datasets)"
            )
        with self._open() as stream:
            if self._unpacked is None:
                self._index = cached_index(self.path, lambda _: _index_lines(stream), min_cached_bytes)
            else:
                self._index = _index_lines(stream)
        if not len(self):
            raise InputError(f"{self.path} has no line with an object; write one JSON object a line")

    @property
    def name(self) -> str:
        """Of the file, without its folder; records say it as their place."""
        return self.path.name

    @property
    def fingerprint(self) -> str:
        """Changes if lines are added or removed, or change length."""
        return sha256(self._index.tobytes()).hexdigest()[:16]

    def __len__(self) -> int:
        return int(self._index.shape[1])

    def __getitem__(self, index: int) -> Record:
        value, where = self.read(index)
        return parse(value, where, pictures=self.pictures, record_format=self.record_format)

    def read(self, index: int) -> tuple[object, SourceLocation]:
        """The object of a line, as it is. Raises RecordError if it is none."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        start, stop, line = (int(value) for value in self._index[:, index])
        data = self._ranges.read(self.path, start, stop) if self._unpacked is None else self._unpacked[start:stop]
        where = SourceLocation(self.name, line)
        return read_json(data, where), where

    def _open(self) -> BinaryIO:
        return self.path.open("rb") if self._unpacked is None else io.BytesIO(self._unpacked)


def _unpacked(path: DataFile) -> bytes:
    try:
        return gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"data file {str(path)!r} is no gzip file, or is damaged ({error}); fetch it again, or unpack it") from error


def _index_lines(stream: BinaryIO) -> Integers:
    """(3, n): start, stop and number of every line that is not blank."""
    starts, stops, numbers = [], [], []
    start = 0
    for number, line in enumerate(stream, 1):
        stop = start + len(line)
        if not line.isspace():
            starts.append(start)
            stops.append(stop)
            numbers.append(number)
        start = stop
    return np.array([starts, stops, numbers], np.int64)


def read_json(data: bytes, where: SourceLocation, what: str = "line") -> object:
    """A line or member as an object. Raises RecordError, which calls it `what`, if it is not UTF-8, not JSON, or nested too deeply."""
    try:
        return json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        message = f"the {what} is not UTF-8 (byte {error.start + 1}); save the file as UTF-8"
    except json.JSONDecodeError as error:
        shown = data[:40].decode("utf-8", "replace").strip()
        message = f"the {what} is not JSON ({error.msg}, column {error.colno}): {shown}…; write one JSON object"
    except RecursionError:
        message = f"the {what} is nested too deeply; write it as the schema has it"
    raise RecordError([Problem(where, "", "", "json", message)])


def _check_readable(path: DataFile) -> None:
    if isinstance(path, RemoteFile):
        if not path.size():
            raise InputError(f"data file {str(path)!r} is empty; write one JSON object a line")
        return
    if not path.exists():
        raise InputError(f"data file {str(path)!r} does not exist; check the path")
    if not path.is_file():
        raise InputError(f"data file {str(path)!r} is not a file; give the file itself")
    if not os.access(path, os.R_OK):
        raise InputError(f"data file {str(path)!r} cannot be read; check its permissions")
    if not path.stat().st_size:
        raise InputError(f"data file {str(path)!r} is empty; write one JSON object a line")
