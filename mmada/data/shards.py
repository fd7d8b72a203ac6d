"""Image codes, computed once: a folder of shards with a manifest. A model that does not fit the manifest is refused.

    manifest.json         image tokenizer, size and way of fitting, text layout; input; counts, sizes and sha256 of the files
    00000.jsonl           records, their images named "codes:ROW"
    00000.codes.npy       (images, N) uint16 codes in raster order; int32 if there are more than 65536 codes
    00000.index.npy       (records, 4) int64: start of the line; tokens given, to learn as text, to learn as image (rows.Lengths)
    00000.dropped.jsonl   what was left out and why, a line each; only if there is anything

A shard covers `shard_size` records of the input (shard_writer.py). Files are written under a temporary name and then moved. The manifest
comes last.
"""

from __future__ import annotations

import io
import json
import os
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from math import isqrt
from pathlib import Path
from threading import Lock
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmada.canvas import Prompts
from mmada.data.addresses import DataFile, Ranges, RemoteFile, data_file
from mmada.data.formats import parse
from mmada.data.records import Picture, Record, SourceLocation
from mmada.data.rows import Lengths
from mmada.data.selection import Selection
from mmada.errors import ImageError, InputError
from mmada.image import BaseImageTokenizer, FitMode

__all__ = [
    "MANIFEST_NAME",
    "ImageCodes",
    "Manifest",
    "Shard",
    "ShardSettings",
    "TokenizedReader",
    "differences_of",
    "image_hash",
    "text_hash",
    "write_file",
]

MANIFEST_NAME = "manifest.json"
VERSION = 1
MAX_OPEN_SHARDS = 256
"""Shards whose arrays stay mapped into memory."""
_NPY_HEAD = 256
"""Bytes that hold the head of an array file."""
_PROBE = "The 3 cats' 12,345.67\n\tÜber 猫 🐈 <think> a</think> B"

Codes: TypeAlias = NDArray[Any]
"""(images, N) uint16 or int32"""


