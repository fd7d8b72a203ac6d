"""From a configuration to a task: networks, tokenizers, data, evaluation, samples and export are put together here.

run(config)     train, or go on with, one run
out/            config.yaml  metrics.jsonl  tensorboard/  samples/  state/  model/ (what from_pretrained takes)
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import PartialState
from torch import Tensor

from mmada.canvas import Prompts
from mmada.data import Epochs, ImageCodes, Record, Settings, Source, TableStream, lengths_of, load_recipe, open_source, select_by_task
from mmada.data.find_world import find_world
from mmada.data.seeds import integer
from mmada.data.world import Pixels, Split, World
from mmada.errors import InputError, suggest
from mmada.generation.planner import Planner
from mmada.generation.requests import IMAGE_TOKENIZER_DIR, Defaults
from mmada.hub.checkpoint import find
from mmada.hub.processor import MMaDAImageProcessor, MMaDAProcessor
from mmada.image import ImageTokenizer
from mmada.model import MMadaModelLM
from mmada.train import code_bits, lora, state
from mmada.train.config import Model, Net, TrainConfig
from mmada.train.contract import Outcome, Report, Task
from mmada.train.image_task import ImageBatch, ImageTask, PixelObjective
from mmada.train.loop import train
from mmada.train.lora import Lora
from mmada.train.networks import backbone, compile_blocks, freeze, image_tokenizer, new_image_tokenizer, text_tokenizer
from mmada.train.samples import write_samples
from mmada.train.source import FlowRows, RecordSamples, Samples
from mmada.train.stages import Flow, ImageStage, Stage
from mmada.train.step import Objective
from mmada.train.task import BatchPlan, DiffusionTask
from mmada.train.values import fill
from mmada.train.world import WorldPictures, WorldSamples

__all__ = ["build_task", "check_size", "export", "plain", "run", "tell_dropped"]

_log = logging.getLogger("mmada.train")


def run(config: TrainConfig, *, on_step: Callable[[Report], None] | None = None) -> Outcome:
    """Train up to the stage's number of steps, from the last save in `out` if there is one. Raises the package's errors."""
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    _record(config, out)
    task = build_task(config)
    stage = config.stage
    return train(task, stage.optim, config.loop, steps=stage.steps, out=out, on_step=on_step)


def build_task(config: TrainConfig) -> Task:
    """Networks with the weights that a run begins with, and its data."""
    stage = config.stage
    task: Task = _image_task(config, stage) if isinstance(stage, ImageStage) else _diffusion_task(config, stage)
    freeze(task.module, stage.trainable)
    if config.loop.compile:
        compile_blocks(task.module)
    return task


# The image tokenizer.


def _image_task(config: TrainConfig, stage: ImageStage) -> ImageTask:
    world = _world(config)
    if world is None:
        raise InputError(f"stage {stage.name!r} trains on pictures of a world; name one with data.world")
    network = new_image_tokenizer(config.net, seed=config.seed, size=world.image_size)
    return ImageTask(
        stage,
        PixelObjective(network),
        WorldPictures(world, seed=config.seed),
        WorldPictures(world, seed=config.seed, split="test"),
        num_held_out=config.data.held_out,
        on_export=lambda directory, weights: state.write(directory, partial(network.save_pretrained, state_dict=dict(weights))),
    )


def _world(config: TrainConfig) -> World | None:
    """The run's world, or None for records. Raises InputError if there is neither."""
    data = config.data
    if not data.world and not data.path:
        raise InputError("data.world='' and data.path='' are both empty; name a world, such as shapes, or a file of records")
    return find_world(data.world, data.options) if data.world else None


def check_size(world: World, defaults: Defaults) -> None:
    """Raises InputError if drawings would not have the size of the world's pictures."""
    size = world.image_size
    if size and (defaults.image_height, defaults.image_width) != (size, size):
        raise InputError(f"world {world.name!r} has pictures of {size} pixels; set defaults.image_height and defaults.image_width to it")


# The transformer.


