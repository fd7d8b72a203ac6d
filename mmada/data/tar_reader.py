"""Records from WebDataset's tar shards, by index: data-{000..127}.tar, with an index of sample starts beside each shard.

TarReader("data-{000..127}.tar")[17]      a Record, or a RecordError with everything that is wrong with it
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from mmada.data.addresses import DataFile, Ranges, RemoteFile, is_remote
from mmada.data.formats import RecordFormat, parse
from mmada.data.index_cache import MIN_CACHED_BYTES, Integers, cached_index
from mmada.data.jsonl_reader import read_json
from mmada.data.paths import expand_braces, expand_paths, is_address
from mmada.data.records import Problem, Record, RecordError, SourceLocation
from mmada.errors import InputError

__all__ = ["TarReader"]


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
        self._starts = [cached_index(path, _index_samples, min_cached_bytes)[0] for path in self.paths]
        self._ends = np.cumsum([len(starts) - 1 for starts in self._starts])
        if not len(self):
            raise InputError(f"{', '.join(names)} holds no sample; members need a name and an extension, such as 000017.json")

    @property
    def name(self) -> str:
        """Of the shard, or of the first and the last."""
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
                value[extension] = read_json(content, where, f"member .{extension}")
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
