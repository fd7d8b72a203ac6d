"""A run as a value: YAML and key=value fill dataclasses, and nothing else.

    stage: base                     a name of stages.STAGES, or a mapping {name: base, batch: 32, flows: {draw: {share: 1}}}
    out: runs/base
    stage.optim.lr=1e-3             dotted names reach into sections; flows are reached by their name

Unknown names are errors that suggest the nearest known one; values are checked against the type of their field. A file with
`runs:` is a curriculum: each entry is the rest of the file with some values changed, and they are run in order.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from mmada.errors import InputError, suggest
from mmada.generation.requests import Defaults
from mmada.model import PRESETS
from mmada.train.loop import Loop
from mmada.train.lora import Lora
from mmada.train.stages import STAGES, ImageStage, Stage

__all__ = ["Data", "Model", "Net", "TrainConfig", "fill", "load", "load_all", "mappings"]

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """What a transformer stage starts from."""

    start: str = ""
    """checkpoint directory, hub name or `out/model` of another run; empty: random weights and a new text tokenizer"""
    preset: str = "3m"
    """size of a new model (mmada.model.PRESETS)"""
    num_merges: int = 700
    """byte-pair merges of a new text tokenizer, learnt from the data; 0: bytes"""
    max_sequence_length: int = 512
    """context of a new model, in tokens; `start` has its own"""
    code_bits: bool = False
    """image codes share a map of their bits while they are trained (train/code_bits.py); look-up-free codes only"""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """of the weights; the published runs had bfloat16, which loses small updates"""
    image_tokenizer: str = ""
    """directory or hub name; empty: the one beside `start`"""

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise InputError(f"model.preset={self.preset!r} is unknown: {suggest(self.preset, PRESETS)}")
        if self.num_merges < 0 or self.max_sequence_length < 1:
            raise InputError(f"model.num_merges={self.num_merges} and max_sequence_length={self.max_sequence_length} must be positive")


@dataclass(frozen=True, kw_only=True, slots=True)
class Net:
    """Sizes of a new image tokenizer; fields as in ImageTokenizerConfig."""

    start: str = ""
    """directory or hub name to go on from; empty: random weights"""
    ch: int = 32
    encoder_ch_mult: tuple[int, ...] = (1, 2)
    encoder_num_res_blocks: tuple[int, ...] = (1, 1)
    decoder_ch_mult: tuple[int, ...] = (1, 2)
    decoder_num_res_blocks: tuple[int, ...] = (1, 1)
    z_channels: int = 12
    """bits of a code"""
    patch: int = 1
    """pixels along the side of the square that the first layer takes as one"""
    encoder_kernel: int = 3
    """1: each square of pixels is encoded by itself, and means the same anywhere"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """Where samples come from."""

    name: Literal["emoji", "records"] = "emoji"
    """emoji: the synthetic world of mmada.worlds.emoji; records: your own (mmada.data.records)"""
    path: str = ""
    """of records: a file or folder of records, or a recipe (YAML) whose top parts are named like the tasks. Flows of tasks that a
    file does not hold take no part"""
    root: str = ""
    """directory that a recipe's paths start from; empty: the recipe's own"""
    eval_path: str = ""
    """the same for evaluation and samples; empty: none"""
    size: int | None = None
    """number of different examples of each task; null: no two are alike"""
    held_out: int = 32
    """rows of each flow, or pictures, that are evaluated"""
    num_samples: int = 4
    """samples of each task written during training"""
    num_kept_codes: int = 20_000
    """encoded pictures that are remembered"""
    varied: float = 0.0
    """of emoji: share of the pictures that are asked about whose artwork is varied (mmada.worlds.emoji.variation); drawings never are"""

    def __post_init__(self) -> None:
        if (self.name == "records") != bool(self.path):
            raise InputError(f"data.path={self.path!r} goes with data.name=records, not with {self.name!r}")
        if not 0 <= self.varied <= 1:
            raise InputError(f"data.varied={self.varied} is a share of pictures and must lie in 0..1")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """One run. Raises InputError if its parts do not fit together."""

    stage: Stage | ImageStage
    out: str
    """directory of everything that the run writes"""
    seed: int = 0
    model: Model = field(default_factory=Model)
    net: Net = field(default_factory=Net)
    data: Data = field(default_factory=Data)
    loop: Loop = field(default_factory=Loop)
    lora: Lora = field(default_factory=Lora)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """how the trained model is best used (mmada.generation.requests.Defaults), on top of what it starts from; goes into its mmada.json"""
    debug: bool = False
    """shrink everything, so that the run takes seconds on a CPU: tiny random networks, few short steps"""

    def __post_init__(self) -> None:
        if not self.out:
            raise InputError("out='' is empty; name a directory, such as runs/base")
        fill(Defaults(), self.defaults, "defaults.")
        if self.model.code_bits and self.lora.rank:
            raise InputError("model.code_bits trains rows that lora freezes; set one of them to its default")
        if isinstance(self.stage, ImageStage) and self.lora.rank:
            raise InputError("lora is for the transformer; remove it from an image tokenizer's stage")


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


def mappings(path: Path, overrides: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The runs of a YAML file as nested mappings, settings applied, names and types not checked yet."""
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        settings = [(key, yaml.safe_load(value)) for key, value in map(_setting, overrides)]
    except OSError as error:
        raise InputError(f"config {str(path)!r} cannot be read ({error.strerror}); give an existing YAML file") from error
    except yaml.YAMLError as error:
        raise InputError(f"config {str(path)!r} or a setting in {list(overrides)} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"config {str(path)!r} must be a mapping of names to values")
    runs = values.pop("runs", [{}])
    if not isinstance(runs, list) or not all(isinstance(run, dict) for run in runs) or not runs:
        raise InputError(f"config {str(path)!r}: runs must be a list of mappings, one for each run")
    return [_put(_merge(values, run), settings) for run in runs]


def fill(base: T, values: Mapping[str, Any], where: str = "") -> T:
    """A dataclass value with some fields replaced, checked by name and type; sections are filled in turn.

    where  dotted name of `base`, for messages
    """
    assert is_dataclass(base)
    assert not isinstance(base, type)
    hints = typing.get_type_hints(type(base))
    known = [f.name for f in fields(base)]
    changes: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise InputError(f"unknown setting {where}{name}: {suggest(str(name), known)}")
        changes[name] = _value(getattr(base, name), value, hints[name], f"{where}{name}")
    return replace(base, **changes)


def _config(values: dict[str, Any]) -> TrainConfig:
    stage = values.pop("stage", None)
    section = {"name": stage} if not isinstance(stage, dict) else dict(stage)
    name = str(section.pop("name", ""))
    if name not in STAGES:
        raise InputError(f"stage={name!r} is unknown: {suggest(name, STAGES)}")
    base = TrainConfig(stage=fill(STAGES[name], section, "stage."), out=f"runs/{name}")
    config = fill(base, values)
    return _debug(config) if config.debug else config


def _debug(config: TrainConfig) -> TrainConfig:
    """The same run at a size that takes seconds; what it starts from and where it writes stay."""
    stage = config.stage
    quick = replace(stage.optim, warmup=min(2, stage.optim.warmup))
    if isinstance(stage, Stage):
        length = None if stage.text_length is None else 320
        flows = tuple(replace(flow, share=float(flow.share > 0)) for flow in stage.flows)  # so that the smallest has a row, too
        stage = replace(stage, flows=flows, batch=max(8, 4 * len(flows)), steps=4, optim=quick, text_length=length, rooms=(8, 64, 256))
    else:
        stage = replace(stage, batch=4, steps=4, optim=quick)
    return replace(
        config,
        stage=stage,
        model=replace(config.model, preset="debug", num_merges=0, max_sequence_length=2048),
        net=replace(config.net, ch=8, encoder_num_res_blocks=(1,) * len(config.net.encoder_ch_mult), z_channels=6),
        data=replace(config.data, held_out=2, num_samples=1, size=64),
        loop=replace(config.loop, log_every=1, eval_every=4, sample_every=4, save_every=2, compile=False),
    )


def _setting(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InputError(f"setting {text!r} is not of the form key=value, such as stage.optim.lr=1e-3")
    return key, value


def _merge(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings joined, changes on top."""
    merged = dict(values)
    for key, value in changes.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _put(values: dict[str, Any], settings: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Dotted settings into nested mappings; a section that is a bare name, such as `stage: base`, becomes {name: base}."""
    for dotted, value in settings:
        *sections, last = dotted.split(".")
        if not sections and isinstance(values.get(last), dict) and isinstance(value, str):
            value = {"name": value}
        node = values
        for section in sections:
            below = node.get(section)
            node[section] = dict(below) if isinstance(below, dict) else {"name": below} if below is not None else {}
            node = node[section]
        node[last] = value
    return values


def _value(old: Any, value: Any, hint: Any, where: str) -> Any:
    """`value` as the type of the field, or an InputError that says what was expected."""
    if is_dataclass(old) and not isinstance(old, type):
        if not isinstance(value, Mapping):
            raise InputError(f"{where}={value!r} is a section; set its parts, such as {where}.{fields(old)[0].name}=...")
        return fill(old, value, f"{where}.")
    if isinstance(old, tuple) and old and is_dataclass(old[0]):
        return _named(old, value, where)
    for option in _options(hint):
        converted = _convert(value, option)
        if converted is not None or (value is None and option is type(None)):
            return converted
    raise InputError(f"{where}={value!r} is not {_words(hint)}")


def _named(old: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    """A tuple of dataclasses with a name, as a mapping from names to changes."""
    known = {part.name: part for part in old}
    if not isinstance(value, Mapping):
        raise InputError(f"{where}={value!r} must map names to settings; known names are {', '.join(known)}")
    for name in value:
        if name not in known:
            raise InputError(f"unknown setting {where}.{name}: {suggest(str(name), known)}")
    return tuple(fill(part, value.get(name, {}), f"{where}.{name}.") for name, part in known.items())


def _options(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _convert(value: Any, hint: Any) -> Any:
    """The value if it is of the type, else None. Whole numbers are numbers; "1e-3", which YAML takes for a text, is one too."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return value if value in args else None
    if origin is Mapping and isinstance(value, Mapping):
        return dict(value)
    if origin is tuple and isinstance(value, list | tuple):
        kinds = args[:1] * len(value) if args[1:] == (...,) else args
        parts = [_convert(part, kind) for part, kind in zip(value, kinds, strict=False)]
        return tuple(parts) if len(parts) == len(value) == len(kinds) and None not in parts else None
    if hint is float and isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return None
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    return None


def _words(hint: Any) -> str:
    """A type in words."""
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", type(None): "null"}
    words = []
    for option in _options(hint):
        if typing.get_origin(option) is Literal:
            words.append("one of " + ", ".join(map(repr, typing.get_args(option))))
        elif typing.get_origin(option) is tuple:
            words.append(f"a list, each {_words(typing.get_args(option)[0])}")
        else:
            words.append(names.get(option, str(option)))
    return " or ".join(words)
