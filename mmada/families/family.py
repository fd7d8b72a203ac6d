"""`Family`: what published checkpoints of one kind have in common, as a value.

Most run on one backbone with equal tensor names; they differ in vocabulary, prompts, image tokenizer and the settings that they are sampled
with. Others run on a second backbone (model/qwen.py), which is named by a few fields of the configuration. A family is one file of this room. Nothing
outside asks which family a checkpoint is of: it uses what the value holds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import Tensor

from mmada.canvas import SPECIAL_STRINGS, Canvas, Prompts, VocabLayout
from mmada.diffusion.schedule import cosine
from mmada.errors import InputError
from mmada.sampling import SamplingParams, fast_image, fast_text
from mmada.sampling.joint import JointParams, Timeline, together
from mmada.sampling.params import follow_schedule

__all__ = ["LLADA_CONSTANTS", "LLADA_SIZES", "Ability", "EditPrompts", "Facts", "Family", "ParallelPrompts", "able", "text_and_image"]

Ability = Literal["chat", "look", "draw", "fill", "inpaint", "edit", "parallel"]
"""What a family can do.

chat      text from text
look      text from images
draw      an image from text
fill      holes in a text
inpaint   a part of an image
edit      an image from images and text
parallel  text and image in the same passes
"""

_DEEDS: Mapping[str, str] = {
    "chat": "answer a message",
    "look": "look at images",
    "draw": "draw",
    "fill": "fill holes in a text",
    "inpaint": "redraw a part of an image",
    "edit": "edit images",
    "parallel": "write and draw in the same passes",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What the files of a checkpoint say, as far as a family can be told by it. None: the files do not say.

    class_name   of the published code, from config.json
    rows         of the embedding
    offset       id of image code 0, as config.json has it
    token_ids    string -> id of the text tokenizer
    eos_ids      what ends a text, as config.json has it: of the text, then of a turn
    bos_id, mask_id  of config.json
    names        that the checkpoint goes by: hub name, directory
    config       what else config.json says, fields of `TransformerConfig` under their names there; what has no value is left out
    """

    class_name: str | None = None
    rows: int | None = None
    offset: int | None = None
    token_ids: Mapping[str, int] | None = None
    eos_ids: tuple[int, ...] = ()
    bos_id: int | None = None
    mask_id: int | None = None
    names: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)


LLADA_CONSTANTS: Mapping[str, Any] = {"rope_theta": 500000.0, "rms_norm_eps": 1e-5, "weight_tying": False}
"""Of LLaDA-8B, and of what was trained from it. Source: its config.json, and the published code of the other families."""

LLADA_SIZES: Mapping[str, int] = {"d_model": 4096, "n_layers": 32, "n_heads": 32, "n_kv_heads": 32, "mlp_hidden_size": 12288}
"""Likewise."""


def _as_it_is(layout: VocabLayout, facts: Facts) -> VocabLayout:
    return replace(layout, vocab_size=facts.rows or layout.vocab_size)


def _nothing(facts: Facts) -> Mapping[str, Any]:
    return {}


class EditPrompts(Prompts, ABC):
    """Prompts of a family that draws by source images. images, codes: (h, w) where rows end with a newline, or else (N,)."""

    __slots__ = ()

    @abstractmethod
    def edit(self, text: str, images: Sequence[Tensor], codes: Tensor, *, is_open: Tensor | None = None, restyle: bool = False) -> Canvas:
        """Source images, an instruction, and an image whose open codes are to be filled. restyle: content, then the style's reference."""

    @abstractmethod
    def edit_negatives(
        self, text: str, images: Sequence[Tensor], codes: Tensor, *, is_open: Tensor | None = None, restyle: bool = False
    ) -> tuple[Canvas, ...]:
        """The unconditional rows of `edit`: without the words, then without the images."""

    def edit_row(self, text: str, images: Sequence[Tensor], codes: Tensor, *, restyle: bool = False, drops: bool = False) -> Canvas:
        """The training row of `edit`: the same prompt with the image as it is. drops: without words and images, as published."""
        canvas = self.edit("", (), codes, restyle=restyle) if drops else self.edit(text, images, codes, restyle=restyle)
        return canvas.clean((codes.flatten() + self.layout.image_offset).tolist())


