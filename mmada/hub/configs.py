"""The configurations of the networks as transformers knows them; the classes that use them are in pretrained.py.

A file of its own, since transformers reads configurations long before its classes of models are complete.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar

from transformers.configuration_utils import PreTrainedConfig

from mmada import image
from mmada.canvas import VocabLayout
from mmada.hub import checkpoint, networks
from mmada.hub.family import family_if_any, said, with_family
from mmada.model import TransformerConfig
from mmada.model.config import ALIASES, READ_AS, plain_names

__all__ = ["ImageTokenizerConfig", "MMaDAConfig"]


class MMaDAConfig(PreTrainedConfig):  # type: ignore[misc]
    """`TransformerConfig` as a configuration of transformers: the same fields, defaults and checks."""

    model_type = networks.TRANSFORMER_TYPE
    attribute_map: ClassVar[dict[str, str]] = ALIASES

    def __init__(self, **kwargs: Any) -> None:
        plain = plain_names(kwargs)
        known = TransformerConfig.names()
        own = TransformerConfig(**{name: value for name, value in plain.items() if name in known})
        super().__init__(**{name: value for name, value in plain.items() if name not in known})
        for name in known:
            setattr(self, name, getattr(own, name))

    @classmethod
    def of(cls, config: TransformerConfig) -> MMaDAConfig:
        """The same sizes."""
        return cls(**config.to_dict())

    @property
    def transformer(self) -> TransformerConfig:
        """The same sizes, checked again."""
        return TransformerConfig(**{name: getattr(self, name) for name in TransformerConfig.names()})

    def to_dict(self) -> dict[str, Any]:
        """As in transformers, with the names of `TransformerConfig.names_of_transformers`."""
        found: dict[str, Any] = super().to_dict()
        return found if found.get("backbone", "mmada") == "mmada" else found | self.transformer.names_of_transformers()

    @property
    def layout(self) -> VocabLayout:
        """Where special tokens and image codes lie. Raises InputError as `TransformerConfig.layout` does."""
        return self.transformer.layout

    @property
    def head_dim(self) -> int:
        return int(self.head_width or self.d_model // self.n_heads)  # without a new record: a compiled forward pass asks for it

    @property
    def num_kept_values(self) -> int:
        """Numbers that a cache keeps of a token, over all layers."""
        return self.transformer.num_kept_values

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], *, names: Sequence[str] = (), **kwargs: Any) -> Any:
        """As in transformers, with the vocabulary layout of a directory's family.

        names  what else the checkpoint goes by, such as its hub name
        Raises CheckpointError for a directory whose config.json is missing or damaged.
        """
        directory = Path(pretrained_model_name_or_path) / kwargs.get("subfolder", "")
        if directory.is_dir():
            checkpoint.read_config(directory)
        found = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        if directory.is_dir():
            (found[0] if isinstance(found, tuple) else found).settle(directory, names=names, given=kwargs)
        return found

    def settle(self, directory: Path, *, names: Sequence[str] = (), given: Collection[str] = ()) -> None:
        """Take what a published config.json does not say from the checkpoint's family, as `MMaDA` does; stay as it is if none fits.

        given  fields that were given beside config.json
        Raises CheckpointError for values that are not those of the family.
        """
        if self.vocab_layout is not None or (family := family_if_any(directory, names=names)) is None:
            return
        known = said(checkpoint.read_config(directory)).keys() | {READ_AS.get(name, name) for name in given}
        settled = with_family(self.transformer, family, known)
        for name in TransformerConfig.names():
            setattr(self, name, getattr(settled, name))
        for name, value in settled.extra.items():
            setattr(self, name, value)


class ImageTokenizerConfig(PreTrainedConfig):  # type: ignore[misc]
    """`image.ImageTokenizerConfig` as a configuration of transformers: the same fields, defaults and checks."""

    model_type = networks.IMAGE_TOKENIZER_TYPE

    def __init__(self, **kwargs: Any) -> None:
        own = image.ImageTokenizerConfig.from_dict(kwargs)
        names = {one.name for one in fields(own)}
        super().__init__(**{name: value for name, value in kwargs.items() if name not in names})
        for name in names:
            setattr(self, name, getattr(own, name))

    @property
    def sizes(self) -> image.ImageTokenizerConfig:
        """The same sizes, checked again."""
        return image.ImageTokenizerConfig(**{one.name: getattr(self, one.name) for one in fields(image.ImageTokenizerConfig)})

    @classmethod
    def symmetric(cls, **sizes: Any) -> ImageTokenizerConfig:
        """A tokenizer whose encoder and decoder share one list of widths and one of depths."""
        return cls(**image.ImageTokenizerConfig.symmetric(**sizes).to_dict())

    @property
    def factor(self) -> int:
        """Pixels along the side of the square that one code stands for."""
        return self.sizes.factor

    @property
    def encoder_shape(self) -> image.NetworkShape:
        return self.sizes.encoder_shape

    @property
    def decoder_shape(self) -> image.NetworkShape:
        return self.sizes.decoder_shape
