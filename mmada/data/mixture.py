"""Weighted mixtures of endless sequences, and the YAML files that describe them.

    Mixture({"web": (web, 0.02), "chat": (chat, 0.98)}, seed=0)[index]        the next item of one part

The index alone decides which part stands there, so a position in a mixture is one integer:

    u_j = (start + j g) mod 1, g the golden ratio      part of slot j: the part whose share of [0, 1) holds u_j
    slots of a block of 64 are permuted                so every 8th slot, which one process of 8 reads, has all parts

After n items, a part with weight w was chosen n w times, to within about log n. So all batches have nearly the same composition.
How often a part was chosen before an index is its own position. `_num_below` counts this without visiting the slots.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Generic, Literal, TypeAlias, TypeVar, get_args

from mmada.data.addresses import data_file, is_remote, joined
from mmada.data.formats import RecordFormat
from mmada.data.jsonl_reader import JsonlReader
from mmada.data.order import Endless, Epochs, permuted, scrambled
from mmada.data.records import Meta, Record
from mmada.data.shards import MANIFEST_NAME, ShardSettings, TokenizedReader
from mmada.data.table_reader import TABLE_SUFFIXES, TableReader, TableStream
from mmada.data.tar_reader import TarReader
from mmada.errors import InputError, suggest

__all__ = ["DataSource", "Format", "MixtureConfig", "MixturePart", "Reader", "WeightedMixture", "format_of", "load_recipe", "open_source"]

T = TypeVar("T")

BLOCK = 64
_CIRCLE = 2**40
_STEP = 679_535_556_991  # odd, next to 2^40 / golden ratio


class WeightedMixture(Generic[T]):
    """Endless sequences as one, each with its share of the items; a mixture may be a part of another.

    parts  name -> (sequence, weight); weights are divided by their sum
    Raises InputError if there is no part, or a weight is not positive.
    """

    def __init__(self, parts: Mapping[str, tuple[Endless[T], float]], *, seed: int = 0) -> None:
        if not parts:
            raise InputError("parts={} is empty; give at least one")
        for name, (_, weight) in parts.items():
            if not 0 < weight < float("inf"):
                raise InputError(f"weight={weight} of part {name!r} must be positive; leave the part out if it is not to be used")
        self.names, self.seed = tuple(parts), seed
        self.parts = tuple(items for items, _ in parts.values())
        total = sum(weight for _, weight in parts.values())
        self.shares = {name: weight / total for name, (_, weight) in parts.items()}
        ends, end = [0], 0.0
        for share in self.shares.values():
            end += share
            ends.append(round(end * _CIRCLE))
        self._ends = (*ends[:-1], _CIRCLE)
        if len(set(self._ends)) != len(self._ends):
            raise InputError(f"weights of {self.names} are too far apart: one of them would never be chosen")

    def choose(self, index: int) -> tuple[str, int]:
        """Which part stands at an index, and which of the part's own items."""
        part, own = self._at(index)
        return self.names[part], own

    def __getitem__(self, index: int) -> T:
        part, own = self._at(index)
        return self.parts[part][own]

    def _at(self, index: int) -> tuple[int, int]:
        if index < 0:
            raise IndexError(index)
        return _block(self._ends, self.seed, index // BLOCK)[index % BLOCK]


@lru_cache(maxsize=256)
def _block(ends: tuple[int, ...], seed: int, block: int) -> tuple[tuple[int, int], ...]:
    """(part, item of the part) for each index of a block."""
    start = permuted(seed % _CIRCLE, _CIRCLE, key=(len(ends),))
    first = block * BLOCK
    below = [_num_below(end, first, start) for end in ends]
    counts = [after - before for before, after in pairwise(below)]
    slots = []
    for slot in sorted(range(first, first + BLOCK), key=lambda slot: scrambled(slot ^ start << 24)):
        part = bisect_right(ends, (start + slot * _STEP) % _CIRCLE) - 1
        slots.append((part, counts[part]))
        counts[part] += 1
    return tuple(slots)


def _num_below(end: int, n: int, start: int) -> int:
    """How many of the first n points of the circle lie below `end`: sum((start + j * _STEP) % _CIRCLE < end for j in range(n)).

    x mod m < end exactly where floor(x / m) - floor((x - end) / m) is 1.
    """
    return _floor_sum(n, _CIRCLE, _STEP, start) - _floor_sum(n, _CIRCLE, _STEP, start - end)


def _floor_sum(n: int, m: int, a: int, b: int) -> int:
    """sum((a * j + b) // m for j in range(n)), by the steps of Euclid's algorithm on (a, m)."""
    total = 0
    while n > 0:
        total += (a // m) * n * (n - 1) // 2 + (b // m) * n
        a, b = a % m, b % m
        top = a * n + b
        if top < m:
            break
        # Counting the lattice points under the line by rows instead of columns exchanges a and m.
        n, b = top // m, top % m
        m, a = a, m
    return total


# Recipes: mixtures as values, in YAML files.

Format: TypeAlias = Literal["jsonl", "webdataset", "datasets", "tokenized"]
_IN_WORDS: Mapping[Any, str] = {bool: "true or false", int: "a whole number", Mapping: "an object such as {caption: txt}"}
Reader: TypeAlias = JsonlReader | TarReader | TableReader | TokenizedReader


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSource:
    """Where records come from, and how they are read.

    Raises InputError if the values do not go together.
    """

    path: str
    """from the root of the recipe: a file, a folder, or shards such as data-{000..127}.tar; or an address, such as s3://bucket/codes"""
    format: Format | None = None
    """None: what the path's ending says (`format_of`)"""
    adapter: str = "record"
    rename: Mapping[str, str] = field(default_factory=dict)
    """field of the adapter -> field of the source (forms.RecordFormat)"""
    images: str | None = None
    """folder that image paths start from, from the root of the recipe; None: that of the file"""
    split: str = "train"
    """of datasets"""
    streaming: bool = False
    """datasets only: read in order, shuffled in windows"""
    window: int = 1000
    """records; of streaming"""
    shuffle: bool = True
    prompts_only: bool = False
    """records may lack what is learned: prompts of reinforcement learning"""
    license: str | None = None
    lang: str | None = None

    def __post_init__(self) -> None:
        kinds: dict[str, Any] = {"path": str, "adapter": str, "split": str, "window": int, "rename": Mapping}
        kinds |= {"streaming": bool, "shuffle": bool, "prompts_only": bool}
        kinds |= dict.fromkeys(("format", "images", "license", "lang"), str | None)
        for name, kind in kinds.items():
            value = getattr(self, name)
            if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
                raise InputError(f"{name}={value!r} of a source has the wrong type; write {_IN_WORDS.get(kind, 'a text')}")
        if self.format is not None and self.format not in get_args(Format):
            raise InputError(f"format={self.format!r} is unknown: {suggest(self.format, get_args(Format))}")
        if self.streaming and self.format != "datasets":
            raise InputError(f"streaming=true needs format=datasets, not {self.format!r}; the other formats have random access")
        if not all(isinstance(name, str) for name in self.rename.values()):
            raise InputError(f"rename={dict(self.rename)!r} of a source must map fields to texts")
        _ = self.record_format  # its own rules

    @property
    def record_format(self) -> RecordFormat:
        """How its objects become records; license and language are for records that say none."""
        meta = Meta(license=self.license, lang=self.lang)
        return RecordFormat(adapter=self.adapter, rename=self.rename, meta=meta, prompts_only=self.prompts_only)


@dataclass(frozen=True, kw_only=True, slots=True)
class MixturePart:
    """A source, or a mixture of further parts, with its weight among its neighbors."""

    name: str
    weight: float = 1.0
    source: DataSource | None = None
    parts: tuple[MixturePart, ...] = ()
    note: str = ""
    """what a reader of the recipe should know"""

    def __post_init__(self) -> None:
        if (self.source is None) == (not self.parts):
            raise InputError(f"part {self.name!r} must have either a source or parts")
        if isinstance(self.weight, bool) or not isinstance(self.weight, (int, float)) or not 0 < self.weight < float("inf"):
            raise InputError(f"weight={self.weight!r} of part {self.name!r} must be a positive number")
        if not isinstance(self.name, str) or not isinstance(self.note, str):
            raise InputError(f"name={self.name!r} and note={self.note!r} of a part must be texts")
        names = [part.name for part in self.parts]
        if len(set(names)) != len(names):
            raise InputError(f"part {self.name!r} has two parts of one name among {names}; name them differently")

    def open(self, root: str | Path, *, seed: int = 0, settings: ShardSettings | None = None) -> Endless[Record]:
        """The records of this part, without end. Raises InputError if a source is missing or does not fit."""
        if self.source is not None:
            opened = open_source(self.source, root, seed=seed, settings=settings)
            return opened if isinstance(opened, TableStream) else Epochs(opened, seed=seed, shuffle=self.source.shuffle)
        return WeightedMixture({part.name: (part.open(root, seed=seed, settings=settings), part.weight) for part in self.parts}, seed=seed)


@dataclass(frozen=True, kw_only=True, slots=True)
class MixtureConfig:
    """A tree of sources with weights, as a YAML file has it (docs/data.md). Its top parts are usually the tasks."""

    name: str
    about: str = ""
    parts: tuple[MixturePart, ...] = ()

    def __post_init__(self) -> None:
        MixturePart(name=self.name, parts=self.parts)  # the same rules

    def __getitem__(self, name: str) -> MixturePart:
        """A top part. Raises InputError if there is none of this name."""
        for part in self.parts:
            if part.name == name:
                return part
        raise InputError(f"recipe {self.name!r} has no part {name!r}: {suggest(name, [part.name for part in self.parts])}")

    def open(self, root: str | Path, *, seed: int = 0, settings: ShardSettings | None = None) -> Endless[Record]:
        """All of it as one mixture; paths start from `root`. `settings` are what tokenized sources must have been made with."""
        return MixturePart(name=self.name, parts=self.parts).open(root, seed=seed, settings=settings)


def format_of(path: str) -> Format:
    """What the ending of a path says. Raises InputError if it says nothing."""
    folder = data_file(path)
    if (isinstance(folder, Path) or not folder.suffix) and (folder / MANIFEST_NAME).exists():
        return "tokenized"
    if path.endswith((".jsonl", ".jsonl.gz")):
        return "jsonl"
    if path.endswith(".tar"):
        return "webdataset"
    if Path(path).is_dir() or Path(path).suffix in TABLE_SUFFIXES:
        return "datasets"
    raise InputError(f"the format of {path!r} cannot be seen from its ending; give format: {', '.join(get_args(Format))}")


def open_source(
    source: DataSource, root: str | Path = Path(), *, seed: int = 0, settings: ShardSettings | None = None
) -> Reader | TableStream:
    """The reader of a source; paths start from `root`. Raises InputError if it is missing or does not fit."""
    path = joined(root, source.path)
    images = None if source.images is None else joined(root, source.images)
    kind = source.format or format_of(path)
    if kind == "jsonl":
        return JsonlReader(path, record_format=source.record_format, images=images)
    if kind == "webdataset":
        return TarReader(path, record_format=source.record_format)
    if kind == "tokenized":
        return TokenizedReader(path, settings=settings)
    is_file = is_remote(path) or Path(path).exists() or any(sign in path for sign in "*?[") or Path(path).suffix in TABLE_SUFFIXES
    name = path if is_file else source.path  # of the hub
    if source.streaming:
        return TableStream(name, split=source.split, record_format=source.record_format, window=source.window, seed=seed, images=images)
    return TableReader(name, split=source.split, record_format=source.record_format, images=images)


def load_recipe(file: Path) -> MixtureConfig:
    """A recipe from YAML. Raises InputError for what is missing, unknown or of the wrong type."""
    import yaml

    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"recipe {str(file)!r} cannot be read ({error.strerror}); check the path") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"recipe {str(file)!r} is not YAML ({str(error).splitlines()[0]})") from error
    found = _checked(values, MixtureConfig, str(file))
    return MixtureConfig(**{**found, "parts": _parts(found.get("parts", ()), str(file))})


