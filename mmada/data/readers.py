"""Records by index, from JSON lines, `datasets` and tar shards; and one endless, resumable order over them.

    JsonlReader   one record per line                    random access through an index of line starts, kept beside the file
    TarReader     WebDataset shards: data-{000..127}.tar  random access through an index of sample starts, kept beside each shard
    TableReader   Hugging Face datasets: parquet, arrow   random access, memory-mapped
    TableStream   the same, read in order                ascending access only, for what does not fit on the disk

    reader[17]                      a Record, or a RecordError with everything that is wrong with it
    Epochs(reader, seed=0)[index]   the endless order: each epoch has every record once, in its own order
    Stream(epochs, start, rank, num_ranks)
                                    one process's share of it; `state` is one integer, the same for all of them

Everything is a function of (seed, index). There are no buffers to save, and no worker repeats another's records.
A run may resume with a different number of processes.
"""

from __future__ import annotations

import copy
import glob
import gzip
import io
import json
import os
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b, sha256
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Generic, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from mmada.data.addresses import DataFile, Ranges, RemoteFile, data_file, is_remote
from mmada.data.formats import Folder, RecordFormat, parse
from mmada.data.paths import expand_braces, expand_paths, is_address
from mmada.data.records import Problem, Record, RecordError, SourceLocation
from mmada.errors import InputError, MissingDependencyError

__all__ = [
    "TABLE_SUFFIXES",
    "DataPosition",
    "Endless",
    "Epochs",
    "Indexed",
    "JsonlReader",
    "Selection",
    "Stream",
    "TableReader",
    "TableStream",
    "TarReader",
    "held_out",
    "permuted",
    "scrambled",
    "select",
    "select_by_task",
    "worker_share",
]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Integers: TypeAlias = NDArray[np.int64]

MIN_CACHED_BYTES = 2**20
"""Smaller files are indexed anew each time, which takes milliseconds; no file appears beside them."""
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmada" / "indexes"
"""Of files at addresses."""


