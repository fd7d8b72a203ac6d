"""A run as a value, filled from YAML and key=value (train/values.py).

    stage: base                     a stage of stages.STAGES or a recipe of the world, or {name: base, batch: 32, components: {draw: {share: 1}}}
    data: {world: shapes}
    out: runs/base
    stage.optim.lr=1e-3             dotted names reach into sections; components are reached by their name

Unknown names are errors that suggest the nearest known one; values are checked against the type of their field. A file with
`runs:` is a curriculum: each entry is the rest of the file with some values changed, and they are run in order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from mmada.data.mixture import DataSource, Format
from mmada.errors import InputError, suggest
from mmada.families import FAMILIES
from mmada.generation.requests import GenerationConfig
from mmada.model import PRESETS
from mmada.model.quantized import check_name
from mmada.train.loop import LoopConfig
from mmada.train.lora import Lora, for_adapters
from mmada.train.recipes import named_stage
from mmada.train.stages import ImageStage, Stage
from mmada.train.values import fill, mappings

__all__ = [
    "RECIPES",
    "DataConfig",
    "ImageTokenizerSettings",
    "ModelConfig",
    "SampleSource",
    "Sized",
    "TrainConfig",
    "check_quantized",
    "load",
    "load_all",
    "small_model",
    "small_net",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sized:
    """Settings of a network that is new, or goes on from its `start`: a size that is not set is that of the start, or else the usual one."""

    usual: ClassVar[Mapping[str, Any]]
    """sizes of a new one"""

    @property
    def given(self) -> dict[str, Any]:
        """The sizes that are set, by name."""
        unset = self._unset
        return {name: value for name in self.usual if (value := getattr(self, name)) != unset[name]}

    @property
    def _unset(self) -> dict[str, Any]:
        return {field.name: field.default for field in fields(self) if field.name in self.usual}

    def whole(self) -> Self:
        """The same, of a new network: the usual sizes for those that are not set."""
        return replace(self, **{**self.usual, **self.given})

    def without_sizes(self) -> Self:
        """The same with no size set, so that it has those of its start."""
        return replace(self, **self._unset)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig(Sized):
    """What a transformer stage starts from. Beside `start`, sizes that are given must be those of `start`."""

    start: str = ""
    """checkpoint directory, hub name or `out/model` of another run; empty: random weights and a new text tokenizer"""
    family: str = ""
    """name of a family (docs/families.md), such as lumina-dimoo: what a new model is of, or what the files of `start` are read as. Empty: mmada,
    or what the files say"""
    preset: str = ""
    """size of a new model (mmada.model.PRESETS); empty: as `start`, or 3m"""
    num_merges: int | None = None
    """byte-pair merges of a new text tokenizer, learned from the data; 0: bytes. null: the tokenizer of `start`, or 700"""
    max_sequence_length: int = 0
    """context of a new model, in tokens; 0: that of `start`, or 512"""
    code_bits: bool = False
    """image codes share a map of their bits while they are trained (train/code_bits.py); look-up-free codes only"""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """of the weights; the published runs had bfloat16, which loses small updates"""
    quantize: str = ""
    """int8 or int4: the matrices of `start` are stored in few bits (model/quantized.py) and stay as they are, so lora.rank must be set"""
    image_tokenizer: str = ""
    """directory or hub name; empty: the one beside `start`"""

    def __post_init__(self) -> None:
        if self.family and self.family not in FAMILIES:
            raise InputError(f"model.family={self.family!r} is unknown: {suggest(self.family, FAMILIES)}")
        if self.quantize:
            check_name(self.quantize)
        if self.preset and self.preset not in PRESETS:
            raise InputError(f"model.preset={self.preset!r} is unknown: {suggest(self.preset, PRESETS)}")
        if (self.num_merges or 0) < 0 or self.max_sequence_length < 0:
            raise InputError(f"model.num_merges={self.num_merges} and max_sequence_length={self.max_sequence_length} must be positive")

    usual: ClassVar[Mapping[str, Any]] = {"preset": "3m", "num_merges": 700, "max_sequence_length": 512}


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageTokenizerSettings(Sized):
    """Kind and sizes of a new image tokenizer; fields as in ImageTokenizerConfig.

    Beside `start`, a size that is given must be that of `start`. Where a transformer is trained, it must be that of its image tokenizer.
    """

    start: str = ""
    """directory or hub name to go on from; empty: random weights"""
    kind: Literal["", "magvit-v2", "vqvae"] = ""
    """of the networks; empty: that of `start`, or magvit-v2. A VQ-VAE takes widths and blocks of its encoder from here, which its decoder mirrors"""
    ch: int = 0
    """channels, which encoder_ch_mult multiplies; 0: as `start`, or 32"""
    encoder_ch_mult: tuple[int, ...] = ()
    """one factor for each level; empty: as `start`, or 1, 2; so is decoder_ch_mult"""
    encoder_num_res_blocks: tuple[int, ...] = ()
    """for each level; empty: as `start`, or 1, 1; so is decoder_num_res_blocks"""
    decoder_ch_mult: tuple[int, ...] = ()
    decoder_num_res_blocks: tuple[int, ...] = ()
    z_channels: int = 0
    """bits of a code; of a VQ-VAE: channels of a codebook vector. 0: as `start`, or 12"""
    num_codes: int = 0
    """of a VQ-VAE's codebook; 0: as `start`, or 2^z_channels"""
    patch: int = 0
    """pixels along the side of the square that the first layer takes as one; 0: as `start`, or 1"""
    encoder_kernel: int = 0
    """1: each square of pixels is encoded by itself, and means the same anywhere; 0: as `start`, or 3"""
    upscale: int = 1
    """pixels that are decoded for one that was encoded, along a side; above `start`'s: an upscaler is added to it"""
    upscaler_ch: int = 256
    """channels of the upscaler at each code"""
    upscaler_num_res_blocks: int = 2
    """its residual blocks"""

    usual: ClassVar[Mapping[str, Any]] = {
        "ch": 32,
        "encoder_ch_mult": (1, 2),
        "encoder_num_res_blocks": (1, 1),
        "decoder_ch_mult": (1, 2),
        "decoder_num_res_blocks": (1, 1),
        "z_channels": 12,
        "num_codes": 0,
        "patch": 1,
        "encoder_kernel": 3,
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleSource:
    """Where samples come from: a world, or files of records. Raises InputError unless it is one of them."""

    world: str = ""
    """a world that makes samples, by its name or as package.module:object (data/find_world.py)"""
    options: Mapping[str, Any] = field(default_factory=dict)
    """of the world"""
    path: str = ""
    """instead of a world, your own records, in any form that `mmada data check` takes: a file, shards or a folder. For training also a
    recipe (YAML) whose top parts are named like the tasks. Components of tasks that a file does not hold take no part"""
    format: Format | None = None
    """jsonl, webdataset, datasets or tokenized; null: what the name of the file says"""
    adapter: str = "record"
    """form of the objects: record, text, instruction, draw, describe, edit, messages, llava (docs/data.md)"""
    rename: Mapping[str, str] = field(default_factory=dict)
    """field of the adapter -> your own, such as {caption: txt}"""
    images: str | None = None
    """folder that image paths are relative to; null: that of the file"""
    split: str = "train"
    """of a dataset"""
    eval_path: str = ""
    """as path, for evaluation and samples; empty: none"""
    eval_split: str = ""
    """of a dataset, for eval_path; empty: as split"""

    def __post_init__(self) -> None:
        if self.world and self.path:
            raise InputError(f"data.world={self.world!r} and data.path={self.path!r} are two sources of samples; leave one of them out")
        if self.options and not self.world:
            raise InputError(f"data.options={dict(self.options)} are those of a world; name it with data.world")
        files = self.source("data")  # its own rules
        if files != DataSource(path="data", split=self.split) and (self.world or self.path.endswith(RECIPES)):
            owner = f"data.path={self.path!r} is a recipe, whose sources name their own" if self.path else "a world has none of them"
            raise InputError(f"data.format, adapter, rename and images say how one file of records is read; {owner}")

    def source(self, path: str, *, is_eval: bool = False, prompts_only: bool = False) -> DataSource:
        """A file of records, read as these settings say. prompts_only: records may lack what would be learned."""
        split = self.eval_split if is_eval and self.eval_split else self.split
        return DataSource(
            path=path,
            format=self.format,
            adapter=self.adapter,
            rename=self.rename,
            images=self.images,
            split=split,
            prompts_only=prompts_only,
        )


def check_quantized(model: ModelConfig, lora: Lora) -> None:
    """Raises InputError if quantized weights would be trained, or there are none to quantize."""
    if model.quantize and not lora.rank:
        raise InputError(f"model.quantize={model.quantize!r} freezes the matrices; train an adapter beside them: set lora.rank=8")
    if model.quantize and not model.start:
        raise InputError(f"model.quantize={model.quantize!r} is about weights that a run starts from; name them with model.start")


RECIPES = (".yaml", ".yml")
"""Endings of recipes, mixtures of several sources (mmada.data.load_recipe)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig(SampleSource):
    """Where samples come from, and how many are made, held out and kept."""

    eval_share: float = 0.0
    """share of the records of `path`, of each task, that are not trained on but evaluated, if there is no eval_path; which ones depends on
    nothing but their number"""
    replay: str = ""
    """records of what should stay, from `mmada data export-replay` or your own (adapter record), which are mixed in. A fifth of each task
    is held out, so that the run can tell what was forgotten. Only with `path`"""
    replay_share: float = 0.5
    """share of the rows of a batch that are replay; they come on top of stage.batch rows of the new records"""
    root: str = ""
    """directory that a recipe's paths start from; empty: the recipe's own"""
    size: int | None = None
    """of a world: number of different samples of each task; null: no two are alike"""
    held_out: int = 32
    """rows of each component, or pictures, that are evaluated"""
    num_samples: int = 4
    """samples of each task written during training"""
    num_kept_codes: int = 20_000
    """encoded pictures that are remembered"""

    def __post_init__(self) -> None:
        SampleSource.__post_init__(self)
        if not 0 <= self.eval_share < 1 or not 0 < self.replay_share < 1:
            raise InputError(
                f"data.eval_share={self.eval_share} must lie in 0..1, and data.replay_share={self.replay_share} between 0 and 1: they are shares"
            )
        if self.replay and not self.path:
            raise InputError(
                f"data.replay={self.replay!r} is mixed into records; name them with data.path, or mix a world's tasks by stage.components"
            )
        if self.eval_share and (self.eval_path or not self.path or self.path.endswith(RECIPES)):
            raise InputError(
                f"data.eval_share={self.eval_share} holds out records of one file; leave it out beside data.eval_path, a world or a recipe"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """One run. Raises InputError if its parts do not fit together."""

    stage: Stage | ImageStage
    out: str
    """directory of everything that the run writes"""
    seed: int = 0
    model: ModelConfig = field(default_factory=ModelConfig)
    net: ImageTokenizerSettings = field(default_factory=ImageTokenizerSettings)
    data: DataConfig = field(default_factory=DataConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    lora: Lora = field(default_factory=Lora)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """how the trained model is best used (mmada.generation.requests.GenerationConfig), on top of what it starts from; goes into its mmada.json"""
    debug: bool = False
    """shrink everything, so that the run takes seconds on a CPU: tiny random networks, few short steps"""

    def __post_init__(self) -> None:
        if not self.out:
            raise InputError("out='' is empty; name a directory, such as runs/base")
        fill(GenerationConfig(), self.defaults, "defaults.")
        if self.loop.keep_best and not (self.data.eval_path or self.data.eval_share):
            raise InputError("loop.keep_best=true needs held-out records to choose by; set data.eval_share=0.1 or data.eval_path")
        check_quantized(self.model, self.lora)
        if self.model.code_bits and self.lora.rank:
            raise InputError("model.code_bits trains rows that lora freezes; set one of them to its default")
        if isinstance(self.stage, ImageStage) and self.lora.rank:
            raise InputError("lora is for the transformer; remove it from an image tokenizer's stage")
        self._check_tensor_parallel()

    def _check_tensor_parallel(self) -> None:
        if self.loop.tensor_parallel == 1:
            return
        given = f"loop.tensor_parallel={self.loop.tensor_parallel}"
        if isinstance(self.stage, ImageStage):
            raise InputError(f"{given} splits the transformer, and stage {self.stage.name!r} trains an image tokenizer; set it to 1")
        if self.lora.rank:
            raise InputError(
                f"{given} splits plain matrices, and lora.rank={self.lora.rank} puts adapters beside them; use FSDP2 for adapters"
            )
        if self.model.code_bits:
            raise InputError(
                f"{given} splits plain matrices, and model.code_bits=true adds maps to the head; set one of them to its default"
            )


def load(path: Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """The one run of a file. Raises InputError if the file holds a curriculum."""
    configs = load_all(path, overrides)
    if len(configs) != 1:
        raise InputError(f"{path} holds {len(configs)} runs; load_all gives them all")
    return configs[0]


def load_all(path: Path, overrides: Sequence[str] = ()) -> list[TrainConfig]:
    """The runs of a YAML file, with `key=value` settings on top of each.

    Raises InputError for a file that cannot be read, an unknown name, a value of the wrong type, or parts that do not fit.
    """
    return [_config(values) for values in mappings(path, overrides)]


def _config(values: dict[str, Any]) -> TrainConfig:
    stage = values.pop("stage", None)
    section = {"name": stage} if not isinstance(stage, dict) else dict(stage)
    name = str(section.pop("name", ""))
    if foreign := sorted({"tasks", "objective"} & values.keys()):
        raise InputError(f"unknown setting {foreign[0]}: it belongs to reinforcement learning; run this config by mmada rl")
    if "optim" in values:
        raise InputError("unknown setting optim: the optimizer belongs to the stage; write stage.optim.lr=..., for example")
    data = fill(DataConfig(), values.get("data", {}), "data.")
    stage = named_stage(name, data.world, data.options)
    if fill(Lora(), values.get("lora", {}), "lora.").rank:
        stage = replace(stage, optim=for_adapters(stage.optim))
    config = fill(TrainConfig(stage=fill(stage, section, "stage."), out=f"runs/{name}"), values)
    if not config.model.start:
        config = replace(config, model=config.model.whole())
    if isinstance(config.stage, ImageStage) and not config.net.start:  # goes into the run's config.yaml
        config = replace(config, net=replace(config.net, kind=config.net.kind or config.stage.kind).whole())
    return _debug(config) if config.debug else config


def _debug(config: TrainConfig) -> TrainConfig:
    """The same run at a size that takes seconds; what it starts from and where it writes stay."""
    stage = config.stage
    quick = replace(stage.optim, warmup=min(2, stage.optim.warmup))
    if isinstance(stage, Stage):
        length = None if stage.text_length is None else 320
        components = tuple(
            replace(component, mixture_weight=float(component.mixture_weight > 0)) for component in stage.components
        )  # so that the smallest has a row, too
        stage = replace(
            stage,
            components=components,
            batch=max(8, 4 * len(components)),
            steps=4,
            optim=quick,
            text_length=length,
            answer_lengths=(8, 64, 256),
        )
    else:
        stage = replace(stage, batch=4, steps=4, optim=quick)
    return replace(
        config,
        stage=stage,
        model=small_model(config.model),
        net=small_net(config.net),
        data=replace(config.data, held_out=2, num_samples=1, size=64),
        loop=replace(config.loop, log_every=1, eval_every=4, sample_every=4, save_every=2, compile=False),
    )


def small_model(model: ModelConfig) -> ModelConfig:
    """The transformer of a debug run; what it starts from has its own sizes."""
    return model.without_sizes() if model.start else replace(model, preset="debug", num_merges=0, max_sequence_length=2048)


def small_net(net: ImageTokenizerSettings) -> ImageTokenizerSettings:
    """The new image tokenizer of a debug run; what it starts from has its own sizes."""
    if net.start:
        return net.without_sizes()
    blocks = (1,) * len(net.whole().encoder_ch_mult)
    return replace(net.whole(), ch=8, encoder_num_res_blocks=blocks, z_channels=6, num_codes=0)