def _parts(values: Any, place: str) -> tuple[MixturePart, ...]:
    if not isinstance(values, list):
        raise InputError(f"{place}: parts={values!r} must be a list")
    parts = []
    for value in values:
        found = _checked(value, MixturePart, place)
        inside = f"{place}: {found.get('name')}"
        if "parts" in found:
            found["parts"] = _parts(found["parts"], inside)
        if "source" in found:
            found["source"] = DataSource(**_checked(found["source"], DataSource, inside))
        parts.append(MixturePart(**found))
    return tuple(parts)


def _checked(values: Any, kind: type[MixtureConfig] | type[MixturePart] | type[DataSource], place: str) -> dict[str, Any]:
    """The values of a dataclass. Raises InputError for an unknown or missing name."""
    if not isinstance(values, dict):
        raise InputError(f"{place}: {values!r} must be an object with the fields of {kind.__name__}")
    known = [f.name for f in fields(kind)]
    for name in values:
        if name not in known:
            raise InputError(f"{place}: unknown field {name!r} of {kind.__name__}: {suggest(str(name), known)}")
    first = known[0]
    if not isinstance(values.get(first), str):
        raise InputError(f"{place}: {first}={values.get(first)!r} of {kind.__name__} must be a text")
    if kind is MixtureConfig and not isinstance(values.get("about", ""), str):
        raise InputError(f"{place}: about={values['about']!r} must be a text")
    return dict(values)
