"""What a run reads from files: the user's records, those of them that are held out, and records of what should stay.

    found = read_samples(config, stage, parts, words)     task -> samples, of four kinds
    with_replay(stage, tasks, share)                      the stage's components, and beside them `stay_NAME` for the tasks of the replay

Rows of replay are components of their own, so that their losses are logged, evaluated and compared apart from those of the new task.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor

from mmada.data import (
    DataSource,
    Epochs,
    ImageCodes,
    Indexed,
    Picture,
    Record,
    Selection,
    ShardSettings,
    TableStream,
    load_recipe,
    open_source,
    select_by_task,
)
from mmada.data.format_hints import format_hint
from mmada.data.selection import held_out
from mmada.errors import InputError
from mmada.generation.requests import GenerationConfig
from mmada.train.config import RECIPES, TrainConfig
from mmada.train.export import Parts
from mmada.train.own_words import OwnWords, share_of
from mmada.train.records import Learner
from mmada.train.source import ExampleSource, RecordExamples
from mmada.train.stages import OPTIONAL_TASKS, MixtureComponent, Stage

__all__ = ["STAY", "FileSamples", "encoding", "read_samples", "report_dropped", "select_together", "with_replay"]

STAY = "stay_"
"""Begins the names of components that are replay."""
_HELD_OUT_REPLAY = 0.2
_log = logging.getLogger("mmada.train")


@dataclass(frozen=True, kw_only=True, slots=True)
class FileSamples:
    """Task -> samples: of the new task, and of what should stay; each to train on, and to evaluate by."""

    training: Mapping[str, ExampleSource]
    testing: Mapping[str, ExampleSource]
    replay: Mapping[str, ExampleSource] = field(default_factory=dict)
    replay_testing: Mapping[str, ExampleSource] = field(default_factory=dict)
    direct: frozenset[str] = frozenset()
    """tasks of the new records none of which has a thought; a recipe does not say"""

    def new_defaults(self, defaults: GenerationConfig) -> dict[str, Any]:
        """What changes in how the model is used: it does not think where the new records never do.

        Rows of replay keep thinking alive, but of what it was taught before: before an answer of the new task the model would think nonsense.
        """
        new, changes = frozenset(self.training), dict[str, Any]()
        questions = new & {"text", "understand"}
        if defaults.thinks_before_answering and questions and questions <= self.direct:
            changes["thinks_before_answering"] = False
        if defaults.thinks_before_drawing and "draw" in new and "reason_draw" not in new:
            changes["thinks_before_drawing"] = False
        return changes


def read_samples(config: TrainConfig, stage: Stage, parts: Parts, words: OwnWords) -> FileSamples:
    """The samples of data.path, eval_path, eval_share and replay. Records that do not fit are left out and counted.

    words  reads the records of data.path that take part
    Raises InputError for files that cannot be read, and for tasks with too few records to hold any out.
    """
    data = config.data
    reader = _FileReader(config, stage, parts, *encoding(parts, num_kept=data.num_kept_codes))
    direct = frozenset[str]()
    if data.path.endswith(RECIPES):
        training = reader.recipe(data.path, words)
    else:
        chosen = reader.file(data.source(data.path), setting="data.path", words=words)
        direct = frozenset(chosen) - reader.thought
        training, apart = reader.split(chosen, data.eval_share, "data.eval_share") if data.eval_share else (reader.samples(chosen), {})
    testing: Mapping[str, ExampleSource] = {}
    if data.eval_path.endswith(RECIPES):
        testing = reader.recipe(data.eval_path)
    elif data.eval_path:
        testing = reader.samples(reader.file(data.source(data.eval_path, is_eval=True)))
    elif data.eval_share:
        testing = apart
    if not data.replay:
        return FileSamples(training=training, testing=testing, direct=direct)
    kept = reader.file(DataSource(path=data.replay), setting="data.replay")
    replay, replay_testing = reader.split(kept, _HELD_OUT_REPLAY, "data.replay")
    return FileSamples(training=training, testing=testing, replay=replay, replay_testing=replay_testing, direct=direct)


def encoding(parts: Parts, *, num_kept: int = 0) -> tuple[ShardSettings | None, Callable[[Picture], Tensor]]:
    """What tokenized shards must have been made with, and a picture's codes, shaped as the checkpoint's rows take them."""
    images, d = parts.images, parts.defaults
    if images is None:  # records with pictures are left out
        return None, lambda _: parts.planner.image_tokenizer.encode_images([])
    size = (d.image_height, d.image_width)
    encode = ImageCodes(images, size=size, mode=d.image_mode, num_kept=num_kept)
    settings = ShardSettings.of(images, parts.prompts, size=size, mode=d.image_mode)
    return settings, lambda picture: parts.prompts.shaped(encode(picture), parts.grid)


@dataclass(frozen=True, slots=True)
class _FileReader:
    """Files as samples of a stage's tasks.

    thought  tasks of which a record with a thought was read
    """

    config: TrainConfig
    stage: Stage
    parts: Parts
    settings: ShardSettings | None
    encode: Callable[[Picture], Tensor]
    thought: set[str] = field(default_factory=set)

    @property
    def tasks(self) -> list[str]:
        return sorted({component.task for component in self.stage.components if component.mixture_weight})

    def recipe(self, path: str, words: OwnWords | None = None) -> dict[str, ExampleSource]:
        """A recipe's parts, as they are: nothing is left out. Raises InputError if it lacks one that is not optional."""
        recipe, root = load_recipe(Path(path)), self.config.data.root or Path(path).parent
        names = {part.name for part in recipe.parts}
        opened = {
            task: recipe[task].open(root, seed=self.config.seed, settings=self.settings)
            for task in self.tasks
            if task in names or task not in OPTIONAL_TASKS
        }
        if words is not None:
            for records in opened.values():
                words.read_all(records)
        return {task: RecordExamples(records, self.encode) for task, records in opened.items()}

    def file(self, source: DataSource, *, setting: str = "", words: OwnWords | None = None) -> dict[str, Selection[Record]]:
        """Task -> the records of a file that fit family, answer lengths and context and have their pictures.

        setting  that names a file which must hold some
        Raises InputError if it does not.
        """
        reader = open_source(source, settings=self.settings)
        assert not isinstance(reader, TableStream)  # only where streaming is asked for
        context, tasks = self.parts.model.config.max_sequence_length, self.tasks
        learner = Learner.of(
            self.stage, self.parts.prompts, self.parts.defaults, grid=self.parts.grid, context=context, family=self.parts.family
        )

        def reason(record: Record) -> str | None:
            self.thought.update([record.task] if record.thinking is not None else [])
            is_missing = record.task in tasks and any(picture.is_missing for picture in record.pictures)
            return "a picture file is missing" if is_missing else learner.left_out(record)

        chosen, dropped = select_together(reader, reason, words)
        self.thought.update(gather_object(sorted(self.thought)))
        report_dropped(source.path, len(reader), dropped, f"context {context}, answer length {learner.answer_length}")
        found = {task: chosen[task] for task in tasks if task in chosen}
        if setting and not found:
            reasons = f" ({_counted(dropped)})" if dropped else ""
            hint = format_hint(reader, as_settings=True) if setting == "data.path" else ""
            raise InputError(
                f"{setting}={source.path!r} holds no record that fits a component of stage {self.stage.name!r}{reasons}"
                f"{hint or '; see `mmada data check`'}"
            )
        return found

    def samples(self, chosen: Mapping[str, Selection[Record]]) -> dict[str, ExampleSource]:
        return {task: RecordExamples(Epochs(records, seed=self.config.seed), self.encode) for task, records in chosen.items()}

    def split(
        self, chosen: Mapping[str, Selection[Record]], share: float, setting: str
    ) -> tuple[dict[str, ExampleSource], dict[str, ExampleSource]]:
        """Samples to train on, and those that are held out of each task."""
        few = [task for task, records in chosen.items() if len(records) < 2]
        if few:
            raise InputError(
                f"{setting} holds out records of each task, and there is one of task {few[0]}; give more, or leave the task out"
            )
        parts = {task: held_out(records, share) for task, records in chosen.items()}
        return self.samples({task: part[0] for task, part in parts.items()}), self.samples({task: part[1] for task, part in parts.items()})


