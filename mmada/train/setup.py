"""From a configuration to a task: networks, tokenizers, data, evaluation, samples and export are put together here.

run(config)     train, or go on with, one run
out/            config.yaml  metrics.jsonl  tensorboard/  samples/  state/  model/ (what from_pretrained takes)
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor

from mmada.data.find_world import find_world
from mmada.data.seeds import integer
from mmada.data.world import Pixels, Split, World
from mmada.errors import InputError, suggest
from mmada.generation.requests import GenerationConfig
from mmada.hub import checkpoint
from mmada.hub import networks as saved
from mmada.image import VQVAE
from mmada.sampling import Denoiser
from mmada.train import state
from mmada.train.config import RECIPES, DataConfig, ImageTokenizerSettings, ModelConfig, TrainConfig
from mmada.train.export import Parts, export, load_parts
from mmada.train.file_samples import STAY, FileSamples, read_samples, with_replay
from mmada.train.image_task import ImageBatch, ImageTask, PixelObjective, in_range_of, spread_codebook
from mmada.train.loop import train
from mmada.train.lora import Lora
from mmada.train.networks import compile_blocks, freeze, new_image_tokenizer
from mmada.train.own_words import OwnWords
from mmada.train.plan import RunPlan, asked, begin
from mmada.train.protocols import StepReport, TrainResult, TrainTask
from mmada.train.records import check_layout, settled
from mmada.train.samples import write_samples
from mmada.train.source import ComponentRows, ExampleSource
from mmada.train.stages import OPTIONAL_TASKS, ImageStage, Stage
from mmada.train.step import DiffusionLoss
from mmada.train.task import BatchPlan, DiffusionTask
from mmada.train.world import WorldPictures, WorldSamples

__all__ = ["build_task", "check_size", "plain", "run", "sized_before"]

_log = logging.getLogger("mmada.train")


def run(
    config: TrainConfig,
    *,
    on_step: Callable[[StepReport], None] | None = None,
    on_plan: Callable[[RunPlan], None] | None = None,
    on_begin: Callable[[str], None] | None = None,
) -> TrainResult:
    """Train up to the stage's number of steps, from the last save in `out` if there is one. Raises the package's errors.

    on_begin  is told which family's model is trained on what, and what a run that goes on should know
    """
    begin()
    out, stage = Path(config.out), config.stage
    with checkpoint.writing(out, "out"):
        remarks = [*_record(config, out), *_is_done(out, stage.steps)]
    task = build_task(config)
    if on_begin is not None:
        for remark in [*remarks, *([task.about] if isinstance(task, DiffusionTask) else [])]:
            on_begin(remark)
    return train(task, stage.optim, config.loop, steps=stage.steps, out=out, on_step=on_step, on_plan=on_plan)


def build_task(config: TrainConfig) -> TrainTask:
    """Networks with the weights that a run begins with, and its data."""
    stage = config.stage
    task: TrainTask = _image_task(config, stage) if isinstance(stage, ImageStage) else _diffusion_task(config, stage)
    freeze(task.module, stage.trainable)
    if config.loop.compile:
        compile_blocks(task.module)
    return task


# The image tokenizer.


def _image_task(config: TrainConfig, stage: ImageStage) -> ImageTask:
    world = _world(config)
    if world is None:
        raise InputError(f"stage {stage.name!r} trains on pictures of a world; name one with data.world")
    if asked() == "FSDP2":
        raise InputError(
            f"stage {stage.name!r} trains an image tokenizer, which is small and used whole; start it with configs/accelerate/ddp.yaml"
        )
    network = new_image_tokenizer(config.net, seed=config.seed, size=world.image_size)
    pictures = partial(WorldPictures, world, seed=config.seed)
    if isinstance(network, VQVAE):
        if stage.entropy:
            raise InputError(
                f"stage.entropy={stage.entropy} is of bits, which codes of a VQ-VAE have not; set stage.entropy=0, or stage=vqvae"
            )
        if not config.net.start:
            spread_codebook(network, pictures(), seed=config.seed)
    elif stage.kind == "vqvae":
        named = f"net.start={config.net.start!r}" if config.net.start else f"net.kind={config.net.kind}"
        raise InputError(f"stage {stage.name!r} trains a VQ-VAE, and {named} is MAGVIT-v2; leave it out, or set stage=tokenizer")
    is_large = config.net.upscale > 1  # else what is trained lies before the upscaler, if there is one
    return ImageTask(
        stage,
        PixelObjective(network, has_gradient=stage.gradient > 0),
        pictures(),
        pictures(split="test"),
        num_held_out=config.data.held_out,
        large=pictures(scale=network.upscale) if is_large else None,
        large_held_out=pictures(split="test", scale=network.upscale) if is_large else None,
        on_export=lambda directory, weights: state.write(directory, partial(saved.save_image_tokenizer, network, state=dict(weights))),
    )


def _world(config: TrainConfig) -> World | None:
    """The run's world, or None for records. Raises InputError if there is neither."""
    data = config.data
    if not data.world and not data.path:
        raise InputError("data.world='' and data.path='' are both empty; name a world, such as shapes, or a file of records")
    return find_world(data.world, data.options) if data.world else None


