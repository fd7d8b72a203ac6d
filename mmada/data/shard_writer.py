"""Write shards (shards.py): each is a function of its part of the input, so that they may be made in any order and by any number of processes.

    ShardJob.make(n)       the n-th shard: read its records, encode each different picture of theirs once, write its files
    in_line                who makes them: this process; shard_workers.py: processes; scale/ray_shards.py: a cluster
    write_shards(...)      asks for those that the manifest lacks, and enters them in the order of the input

What is entered is done. After an interruption the next call begins with the first shard that is not, whatever lies behind it, and the folder
ends with the same bytes.
"""

from __future__ import annotations

import io
import json
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmada.canvas import Prompts
from mmada.data.order import Indexed
from mmada.data.records import Picture, Record, RecordError
from mmada.data.rows import lengths_of, split_text
from mmada.data.shards import MANIFEST_NAME, Codes, Manifest, Shard, ShardSettings, differences_of, write_file
from mmada.errors import ImageError, InputError
from mmada.image import BaseImageTokenizer, FitMode, fit, load_image

__all__ = ["ShardJob", "ShardRunner", "in_line", "write_shards"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardJob:
    """All that a shard depends on. It can be pickled, if the records can."""

    records: Indexed[Record]
    target: Path
    image_tokenizer: BaseImageTokenizer
    prompts: Prompts
    settings: ShardSettings
    context: int | None
    shard_size: int
    batch_size: int
    num_threads: int

    @property
    def num_shards(self) -> int:
        """How many shards all records make; the last may be smaller."""
        return -(-len(self.records) // self.shard_size)

    def size(self, number: int) -> int:
        """Records of the input that a shard covers."""
        return len(self._indices(number))

    def make(self, number: int, on_share: Callable[[float], None] | None = None) -> Shard:
        """Write the files of a shard. on_share: is told what share of its pictures is encoded."""
        draft = _ShardDraft(self.records, self._indices(number), self.prompts, self.settings, self.context)
        encoder = _PictureEncoder(self.image_tokenizer, self.settings, self.batch_size)
        with ThreadPoolExecutor(self.num_threads) as pool:
            for share in draft.encode(encoder, pool):
                if on_share is not None:
                    on_share(share)
        return draft.write(self.target, f"{number:05d}")

    def _indices(self, number: int) -> range:
        return range(number * self.shard_size, min((number + 1) * self.shard_size, len(self.records)))


ShardRunner: TypeAlias = Callable[[ShardJob, range, Callable[[float], None]], Generator[tuple[int, Shard], None, None]]
"""(job, numbers, on_share) -> (number, shard) of each, in the order in which they are done. on_share is told, if it is known, how many shards'
worth of pictures are encoded beyond those that are done."""


def in_line(job: ShardJob, numbers: range, on_share: Callable[[float], None]) -> Generator[tuple[int, Shard], None, None]:
    """One shard after the other, in this process."""
    for number in numbers:
        yield number, job.make(number, on_share)


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
    run: ShardRunner = in_line,
    on_progress: Callable[[int], None] | None = None,
) -> Manifest:
    """Encode the images of all records and write shards, or resume an interrupted call.

    source       the input in words; a run is resumed only if it is the same
    context      split texts that are learned as they are into rows of at most so many tokens (rows.split_text); None: leave them
    shard_size   records of the input for each shard; what an interruption costs, for each process
    batch_size   images encoded together
    num_threads  that read images, in each process
    run          who makes the shards: `in_line`, `shard_workers.in_processes(n)`; the bytes are the same
    on_progress  called with the number of records of the input that are done
    Records that cannot be used are left out, counted, and listed beside their shard.
    Raises InputError if the folder belongs to another run or holds something else, if another run is writing it, or if nothing can be used.
    """
    if shard_size < 1 or batch_size < 1 or num_threads < 1:
        raise InputError(f"shard_size={shard_size}, batch_size={batch_size} and num_threads={num_threads} must be at least 1")
    target = Path(directory)
    settings = ShardSettings.of(image_tokenizer, prompts, size=size, mode=mode)
    job = ShardJob(
        records=records,
        target=target,
        image_tokenizer=image_tokenizer,
        prompts=prompts,
        settings=settings,
        context=context,
        shard_size=shard_size,
        batch_size=batch_size,
        num_threads=num_threads,
    )
    report = on_progress or (lambda done: None)
    with _begun(target, Manifest(settings=settings, source=source, shard_size=shard_size, context=context)) as manifest:
        if not manifest.complete:
            manifest = _completed(job, manifest, run, report)
    report(len(records))
    return manifest


def _completed(job: ShardJob, manifest: Manifest, run: ShardRunner, report: Callable[[int], None]) -> Manifest:
    """Make what the manifest lacks, and enter it in order."""
    first, total = len(manifest.shards), len(job.records)
    ahead: dict[int, Shard] = {}
    done = first * job.shard_size

    def on_share(share: float) -> None:
        report(min(total, done + int(share * job.shard_size)))

    report(done)
    with closing(run(job, range(first, job.num_shards), on_share)) as made:
        for number, shard in made:
            ahead[number] = shard
            done = min(total, done + job.size(number))
            while len(manifest.shards) in ahead:
                manifest = replace(manifest, shards=(*manifest.shards, ahead.pop(len(manifest.shards))))
                if len(manifest.shards) < job.num_shards:
                    manifest.save(job.target)
            report(done)
    _sweep(job.target)  # an actor that was killed was replaced, and nobody writes any more
    manifest = replace(manifest, complete=True)
    if not manifest.num_records:
        reasons = ", ".join(f"{count}: {reason}" for reason, count in manifest.dropped.items())
        raise InputError(f"none of {total} records can be used ({reasons}); see {job.target}/*.dropped.jsonl")
    manifest.save(job.target)
    return manifest


@contextmanager
def _begun(target: Path, fresh: Manifest) -> Iterator[Manifest]:
    """The manifest to go on from: that of the same run, or a new one in an empty folder, which is ours alone inside."""
    if target.exists() and (not target.is_dir() or (any(target.iterdir()) and not (target / MANIFEST_NAME).exists())):
        raise InputError(f"{str(target)!r} holds something else; give a new folder")
    target.mkdir(parents=True, exist_ok=True)
    with _locked(target):
        if not (target / MANIFEST_NAME).exists():
            fresh.save(target)
            yield fresh
            return
        manifest = Manifest.load(target)
        names = ("source", "shard_size", "context")
        pairs = [(name, getattr(manifest, name), getattr(fresh, name)) for name in names]
        differences = differences_of(manifest.settings, fresh.settings)
        differences += [f"{name} is {a!r} there, {b!r} here" for name, a, b in pairs if a != b]
        if differences:
            raise InputError(
                f"{str(target)!r} was begun with other settings ({'; '.join(differences)}); give a new folder, or the same settings"
            )
        _sweep(target)
        yield manifest


def _sweep(target: Path) -> None:
    """Remove what processes that were killed had begun to write."""
    for scratch in target.glob("*.tmp"):
        scratch.unlink(missing_ok=True)


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Keep other runs away from a folder. The lock ends with the process, however that ends."""
    try:
        import fcntl
    except ImportError:  # Windows keeps no such lock
        yield
        return
    handle = os.open(target, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{str(target)!r} is being written by another run; wait for it, or give another folder") from error
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(handle)


class _PictureEncoder:
    """Pictures -> codes, a batch at a time."""

    def __init__(self, image_tokenizer: BaseImageTokenizer, settings: ShardSettings, batch_size: int) -> None:
        self.image_tokenizer, self.settings, self.batch_size = image_tokenizer, settings, batch_size

    def load(self, picture: Picture) -> Image.Image | str:
        """The picture at its size, or what is wrong with it."""
        s = self.settings
        try:
            return fit(load_image(picture.image), height=s.height, width=s.width, mode=s.mode)
        except ImageError as error:
            return str(error)

    def encode(self, pictures: Sequence[Image.Image]) -> Codes:
        """(B, N)."""
        codes: Codes = self.image_tokenizer.encode_images(pictures).flatten(1).cpu().numpy().astype(_dtype(self.settings))
        return codes


def _dtype(settings: ShardSettings) -> type[np.uint16] | type[np.int32]:
    return np.uint16 if settings.codebook_size <= 2**16 else np.int32


class _ShardDraft:
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

    def encode(self, encoder: _PictureEncoder, pool: ThreadPoolExecutor) -> Iterator[float]:
        """Compute the codes of all pictures; yields how much of it is done."""
        pictures = {picture.key: picture for record in self.records for picture in record.pictures}
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
            faults = [self.faults[picture.key] for picture in record.pictures if picture.key in self.faults]
            if faults:
                self.dropped.append(("image cannot be read", {"record": str(record.where), "problems": faults}))
                continue
            try:
                lengths = lengths_of(record, self.prompts, grid=self.settings.grid)
            except InputError as error:
                self.dropped.append(("the model has no row for it", {"record": str(record.where), "problems": [str(error)]}))
                continue
            for picture in record.pictures:
                rows.setdefault(picture.key, len(rows))
            line = json.dumps(record.to_dict(lambda picture: f"codes:{rows[picture.key]}")).encode() + b"\n"
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
            files={file: write_file(target / file, data) for file, data in contents.items()},
        )


def _npy(array: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()
