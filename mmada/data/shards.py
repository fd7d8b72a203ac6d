"""Image codes, computed once: a folder of shards with a manifest. A model that does not fit the manifest is refused.

    manifest.json         image tokenizer, size and way of fitting, text layout; input; counts, sizes and sha256 of the files
    00000.jsonl           records, their images named "codes:ROW"
    00000.codes.npy       (images, N) uint16 codes in raster order; int32 if there are more than 65536 codes
    00000.index.npy       (records, 4) int64: start of the line; tokens given, to learn as text, to learn as image (rows.Lengths)
    00000.dropped.jsonl   what was left out and why, a line each; only if there is anything

A shard covers `shard_size` records of the input. An interrupted run continues at the next shard, and ends with the same bytes as an
uninterrupted one. Files are written under a temporary name and then moved. The manifest comes last.
"""

from __future__ import annotations

import io
import json
import os
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from itertools import islice
from math import isqrt
from pathlib import Path
from threading import Lock
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mmada.canvas import Prompts
from mmada.data.formats import parse
from mmada.data.readers import Indexed, Selection
from mmada.data.records import Picture, Record, RecordError, SourceLocation
from mmada.data.rows import Lengths, lengths_of, split_text
from mmada.errors import ImageError, InputError
from mmada.image import BaseImageTokenizer, FitMode, fit, load_image

__all__ = [
    "MANIFEST_NAME",
    "ImageCodes",
    "Manifest",
    "Shard",
    "ShardSettings",
    "TokenizedReader",
    "image_hash",
    "text_hash",
    "write_shards",
]

