"""Files of data, on this machine or at an address that fsspec knows, such as s3://bucket/a.jsonl.

    data_file("a.jsonl"), data_file("s3://bucket/a.jsonl")    a Path, or a RemoteFile, which has what readers need of a Path
    Ranges().read(file, start, stop)                          bytes of it: those that are asked for, and no others
    joined(root, path)                                        a path below a folder or an address

Where ranges follow each other, as where a file is searched once, they are read ahead in larger ones. Account and region are those of the
environment, as fsspec's packages take them.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO, TypeAlias, cast

from mmada.errors import InputError, MissingDependencyError

__all__ = ["DataFile", "DataPath", "Ranges", "RemoteFile", "data_file", "is_remote", "joined"]

DataPath: TypeAlias = "str | Path | RemoteFile"

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
"""Scheme -> the extra that reads it. Others need nothing, or a package that fsspec names."""
_NEVER = ("http", "https", "ftp", "data")
"""What somebody else may change at any time."""
_AHEAD = 2**20
"""Bytes that are read at a time where ranges follow each other."""


def is_remote(path: DataPath) -> bool:
    """Whether a path is an address that is read through fsspec. Other URLs are none: they are never fetched."""
    if isinstance(path, RemoteFile):
        return True
    scheme, sign, _ = str(path).partition("://")
    return bool(sign) and re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme) is not None and scheme not in _NEVER and not Path(path).exists()


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file or folder at an address: what readers need of a Path. Every method that looks there raises the package's errors."""

    address: str

    def __str__(self) -> str:
        return self.address

    def __truediv__(self, name: str) -> RemoteFile:
        return RemoteFile(f"{self.address.rstrip('/')}/{name}")

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.address.rstrip("/").rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The ending of the name, with its dot."""
        return Path(self.name).suffix

    @property
    def parent(self) -> RemoteFile:
        """The folder that it lies in."""
        return RemoteFile(self.address.rstrip("/").rpartition("/")[0])

    def check(self) -> None:
        """Raises MissingDependencyError if no package reads such addresses, InputError if none could."""
        with _looking(self.address):
            pass

    def exists(self) -> bool:
        """Whether a file or a folder is there."""
        with _looking(self.address) as (system, path):
            return bool(system.exists(path))

    def is_file(self) -> bool:
        """Whether a file is there, and no folder."""
        with _looking(self.address) as (system, path):
            return bool(system.isfile(path))

    def size(self) -> int:
        """In bytes."""
        with _looking(self.address) as (system, path):
            return int(system.size(path))

    def version(self) -> str:
        """Another one for another content, as far as the place tells: by its size, time or tag."""
        with _looking(self.address) as (system, path):
            return sha256(f"{self.address} {system.ukey(path)}".encode()).hexdigest()

    def open(self, mode: str = "rb") -> BinaryIO:
        """A stream from its beginning, which can be moved."""
        with _looking(self.address) as (system, path):
            return cast(BinaryIO, io.BufferedReader(system.open(path, mode), _AHEAD))

    def read_bytes(self) -> bytes:
        """Its content."""
        with _looking(self.address) as (system, path):
            return bytes(system.cat_file(path))

    def read_range(self, start: int, stop: int) -> bytes:
        """Bytes start to stop - 1."""
        with _looking(self.address) as (system, path):
            return bytes(system.cat_file(path, start=start, end=stop))

    def sizes(self) -> dict[str, int]:
        """Of a folder: name -> bytes of each of its files, by one look."""
        with _looking(self.address) as (system, path):
            return {entry["name"].rpartition("/")[2]: int(entry["size"] or 0) for entry in system.ls(path, detail=True)}

    def matching(self) -> list[RemoteFile]:
        """The files that * ? [ in the address stand for, sorted."""
        with _looking(self.address) as (system, path):
            return [RemoteFile(system.unstrip_protocol(found)) for found in sorted(system.glob(path))]


DataFile: TypeAlias = Path | RemoteFile


def data_file(path: DataPath) -> DataFile:
    """A path as a file of this machine or at an address."""
    if isinstance(path, RemoteFile):
        return path
    return RemoteFile(str(path)) if is_remote(path) else Path(path)


def joined(root: DataPath, path: str) -> str:
    """A path from a root on, unless it is whole by itself."""
    if is_remote(path):
        return path
    start = data_file(root)
    return str(start / path) if isinstance(start, Path) or not path.startswith("/") else path


class Ranges:
    """Reads ranges of files. A reader has one for each kind of file that it reads at a time."""

    def __init__(self) -> None:
        self._held: tuple[DataFile | None, int, bytes] = (None, 0, b"")
        self._next: tuple[DataFile | None, int] = (None, 0)
        self._lock = Lock()

    def __reduce__(self) -> tuple[type[Ranges], tuple[()]]:
        return Ranges, ()  # a copy in another process holds nothing

    def read(self, file: DataFile, start: int, stop: int) -> bytes:
        """Bytes start to stop. Raises InputError if an address has fewer of them."""
        if isinstance(file, Path):
            with file.open("rb") as stream:
                stream.seek(start)
                return stream.read(stop - start)
        with self._lock:
            held, begin, data = self._held
            follows = self._next == (file, start)
            self._next = (file, stop)
        if held != file or not begin <= start <= stop <= begin + len(data):
            begin, data = start, file.read_range(start, max(stop, start + _AHEAD) if follows else stop)
            with self._lock:
                self._held = (file, begin, data)
        found = data[start - begin : stop - begin]
        if len(found) < stop - start:
            raise InputError(f"{file} ends before byte {stop}, which it had; it changed since it was indexed, so begin anew")
        return found


@contextmanager
def _looking(address: str) -> Iterator[tuple[Any, str]]:
    """The file system of an address, and the path in it. What goes wrong inside is a sentence."""
    scheme = address.partition("://")[0]
    try:
        from fsspec.core import url_to_fs

        system, path = url_to_fs(address)
    except ImportError as error:
        extra = _EXTRAS.get(scheme)
        remedy = f"install the extra: pip install 'mmada[{extra}]'" if extra else str(error)
        raise MissingDependencyError(f"{address!r} needs a package that reads {scheme}://; {remedy}") from error
    except ValueError as error:
        raise InputError(f"{address!r} has a scheme that nobody here reads ({error}); try s3://, gs:// or hf://") from error
    try:
        yield system, path
    except FileNotFoundError as error:
        raise InputError(f"data file {address!r} does not exist; check the address") from error
    except Exception as error:  # each package raises its own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"data file {address!r} cannot be read ({reason}); check address, account and network") from error