def _diffusion_task(config: TrainConfig, stage: Stage) -> DiffusionTask:
    world = _world(config)
    start = find(config.model.start) if config.model.start else None
    images = image_tokenizer(config, start, size=world.image_size if world else 0)
    text = text_tokenizer(config, start, world=world)
    model = backbone(config, start, text, codebook_size=images.codebook_size)
    defaults = fill(Defaults() if start is None else Defaults.load(start), config.defaults, "defaults.")
    stage = replace(stage, block_length=stage.block_length or defaults.block_length)
    prompts = Prompts(model.config.layout, text, defaults.style)
    num_codes = (defaults.image_height // images.factor) * (defaults.image_width // images.factor)
    if world is not None:
        check_size(world, defaults)
        training, testing = (_samples_of_world(world, config, stage, images, split) for split in ("train", "test"))
    else:
        context = model.config.max_sequence_length
        training, testing = (_records(config, stage, images, prompts, defaults, split, context=context) for split in ("train", "test"))
    present = tuple(flow if flow.task in training else replace(flow, share=0.0) for flow in stage.flows)
    if not any(flow.share for flow in present):
        raise InputError(f"data.path={config.data.path!r} holds no record that fits a flow of stage {stage.name!r}; see `mmada data check`")
    stage = replace(stage, flows=present)

    def rows(samples: Mapping[str, Samples], flows: Iterable[Flow]) -> dict[str, FlowRows]:
        return {
            flow.name: FlowRows(flow, stage, samples[flow.task], prompts, seed=config.seed, num_image_tokens=num_codes)
            for flow in flows
            if flow.task in samples
        }

    def sample(directory: Path) -> None:
        planner = Planner(prompts, defaults, context=model.config.max_sequence_length, image_tokenizer=lambda: images)
        thinks = any(flow.think for flow in stage.flows)
        write_samples(directory, model, planner, testing, num_samples=config.data.num_samples, thinks=thinks)

    return DiffusionTask(
        plan=BatchPlan(
            stage=stage, sources=rows(training, stage.flows), layout=prompts.layout, seed=config.seed, round_to=config.loop.round_to
        ),
        module=Objective(model),
        held_out=rows(testing, [replace(flow, drop=0.0) for flow in stage.flows]),
        num_held_out=config.data.held_out,
        on_sample=sample,
        on_export=partial(export, model=model, images=images, prompts=prompts, defaults=defaults, has_adapter=bool(config.lora.rank)),
    )


def export(
    directory: Path,
    weights: Mapping[str, Tensor],
    *,
    model: MMadaModelLM,
    images: ImageTokenizer,
    prompts: Prompts,
    defaults: Defaults,
    has_adapter: bool,
) -> None:
    """Write what `from_pretrained` takes: weights (adapters merged, and beside them), both tokenizers, defaults. All of it or nothing."""

    def write(path: Path) -> None:
        if has_adapter:
            lora.save_adapter(model, weights, path / "adapter")
        model.save_pretrained(path, state_dict=code_bits.fold(model, lora.merged(model, weights)))
        pixels = MMaDAImageProcessor(defaults.image_height, defaults.image_width, defaults.image_mode, images.factor)
        layout = prompts.layout.to_dict()
        MMaDAProcessor(pixels, prompts.tokenizer, vocab_layout=layout, style=asdict(defaults.style)).save_pretrained(path)
        images.save_pretrained(path / IMAGE_TOKENIZER_DIR)
        defaults.save(path)

    state.write(directory, write)


def _samples_of_world(world: World, config: TrainConfig, stage: Stage, images: ImageTokenizer, split: Split) -> dict[str, Samples]:
    """The world's samples, by task. Raises InputError if a flow asks for a task that it has not, or lays one out as it cannot be."""

    def encode(pictures: Sequence[Pixels]) -> Tensor:
        return images.encode(ImageBatch.of(pictures, factor=images.factor).pixels).flatten(1)

    for flow in stage.flows:
        if flow.share and flow.task not in world.tasks:
            hint = suggest(flow.task, world.tasks)
            raise InputError(
                f"flow {flow.name!r}: world {world.name!r} has no task {flow.task!r}: {hint}; or leave it out: stage.flows.{flow.name}.share=0"
            )
        if flow.share and (flow.layout == "infill") != (flow.task in world.gap_tasks):
            raise InputError(
                f"flow {flow.name!r}: layout={flow.layout} and task={flow.task}; layout infill goes with texts with gaps, and with nothing "
                f"else: in world {world.name!r} the tasks {list(world.gap_tasks)}"
            )
    data = config.data
    # A run that goes on from another must not meet its samples again: it knows them by heart, and its loss says nothing.
    seed = integer(config.seed, stage.name, config.model.start) if split == "train" else config.seed
    make = partial(WorldSamples, world, encode=encode, seed=seed, split=split, size=data.size, num_kept=data.num_kept_codes)
    return {task: make(task) for task in _topics(stage)}


def _records(
    config: TrainConfig, stage: Stage, images: ImageTokenizer, prompts: Prompts, defaults: Defaults, split: Split, *, context: int
) -> dict[str, Samples]:
    """The user's own records, sorted by task; of a file, those that do not fit rooms and context are left out, and a recipe is taken as it is.

    context  of the model, in tokens
    """
    path = config.data.path if split == "train" else config.data.eval_path
    if not path:
        return {}
    size = (defaults.image_height, defaults.image_width)
    encode = ImageCodes(images, size=size, mode=defaults.image_mode, num_kept=config.data.num_kept_codes)
    settings = Settings.of(images, prompts, size=size, mode=defaults.image_mode)
    topics = _topics(stage)
    if path.endswith((".yaml", ".yml")):
        recipe, root = load_recipe(Path(path)), Path(config.data.root or Path(path).parent)
        return {task: RecordSamples(recipe[task].open(root, seed=config.seed, settings=settings), encode) for task in topics}
    reader = open_source(Source(path=path), settings=settings)
    if isinstance(reader, TableStream):
        raise InputError(f"data.path={path!r} can only be read in order, and its records are of several tasks; name its parts in a recipe")
    num_codes = size[0] * size[1] // images.factor**2
    room = stage.rooms[-1] if stage.text_length is None else None  # the published layouts cut instead

    def reason(record: Record) -> str | None:
        if record.task not in topics:
            return f"no flow of stage {stage.name} learns task {record.task}"
        if any(picture.is_missing for picture in record.pictures):
            return "a picture file is missing"
        lengths = lengths_of(record, prompts, num_image_tokens=num_codes)
        if record.turns and room is not None and lengths.text > room:
            return lengths.reason(room=room)
        in_blocks = all("block" in flow.noise for flow in stage.flows if flow.share and flow.task == record.task)
        return lengths.reason(room=room if record.turns and not in_blocks else None, context=context)

    chosen, dropped = select_by_task(reader, reason)
    tell_dropped(path, len(reader), dropped, f"context {context}, room {room}")
    return {task: RecordSamples(Epochs(chosen[task], seed=config.seed), encode) for task in topics if task in chosen}


def tell_dropped(path: str, total: int, dropped: Mapping[str, int], limits: str) -> None:
    """Warn that records take no part, how many and why."""
    if dropped and PartialState().is_main_process:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(dropped.items()))
        _log.warning("data %r: %d of %d records are left out (%s; %s)", path, sum(dropped.values()), total, reasons, limits)