MANIFEST_NAME = "manifest.json"
VERSION = 1
MAX_OPEN_SHARDS = 256
"""Shards whose arrays stay mapped into memory."""
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
        key = _identity(picture)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        codes = self.image_tokenizer.encode_images([picture.source], size=self.size, mode=self.mode).flatten().cpu()
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
        return sum(shard.num_records for shard in self.shards)

    @property
    def num_images(self) -> int:
        return sum(shard.num_images for shard in self.shards)

    @property
    def dropped(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for shard in self.shards:
            total.update(shard.dropped)
        return total

    def save(self, directory: Path) -> None:
        counts = {"num_records": self.num_records, "num_images": self.num_images}
        values = {"format": "mmada shards", "version": VERSION, **counts, **asdict(self)}
        _write(directory / MANIFEST_NAME, (json.dumps(values, indent=1) + "\n").encode())

    @classmethod
    def load(cls, directory: Path) -> Manifest:
        """Raises InputError if there is none, or it is damaged or of another version."""
        file = directory / MANIFEST_NAME
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
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


def _differences(found: Any, expected: Any) -> list[str]:
    """One text for each field in which two dataclasses differ."""
    pairs = [(f.name, getattr(found, f.name), getattr(expected, f.name)) for f in fields(expected)]
    return [f"{name} is {_short(a)} there, {_short(b)} here" for name, a, b in pairs if a != b]


def _short(value: object) -> str:
    return f"{value[:12]}…" if isinstance(value, str) and len(value) == 64 else repr(value)


def _write(path: Path, data: bytes) -> tuple[int, str]:
    """Write all or nothing, even if the process is killed. Returns the size and sha256 of the file."""
    scratch = path.with_name(f"{path.name}.tmp")
    with scratch.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    scratch.replace(path)
    return len(data), sha256(data).hexdigest()


# Writing.


def write_shards(
    records: Indexed[Record],
    directory: str | os.PathLike[str],
    *,
    image_tokenizer: BaseImageTokenizer,
    prompts: Prompts,
    size: tuple[int, int],
    mode: FitMode = "crop",
    source: str = "",
    context: int | None = None,
    shard_size: int = 1000,
    batch_size: int = 16,
    num_threads: int = 4,
    on_progress: Callable[[int], None] | None = None,
) -> Manifest:
    """Encode the images of all records and write shards, or resume an interrupted call.

    source       the input in words; a run is resumed only if it is the same
    context      split texts that are learned as they are into rows of at most so many tokens (rows.split_text); None: leave them
    shard_size   records of the input for each shard; what an interruption costs
    batch_size   images encoded together
    num_threads  that read images
    on_progress  called with the number of records of the input that are done
    Records that cannot be used are left out, counted, and listed beside their shard.
    Raises InputError if the folder belongs to another run or holds something else, or if nothing can be used.
    """
    if shard_size < 1 or batch_size < 1 or num_threads < 1:
        raise InputError(f"shard_size={shard_size}, batch_size={batch_size} and num_threads={num_threads} must be at least 1")
    target = Path(directory)
    settings = ShardSettings.of(image_tokenizer, prompts, size=size, mode=mode)
    fresh = Manifest(settings=settings, source=source, shard_size=shard_size, context=context)
    manifest = _begun(target, fresh)
    report = on_progress or (lambda done: None)
    encoder = _Encoder(image_tokenizer, settings, batch_size)
    shards = list(manifest.shards)
    with ThreadPoolExecutor(num_threads) as pool:
        while not manifest.complete:
            start = len(shards) * shard_size
            stop = min(start + shard_size, len(records))
            report(start)
            if start < stop:
                draft = _Draft(records, range(start, stop), prompts, settings, context)
                for share in draft.encode(encoder, pool):
                    report(start + int(share * (stop - start)))
                shards.append(draft.write(target, f"{len(shards):05d}"))
            manifest = Manifest(
                settings=settings,
                source=source,
                shard_size=shard_size,
                context=context,
                shards=tuple(shards),
                complete=stop >= len(records),
            )
            if manifest.complete and not manifest.num_records:
                reasons = ", ".join(f"{count}: {reason}" for reason, count in manifest.dropped.items())
                raise InputError(f"none of {len(records)} records can be used ({reasons}); see {target}/*.dropped.jsonl")
            manifest.save(target)
    report(len(records))
    return manifest


def _begun(target: Path, fresh: Manifest) -> Manifest:
    """The manifest to go on from: that of the same run, or a new one in an empty folder."""
    if target.exists() and (not target.is_dir() or (any(target.iterdir()) and not (target / MANIFEST_NAME).exists())):
        raise InputError(f"{str(target)!r} holds something else; give a new folder")
    target.mkdir(parents=True, exist_ok=True)
    if not (target / MANIFEST_NAME).exists():
        fresh.save(target)
        return fresh
    manifest = Manifest.load(target)
    names = ("source", "shard_size", "context")
    pairs = [(name, getattr(manifest, name), getattr(fresh, name)) for name in names]
    differences = _differences(manifest.settings, fresh.settings) + [f"{name} is {a!r} there, {b!r} here" for name, a, b in pairs if a != b]
    if differences:
        raise InputError(
            f"{str(target)!r} was begun with other settings ({'; '.join(differences)}); give a new folder, or the same settings"
        )
    for scratch in target.glob("*.tmp"):  # of a run that was killed
        scratch.unlink()
    return manifest


class _Encoder:
    """Pictures -> codes, a batch at a time."""

    def __init__(self, image_tokenizer: BaseImageTokenizer, settings: ShardSettings, batch_size: int) -> None:
        self.image_tokenizer, self.settings, self.batch_size = image_tokenizer, settings, batch_size

    def load(self, picture: Picture) -> Image.Image | str:
        """The picture at its size, or what is wrong with it."""
        assert not isinstance(picture.source, tuple)
        s = self.settings
        try:
            return fit(load_image(picture.source), height=s.height, width=s.width, mode=s.mode)
        except ImageError as error:
            return str(error)

    def encode(self, pictures: Sequence[Image.Image]) -> Codes:
        """(B, N)."""
        codes: Codes = self.image_tokenizer.encode_images(pictures).flatten(1).cpu().numpy().astype(_dtype(self.settings))
        return codes


def _dtype(settings: ShardSettings) -> type[np.uint16] | type[np.int32]:
    return np.uint16 if settings.codebook_size <= 2**16 else np.int32


class _Draft:
    """A shard on its way: its records, and each different picture of theirs once."""

    def __init__(self, records: Indexed[Record], indices: range, prompts: Prompts, settings: ShardSettings, context: int | None) -> None:
        self.prompts, self.settings, self.num_input = prompts, settings, len(indices)
        self.records: list[Record] = []
        self.dropped: list[tuple[str, dict[str, object]]] = []  # (reason, line for the file)
        self.codes: dict[object, NDArray[Any]] = {}
        self.faults: dict[object, str] = {}
        for index in indices:
            try:
                record = records[index]
            except RecordError as error:
                problems = [str(problem) for problem in error.problems]
                self.dropped.append(
                    (f"not a record: {error.problems[0].kind}", {"record": str(error.problems[0].where), "problems": problems})
                )
                continue
            if any(isinstance(picture.source, tuple) for picture in record.pictures):
                raise InputError(f"{record.where}: its images are codes already; tokenize the original records")
            self.records += [record] if context is None else split_text(record, prompts, context=context)

    def encode(self, encoder: _Encoder, pool: ThreadPoolExecutor) -> Iterator[float]:
        """Compute the codes of all pictures; yields how much of it is done."""
        pictures = {_identity(picture): picture for record in self.records for picture in record.pictures}
        waiting, done = iter(pictures), 0
        while keys := list(islice(waiting, encoder.batch_size)):
            loaded = dict(zip(keys, pool.map(encoder.load, [pictures[key] for key in keys]), strict=True))
            self.faults |= {key: image for key, image in loaded.items() if isinstance(image, str)}
            good = {key: image for key, image in loaded.items() if not isinstance(image, str)}
            if good:
                self.codes |= dict(zip(good, encoder.encode(list(good.values())), strict=True))
            done += len(keys)
            yield done / len(pictures)

    def write(self, target: Path, name: str) -> Shard:
        rows: dict[object, int] = {}  # picture -> row of its codes, in order of first use
        lines, index, start = [], [], 0
        for record in self.records:
            faults = [self.faults[key] for key in map(_identity, record.pictures) if key in self.faults]
            if faults:
                self.dropped.append(("image cannot be read", {"record": str(record.where), "problems": faults}))
                continue
            try:
                lengths = lengths_of(record, self.prompts, grid=self.settings.grid)
            except InputError as error:
                self.dropped.append(("the model has no row for it", {"record": str(record.where), "problems": [str(error)]}))
                continue
            for picture in record.pictures:
                rows.setdefault(_identity(picture), len(rows))
            line = json.dumps(record.to_dict(lambda picture: f"codes:{rows[_identity(picture)]}")).encode() + b"\n"
            index.append((start, lengths.given, lengths.text, lengths.image))
            lines.append(line)
            start += len(line)
        codes = (
            np.stack([self.codes[key] for key in rows]) if rows else np.zeros((0, self.settings.num_image_tokens), _dtype(self.settings))
        )
        contents = {
            f"{name}.jsonl": b"".join(lines),
            f"{name}.codes.npy": _npy(codes),
            f"{name}.index.npy": _npy(np.array(index, np.int64).reshape(-1, 4)),
        }
        if self.dropped:
            said = (json.dumps({"reason": reason, **line}) for reason, line in self.dropped)
            contents[f"{name}.dropped.jsonl"] = ("\n".join(said) + "\n").encode()
        return Shard(
            name=name,
            num_input=self.num_input,
            num_records=len(lines),
            num_images=len(rows),
            dropped=dict(sorted(Counter(reason for reason, _ in self.dropped).items())),
            files={file: _write(target / file, data) for file, data in contents.items()},
        )


def _identity(picture: Picture) -> object:
    """What tells pictures apart: the path, or the bytes."""
    return sha256(picture.source).digest() if isinstance(picture.source, bytes) else picture.source


def _npy(array: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


# Reading.


class _CodeRows:
    """The codes of a shard, as the store of its records' pictures."""

    def __init__(self, codes: Codes) -> None:
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
        self.directory = Path(directory)
        self.manifest = Manifest.load(self.directory)
        if not self.manifest.complete:
            raise InputError(
                f"{str(self.directory)!r} is incomplete, {len(self.manifest.shards)} shards are done; run the same mmada tokenize again, "
                "which goes on from there"
            )
        differences = _differences(self.manifest.settings, settings) if settings is not None else []
        if differences:
            raise InputError(
                f"{str(self.directory)!r} does not fit this model: {'; '.join(differences)}; run mmada tokenize with this model into a new folder"
            )
        self._check_files()
        self._shards = [shard for shard in self.manifest.shards if shard.num_records]
        self._ends = np.cumsum([shard.num_records for shard in self._shards])
        self._opened: dict[int, tuple[NDArray[np.int64], _CodeRows]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": {}}  # a copy in another process opens its own

    @property
    def name(self) -> str:
        return self.directory.name

    @property
    def fingerprint(self) -> str:
        return sha256("".join(digest for shard in self._shards for _, digest in shard.files.values()).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Record:
        shard, at = self._locate(index)
        file = self.directory / f"{self._shards[shard].name}.jsonl"
        table, codes = self._open(shard)
        starts = table[:, 0]
        with file.open("rb") as stream:
            stream.seek(int(starts[at]))
            line = stream.read(int(starts[at + 1] - starts[at]) if at + 1 < len(starts) else -1)
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
            table, codes = (np.load(self.directory / f"{name}.{kind}.npy", mmap_mode="r") for kind in ("index", "codes"))
            self._opened[shard] = (table, _CodeRows(codes))
        return self._opened[shard]

    def _check_files(self) -> None:
        wrong = []
        for shard in self.manifest.shards:
            for name, (size, _) in shard.files.items():
                file = self.directory / name
                if not file.is_file():
                    wrong.append(f"{name} is missing")
                elif file.stat().st_size != size:
                    wrong.append(f"{name} has {file.stat().st_size} bytes instead of {size}")
        if wrong:
            raise InputError(f"{str(self.directory)!r} is damaged: {'; '.join(wrong)}; copy it again, or run mmada tokenize again")
