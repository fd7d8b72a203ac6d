"""`mmada data check`: find problems in data, and show what will be masked. `mmada data export-replay`: records of what should stay."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from mmada.cli import options
from mmada.hub.checkpoint import DEFAULT_MODEL

if TYPE_CHECKING:
    from mmada.canvas import Prompts
    from mmada.data.check import DataReport
    from mmada.data.mixture import Reader
    from mmada.families import Family
    from mmada.generation.requests import GenerationConfig
    from mmada.image import BaseImageTokenizer
    from mmada.rl.prompts import PromptLearner
    from mmada.train.records import Learner

__all__ = ["Tokenizers", "app", "check", "counting", "export_replay", "load_tokenizers", "open_data", "opening"]

app = typer.Typer(name="data", help="Inspect training data.", no_args_is_help=True)

Data = Annotated[
    str,
    typer.Argument(
        help="A .jsonl file, shards such as data-{000..127}.tar, a folder or files of a dataset, or tokenized shards. Also at s3://, gs:// or hf://."
    ),
]
FormatName = Annotated[
    str | None,
    typer.Option("--format", help="jsonl, webdataset, datasets or tokenized. Default: from the file name.", rich_help_panel="Data"),
]
Adapter = Annotated[
    str,
    typer.Option(help="Format of the objects: record, text, instruction, draw, describe, edit, messages, llava.", rich_help_panel="Data"),
]
Rename = Annotated[
    list[str] | None,
    typer.Option(metavar="FIELD=OWN", help="Map an adapter's field to yours, such as caption=txt.", rich_help_panel="Data"),
]
Images = Annotated[
    str | None, typer.Option(help="Folder that image paths are relative to. Default: that of the file.", rich_help_panel="Data")
]
Split = Annotated[str, typer.Option(help="Split of a dataset.", rich_help_panel="Data")]

_OF_PROMPTS = (
    "file", "model", "format_name", "adapter", "rename", "images", "split", "context", "prompts", "open_images", "previews", "limit", "as_json"
)  # fmt: skip


@app.callback()
def data() -> None:
    """Inspect training data."""


@app.command("check")
def check(
    typer_context: typer.Context,
    file: Data,
    model: options.Model = DEFAULT_MODEL,
    format_name: FormatName = None,
    adapter: Adapter = "record",
    rename: Rename = None,
    images: Images = None,
    split: Split = "train",
    context: Annotated[int | None, typer.Option(min=1, help="Longest row, in tokens. Default: the model's.")] = None,
    stage: Annotated[str, typer.Option(help="Stage that trains on it, or a run's YAML file: its rows are shown.")] = "finetune",
    answer_length: Annotated[
        int | None, typer.Option(min=2, help="Length that the text to learn is padded to, in tokens. Default: the stage's.")
    ] = None,
    prompts: Annotated[
        bool,
        typer.Option("--prompts", help="The records are prompts of `mmada rl`: answers may be missing, and the stage does not matter."),
    ] = False,
    open_images: Annotated[bool, typer.Option("--open-images/--no-open-images", help="Decode every image, or skip this check.")] = True,
    previews: Annotated[int, typer.Option(min=0, help="Number of records whose masking is shown.")] = 4,
    limit: Annotated[int, typer.Option(min=0, help="Number of problems to list. All are counted.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON on standard output.")] = False,
) -> None:
    """Check every record: schema, images, lengths and duplicates. Show the rows that a stage trains on.

    Exit status 0: all is well; 1: problems were found; 2: the input cannot be used at all.

    mmada data check my.jsonl
    """
    import json

    from mmada.cli.session import check_data, check_model

    check_data(file)
    check_model(model)

    from mmada.data.check import check_records
    from mmada.data.format_hints import format_hint
    from mmada.data.shards import TokenizedReader, text_hash
    from mmada.errors import InputError

    if prompts:
        options.refuse_others(typer_context, _OF_PROMPTS, "--prompts")
    reader = open_data(file, format_name, adapter, rename, images, split, prompts_only=prompts)
    tokenizers = load_tokenizers(model)
    if prompts:
        learner: Learner | PromptLearner = _prompt_learner(tokenizers, context=context)
    else:
        learner = _learner(stage, tokenizers, context=context, answer_length=answer_length)
    if isinstance(reader, TokenizedReader):
        speech = tokenizers.prompts
        expected = replace(reader.manifest.settings, text=text_hash(speech), codebook_size=speech.layout.codebook_size)
        TokenizedReader(file, settings=expected).verify()
    with counting("reading", len(reader)) as on_progress:
        report = check_records(
            reader,
            tokenizers.prompts,
            grid=tokenizers.grid,
            learner=learner,
            open_images=open_images,
            num_previews=previews,
            limit=max(limit, 1),
            name=reader.name,
            on_progress=on_progress,
        )
    if not report.tasks:
        raise InputError(f"none of the {report.num_records} objects is a record; the first: {report.problems[0]}{format_hint(reader)}")
    typer.echo(json.dumps(report.to_dict(), indent=2, ensure_ascii=False) if as_json else _in_words(report, limit))
    if report.num_problems:
        raise typer.Exit(1)


def _learner(name: str, tokenizers: Tokenizers, *, context: int | None, answer_length: int | None) -> Learner:
    """The stage of a name or of a run's file, with another context or room. Raises InputError."""
    from mmada.errors import InputError
    from mmada.train.config import load
    from mmada.train.recipes import named_stage
    from mmada.train.records import Learner
    from mmada.train.stages import Stage

    if name.endswith((".yaml", ".yml")):
        stage = load(Path(name)).stage
    else:
        try:
            stage = named_stage(name)
        except InputError as error:
            raise InputError(f"{error}; or give a run's YAML file") from None
    if isinstance(stage, Stage) and answer_length is not None:
        stage = replace(stage, answer_lengths=(answer_length,))
    return Learner.of(
        stage,
        tokenizers.prompts,
        tokenizers.defaults,
        grid=tokenizers.grid,
        context=tokenizers.context if context is None else context,
        family=tokenizers.family,
    )


