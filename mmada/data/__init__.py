"""Training data: records, readers with random access, mixtures, image codes computed once, and a check of all of it.

    reader = JsonlReader("my.jsonl")                  a record a line: records.py, forms.py; also tar shards and `datasets`: readers.py
    stream = Stream(Epochs(reader, seed=0))           endless, shuffled anew each epoch, resumed by one integer
    Mixture({"mine": (Epochs(reader), 0.3), ...})     exact shares: mixture.py
    write_shards(reader, "codes", ...)                `mmada tokenize`: shards.py
    check_records(reader, prompts, ...)               `mmada data check`: check.py
    to_canvas(record, prompts, codes_of_image)        a record as a row of training: rows.py

    find_world("shapes")                              a source of samples with exact answers: world.py, find_world.py

The schema of records is in docs/data.md, with an example of each task; worlds are in docs/worlds.md. Names are imported at first use, so
that a world's samples do not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmada.data.check import Report, check_records, masked_in_words
    from mmada.data.forms import ADAPTERS, Folder, Form, parse
    from mmada.data.mixture import Mixture, Part, Recipe, Source, load_recipe, open_source
    from mmada.data.readers import (
        Endless,
        Epochs,
        Indexed,
        JsonlReader,
        Place,
        Selection,
        Stream,
        TableReader,
        TableStream,
        TarReader,
        select,
        select_by_task,
        worker_share,
    )
    from mmada.data.records import Meta, Picture, Problem, Record, RecordError, RowError, Thinking, Turn, Where
    from mmada.data.rows import Lengths, lengths_of, split_text, to_canvas
    from mmada.data.shards import ImageCodes, Manifest, Settings, TokenizedReader, write_shards

_WHERE = {
    "check": "Report check_records masked_in_words",
    "forms": "ADAPTERS Folder Form parse",
    "mixture": "Mixture Part Recipe Source load_recipe open_source",
    "readers": "Endless Epochs Indexed JsonlReader Place Selection Stream TableReader TableStream TarReader select select_by_task worker_share",
    "records": "Meta Picture Problem Record RecordError RowError Thinking Turn Where",
    "rows": "Lengths lengths_of split_text to_canvas",
    "shards": "ImageCodes Manifest Settings TokenizedReader write_shards",
}

__all__ = [
    "ADAPTERS",
    "Endless",
    "Epochs",
    "Folder",
    "Form",
    "ImageCodes",
    "Indexed",
    "JsonlReader",
    "Lengths",
    "Manifest",
    "Meta",
    "Mixture",
    "Part",
    "Picture",
    "Place",
    "Problem",
    "Recipe",
    "Record",
    "RecordError",
    "Report",
    "RowError",
    "Selection",
    "Settings",
    "Source",
    "Stream",
    "TableReader",
    "TableStream",
    "TarReader",
    "Thinking",
    "TokenizedReader",
    "Turn",
    "Where",
    "check_records",
    "lengths_of",
    "load_recipe",
    "masked_in_words",
    "open_source",
    "parse",
    "select",
    "select_by_task",
    "split_text",
    "to_canvas",
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
