"""An edit by instruction becomes a request: for an image alone, or for a text and an image in the same passes."""

from __future__ import annotations

from collections.abc import Sequence

from mmada.errors import InputError
from mmada.families import FAMILIES, Family
from mmada.generation.requests import EditRequest, Order, ParallelRequest
from mmada.generation.settings import EditSettings, ImageSettings
from mmada.image import ImageSource

__all__ = ["instructed_edit"]

_OF_TEXTS = ("order", "text_steps", "max_new_tokens")
"""Settings of an edit that are about its text."""


def instructed_edit(
    family: Family,
    prompt: str,
    images: Sequence[ImageSource],
    *,
    drawn: ImageSettings,
    edits: EditSettings,
    think: bool | None = None,
    restyle: bool = False,
    size: tuple[int, int] | None = None,
    seed: int = 0,
) -> EditRequest | ParallelRequest:
    """The request for an edit as a family does it.

    drawn  of which steps, guidance_scale, image_cache and image_threshold count
    think  write a text, too; None: if a setting of the text is given, or the family edits in no other way
    size   (height, width) in pixels
    Raises InputError, which says who can, if the family cannot; and for settings that do not go together.
    """
    writes = _writes(family, think, edits)
    family.require("parallel" if writes else "edit", list(FAMILIES.values()))
    if not writes:
        return EditRequest(
            prompt,
            images,
            restyle,
            size,
            drawn.steps,
            drawn.guidance_scale,
            edits.image_guidance_scale,
            seed=seed,
            image_cache=drawn.image_cache,
            image_threshold=drawn.image_threshold,
        )
    if restyle:
        raise InputError("restyle=True has no form with a text beside the image; leave out one of them")
    if drawn.image_cache not in (None, "none"):
        raise InputError(
            f"image_cache={drawn.image_cache!r} keeps logits of an image, and a text in the same passes changes them; "
            "leave it out, or edit without a text"
        )
    if drawn.image_threshold not in (None, 1):
        raise InputError(
            f"image_threshold={drawn.image_threshold} ends a drawing before its last step, and a text in the same passes has steps of its own; "
            "leave it out, or edit without a text"
        )
    order: Order = edits.order or "together"  # type: ignore[assignment]  # one of ORDER_NAMES
    return ParallelRequest(
        prompt,
        images,
        size,
        edits.max_new_tokens,
        order,
        edits.text_steps,
        drawn.steps,
        drawn.guidance_scale,
        edits.image_guidance_scale,
        seed=seed,
    )


def _writes(family: Family, think: bool | None, edits: EditSettings) -> bool:
    """Raises InputError if `think` and a setting of the text contradict each other."""
    given = [name for name in _OF_TEXTS if getattr(edits, name) is not None]
    if think is False and given:
        raise InputError(f"{given[0]}={getattr(edits, given[0])!r} is about a text beside the image, and none is wanted; leave it out")
    return bool(given) or "edit" not in family.abilities if think is None else think