class Indexed(Protocol[T_co]):
    """0 <= index < len -> item; IndexError outside."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> T_co: ...


class Endless(Protocol[T_co]):
    """index >= 0 -> item, without end: a pure function of the index."""

    def __getitem__(self, index: int, /) -> T_co: ...


# Order.


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


class Selection(Generic[T]):
    """Some items of a sequence, in order. `dropped` counts the others by reason."""

    def __init__(self, items: Indexed[T], indices: Sequence[int] | Integers, dropped: Mapping[str, int]) -> None:
        self.items, self.indices, self.dropped = items, np.asarray(indices, np.int64), dict(dropped)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> T:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.items[int(self.indices[index])]


def select(records: Indexed[Record], reason: Callable[[Record], str | None]) -> Selection[Record]:
    """Read every record once and keep those that are records and for which `reason` says None; it says the same words for all of a sort.

    select(reader, lambda r: lengths_of(r, prompts, grid=(32, 32)).reason(context=1539))
    """
    by_task, dropped = select_by_task(records, reason)
    return Selection(records, sorted(chain.from_iterable(chosen.indices.tolist() for chosen in by_task.values())), dropped)


def select_by_task(
    records: Indexed[Record], reason: Callable[[Record], str | None], *, part: range | None = None
) -> tuple[dict[str, Selection[Record]], dict[str, int]]:
    """As `select`, task -> the records of that task; and the numbers of those that were dropped, by reason. Each record is read once.

    part  indices that are looked at; None: all
    """
    kept: dict[str, list[int]] = {}
    dropped: Counter[str] = Counter()
    for index in range(len(records)) if part is None else part:
        try:
            record = records[index]
            why = reason(record)
        except RecordError as error:
            why = f"not a record ({error.problems[0].kind})"
        if why is None:
            kept.setdefault(record.task, []).append(index)
        else:
            dropped[why] += 1
    return {task: Selection(records, indices, {}) for task, indices in kept.items()}, dict(dropped)


def held_out(items: Selection[T], share: float) -> tuple[Selection[T], Selection[T]]:
    """Items apart into those to learn and those held out, about `share` of them and at least one of either.

    Which ones depends on their number alone, so that a run that is continued, or done with another seed, holds out the same.
    Raises InputError for fewer than two items.
    """
    n = len(items)
    if n < 2:
        raise InputError(f"of {n} records none can be held out; give at least two")
    count = min(max(1, round(share * n)), n - 1)
    apart = {permuted(position, n, key=(n,)) for position in range(count)}
    return (
        Selection(items.items, [int(i) for at, i in enumerate(items.indices) if at not in apart], {}),
        Selection(items.items, [int(items.indices[at]) for at in sorted(apart)], {}),
    )


# JSON lines.


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
                self._index = _cached_index(self.path, lambda _: _index_lines(stream), min_cached_bytes)
            else:
                self._index = _index_lines(stream)
        if not len(self):
            raise InputError(f"{self.path} has no line with an object; write one JSON object a line")

    @property
    def name(self) -> str:
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
        return _json(data, where), where

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


def _json(data: bytes, where: SourceLocation, what: str = "line") -> object:
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


def _cached_index(path: DataFile, build: Callable[[DataFile], Integers], min_cached_bytes: int) -> Integers:
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


# Tar shards.


@dataclass(frozen=True, slots=True)
class _Members:
    """The images of one sample, by extension (`jpg`) or by name without folder (`000017.jpg`)."""

    key: str
    members: Mapping[str, bytes]

    def find(self, name: str) -> bytes:
        stem = self.key.rpartition("/")[2]
        extension = name.rpartition("/")[2].removeprefix(f"{stem}.").lower()
        if extension not in self.members:
            raise InputError(f"is no member of the sample {self.key!r}, which has {', '.join(sorted(self.members)) or 'none'}")
        return self.members[extension]


class TarReader:
    """WebDataset shards. The members of one record are adjacent, and share their name up to the first dot.

        000017.json  000017.jpg          adapter "record": the .json is the record, its images are named "jpg" or "000017.jpg"
        000018.txt   000018.jpg          other adapters: an object {"txt": "…", "jpg": image}, with `rename` {caption: txt, image: jpg}

    pattern  a path, with {000..127} and {a,b} expanded, or with * ? [ (paths.py); several are given as a list
    Members .json become objects, .txt, .caption, .cls and .text become texts, all others stay bytes.
    Raises InputError if a shard is missing or is not a plain tar file.
    """

    def __init__(
        self,
        pattern: str | os.PathLike[str] | Sequence[str],
        *,
        record_format: RecordFormat | None = None,
        min_cached_bytes: int = MIN_CACHED_BYTES,
    ) -> None:
        self.record_format = record_format or RecordFormat()
        names = [os.fspath(pattern)] if isinstance(pattern, (str, os.PathLike)) else list(pattern)
        for name in names:
            if is_address(name) and not is_remote(name):
                raise InputError(
                    f"pattern={name!r} is a URL or a pipe, which is never fetched; download the shards, or stream a dataset of the hub"
                )
        self.paths = [file for name in names for file in _shards(name)]
        self._ranges = Ranges()
        lost = [str(path) for path in self.paths if not path.is_file()]
        if lost:
            raise InputError(f"{len(lost)} of {len(self.paths)} shards do not exist: {', '.join(lost[:5])}; check the pattern")
        # (n + 1): where each sample starts; the last is where the shard's content ends
        self._starts = [_cached_index(path, _index_samples, min_cached_bytes)[0] for path in self.paths]
        self._ends = np.cumsum([len(starts) - 1 for starts in self._starts])
        if not len(self):
            raise InputError(f"{', '.join(names)} holds no sample; members need a name and an extension, such as 000017.json")

    @property
    def name(self) -> str:
        return self.paths[0].name if len(self.paths) == 1 else f"{self.paths[0].name} … {self.paths[-1].name}"

    @property
    def fingerprint(self) -> str:
        """Changes if shards or samples are added, removed or change their length."""
        return sha256(b"".join(starts.tobytes() for starts in self._starts)).hexdigest()[:16]

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Record:
        sample, where, members = self.sample(index)
        value: object = sample
        if self.record_format.adapter == "record" and not self.record_format.rename:
            if "json" not in sample:
                message = f"the sample has no .json member, only {', '.join(sorted(sample))}; adapter 'record' reads that one"
                raise RecordError([Problem(where, "", "", "field", message)])
            value = sample["json"]
        if isinstance(value, dict):
            value.setdefault("id", str(where.line))
        return parse(value, where, pictures=members, record_format=self.record_format)

    def sample(self, index: int) -> tuple[dict[str, object], SourceLocation, _Members]:
        """All members of a sample: extension -> object, text or bytes. Raises RecordError if a .json or a text cannot be read."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        shard = int(np.searchsorted(self._ends, index, side="right"))
        starts = self._starts[shard]
        at = index - (int(self._ends[shard - 1]) if shard else 0)
        path = self.paths[shard]
        data = self._ranges.read(path, int(starts[at]), int(starts[at + 1]))
        key, contents = "", dict[str, bytes]()
        try:
            with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
                for member in tar:
                    named = _key(member)
                    stream_ = tar.extractfile(member) if named else None
                    if named and stream_:
                        key, extension = named
                        contents[extension] = stream_.read()
        except (tarfile.TarError, EOFError) as error:
            raise InputError(f"{path} is damaged at byte {int(starts[at])} ({error}); fetch it again") from error
        where = SourceLocation(path.name, key)
        value: dict[str, object] = {}
        images: dict[str, bytes] = {}
        for extension, content in contents.items():
            kind = extension.rpartition(".")[2]
            if kind == "json":
                value[extension] = _json(content, where, f"member .{extension}")
            elif kind in ("txt", "caption", "cls", "text"):
                value[extension] = _text(content, where, extension)
            else:
                value[extension] = images[extension] = content
        return value, where, _Members(key, images)


def _shards(name: str) -> list[DataFile]:
    """The files that a pattern names, here or at an address. Raises InputError for a pattern that names none."""
    if not is_remote(name):
        return list(expand_paths(name))
    found: list[DataFile] = []
    for one in expand_braces(name):
        found += RemoteFile(one).matching() if any(sign in one for sign in "*?[") else [RemoteFile(one)]
    if not found:
        raise InputError(f"no file is named like {name!r}; check the pattern")
    return found


def _index_samples(path: DataFile) -> Integers:
    """(1, n + 1): where each sample of a shard starts, then where the content ends."""
    starts: list[int] = []
    last = ""
    try:
        with path.open("rb") as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            for member in tar:
                named = _key(member)
                tar.members = []  # type: ignore[attr-defined]  # or it keeps every header
                if named is not None and named[0] != last:
                    last = named[0]
                    starts.append(member.offset)
            end = tar.offset
    except (tarfile.TarError, EOFError) as error:
        raise InputError(f"{path} is not a plain tar file, or is damaged ({error}); unpack compressed shards first") from error
    num_bytes = path.stat().st_size if isinstance(path, Path) else path.size()
    if num_bytes < end:
        raise InputError(f"{path} has {num_bytes} bytes where its headers promise {end}; it is truncated, fetch it again")
    return np.array([[*starts, end]], np.int64)


def _key(member: tarfile.TarInfo) -> tuple[str, str] | None:
    """A member's (key, extension), cut at the first dot behind the last slash; None for folders and hidden files."""
    folder, _, name = member.name.removeprefix("./").rpartition("/")
    stem, dot, extension = name.partition(".")
    if not member.isfile() or not stem or not dot:
        return None
    return f"{folder}/{stem}" if folder else stem, extension.lower()


def _text(data: bytes, where: SourceLocation, extension: str) -> str:
    try:
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        message = f"the member .{extension} is not UTF-8 (byte {error.start + 1}); save it as UTF-8"
        raise RecordError([Problem(where, "", "", "json", message)]) from error


# Hugging Face datasets.

TABLE_SUFFIXES = {".parquet": "parquet", ".json": "json", ".jsonl": "json", ".csv": "csv", ".tsv": "csv", ".arrow": "arrow"}
"""Endings of files that are tables -> how `datasets` calls their reader."""


class TableReader:
    """A dataset of the `datasets` library, memory-mapped.

    path   a folder written by save_to_disk or one that load_dataset understands, files (*.parquet, .json, .csv, .arrow; paths.py),
           or a hub name
    split  which part of it
    Class labels become their names; images stay undecoded. Image paths start from the folder of `path`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        split: str = "train",
        record_format: RecordFormat | None = None,
        images: str | os.PathLike[str] | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        self.path, self.record_format = str(path), record_format or RecordFormat()
        table = _open_table(self.path, split, streaming=False, cache_dir=cache_dir)
        self._labels = _labels(table)
        self._table = table.with_format("arrow")  # undecoded
        self.pictures = _table_folder(self.path, images)
        if not len(self):
            raise InputError(f"{self.path} has no row in split={split!r}; give another split")

    @property
    def name(self) -> str:
        return Path(self.path).name

    @property
    def fingerprint(self) -> str:
        """Changes if rows are added or removed, or columns change."""
        return sha256(repr((len(self), self._table.features)).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(index)
        row = _row(self._table[index], self._labels)
        return parse(row, SourceLocation(self.name, index), pictures=self.pictures, record_format=self.record_format)


class TableStream:
    """The same, read in order and without its length, as an endless sequence: `[index]` for indices that ascend.

    Shuffled within windows: the records of each `window` in a row come in an order that depends on (seed, epoch, window). A record
    is a function of its index here, too, but going back, or jumping ahead, reads again what lies between; `state()` shortens that.

    window    records that are held and shuffled; 1: as they are
    state     of an earlier stream over the same data: it starts reading there
    Every process reads all of it and uses its share: where that is too much, `mmada tokenize` writes what has random access.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        split: str = "train",
        record_format: RecordFormat | None = None,
        window: int = 1000,
        seed: int = 0,
        images: str | os.PathLike[str] | None = None,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        if window < 1:
            raise InputError(f"window={window} must be at least 1 record")
        self.path, self.record_format, self.window, self.seed = str(path), record_format or RecordFormat(), window, seed
        self._source = _open_table(self.path, split, streaming=True, cache_dir=None)
        self._labels = _labels(self._source)
        self.pictures = _table_folder(self.path, images)
        self.length: int | None = None
        """records of an epoch, once its end was seen"""
        self._at: tuple[int, int] | None = None  # (epoch, window) of the rows that are held
        self._rows: Any = None
        self._before: dict[str, Any] | None = None  # where `datasets` stood before it read them
        if state is not None:
            if state["window_size"] != window:
                raise InputError(f"window={window} is not that of the state, {state['window_size']}; resume with the same window")
            self.length = state["length"]
            self._start(state["epoch"], state["window"], state["datasets"])

    @property
    def name(self) -> str:
        return Path(self.path).name

    def __getitem__(self, index: int) -> Record:
        if index < 0:
            raise IndexError(index)
        while True:
            # Until the end was seen, every index may still lie in the first epoch.
            epoch, position = divmod(index, self.length) if self.length else (0, index)
            window, place = divmod(position, self.window)
            if self._load(epoch, window) and place < len(self._rows):
                place = permuted(place, len(self._rows), key=(self.seed, epoch, window))
                row = _row(self._rows.slice(place, 1), self._labels)
                return parse(
                    row, SourceLocation(self.name, window * self.window + place), pictures=self.pictures, record_format=self.record_format
                )

    def state(self) -> dict[str, Any]:
        """What `state` takes, fit for JSON: where reading may start again to hold the current window."""
        epoch, window = self._at or (0, 0)
        return {
            "length": self.length, "window_size": self.window, "epoch": epoch, "window": window, "datasets": copy.deepcopy(self._before)
        }  # fmt: skip

    def _start(self, epoch: int, window: int, before: dict[str, Any] | None) -> None:
        """Begin to read at a window, or, if nothing is known of where it lies, at the first."""
        self._table = self._source.with_format("arrow")  # undecoded, and a fresh one: it remembers where it was
        if window and before is not None:
            self._table.load_state_dict(copy.deepcopy(before))
        # Whole windows, by a method that does not divide the files among the workers of a DataLoader: a `Stream` does.
        self._tables = self._table.iter(batch_size=self.window)
        self._at, self._rows, self._before = (epoch, window - 1 if before is not None else -1), None, before

    def _load(self, epoch: int, window: int) -> bool:
        """Hold the rows of a window; False if the epoch ends before it, by which its length becomes known."""
        if self._at is None or self._at[0] != epoch or self._at[1] > window:
            self._start(epoch, 0, None)
        assert self._at is not None
        while self._at[1] < window:
            self._before = copy.deepcopy(self._table.state_dict()) if self._rows is not None else self._before
            rows = next(self._tables, None)
            if rows is not None:
                self._at, self._rows = (epoch, self._at[1] + 1), rows
            if rows is None or len(rows) < self.window:
                self.length = (self._at[1] + 1) * self.window if rows is None else self._at[1] * self.window + len(rows)
                if not self.length:
                    raise InputError(f"{self.path} has no row; give a dataset with at least one")
                return rows is not None and self._at[1] == window
        return True


def _open_table(path: str, split: str, *, streaming: bool, cache_dir: str | os.PathLike[str] | None) -> Any:
    """The split of a dataset. Raises InputError with what the library says."""
    try:
        datasets = import_module("datasets")
    except ImportError as error:
        raise MissingDependencyError("reading tables needs the package datasets; install it with pip install 'mmada[train]'") from error
    if is_remote(path):
        RemoteFile(path).check()
    local = Path(path)
    try:
        if (local / "dataset_dict.json").exists() or (local / "state.json").exists():
            whole = datasets.load_from_disk(path)
            if isinstance(whole, datasets.DatasetDict):
                if split not in whole:
                    raise InputError(f"split={split!r} is not in {path}; it has {', '.join(whole)}")
                whole = whole[split]
            return whole.to_iterable_dataset() if streaming else whole
        options = {"split": split, "streaming": streaming, "cache_dir": None if cache_dir is None else str(cache_dir)}
        if local.suffix in TABLE_SUFFIXES:
            separator = {"sep": "\t"} if local.suffix == ".tsv" else {}
            # The library reads signs in names in its own way; these are names.
            files = path if is_address(path) else [glob.escape(str(file)) for file in expand_paths(path)]
            return datasets.load_dataset(TABLE_SUFFIXES[local.suffix], data_files=files, **options, **separator)
        return datasets.load_dataset(path, **options)
    except InputError:
        raise
    except Exception as error:  # the library raises what its many readers raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"dataset {path!r} cannot be opened ({reason}); give a folder of save_to_disk, files such as *.parquet, or a hub name while online"
        ) from error