# What codes depend on.


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardSettings:
    """What the codes and lengths of shards depend on."""

    image_tokenizer: str
    """sha256 of the encoder's weights (`image_hash`)"""
    codebook_size: int
    height: int
    width: int
    """pixels that pictures are brought to"""
    mode: FitMode
    num_image_tokens: int
    text: str
    """sha256 of vocabulary layout, text tokenizer and style (`text_hash`): the lengths depend on it"""

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) codes of an image."""
        factor = isqrt(self.height * self.width // self.num_image_tokens)
        return self.height // factor, self.width // factor

    @classmethod
    def of(cls, image_tokenizer: BaseImageTokenizer, prompts: Prompts, *, size: tuple[int, int], mode: FitMode) -> ShardSettings:
        """`size` is (height, width). Raises ImageError if it is not a multiple of the tokenizer's factor."""
        factor = image_tokenizer.factor
        if any(side < factor or side % factor for side in size):
            near = tuple(max(1, round(side / factor)) * factor for side in size)
            raise ImageError(f"size={size} (height, width) must be multiples of {factor} pixels; try {near}")
        return cls(
            image_tokenizer=image_hash(image_tokenizer),
            codebook_size=image_tokenizer.codebook_size,
            height=size[0],
            width=size[1],
            mode=mode,
            num_image_tokens=(size[0] // factor) * (size[1] // factor),
            text=text_hash(prompts),
        )


def image_hash(image_tokenizer: BaseImageTokenizer) -> str:
    """sha256 of what codes depend on: names, types, shapes and values of the encoder's weights. The decoder may be trained further."""
    digest = sha256()
    for name, tensor in sorted(image_tokenizer.encoding_tensors().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def text_hash(prompts: Prompts) -> str:
    """sha256 of the id ranges, the style, the tokenizer's entries, and how it takes a sentence apart."""
    parts = [prompts.layout.to_dict(), asdict(prompts.style), sorted(prompts.tokenizer.get_vocab().items()), prompts.encode(_PROBE)]
    return sha256(json.dumps(parts).encode()).hexdigest()


class ImageCodes:
    """A picture -> its (N,) codes, computed when it is asked for; pictures that have codes keep them.

    num_kept  codes that are remembered
    """

    def __init__(self, image_tokenizer: BaseImageTokenizer, *, size: tuple[int, int], mode: FitMode = "crop", num_kept: int = 1024) -> None:
        self.image_tokenizer, self.size, self.mode = image_tokenizer, size, mode
        self.num_kept = num_kept
        self._kept: OrderedDict[object, Tensor] = OrderedDict()
        """by what tells pictures apart, which of bytes is a hash: the files themselves may be large"""
        self._lock = Lock()

    def __call__(self, picture: Picture) -> Tensor:
        if isinstance(picture.source, tuple):
            return torch.tensor(picture.source)
        key = picture.key
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        codes = self.image_tokenizer.encode_images([picture.image], size=self.size, mode=self.mode).flatten().cpu()
        with self._lock:
            self._kept[key] = codes
            while len(self._kept) > self.num_kept:
                self._kept.popitem(last=False)
        return codes


# The manifest.


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """One shard: how much of the input it stands for, and its files as name -> (bytes, sha256)."""

    name: str
    num_input: int
    num_records: int
    num_images: int
    dropped: Mapping[str, int]
    """records that were left out, by reason"""
    files: Mapping[str, tuple[int, str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What a folder of shards is. `complete` is False until the last shard is there."""

    settings: ShardSettings
    source: str
    """the input, in words"""
    shard_size: int
    context: int | None
    """texts longer than this were split"""
    shards: tuple[Shard, ...] = ()
    complete: bool = False

    @property
    def num_records(self) -> int:
        """Of all shards."""
        return sum(shard.num_records for shard in self.shards)

    @property
    def num_images(self) -> int:
        """Of all shards, equal ones of a shard counted once."""
        return sum(shard.num_images for shard in self.shards)

    @property
    def dropped(self) -> Counter[str]:
        """Reason -> number of records that were left out, over all shards."""
        total: Counter[str] = Counter()
        for shard in self.shards:
            total.update(shard.dropped)
        return total

    def save(self, directory: Path) -> None:
        """Write the manifest into a directory, at once or not at all."""
        counts = {"num_records": self.num_records, "num_images": self.num_images}
        values = {"format": "mmada shards", "version": VERSION, **counts, **asdict(self)}
        write_file(directory / MANIFEST_NAME, (json.dumps(values, indent=1) + "\n").encode())

    @classmethod
    def load(cls, directory: DataFile) -> Manifest:
        """Raises InputError if there is none, or it is damaged or of another version."""
        file = directory / MANIFEST_NAME
        if isinstance(file, RemoteFile) and not file.exists():
            raise InputError(f"{str(directory)!r} has no {MANIFEST_NAME}; give a folder that mmada tokenize wrote")
        try:
            values = json.loads(file.read_bytes().decode("utf-8"))
            version = values["version"]
            if version == VERSION:
                shards = [
                    Shard(**{**one, "files": {name: tuple(facts) for name, facts in one["files"].items()}}) for one in values["shards"]
                ]
                rest = {f.name: values[f.name] for f in fields(cls)}
                return cls(**{**rest, "settings": ShardSettings(**values["settings"]), "shards": tuple(shards)})
        except OSError as error:
            raise InputError(f"{str(directory)!r} has no {MANIFEST_NAME}; give a folder that mmada tokenize wrote") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{file} is damaged ({type(error).__name__}: {error}); run mmada tokenize into a new folder") from error
        raise InputError(f"{file} has version {version}, this package reads {VERSION}; run mmada tokenize again")


def differences_of(found: Any, expected: Any) -> list[str]:
    """One text for each field in which two dataclasses differ."""
    pairs = [(f.name, getattr(found, f.name), getattr(expected, f.name)) for f in fields(expected)]
    return [f"{name} is {_short(a)} there, {_short(b)} here" for name, a, b in pairs if a != b]


def _short(value: object) -> str:
    return f"{value[:12]}…" if isinstance(value, str) and len(value) == 64 else repr(value)


def write_file(path: Path, data: bytes) -> tuple[int, str]:
    """Write all or nothing, even if the process is killed. Returns the size and sha256 of the file."""
    scratch = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with scratch.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    scratch.replace(path)
    return len(data), sha256(data).hexdigest()


# Reading.


class _RemoteRows:
    """The rows of an array in a file at an address, each read when it is asked for."""

    def __init__(self, file: RemoteFile, ranges: Ranges) -> None:
        self.file, self.ranges = file, ranges
        head = io.BytesIO(file.read_range(0, _NPY_HEAD))
        if np.lib.format.read_magic(head) != (1, 0):
            raise InputError(f"{file} is no array of version 1.0; run mmada tokenize again")
        self.shape, _, self.dtype = np.lib.format.read_array_header_1_0(head)
        self.offset = head.tell()

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, row: int) -> Codes:
        size = self.dtype.itemsize * int(self.shape[1])
        start = self.offset + row * size
        return np.frombuffer(self.ranges.read(self.file, start, start + size), self.dtype)


class _CodeRows:
    """The codes of a shard, as the store of its records' pictures."""

    def __init__(self, codes: Codes | _RemoteRows) -> None:
        self.codes = codes

    def find(self, name: str) -> tuple[int, ...]:
        row = name.removeprefix("codes:")
        if row == name or not row.isdecimal() or int(row) >= len(self.codes):
            raise InputError(f"is none of the {len(self.codes)} codes of the shard; it is damaged, run mmada tokenize again")
        return tuple(self.codes[int(row)].tolist())


class TokenizedReader:
    """The records of a folder that `write_shards` wrote, with random access; their pictures are codes.

    settings  what they must have been made with; None: whatever it was
    Raises InputError if the folder is incomplete or damaged, or was made with other settings: it says which, and how they differ.
    """

    def __init__(self, directory: str | os.PathLike[str], *, settings: ShardSettings | None = None) -> None:
        self.directory = data_file(os.fspath(directory))
        self.manifest = Manifest.load(self.directory)
        if not self.manifest.complete:
            raise InputError(
                f"{str(self.directory)!r} is incomplete, {len(self.manifest.shards)} shards are done; run the same mmada tokenize again, "
                "which goes on from there"
            )
        differences = differences_of(self.manifest.settings, settings) if settings is not None else []
        if differences:
            raise InputError(
                f"{str(self.directory)!r} does not fit this model: {'; '.join(differences)}; run mmada tokenize with this model into a new folder"
            )
        self._check_files()
        self._shards = [shard for shard in self.manifest.shards if shard.num_records]
        self._ends = np.cumsum([shard.num_records for shard in self._shards])
        self._opened: dict[int, tuple[NDArray[np.int64], _CodeRows]] = {}
        self._lines, self._codes = Ranges(), Ranges()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": {}}  # a copy in another process opens its own

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.directory.name

    @property
    def fingerprint(self) -> str:
        """Changes if any file of a shard does: made of their sha256."""
        return sha256("".join(digest for shard in self._shards for _, digest in shard.files.values()).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Record:
        shard, at = self._locate(index)
        file = self.directory / f"{self._shards[shard].name}.jsonl"
        table, codes = self._open(shard)
        starts = table[:, 0]
        stop = int(starts[at + 1]) if at + 1 < len(starts) else self._shards[shard].files[file.name][0]
        line = self._lines.read(file, int(starts[at]), stop)
        return parse(json.loads(line), SourceLocation(f"{self.name}/{file.name}", at + 1), pictures=codes)

    def lengths(self, index: int) -> Lengths:
        """Tokens of a record's row, as they were counted when it was written."""
        shard, at = self._locate(index)
        table, _ = self._open(shard)
        return Lengths(*map(int, table[at, 1:]))

    def fitting(self, *, context: int | None = None, answer_length: int | None = None) -> Selection[Record]:
        """The records that fit, without reading any; the others are counted by reason."""
        reasons = [self.lengths(index).reason(context=context, answer_length=answer_length) for index in range(len(self))]
        kept = [index for index, reason in enumerate(reasons) if reason is None]
        return Selection(self, kept, Counter(reason for reason in reasons if reason is not None))

    def verify(self) -> None:
        """Read every file and compare its sha256. Raises InputError that names all damaged ones."""
        wrong = [
            name
            for shard in self.manifest.shards
            for name, (_, expected) in shard.files.items()
            if sha256((self.directory / name).read_bytes()).hexdigest() != expected
        ]
        if wrong:
            raise InputError(f"{str(self.directory)!r}: {', '.join(wrong)} changed since they were written; run mmada tokenize again")

    def _locate(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        shard = int(np.searchsorted(self._ends, index, side="right"))
        return shard, index - (int(self._ends[shard - 1]) if shard else 0)

    def _open(self, shard: int) -> tuple[NDArray[np.int64], _CodeRows]:
        if shard not in self._opened:
            while len(self._opened) >= MAX_OPEN_SHARDS:
                del self._opened[next(iter(self._opened))]
            name = self._shards[shard].name
            self._opened[shard] = self._table(self.directory / f"{name}.index.npy"), self._rows(self.directory / f"{name}.codes.npy")
        return self._opened[shard]

    def _table(self, file: DataFile) -> NDArray[np.int64]:
        """Of an address, all of it: a few bytes a record, and wanted again."""
        found: NDArray[np.int64] = np.load(file, mmap_mode="r") if isinstance(file, Path) else np.load(io.BytesIO(file.read_bytes()))
        return found

    def _rows(self, file: DataFile) -> _CodeRows:
        return _CodeRows(np.load(file, mmap_mode="r") if isinstance(file, Path) else _RemoteRows(file, self._codes))

    def _check_files(self) -> None:
        sizes = self.directory.sizes() if isinstance(self.directory, RemoteFile) else None
        wrong = []
        for shard in self.manifest.shards:
            for name, (size, _) in shard.files.items():
                file = self.directory / name
                found = sizes.get(name) if sizes is not None else file.stat().st_size if isinstance(file, Path) and file.is_file() else None
                if found is None:
                    wrong.append(f"{name} is missing")
                elif found != size:
                    wrong.append(f"{name} has {found} bytes instead of {size}")
        if wrong:
            raise InputError(f"{str(self.directory)!r} is damaged: {'; '.join(wrong)}; copy it again, or run mmada tokenize again")
