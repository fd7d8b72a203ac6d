"""What a run ends in: a directory that `from_pretrained` takes. And the same, made of a save.

parts = load_parts(config, world)                    networks and tokenizers that a run begins with
export(directory, weights, parts, has_adapter=…)     weights, tokenizers and defaults; all of them or nothing
export_save(Path("runs/mine/state/step-00000100"), target)    a model of a save, sharded or whole: `mmada convert`
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mmada.canvas import Prompts
from mmada.data.find_world import find_world
from mmada.data.world import World
from mmada.errors import CheckpointError, InputError
from mmada.families import FAMILIES, Ability, Family, named
from mmada.families.mmada import MMADA
from mmada.generation.lexicon import Lexicon
from mmada.generation.planner import Planner
from mmada.generation.requests import IMAGE_TOKENIZER_DIR, GenerationConfig
from mmada.hub import networks as saved
from mmada.hub.chat_template import chat_template
from mmada.hub.checkpoint import find
from mmada.hub.family import family_of
from mmada.hub.processor_config import save_processor
from mmada.hub.text_tokenizer import TextTokenizer
from mmada.image import BaseImageTokenizer
from mmada.model import Transformer
from mmada.train import code_bits, lora, state
from mmada.train.config import ImageTokenizerSettings, ModelConfig, TrainConfig
from mmada.train.lora import Lora
from mmada.train.networks import backbone, image_tokenizer, new_image_tokenizer, text_tokenizer
from mmada.train.stages import STAGES
from mmada.train.values import fill, read_yaml

__all__ = ["Parts", "export", "export_save", "load_parts"]


@dataclass(frozen=True, slots=True)
class Parts:
    """What a run of the transformer begins with, and what its export consists of."""

    model: Transformer
    images: BaseImageTokenizer | None
    """None: the family has none"""
    prompts: Prompts
    defaults: GenerationConfig
    family: Family = MMADA
    lexicon: Lexicon | None = None
    """the words that the start was taught to draw from; they go with the model"""

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) codes of an image of the usual size; (0, 0) without images."""
        if self.images is None:
            return 0, 0
        return self.defaults.image_height // self.images.factor, self.defaults.image_width // self.images.factor

    @property
    def planner(self) -> Planner:
        """A planner for samples and evaluation with these parts."""
        context = self.model.config.max_sequence_length
        return Planner(self.prompts, self.defaults, context=context, image_tokenizer=self._encoder, family=self.family)

    def _encoder(self) -> BaseImageTokenizer:
        self.require("look")
        assert self.images is not None
        return self.images

    def require(self, ability: Ability) -> None:
        """Raises InputError, which says who can, if the checkpoint's family lacks an ability."""
        self.family.require(ability, list(FAMILIES.values()))


def load_parts(config: TrainConfig, world: World | None) -> Parts:
    """Networks and tokenizers of a run's start, or new ones. Raises the package's errors for what is missing or does not fit."""
    start = find(config.model.start) if config.model.start else None
    family = _new_family(config.model.family) if start is None else _family_of(start, config.model)
    images = image_tokenizer(config, start, family, size=world.image_size if world else 0)
    text = text_tokenizer(config, start, family, world=world)
    model = backbone(config, start, family, text, codebook_size=0 if images is None else images.codebook_size)
    family = replace(family, layout=model.config.layout)
    own = _of_one_size(GenerationConfig(**family.defaults)) if start is None else GenerationConfig.load(start, family)
    defaults = fill(own, config.defaults, "defaults.")
    lexicon = None if start is None else Lexicon.load(start)
    return Parts(model, images, family.prompts(model.config.layout, text, defaults.style), defaults, family, lexicon)


def _of_one_size(defaults: GenerationConfig) -> GenerationConfig:
    """Those of a new model: a run has pictures of one size, where the published models of a family may have been taught many."""
    return replace(defaults, image_crops=False, one_image_size=True) if defaults.image_crops else defaults


def _family_of(start: Path, model: ModelConfig) -> Family:
    try:
        return family_of(start, names=[model.start], family=model.family or None)
    except CheckpointError as error:
        given = f"model.family={model.family!r} and model.start={model.start!r}: " if model.family else ""
        raise CheckpointError(f"{given}{error}") from error


def _new_family(name: str) -> Family:
    """The family of a new model. Raises InputError for one that cannot be made."""
    family = named(name or MMADA.name)
    if not family.prompts.has_headers and family.prompts.own_template is None:
        raise InputError(
            f"a new model of {family.title} would have no chat template, which its published files bring; start from those with model.start"
        )
    return family