def select_together(
    records: Indexed[Record], reason: Callable[[Record], str | None], words: OwnWords | None = None
) -> tuple[dict[str, Selection[Record]], dict[str, int]]:
    """As `select_by_task`, in every process. Each reads its part of the records, and is told what the others found.

    words  reads those that are chosen
    """

    def noted(record: Record) -> str | None:
        why = reason(record)
        if why is None and words is not None:
            words.read(record)
        return why

    chosen, dropped = select_by_task(records, noted, part=share_of(len(records)))
    indices, counts = dict[str, list[int]](), Counter[str]()
    for found, left_out in gather_object([({task: part.indices.tolist() for task, part in chosen.items()}, dropped)]):
        counts.update(left_out)
        for task, some in found.items():
            indices.setdefault(task, []).extend(some)
    return {task: Selection(records, some, {}) for task, some in indices.items()}, dict(counts)


def report_dropped(path: str, total: int, dropped: Mapping[str, int], limits: str) -> None:
    """Warn that records take no part, how many and why."""
    if dropped and PartialState().is_main_process:
        _log.warning("data %r: %d of %d records are left out (%s; %s)", path, sum(dropped.values()), total, _counted(dropped), limits)


def _counted(dropped: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in sorted(dropped.items()))


def with_replay(stage: Stage, new: Mapping[str, object], stay: Mapping[str, object], share: float) -> Stage:
    """The stage with components for the tasks of the new records, and `stay_NAME` for those of the replay, at least a row of the batch each.

    The new records keep the rows that they would have without replay, which comes on top: they are learned in as many steps.

    new, stay  by task
    share      of all rows that are replay
    Raises InputError if the batch has fewer rows than there are components of new records.
    """
    learned = [component for component in stage.components if component.mixture_weight and component.task in new]
    kept = [replace(c, name=f"{STAY}{c.name}") for c in stage.components if c.mixture_weight and c.task in stay]
    if stage.batch < len(learned):
        raise InputError(f"stage.batch={stage.batch} rows are fewer than its {len(learned)} components; raise it to {len(learned)} or more")
    num_kept = max(len(kept), round(stage.batch * share / (1 - share)))
    rows = [*_apportioned(learned, stage.batch), *_apportioned(kept, num_kept)]
    idle = [replace(component, mixture_weight=0.0) for component in stage.components if component.task not in new]
    return replace(stage, components=(*rows, *idle), batch=stage.batch + num_kept)


def _apportioned(components: list[MixtureComponent], num_rows: int) -> list[MixtureComponent]:
    """Components whose weights are whole numbers of rows, at least 1, in proportion to what they were (Sainte-Laguë)."""
    counts = [1] * len(components)
    for _ in range(num_rows - len(components)):
        most = max(range(len(components)), key=lambda i: components[i].mixture_weight / (2 * counts[i] + 1))
        counts[most] += 1
    return [replace(component, mixture_weight=float(count)) for component, count in zip(components, counts, strict=True)]
