"""Records from data sets of the `datasets` library: parquet, arrow, CSV, or a name of the hub.

TableReader    random access, memory-mapped
TableStream    the same, read in order: ascending access only, for what does not fit on the disk
"""

from __future__ import annotations

import copy
import glob
import os
from collections.abc import Mapping
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

from mmada.data.addresses import RemoteFile, data_file, is_remote
from mmada.data.formats import RecordFormat, parse
from mmada.data.order import permuted
from mmada.data.paths import expand_paths, is_address
from mmada.data.record_draft import Folder
from mmada.data.records import Record, SourceLocation
from mmada.errors import InputError, MissingDependencyError

__all__ = ["TABLE_SUFFIXES", "TableReader", "TableStream"]

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
        """The last part of the path or of the hub name; records say it as their place."""
        return Path(self.path).name

    @property
    def fingerprint(self) -> str:
        """Changes if rows are added or removed, or columns change."""
        return sha256(repr((len(self), self._table.features)).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> Record:
        row, where = self.read(index)
        return parse(row, where, pictures=self.pictures, record_format=self.record_format)

    def read(self, index: int) -> tuple[dict[str, object], SourceLocation]:
        """The object of a row, as it is."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return _row(self._table[index], self._labels), SourceLocation(self.name, index)


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
        """As in `TableReader`."""
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
