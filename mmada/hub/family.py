"""Which family the files of a checkpoint directory are of, and whether they are as the family has them.

family_of(directory)          the family, its layout settled by what the files say
family_if_any(directory)      the same, or None for files that are of no family
with_family(config, family)   the configuration, with the layout that config.json of a published checkpoint does not have
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from mmada.canvas import PUBLISHED, VocabLayout
from mmada.errors import CheckpointError
from mmada.families import Facts, Family, choose, named
from mmada.families.choice import fitting, settled
from mmada.families.mmada import MMADA
from mmada.hub import checkpoint
from mmada.image import VQVAEConfig
from mmada.model import TransformerConfig
from mmada.model.config import plain_names

__all__ = ["FAMILY_KEY", "facts_of", "family_if_any", "family_of", "said", "token_ids_of", "with_family"]

_REMEDY = "leave the family out, or give a checkpoint of it"

FAMILY_KEY = "family"
"""Field of config.json in which this package writes the family's name."""


def family_of(directory: Path, *, names: Sequence[str] = (), family: str | None = None) -> Family:
    """The family of a checkpoint.

    names   what else the checkpoint goes by, such as its hub name
    family  which it is; None: what config.json says, or else what class name and vocabulary say
    What tensors do not show is compared with what is published, unless config.json itself names the family; sizes are, unless anybody does.
    Raises CheckpointError if no family fits, or the files are those of another family than `family`, with both named. Also if config.json has
    other values than the published one. InputError for an unknown family.
    """
    values = checkpoint.read_config(directory)
    if values.get("architectures") == ["ImageTokenizer"]:
        raise CheckpointError(f"{directory} is an image tokenizer; give it as image_tokenizer, and a model beside it")
    wanted = family or values.get(FAMILY_KEY)
    layout = values.get("vocab_layout")
    if layout is not None:  # written by this package: nothing is left to find out
        own = named(values.get(FAMILY_KEY) or MMADA.name)
        if wanted is not None and named(wanted).name != own.name:
            raise CheckpointError(
                f"{directory} is a checkpoint of {own.title} ({own.name}), and family={wanted!r} was asked for; {_REMEDY}"
            )
        return replace(own, layout=VocabLayout.from_dict(dict(layout)))
    facts = facts_of(directory, values, names=names)
    try:
        is_named = {"any_size": True, "any_constants": FAMILY_KEY in values}
        found = choose(facts) if wanted is None else settled(named(wanted), facts, **is_named)
    except CheckpointError as error:
        raise CheckpointError(f"{directory}: {error}{_other_reading(facts, wanted)}") from error
    _check_image_tokenizer(directory / found.image_tokenizer_dir, found)
    return found


def family_if_any(directory: Path, *, names: Sequence[str] = ()) -> Family | None:
    """As `family_of`, but None for a checkpoint that is of no family by its class and vocabulary."""
    values = checkpoint.read_config(directory)
    if not {FAMILY_KEY, "vocab_layout"} & values.keys():
        try:
            fitting(facts_of(directory, values, names=names))
        except CheckpointError:
            return None
    return family_of(directory, names=names)


def _other_reading(facts: Facts, wanted: str | None) -> str:
    """Which family files read as that are none of the one that was asked for, as the end of a sentence."""
    if wanted is None:
        return ""
    try:
        return f". Its files read as {choose(facts).title}, and family={wanted!r} was asked for; {_REMEDY}"
    except CheckpointError:
        return ""


def _check_image_tokenizer(directory: Path, family: Family) -> None:
    """Raises CheckpointError if an image tokenizer of diffusers lies in a checkpoint and is not of the published sizes."""
    file = directory / checkpoint.CONFIG_NAME
    values = checkpoint.read_config(directory) if family.image_tokenizer is not None and file.exists() else {}
    if "num_vq_embeddings" not in values:
        return
    published = VQVAEConfig()
    expected = {one.name: getattr(published, one.name) for one in fields(published)} | {"vq_embed_dim": published.embedding_size}
    found = {name: tuple(value) if isinstance(value := values.get(name), list) else value for name in expected}
    wrong = [f"{name} is {own}, not {expected[name]}" for name, own in found.items() if own not in (None, expected[name])]
    if wrong:
        raise CheckpointError(f"{file}: {'; '.join(wrong)}; use the image tokenizer that {family.title} was trained with")


def with_family(config: TransformerConfig, family: Family, known: Collection[str]) -> TransformerConfig:
    """The configuration of a published checkpoint, with the family's layout and name, and what its config.json does not say; one of our own as it is.

    known  fields that config.json has, or that were given
    """
    if config.vocab_layout is not None or (family.layout == PUBLISHED and not config.extra.get(FAMILY_KEY)):
        return config
    said_so = {name: getattr(config, name, None) for name in known}
    filled = replace(config, **{**family.unsaid(said_so), **family.config})
    pad_id, rows = filled.pad_token_id, filled.embedding_size or filled.vocab_size
    return replace(
        filled,
        max_sequence_length=max(filled.max_sequence_length, family.least_context),
        pad_token_id=family.layout.eos_id if isinstance(pad_id, int) and pad_id >= rows else pad_id,
        vocab_layout=family.layout.to_dict(),
        mask_token_id=family.layout.mask_id,
        weight_tying=filled.weight_tying or filled.tie_word_embeddings,
        extra={**filled.extra, FAMILY_KEY: family.name},
    )


def facts_of(directory: Path, values: Mapping[str, Any], *, names: Sequence[str] = ()) -> Facts:
    """What config.json and tokenizer.json say. Weights are not looked at: their shapes are checked against config.json when they are read."""
    classes = values.get("architectures") or [None]
    rows = values.get("embedding_size") or values.get("vocab_size")
    eos = values.get("eos_token_id")
    known = (values.get("_name_or_path"), directory.name, *names)
    return Facts(
        class_name=classes[0],
        rows=rows,
        offset=values.get("text_vocab_size"),
        token_ids=token_ids_of(directory),
        eos_ids=() if eos is None else tuple(eos) if isinstance(eos, list) else (eos,),
        bos_id=values.get("bos_token_id"),
        mask_id=values.get("mask_token_id"),
        names=tuple(str(name) for name in known if name),
        config=said(values),
    )


def said(values: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json says, under the names of `TransformerConfig`."""
    return plain_names({name: value for name, value in values.items() if value is not None})


def token_ids_of(directory: Path) -> dict[str, int] | None:
    """String -> id of every entry of tokenizer.json, or else of vocab.json, and of what tokenizer_config.json adds; None if there is neither.

    Raises CheckpointError if a file is damaged.
    """
    names = ("tokenizer.json", "vocab.json")
    file, more = next((directory / name for name in names if (directory / name).exists()), None), directory / "tokenizer_config.json"
    if file is None:
        return None
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        values = {"model": {"vocab": values}} if file.name == "vocab.json" else values
        vocabulary = values["model"].get("vocab", {})
        found: dict[str, int] = dict(vocabulary) if isinstance(vocabulary, dict) else {entry[0]: i for i, entry in enumerate(vocabulary)}
        found |= {token["content"]: token["id"] for token in values.get("added_tokens", [])}
        config = json.loads(more.read_text(encoding="utf-8")) if more.exists() else {}
        return found | {token["content"]: int(i) for i, token in (config.get("added_tokens_decoder") or {}).items()}
    except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        raise CheckpointError(f"the tokenizer in {directory} cannot be read ({error}); copy its files again") from error