def check_size(world: World, defaults: GenerationConfig) -> None:
    """Raises InputError if drawings would not have the size of the world's pictures."""
    size = world.image_size
    if size and (defaults.image_height, defaults.image_width) != (size, size):
        raise InputError(f"world {world.name!r} has pictures of {size} pixels; set defaults.image_height and defaults.image_width to it")


# The transformer.


def _diffusion_task(config: TrainConfig, stage: Stage) -> DiffusionTask:
    world = _world(config)
    parts = load_parts(config, world)
    model, prompts, defaults = parts.model, parts.prompts, parts.defaults
    stage = settled(stage if world is None else _without_records(stage, world), defaults, parts.family)
    words = OwnWords(parts.lexicon)
    if world is not None:
        if parts.images is not None:
            check_size(world, defaults)
        words.read_world(world, known=defaults.world)
        made = (_samples_of_world(world, config, stage, parts, split) for split in ("train", "test"))
        found = FileSamples(training=next(made), testing=next(made))
    else:
        found = read_samples(config, stage, parts, words)
        parts = _with_defaults(config, parts, found)
    parts = words.kept(parts, config.out)
    training, testing = found.training, found.testing
    present = tuple(component if component.task in training else replace(component, mixture_weight=0.0) for component in stage.components)
    for component in present:
        check_layout(component, parts.family)
    replayed = with_replay(stage, training, found.replay, config.data.replay_share) if found.replay else None
    stage = replayed or replace(stage, components=present)

    def rows(new: Mapping[str, ExampleSource], stay: Mapping[str, ExampleSource], *, plain: bool) -> dict[str, ComponentRows]:
        """Component -> its rows; plain: no condition is dropped."""
        return {
            component.name: ComponentRows(
                replace(component, cond_dropout_prob=0.0) if plain else component,
                stage,
                samples[component.task],
                prompts,
                seed=config.seed,
                num_image_tokens=parts.grid[0] * parts.grid[1],
            )
            for component in stage.components
            if component.task in (samples := stay if component.name.startswith(STAY) else new)
        }

    tested = rows(testing, found.replay_testing, plain=True)
    compared = {"stay": {name: own for name, own in tested.items() if name.startswith(STAY)}}
    if testing:
        compared["held_out"] = {name: own for name, own in tested.items() if not name.startswith(STAY)}
    elif not config.data.path.endswith(RECIPES):
        compared["trained"] = rows(training, {}, plain=True)

    def sample(directory: Path | None, denoiser: Denoiser) -> None:
        thinks = any(component.think for component in stage.components)
        number = config.data.num_samples
        write_samples(directory, denoiser, parts.planner, testing, num_samples=number, thinks=thinks, device=model.device)

    return DiffusionTask(
        plan=BatchPlan(
            stage=stage,
            sources=rows(training, found.replay, plain=False),
            layout=prompts.layout,
            seed=config.seed,
            round_to=config.loop.round_to,
        ),
        module=DiffusionLoss(model),
        held_out=tested,
        num_held_out=config.data.held_out,
        compared=compared if world is None else {},
        about=f"a model of {parts.family.title} learns {', '.join(c.name for c in stage.components if c.mixture_weight)}",
        on_sample=sample,
        on_export=partial(export, parts=parts, has_adapter=bool(config.lora.rank)),
    )


def _with_defaults(config: TrainConfig, parts: Parts, found: FileSamples) -> Parts:
    """The parts with the defaults that suit the new records, unless the run sets them; the change is kept in the run's config.yaml, too."""
    import yaml

    changes: dict[str, Any] = {name: value for name, value in found.new_defaults(parts.defaults).items() if name not in config.defaults}
    if not changes:
        return parts
    file = Path(config.out) / "config.yaml"
    if PartialState().is_main_process:
        named = ", ".join(f"defaults.{name}=false" for name in changes)
        _log.warning("the new records have no thinking, so the trained model does not think unless it is asked to (%s)", named)
        if file.exists():  # which a model of a save is made by
            values = yaml.safe_load(file.read_text(encoding="utf-8"))
            values["defaults"] = {**values.get("defaults", {}), **changes}
            file.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return replace(parts, defaults=replace(parts.defaults, **changes))