def _topics(stage: Stage) -> list[str]:
    return sorted({flow.task for flow in stage.flows if flow.share})


def _record(config: TrainConfig, out: Path) -> None:
    """Keep the settings beside the state. Raises InputError if the state there was begun with settings that cannot change."""
    import yaml

    values = yaml.safe_load(yaml.safe_dump(plain(asdict(config))))
    file = out / "config.yaml"
    if file.exists() and state.latest(out / "state") is not None:
        before = yaml.safe_load(file.read_text(encoding="utf-8"))
        # What an older version did not know had its default.
        for name, defaults in (("model", Model()), ("net", Net()), ("lora", Lora())):
            before[name] = plain(asdict(defaults)) | before[name]
        changed = [name for name in ("model", "net", "lora", "seed", "debug") if before[name] != values[name]]
        changed += ["stage"] if before["stage"]["name"] != values["stage"]["name"] else []
        if changed:
            was = ", ".join(f"{name}={before[name] if name != 'stage' else before[name]['name']}" for name in changed)
            raise InputError(
                f"{out} holds a run with other settings ({was}), which cannot be continued; restore them, or start afresh (--fresh)"
            )
    if PartialState().is_main_process:
        file.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")


def plain(value: Any) -> Any:
    """Tuples as lists, which is what YAML has."""
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, list | tuple) else value