def _table_folder(path: str, images: str | os.PathLike[str] | None) -> Folder:
    if images is not None:
        return Folder(data_file(os.fspath(images)))
    if is_remote(path):
        return Folder(RemoteFile(path).parent)
    local = Path(path)
    return Folder(local if local.is_dir() else local.parent)


def _labels(table: Any) -> dict[str, list[str]]:
    """Column -> names of its classes, for the columns that hold class numbers."""
    return {name: list(column.names) for name, column in (table.features or {}).items() if type(column).__name__ == "ClassLabel"}


def _row(table: Any, labels: Mapping[str, list[str]]) -> dict[str, object]:
    """A row as plain objects: an image is its bytes or its path, a class label its name."""
    (row,) = table.to_pylist()
    found = {name: _undecoded(value) for name, value in row.items()}
    for name, names in labels.items():
        label = found.get(name)
        if isinstance(label, int) and 0 <= label < len(names):
            found[name] = names[label]
    return found


def _undecoded(value: object) -> object:
    if isinstance(value, dict):
        if set(value) == {"bytes", "path"}:
            return value["bytes"] if value["bytes"] is not None else value["path"]
        return {name: _undecoded(one) for name, one in value.items()}
    return [_undecoded(one) for one in value] if isinstance(value, list) else value