def _prompt_learner(tokenizers: Tokenizers, *, context: int | None) -> PromptLearner:
    from mmada.rl.prompts import PromptLearner

    return PromptLearner(
        prompts=tokenizers.prompts,
        grid=tokenizers.grid,
        context=tokenizers.context if context is None else context,
        max_new_tokens=tokenizers.defaults.max_new_tokens,
        family=tokenizers.family,
    )


def _in_words(report: DataReport, limit: int) -> str:
    from mmada.cli.session import printable

    tasks = ", ".join(f"{name} {count}" for name, count in report.tasks.items())
    counts = ", ".join(f"{kind} {count}" for kind, count in report.counts.items())
    lines = [f"{report.name}: {report.num_records} records, {report.num_usable} can be used"]
    lines.append(f"tasks      {tasks}; {report.num_thinking} with thinking; {report.num_images} different images")
    lines.append(f"problems   {report.num_problems}{f': {counts}' if counts else ''}")
    lines += [f"  {problem}" for problem in report.problems[:limit]]
    if report.num_problems > limit:
        lines.append(f"  and {report.num_problems - len(report.problems[:limit])} more (--limit)")
    lines.append(f"{'tokens':<10} {'least':>7} {'median':>7} {'90 %':>7} {'99 %':>7} {'most':>7}")
    for column, spread in report.lengths.items():
        numbers = (spread.least, spread.median, spread.p90, spread.p99, spread.most)
        lines.append(f"  {column:<8} " + " ".join(f"{number:>7}" for number in numbers))
    limits = f"context {report.context}, answer length {'any' if report.answer_length is None else report.answer_length}"
    lines.append(f"rows longer than  {', '.join(f'{context}: {count}' for context, count in report.longer.items())}  ({limits})")
    for preview in report.previews:
        lines.append(f"{preview.where}  {preview.task} as {preview.flow}, {preview.num_tokens} tokens")
        lines += [f"  {kind:<7} {words}" for kind, words in preview.parts]
    return "\n".join(printable(line) for line in lines)