def _samples_of_world(world: World, config: TrainConfig, stage: Stage, parts: Parts, split: Split) -> dict[str, ExampleSource]:
    """The world's samples, by task. Raises InputError if a component asks for a task that it has not, or lays one out as it cannot be."""

    def encode(pictures: Sequence[Pixels]) -> Tensor:
        images = parts.planner.image_tokenizer
        codes = images.encode(in_range_of(images, ImageBatch.of(pictures, factor=images.factor).pixels))
        return torch.stack([parts.prompts.shaped(grid, (grid.shape[0], grid.shape[1])) for grid in codes])

    for component in stage.components:
        check_layout(component, parts.family)
        if component.mixture_weight and component.task not in world.tasks:
            hint = suggest(component.task, world.tasks)
            raise InputError(
                f"component {component.name!r}: world {world.name!r} has no task {component.task!r}: {hint}; "
                f"or leave it out: stage.components.{component.name}.mixture_weight=0"
            )
        if component.mixture_weight and (component.layout == "infill") != (component.task in world.gap_tasks):
            raise InputError(
                f"component {component.name!r}: layout={component.layout} and task={component.task}; layout infill goes with texts with gaps, and with nothing "
                f"else: in world {world.name!r} the tasks {list(world.gap_tasks)}"
            )
    data = config.data
    # A run that goes on from another must not meet its samples again: it knows them by heart, and its loss says nothing.
    seed = integer(config.seed, stage.name, config.model.start) if split == "train" else config.seed
    make = partial(WorldSamples, world, encode=encode, seed=seed, split=split, size=data.size, num_kept=data.num_kept_codes)
    return {task: make(task) for task in _topics(stage)}


def _without_records(stage: Stage, world: World) -> Stage:
    """The stage without components for records that worlds do not make; those that it names are told."""
    left_out = [c.name for c in stage.components if c.mixture_weight and c.task in OPTIONAL_TASKS and c.task not in world.tasks]
    if left_out and PartialState().is_main_process:
        _log.warning("world %r makes no edits: the components %s take no part", world.name, ", ".join(left_out))
    return replace(stage, components=tuple(c for c in stage.components if c.name not in left_out))


def _topics(stage: Stage) -> list[str]:
    return sorted({component.task for component in stage.components if component.mixture_weight})


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], sections: Iterable[str]) -> Iterator[str]:
    """What some settings were, each by its dotted name, where they differ; of a stage its name alone."""
    for name in sections:
        if name == "stage":
            yield f"stage={before[name]['name']}"
        elif isinstance(before[name], dict):
            yield from (f"{name}.{key}={value!r}" for key, value in before[name].items() if value != now[name].get(key))
        else:
            yield f"{name}={before[name]!r}"


def _is_done(out: Path, steps: int) -> list[str]:
    """A remark if a run has all of its steps already."""
    saved = state.latest(out / "state")
    if saved is None or state.steps_of(saved) < steps:
        return []
    return [f"all {steps} steps are done, and nothing is trained; raise stage.steps to go on, or start afresh (--fresh)"]


def _record(config: TrainConfig, out: Path) -> list[str]:
    """Keep the settings beside the state; returns what of the data is not as it was, in sentences.

    Raises InputError if the state there was begun with settings that cannot change.
    """
    import yaml

    remarks: list[str] = []
    values = yaml.safe_load(yaml.safe_dump(plain(asdict(config))))
    file = out / "config.yaml"
    if file.exists() and state.latest(out / "state") is not None:
        before = yaml.safe_load(file.read_text(encoding="utf-8"))
        # What an older version did not know had its default.
        before["lora"] = plain(asdict(Lora())) | before["lora"]
        before |= {name: sized_before(before[name], section) for name, section in (("model", config.model), ("net", config.net))}
        changed = [name for name in ("model", "net", "lora", "seed", "debug") if before[name] != values[name]]
        changed += ["stage"] if before["stage"]["name"] != values["stage"]["name"] else []
        if changed:
            was = ", ".join(_differences(before, values, changed))
            raise InputError(
                f"{out} holds a run with other settings ({was}), which cannot be continued; restore them, or start afresh (--fresh)"
            )
        before["data"] = plain(asdict(DataConfig())) | before.get("data", {})
        was = ", ".join(_differences(before, values, ["data"]))
        remarks = [f"trained with {was} so far; goes on with what is given now"] if was else []
    if PartialState().is_main_process:
        file.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return remarks


def sized_before(recorded: Mapping[str, Any], section: ModelConfig | ImageTokenizerSettings) -> dict[str, Any]:
    """A section as a run recorded it. What an older version did not know had its default. Sizes that are left to what is loaded now are not
    compared: older versions wrote the usual ones beside it."""
    open_now = section.usual.keys() - section.given.keys() if section != section.whole() else ()
    left_open = {name: plain(getattr(section, name)) for name in open_now}
    return {**plain(asdict(type(section)().whole())), **recorded, **left_open}


def plain(value: Any) -> Any:
    """Tuples as lists, which is what YAML has."""
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, list | tuple) else value