def export(directory: Path, weights: Mapping[str, Tensor], *, parts: Parts, has_adapter: bool) -> None:
    """Write what `from_pretrained` takes: weights (adapters merged, and beside them), both tokenizers, defaults. All of it or nothing."""
    model, images, prompts, defaults = parts.model, parts.images, parts.prompts, parts.defaults

    def write(path: Path) -> None:
        if has_adapter:
            lora.save_adapter(model, weights, path / "adapter")
            defaults.save(path / "adapter")
            if parts.lexicon is not None:
                parts.lexicon.save(path / "adapter")
        saved.save_transformer(model, path, state=code_bits.fold(model, lora.merged(model, weights)))
        defaults.save(path)
        if parts.lexicon is not None:
            parts.lexicon.save(path)
        text, template, context = prompts.tokenizer, chat_template(prompts), model.config.max_sequence_length
        assert isinstance(text, TextTokenizer)  # networks.text_tokenizer made it
        if images is None:
            text.for_model(template, context=context).save_pretrained(path)
            return
        save_processor(
            path,
            text,
            size=(defaults.image_height, defaults.image_width),
            mode=defaults.image_mode,
            crops=defaults.image_crops,
            factor=images.factor,
            value_range=images.pixel_range,
            family=parts.family.name,
            layout=prompts.layout,
            style=asdict(defaults.style),
            template=template,
            context=context,
        )
        saved.save_image_tokenizer(images, path / IMAGE_TOKENIZER_DIR)

    state.write(directory, write)


def export_save(save: Path, target: Path) -> None:
    """Write the model of a save, `RUN/state/step-N`, by the settings in `RUN/config.yaml`. Averaged weights come first, as in a run's end.

    Raises CheckpointError if the save is incomplete or its weights cannot be put together, InputError if RUN/config.yaml is missing.
    """
    run = save.resolve().parents[1]
    values = read_yaml(run / "config.yaml")
    config = _settings(values, run)
    data = values.get("data", {})
    world = find_world(data["world"], data.get("options")) if data.get("world") else None
    if "stage" in values and "components" not in values["stage"]:
        network = new_image_tokenizer(config.net, seed=config.seed, size=world.image_size if world else 0)
        state.write(target, partial(saved.save_image_tokenizer, network, state=_weights(save, network)))
        return
    if not config.debug:  # earlier versions wrote the usual sizes, whatever the image tokenizer was
        config = replace(config, net=ImageTokenizerSettings())
    parts = load_parts(config, world)
    parts = replace(parts, lexicon=Lexicon.load(run) or parts.lexicon)
    export(target, _weights(save, parts.model), parts=parts, has_adapter=bool(config.lora.rank))


def _settings(values: Mapping[str, Any], run: Path) -> TrainConfig:
    """Of a recorded run, of training or of reinforcement learning, what its networks depend on."""
    sections = (("model", ModelConfig()), ("net", ImageTokenizerSettings()), ("lora", Lora()))
    try:
        parts: dict[str, Any] = {name: fill(default, values.get(name, {}), f"{name}.") for name, default in sections}
        for name in ("model", "net"):
            if parts[name].start:  # whose sizes they are; earlier versions wrote the usual ones beside it
                parts[name] = parts[name].without_sizes()
        return replace(
            TrainConfig(stage=STAGES["finetune"], out=str(run), defaults=values.get("defaults", {}), **parts),
            seed=int(values["seed"]),
            debug=bool(values["debug"]),
        )
    except (KeyError, TypeError) as error:
        raise InputError(f"{run / 'config.yaml'} is not that of a run ({error!r}); copy it beside the folder state") from error


def _weights(save: Path, module: nn.Module) -> dict[str, Tensor]:
    """Names of the module -> weights of a save, averaged ones where there are any."""
    if not (save / state.PROGRESS).exists():
        raise CheckpointError(f"{save} is not a complete save; give a folder step-N of RUN/state")
    expected = module.state_dict()
    found = state.whole_weights(save) | state.averaged_weights(save)
    prefixed = {
        name.partition(".")[2]: tensor for name, tensor in found.items()
    }  # DiffusionLoss, Policy and PixelObjective hold it as a part
    missing = sorted(expected.keys() - prefixed.keys())
    if missing:
        raise CheckpointError(
            f"{save} lacks {len(missing)} weights of the run's network, such as {missing[0]}; was RUN/config.yaml changed since?"
        )
    return {name: prefixed[name].to(tensor.dtype).reshape(tensor.shape) for name, tensor in expected.items()}