@app.command("export-replay")
def export_replay(
    output: Annotated[Path, typer.Argument(help="File to write, such as keep.jsonl. Pictures go to keep-images beside it.")],
    world: Annotated[str | None, typer.Option(help="World whose training samples are written, or asked with --own.")] = None,
    prompts: Annotated[
        str | None, typer.Option(help="Records whose questions the model answers itself. Their answers are not read.")
    ] = None,
    own: Annotated[
        bool, typer.Option("--own", help="Write what the model answers to the world's questions, not the world's answers.")
    ] = False,
    task: Annotated[
        list[str] | None, typer.Option(help="Only this task of the world; may be repeated. Default: all that records have.")
    ] = None,
    num: Annotated[int, typer.Option(min=1, help="Number of samples or prompts. Few are learned by heart.")] = 1000,
    model: options.Model = DEFAULT_MODEL,
    device: options.Device = None,
    seed: options.Seed = 0,
) -> None:
    """Write records of what a model should not forget, for data.replay of a finetuning run.

    mmada data export-replay keep.jsonl --world shapes

    mmada data export-replay keep.jsonl --prompts prompts.jsonl --model runs/mine/model
    """
    from mmada.cli.session import check_data, check_model, check_world, load, remarks
    from mmada.errors import InputError

    if (world is None) == (prompts is None):
        raise InputError("give either --world NAME or --prompts FILE: they say what should stay")
    if prompts is not None and (own or task):
        raise InputError("--own and --task choose among the samples of a --world; leave them out beside --prompts")
    if world is not None:
        check_world(world)
    if prompts is not None:
        check_data(prompts)
    if own or prompts is not None:
        check_model(model)

    from mmada.data.find_world import find_world
    from mmada.train import replay

    replay.check_target(output)
    if world is not None:
        samples = replay.world_samples(find_world(world), num=num, tasks=task or (), seed=seed)
    else:
        reader = open_data(str(prompts), None, "record", None, None, "train", prompts_only=True)
        samples = (replay.question_of(reader[i]) for i in range(min(num, len(reader))))
    if own or prompts is not None:
        pipeline = load(model, options.Loading(device=device))
        samples = replay.own_samples(pipeline.run, list(samples), source=model, seed=seed)
    with counting("writing", num) as on_progress:
        count = replay.export_replay(samples, output, on_progress=on_progress)
    remarks.print(f"wrote {output}: {count} records of what should stay; train with data.replay={output}")


# Shared with `mmada tokenize`.


@dataclass(frozen=True, slots=True)
class Tokenizers:
    """A checkpoint without its network: prompts, defaults, context in tokens, and (h, w) codes of an image, (0, 0) if it has none."""

    prompts: Prompts
    defaults: GenerationConfig
    context: int
    grid: tuple[int, int]
    family: Family


