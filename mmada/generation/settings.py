"""The settings of a request that users may change, each declared once.

The command line, the server's schema, the studio's controls and the reference derive from the fields of `TextSettings` and `ImageSettings`, those
of an edit from `EditSettings`, too. A new field with its help and bounds appears in all of them. Nothing here imports torch, so that help and errors are quick.
"""

from __future__ import annotations

import math
import typing
from dataclasses import dataclass, field, fields
from typing import Any

from mmada.errors import InputError, suggest

__all__ = [
    "CACHE_NAMES",
    "IMAGE_CACHE_NAMES",
    "ORDER_NAMES",
    "EditSettings",
    "ImageSettings",
    "Setting",
    "TextSettings",
    "changed",
    "named_settings",
    "settings_of",
]

CACHE_NAMES = ("none", "prefix", "dual")
"""of sampling.params.CACHES"""
IMAGE_CACHE_NAMES = ("none", "max-logit")
"""of sampling.params.IMAGE_CACHES"""
ORDER_NAMES = ("together", "text_first", "image_first")
"""of generation.requests.Order"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What is known of a setting besides its name and type."""

    help: str
    """a sentence for users"""
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    choices: tuple[str, ...] = ()
    checkpoint: str | None = None
    """the field of `GenerationConfig` that counts where the setting is None"""
    slider: tuple[float, float, float] | None = None
    """least, most and step of a slider; None: a field to type into"""
    flags: tuple[str, ...] = ()
    """short forms on the command line"""


def _setting(help: str, *, default: Any = None, **known: Any) -> Any:
    return field(default=default, metadata={"setting": Setting(help=help, **known)})


class _Checked:
    """Raises InputError, on construction, for a value that its setting does not allow."""

    __slots__ = ()

    def __post_init__(self) -> None:
        for name, known in settings_of(type(self)).items():
            _check(name, getattr(self, name), known)


@dataclass(frozen=True, kw_only=True, slots=True)
class TextSettings(_Checked):
    """How a text is written. None leaves a setting to the checkpoint. Raises InputError for a value that cannot be used."""

    max_new_tokens: int | None = _setting("Length of the answer in tokens, thinking included.", at_least=1, checkpoint="max_new_tokens")
    temperature: float | None = _setting(
        "Randomness of the tokens. 0, the default, takes the likeliest.", at_least=0, at_most=2, slider=(0, 1.5, 0.1)
    )
    top_p: float | None = _setting(
        "Draw from the likeliest tokens that have this probability together.", above=0, at_most=1, slider=(0.05, 1, 0.05)
    )
    top_k: int | None = _setting("Draw from this many of the likeliest tokens.", at_least=1)
    min_p: float | None = _setting(
        "Draw no token that is less likely than this share of the likeliest.", at_least=0, at_most=1, slider=(0, 0.5, 0.05)
    )
    repetition_penalty: float | None = _setting(
        "Divide the logits of tokens that stand in prompt or text by this. 1, the default, is off.",
        above=0,
        at_most=10,
        slider=(0.5, 2, 0.05),
    )
    frequency_penalty: float | None = _setting(
        "Take this from a token's logit for each time that it is written.", at_least=-2, at_most=2, slider=(-2, 2, 0.1)
    )
    presence_penalty: float | None = _setting(
        "Take this from a token's logit once it is written.", at_least=-2, at_most=2, slider=(-2, 2, 0.1)
    )
    block_length: int | None = _setting("Tokens of a block. Blocks are finished from left to right.", at_least=1, checkpoint="block_length")
    threshold: float | None = _setting(
        "Confidence at which a token is committed. Lower is faster.", above=0, at_most=1, checkpoint="threshold", slider=(0.1, 1, 0.05)
    )
    steps: int | None = _setting("Denoising steps for the whole text, a multiple of its blocks.", at_least=1)
    guidance_scale: float | None = _setting(
        "How closely to follow the prompt; 0, the default, is off.", at_least=0, at_most=100, slider=(0, 10, 0.5)
    )
    cache: str | None = _setting(
        "Keep keys and values between the steps of a block. Faster for long sequences; "
        "an approximation for models that see ahead, as the published ones do.",
        choices=CACHE_NAMES,
        checkpoint="cache",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageSettings(_Checked):
    """How an image is drawn. None leaves a setting to the checkpoint. Raises InputError for a value that cannot be used."""

    negative_prompt: str = _setting("What the image should not show.", default="")
    steps: int | None = _setting("Denoising steps, at most.", at_least=1, checkpoint="image_steps", slider=(1, 64, 1))
    guidance_scale: float | None = _setting(
        "How closely to follow the prompt; 0 is off.",
        at_least=0,
        at_most=100,
        checkpoint="guidance_scale",
        slider=(0, 10, 0.5),
        flags=("-g",),
    )
    image_cache: str | None = _setting(
        "Between full passes, evaluate only what the model is least sure of. Fewer tokens a step; an approximation.",
        choices=IMAGE_CACHE_NAMES,
        checkpoint="image_cache",
    )
    image_threshold: float | None = _setting(
        "Confidence at which image tokens are committed beyond what the steps ask. The drawing then takes fewer steps. 1 is off.",
        above=0,
        at_most=1,
        checkpoint="image_threshold",
        slider=(0.5, 1, 0.01),
    )
    best_of: int = _setting(
        "Candidates for each image. The one that the model finds most likely is kept.", default=1, at_least=1, at_most=64, slider=(1, 8, 1)
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class EditSettings(_Checked):
    """What an edit by instruction has besides steps, guidance and cache of its image. Raises InputError for a value that cannot be used."""

    image_guidance_scale: float | None = _setting("How closely to keep to the source images; 0 is off.", at_least=0, at_most=100)
    order: str | None = _setting("Whether text and image are filled in the same passes, or one field after the other.", choices=ORDER_NAMES)
    text_steps: int | None = _setting("Denoising steps of the text that comes with the image.", at_least=1)
    max_new_tokens: int | None = _setting("Length of that text in tokens.", at_least=1, checkpoint="max_new_tokens")


def settings_of(kind: type) -> dict[str, Setting]:
    """Name -> setting of one of the classes above, in their order."""
    return {one.name: one.metadata["setting"] for one in fields(kind) if "setting" in one.metadata}


def named_settings(kind: type) -> dict[str, type]:
    """Name -> int, float or str, the type of a value that was given."""
    hints = typing.get_type_hints(kind)
    return {name: next(t for t in (typing.get_args(hints[name]) or (hints[name],)) if t is not type(None)) for name in settings_of(kind)}


def changed(settings: TextSettings | ImageSettings | EditSettings) -> dict[str, Any]:
    """The settings that were given, by name."""
    return {one.name: value for one in fields(settings) if (value := getattr(settings, one.name)) != one.default}


def _check(name: str, value: Any, known: Setting) -> None:
    if value is None:
        return
    if known.choices and value not in known.choices:
        raise InputError(f"{name}={value!r} is unknown: {suggest(str(value), known.choices)}")
    if not isinstance(value, int | float):
        return
    if known.at_least is not None and not known.at_least <= value < math.inf:
        raise InputError(f"{name}={value!r} must be at least {known.at_least:g}, and finite")
    if known.above is not None and not known.above < value < math.inf:
        raise InputError(f"{name}={value!r} must be above {known.above:g}")
    if known.at_most is not None and value > known.at_most:
        raise InputError(f"{name}={value!r} must be at most {known.at_most:g}")