class ParallelPrompts(Prompts, ABC):
    """Prompts of a family that writes and draws in the same passes. images, codes: (N,), or (h, w) where rows end with a newline."""

    __slots__ = ()

    @abstractmethod
    def parallel(self, text: str, images: Sequence[Tensor], num_new: int, codes: Tensor, *, is_open: Tensor | None = None) -> Canvas:
        """An instruction and source images; two fields: num_new positions of text, then the open codes of the image (None: all)."""

    @abstractmethod
    def parallel_negatives(
        self, text: str, images: Sequence[Tensor], num_new: int, codes: Tensor, *, is_open: Tensor | None = None
    ) -> tuple[Canvas, ...]:
        """The unconditional rows of `parallel`, in the order of the scales."""

    def parallel_row(self, text: str, images: Sequence[Tensor], num_new: int, answer: str, codes: Tensor, *, drops: bool = False) -> Canvas:
        """The training row of `parallel`: the same prompt with text and image as they are, the text filled up to num_new positions.

        drops  without the condition. Raises InputError if the text and its end token do not fit.
        """
        canvas = (self._dropped if drops else self.parallel)(text, images, num_new, codes)
        return canvas.clean(self.answer_ids(num_new, answer), (codes.flatten() + self.layout.image_offset).tolist())

    def _dropped(self, text: str, images: Sequence[Tensor], num_new: int, codes: Tensor) -> Canvas:
        """Without words and images, as published."""
        return self.parallel("", (), num_new, codes)


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """One family of published models.

    layout           vocabulary of the published checkpoints
    classes          of the published code, as config.json names them
    hub_names        of its checkpoints; where class and vocabulary are those of another family, too, the name decides
    strings          special token -> how the text tokenizer writes it; checked when a checkpoint is loaded
    tags             strings that prompts are made of and that must be one token each
    spare_rows       how many more rows than the layout's an embedding may have, for padding
    settle           the layout of a checkpoint, of this family's and what its files say
    constants        fields of config.json that are the same for every size -> their values; None: config.json must say it
    sizes            fields of config.json -> values of the published size
    context          tokens of a row, where config.json does not say how many
    least_context    tokens of a row, where config.json says fewer: what the published code, which has no limit, is asked for
    read             fields of `GenerationConfig` that the files of a checkpoint say, beside `defaults`
    config           fields of the backbone that config.json of a published checkpoint does not have, with their values
    config_of        class, as config.json names it -> the same of checkpoints of that class alone
    only             fields of config.json -> the values that a checkpoint of this family may have there
    prompts          lays conversations and images out
    image_tokenizer  which kind, or None; `image_tokenizer_dir` is its folder in a checkpoint, `image_tokenizer_folder` that in the hub
                     repository which `defaults` name
    has_known_chat   whether `prompts` lays conversations out by what was read in published code; a chat template must then agree with it
    layouts          of training rows (train/stages.py) that `prompts` can lay out
    text_noise       how an answer is noised that is learned as it is sampled: "block", where a block does not see the room behind it; "count",
                     where everything is seen. It takes the place of "block" in stages, unless the checkpoint is sampled without looking ahead
    padding          what the published code does with padding: attention does not see it, sees it, or sees it a little less (a soft mask)
    defaults         fields of `GenerationConfig` where a checkpoint has no mmada.json
    text_params, image_params  how text and images are sampled by default; edit_params: an image with source images; joint_params: text and
                     image in the same passes
    """

    name: str
    title: str
    layout: VocabLayout
    classes: tuple[str, ...]
    model_type: str
    hub_names: tuple[str, ...]
    license: str
    abilities: frozenset[Ability]
    strings: Mapping[str, str]
    tags: tuple[str, ...] = ()
    spare_rows: int = 0
    settle: Callable[[VocabLayout, Facts], VocabLayout] = _as_it_is
    constants: Mapping[str, Any] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    context: int = 4096
    least_context: int = 0
    read: Callable[[Facts], Mapping[str, Any]] = _nothing
    config: Mapping[str, Any] = field(default_factory=dict)
    config_of: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    only: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    prompts: type[Prompts] = Prompts
    image_tokenizer: Literal["magvit-v2", "vqvae"] | None = None
    image_tokenizer_dir: str = "image_tokenizer"
    image_tokenizer_folder: str = ""
    has_known_chat: bool = False
    layouts: frozenset[str]
    text_noise: Literal["block", "count"] = "count"
    padding: Literal["hidden", "visible", "soft"] = "hidden"
    defaults: Mapping[str, Any] = field(default_factory=dict)
    text_params: Callable[..., SamplingParams] = fast_text
    image_params: Callable[..., SamplingParams] = fast_image
    edit_params: Callable[..., SamplingParams] | None = None
    joint_params: Callable[..., JointParams] | None = None

    def differences(self, facts: Facts) -> list[str]:
        """What in the files is not as this family has it, in words; class and name are not looked at."""
        found = []
        if facts.rows is not None and not self.layout.vocab_size <= facts.rows <= self.layout.vocab_size + self.spare_rows:
            found.append(f"the embedding has {facts.rows} rows, not {self.layout.vocab_size}")
        if facts.mask_id is not None and facts.mask_id != self.layout.mask_id:
            found.append(f"mask_token_id is {facts.mask_id}, not {self.layout.mask_id}")
        if facts.offset is not None and self.layout.codebook_size and facts.offset != self.layout.image_offset:
            found.append(f"text_vocab_size is {facts.offset}, not {self.layout.image_offset}")
        shown = {name: facts.config[name] for name in self.only if name in facts.config}
        found += [f"{name} is {value!r}, not {self.only[name][0]!r}" for name, value in shown.items() if value not in self.only[name]]
        if facts.token_ids is None:
            return found
        wanted = {string: self.layout.special(name) for name, string in self.strings.items()}
        found += [f"{s} is {facts.token_ids.get(s)}, not {i}" for s, i in wanted.items() if facts.token_ids.get(s) != i]
        found += [f"{tag} is no token" for tag in self.tags if tag not in facts.token_ids]
        return found

    def other_constants(self, facts: Facts) -> list[str]:
        """Where config.json differs from this family in what tensors do not show, in words, or is silent on what must be said."""
        wrong = _unlike(facts.config, {name: value for name, value in self.constants.items() if value is not None})
        silent = [name for name, value in self.constants.items() if value is None and name not in facts.config]
        return [*wrong, *(f"{name} is not said, and {self.title} has no known value for it" for name in silent)]

    def other_sizes(self, facts: Facts) -> list[str]:
        """Where config.json differs from the published size, in words; nothing if it is that of another size."""
        return _unlike(facts.config, self.sizes) if self.is_published_size(facts.config) else []

    def is_published_size(self, config: Mapping[str, Any]) -> bool:
        """Whether most sizes are the published ones; those of which config.json is silent count as such."""
        return 2 * len(_unlike(config, self.sizes)) < len(self.sizes) or not self.sizes

    def unsaid(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Values of what config.json is silent about. For a model of another size sizes are not among them."""
        sizes = self.sizes if self.is_published_size(config) else {}
        known = {**self.constants, **sizes, "max_sequence_length": self.context}
        return {name: value for name, value in known.items() if value is not None and name not in config}

    @property
    def new_strings(self) -> dict[str, str]:
        """Special token -> how a new text tokenizer writes it, in the order of their ids; `tags` come behind them."""
        ids = self.layout.special_ids
        names = [*(name for name in SPECIAL_STRINGS if name in ids), *(name for name in ids if name not in SPECIAL_STRINGS)]
        return {name: self.strings.get(name) or SPECIAL_STRINGS.get(name) or f"<|{name}|>" for name in names}

    def new_layout(self, num_entries: int, *, codebook_size: int) -> VocabLayout:
        """Of a new model. num_entries: of its text tokenizer, special tokens and tags included."""
        names = list(self.new_strings)
        num_text = num_entries - len(names) - len(self.tags)
        return VocabLayout.compact(num_text, codebook_size, names=names, num_tags=len(self.tags))

    def lacks(self, ability: Ability) -> str | None:
        """What a family without an ability cannot do, in words; None if it can."""
        return None if ability in self.abilities else f"{self.title} cannot {_DEEDS[ability]}"

    def require(self, ability: Ability, families: Sequence[Family]) -> None:
        """Raises InputError, which names those of `families` that can, if this family lacks an ability."""
        if (problem := self.lacks(ability)) is not None:
            raise InputError(f"{problem}; {able(ability, families)} can")


def _unlike(config: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    wrong = {name: value for name, value in expected.items() if config.get(name, value) != value}
    return [f"{name} is {config[name]!r}, not {value!r}" for name, value in wrong.items()]


def able(ability: Ability, families: Sequence[Family]) -> str:
    """Titles of those of `families` that have an ability."""
    return ", ".join(family.title for family in families if ability in family.abilities)


def text_and_image(
    text: SamplingParams, image: SamplingParams, *, text_steps: int, image_steps: int, temperature: float, timeline: Timeline | None
) -> JointParams:
    """Both in the same passes, as MMaDA-Parallel does.

    image        its guidance; the steps that its schedule counts, the schedule and the choice are set here
    temperature  of the choice of codes; at 0 the likeliest ones are proposed
    timeline     None: the image takes `image_steps` of the steps of the text
    """
    proposed = 1.0 if temperature else 0.0
    timeline = together(text_steps, image_steps) if timeline is None else timeline
    # The schedule ends with the image's last step. Together that is the last step of the text, as published.
    steps = 1 + max((k for turns in timeline for number, k in turns if number == 1), default=text_steps - 1)
    image = image.with_(steps=steps, transfer_schedule=follow_schedule(cosine), temperature=proposed, choice_temperature=temperature)
    return JointParams(fields=(text, image), timeline=timeline)