def load_tokenizers(name: str, *, image_tokenizer: str | None = None) -> Tokenizers:
    """What data needs to know of a model; the weights are neither loaded nor downloaded. Raises the package's errors."""
    from mmada.generation.requests import GenerationConfig, image_tokenizer_of
    from mmada.hub import checkpoint, networks, tokenizer
    from mmada.hub.adapters import base_of
    from mmada.hub.family import family_of
    from mmada.pipeline import MMaDA

    if name == "debug":
        model = MMaDA.debug()
        return Tokenizers(model.prompts, model.defaults, model.planner.context, model.planner.grid, model.family)
    directory = base_of(checkpoint.find(name, patterns=("*.json", "*.jinja", "*.txt", "*.model")))
    family = family_of(directory, names=[name])
    defaults, layout = GenerationConfig.load(directory, family), family.layout
    prompts = family.prompts(layout, tokenizer.load(directory, layout, family), defaults.style)
    context = networks.transformer_config(directory, family=family).max_sequence_length
    if family.image_tokenizer is None:
        return Tokenizers(prompts, defaults, context, (0, 0), family)
    factor = networks.image_factor(image_tokenizer or image_tokenizer_of(directory, family), family)
    return Tokenizers(prompts, defaults, context, (defaults.image_height // factor, defaults.image_width // factor), family)


def load_image_tokenizer(name: str, tokenizers: Tokenizers, *, image_tokenizer: str | None, device: str | None) -> BaseImageTokenizer:
    """The image tokenizer of a model, without the model. Raises the package's errors."""
    import torch

    from mmada.errors import CheckpointError, InputError
    from mmada.families import FAMILIES
    from mmada.generation.requests import IMAGE_TOKENIZER_DIR, image_tokenizer_of
    from mmada.hub import checkpoint, networks
    from mmada.pipeline import MMaDA

    family, codebook_size = tokenizers.family, tokenizers.prompts.layout.codebook_size
    family.require("look", list(FAMILIES.values()))
    if name == "debug" and image_tokenizer is None:
        found, loaded = name, MMaDA.debug().image_tokenizer
    else:
        patterns = (f"{IMAGE_TOKENIZER_DIR}/*", f"{family.image_tokenizer_dir}/*", "*.json")
        found = image_tokenizer or image_tokenizer_of(checkpoint.find(name, patterns=patterns), family)
        folder = family.image_tokenizer_folder if checkpoint.local(found) is None else ""
        loaded = networks.load_image_tokenizer(found, subfolder=folder)
    if loaded.codebook_size != codebook_size:
        raise CheckpointError(
            f"image_tokenizer={found!r} has {loaded.codebook_size} codes, the model {codebook_size}; use the one that the model was trained with"
        )
    try:
        return loaded.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"device={device!r} cannot be used here; try cpu") from error


def open_data(
    path: str,
    format_name: str | None,
    adapter: str,
    rename: list[str] | None,
    images: str | None,
    split: str,
    *,
    prompts_only: bool = False,
) -> Reader:
    """The reader of a command's input. Raises InputError."""
    from mmada.data.mixture import DataSource, open_source
    from mmada.data.table_reader import TableStream
    from mmada.errors import InputError

    pairs = [pair.partition("=") for pair in rename or ()]
    for field, sign, own in pairs:
        if not sign or not field or not own:
            raise InputError(f"rename={field + sign + own!r} must be FIELD=OWN; try caption=txt")
    names = {field: own for field, _, own in pairs}
    source = DataSource(path=path, format=format_name, adapter=adapter, rename=names, images=images, split=split, prompts_only=prompts_only)  # type: ignore[arg-type]
    with opening(path):
        reader = open_source(source)
    assert not isinstance(reader, TableStream)  # only where streaming is asked for
    return reader


@contextmanager
def counting(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar for `total` records that is told how many are done; a line now and then where there is no terminal."""
    from mmada.cli.session import now_and_then, remarks

    if not remarks.is_terminal:
        tell = now_and_then()
        yield lambda done: tell(done / max(1, total), f"{what}: {done:,} of {total:,}")
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (SpinnerColumn(), TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=remarks, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


@contextmanager
def opening(path: str) -> Iterator[None]:
    """How long a source is being opened, and how many files a folder has, on a terminal; gives way as soon as another bar is shown there.

    The library `datasets` looks through a folder dozens of times before it says anything, and an index reads a whole file.
    """
    import sys
    from threading import Event, Thread

    from mmada.cli.session import remarks

    if not remarks.is_terminal:
        yield
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    own, is_over = sys.stderr, Event()
    # The path comes last, for it may be longer than a line.
    columns = (SpinnerColumn(), TextColumn("opening"), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    bar = Progress(*columns, console=Console(file=own, force_terminal=True), transient=True, redirect_stdout=False, redirect_stderr=False)
    task = bar.add_task(path, total=None)

    def stop() -> None:
        is_over.set()
        bar.stop()

    def count() -> None:
        for num_files in _num_files(path):
            if is_over.is_set():
                return
            bar.update(task, description=f"{num_files:,} files in {path}")

    sys.stderr = _Before(own, stop)
    bar.start()
    Thread(target=count, daemon=True).start()
    try:
        yield
    finally:
        stop()
        sys.stderr = own


class _Before:
    """A stream that calls something before everything that is written to it. Who keeps it may write on."""

    def __init__(self, stream: TextIO, act: Callable[[], None]) -> None:
        self._stream, self._act = stream, act

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """As the stream does."""
        self._act()
        return self._stream.write(text)


def _num_files(path: str) -> Iterator[int]:
    """Files found so far, after each folder in a folder."""
    import os

    found = 0
    for _, _, names in os.walk(path):
        found += len(names)
        yield found
