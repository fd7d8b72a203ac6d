"""Training data: records, readers with random access, mixtures, tokenized shards, and a check of all of it.

    reader = JsonlReader("my.jsonl")                  a record a line: records.py, jsonl_reader.py, index_cache.py
    parse(value, where, pictures=...)                 an object as a record: formats.py, native_format.py, format_adapters.py, record_draft.py
    TarReader(...), TableReader(...)                  tar shards and `datasets`: tar_reader.py, table_reader.py
    select(reader, reason)                            some of the records: selection.py
    stream = Stream(Epochs(reader, seed=0))           endless, reshuffled each epoch, resumed by one integer: order.py
    Mixture({"mine": (Epochs(reader), 0.3), ...})     exact weights: mixture.py
    write_shards(reader, "codes", ...)                `mmada tokenize`: shard_writer.py, shard_workers.py; what it wrote: shards.py
    check_records(reader, prompts, ...)               `mmada data check`: check.py; how else a file could be read: format_hints.py
    lengths_of(record, prompts, ...)                  tokens of a record's row: rows.py; the row itself: train/records.py

    data_file("s3://bucket/a.jsonl")                  files here or elsewhere: addresses.py; by pattern: paths.py
    generator(...)                                    random numbers that depend only on a key: seeds.py

    find_world("shapes")                              a source of samples with exact answers: world.py, find_world.py

The schema of records is in docs/data.md, with an example of each task; worlds are in docs/worlds.md. Names are imported at first use, so a
world's samples do not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmada.data.check import DataReport, check_records, masked_in_words
    from mmada.data.format_adapters import ADAPTERS
    from mmada.data.formats import RecordFormat, parse
    from mmada.data.jsonl_reader import JsonlReader
    from mmada.data.mixture import DataSource, MixtureConfig, MixturePart, WeightedMixture, load_recipe, open_source
    from mmada.data.order import DataPosition, Endless, Epochs, Indexed, Stream, worker_share
    from mmada.data.record_draft import Folder
    from mmada.data.records import Meta, Picture, Problem, Record, RecordError, SourceLocation, Thinking, Turn
    from mmada.data.rows import Lengths, lengths_of, split_text
    from mmada.data.selection import Selection, select, select_by_task
    from mmada.data.shard_writer import write_shards
    from mmada.data.shards import ImageCodes, Manifest, ShardSettings, TokenizedReader
    from mmada.data.table_reader import TableReader, TableStream
    from mmada.data.tar_reader import TarReader

_WHERE = {
    "check": "DataReport check_records masked_in_words",
    "format_adapters": "ADAPTERS",
    "formats": "RecordFormat parse",
    "mixture": "WeightedMixture MixturePart MixtureConfig DataSource load_recipe open_source",
    "jsonl_reader": "JsonlReader",
    "order": "Endless Epochs Indexed DataPosition Stream worker_share",
    "record_draft": "Folder",
    "records": "Meta Picture Problem Record RecordError Thinking Turn SourceLocation",
    "rows": "Lengths lengths_of split_text",
    "selection": "Selection select select_by_task",
    "shard_writer": "write_shards",
    "shards": "ImageCodes Manifest ShardSettings TokenizedReader",
    "table_reader": "TableReader TableStream",
    "tar_reader": "TarReader",
}

__all__ = [
    "ADAPTERS",
    "DataPosition",
    "DataReport",
    "DataSource",
    "Endless",
    "Epochs",
    "Folder",
    "ImageCodes",
    "Indexed",
    "JsonlReader",
    "Lengths",
    "Manifest",
    "Meta",
    "MixtureConfig",
    "MixturePart",
    "Picture",
    "Problem",
    "Record",
    "RecordError",
    "RecordFormat",
    "Selection",
    "ShardSettings",
    "SourceLocation",
    "Stream",
    "TableReader",
    "TableStream",
    "TarReader",
    "Thinking",
    "TokenizedReader",
    "Turn",
    "WeightedMixture",
    "check_records",
    "lengths_of",
    "load_recipe",
    "masked_in_words",
    "open_source",
    "parse",
    "select",
    "select_by_task",
    "split_text",
    "worker_share",
    "write_shards",
]


def __getattr__(name: str) -> Any:
    for module, names in _WHERE.items():
        if name in names.split():
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
