"""The new words of a run's records, which go into the lexicon of its start (`own`), and on with the trained model.

words = OwnWords(parts.lexicon)
words.read(record)                      where records are read anyway
words.read_all(endless)                 where they are not: the sources of a recipe, once each
parts = words.kept(parts, config.out)   in every process; beside config.yaml, too, for `mmada convert`
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import gather_object

from mmada.data import Endless, Epochs, Indexed, Record, RecordError, TableStream, WeightedMixture
from mmada.data.world import World
from mmada.generation.lexicon import Lexicon
from mmada.train import state
from mmada.train.export import Parts

__all__ = ["OwnWords", "share_of"]

_NUM_TEXTS = 3000
"""Texts of a world that are read: it has no end."""
_log = logging.getLogger("mmada.train")


class OwnWords:
    """What a lexicon lacks of the records that are read. lexicon: of the start; None: it has none, and nothing is read."""

    def __init__(self, lexicon: Lexicon | None) -> None:
        self._lexicon = lexicon
        self._found: set[str] = set()

    def read(self, record: Record) -> None:
        """A record that takes part: what its turns say, and what it answers."""
        self._read(" ".join((*(turn.text for turn in record.turns), record.answer or "")))

    def _read(self, text: str) -> None:
        if self._lexicon is not None:
            self._found |= self._lexicon.new_words(text)

    def read_world(self, world: World, *, known: str) -> None:
        """What a world says, unless it is the one that the start knows: its words are the lexicon's, or meant to be unknown."""
        if self._lexicon is not None and world.name != known and PartialState().is_main_process:
            for text in world.corpus(_NUM_TEXTS):
                self._read(text)

    def read_all(self, records: Endless[Record]) -> None:
        """All records of an endless order, each process its share of them. A stream has no end, so a warning says that it is not read."""
        for table in _tables(records) if self._lexicon is not None else ():
            if isinstance(table, TableStream):
                if PartialState().is_main_process:
                    _log.warning(
                        "data %r is streamed, so its new words are not collected, and the trained model may call them unknown; "
                        "set streaming: false to have them read",
                        table.path,
                    )
                continue
            for index in share_of(len(table)):
                try:
                    self.read(table[index])
                except RecordError:  # said when its turn comes
                    continue

    def kept(self, parts: Parts, out: str | Path) -> Parts:
        """The parts with a lexicon that has the words of all processes, and those of the run in `out` that goes on. It is written there, too."""
        if self._lexicon is None:
            return parts
        before = Lexicon.load(Path(out)) if state.latest(Path(out) / "state") is not None else None
        found = {*gather_object(sorted(self._found.union(() if before is None else before.own)))}
        if not found:
            return parts
        lexicon = self._lexicon.with_own(found)
        if PartialState().is_main_process:
            Path(out).mkdir(parents=True, exist_ok=True)
            lexicon.save(Path(out))
        return replace(parts, lexicon=lexicon)


def share_of(count: int) -> range:
    """Of `count` records, those that this process reads where each reads a part."""
    here = PartialState()
    rank, world = here.process_index, here.num_processes
    return range(count * rank // world, count * (rank + 1) // world)


def _tables(records: Endless[Record]) -> Iterator[Indexed[Record] | TableStream]:
    """What an endless order is made of."""
    if isinstance(records, WeightedMixture):
        for part in records.parts:
            yield from _tables(part)
    elif isinstance(records, Epochs):
        yield records.items
    else:
        assert isinstance(records, TableStream)  # mixture.MixturePart.open makes no other
        yield records
