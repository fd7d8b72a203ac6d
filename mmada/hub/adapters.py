"""Adapters as PEFT writes them: a directory with adapter_config.json and no model. It names its base, which is loaded first.

adapter_of(directory)        what a directory says about its base, or None if it holds a model
merge(model, directory)      W + scale B A in the place of W, and whatever else PEFT knows to merge; beside W where that is quantized
beside_quantized(settings)   teach PEFT's LoraConfig the quantized matrices
portable_name(start)         how an adapter names the checkpoint that its training started from
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmada.errors import CheckpointError, InputError, MissingDependencyError
from mmada.hub import checkpoint

if TYPE_CHECKING:
    from mmada.model import Transformer

__all__ = ["ADAPTER_CONFIG", "Adapter", "adapter_of", "base_of", "beside_quantized", "merge", "portable_name"]

ADAPTER_CONFIG = "adapter_config.json"
_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter without a model.

    base  directory or name of the checkpoint that it belongs to
    """

    directory: Path
    base: str
    revision: str | None


def adapter_of(directory: Path) -> Adapter | None:
    """What an adapter's directory says; None for any other. Raises CheckpointError if it names no base, or one that is not here."""
    file = directory / ADAPTER_CONFIG
    if not file.exists() or (directory / checkpoint.CONFIG_NAME).exists():
        return None
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        named, revision = values.get("base_model_name_or_path"), values.get("revision")
    except (ValueError, AttributeError) as error:
        raise CheckpointError(f"{file} is not a JSON object; copy it again") from error
    if not named:
        raise CheckpointError(
            f"{directory} is an adapter that does not name its base; write the directory or name of the checkpoint that it was trained on "
            f'into {ADAPTER_CONFIG}: "base_model_name_or_path": "..."'
        )
    try:
        checkpoint.local(named)
    except CheckpointError as error:
        shipped = Path(named).name  # the path of another machine
        if shipped not in checkpoint.built_in():
            raise CheckpointError(
                f"{directory} is an adapter of {named!r}, which is not here; copy that checkpoint there, or write where it is into "
                f'{ADAPTER_CONFIG}: "base_model_name_or_path": "..."'
            ) from error
        named = shipped
    return Adapter(directory, named, revision)


def base_of(directory: Path) -> Path:
    """Where the model of a directory is: there, or where its base is, which is downloaded if it has a hub name."""
    adapter = adapter_of(directory)
    return directory if adapter is None else base_of(checkpoint.find(adapter.base, revision=adapter.revision))


def portable_name(start: str) -> str | None:
    """A checkpoint as an adapter names it: a hub name as it is, else the whole path, which PEFT finds from any directory; None for no checkpoint."""
    if not start:
        return None
    found = checkpoint.local(start)
    return start if found is None else str(found.resolve())


@contextmanager
def beside_quantized(settings: Any) -> Iterator[None]:
    """Inside, PEFT puts LoRA beside quantized matrices, too, as a LoraConfig then says. Nothing is merged into them: they hold few values."""
    from peft.tuners.lora import Linear

    from mmada.model.quantized import QuantizedLinear

    class BesideQuantized(Linear):  # type: ignore[misc]
        def merge(self, *_: Any, **__: Any) -> None:
            raise InputError(
                "an adapter cannot be merged into quantized matrices, which hold few values; load the base without quantize to merge it"
            )

    if hasattr(settings, "_register_custom_module"):
        settings._register_custom_module({QuantizedLinear: BesideQuantized})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Unsupported layer type")  # of what it has just been taught
        yield


def merge(model: Transformer, directory: Path) -> Transformer:
    """The model with an adapter's changes in its weights. Beside quantized matrices LoRA stays as it is, and computes with them.

    Raises CheckpointError for an adapter of another model or one that cannot be merged, MissingDependencyError without peft.
    """
    from mmada.model.quantized import quantization_of

    try:
        from peft import PeftConfig, PeftModel, get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict
    except ImportError as error:
        raise MissingDependencyError(f"{directory} is an adapter, which peft reads; pip install 'mmada[train]'") from error
    try:
        config = PeftConfig.from_pretrained(str(directory))
        found = load_peft_weights(str(directory), device="cpu")
        if config.is_prompt_learning:
            raise ValueError(
                f"{config.peft_type.value} puts tokens before a prompt and changes no weights; use peft.PeftModel with MMadaModelLM"
            )
        with beside_quantized(config):
            adapted: Any = PeftModel(model, config)  # the plain one: those of a task want a model of transformers
    except (RuntimeError, ValueError, KeyError, TypeError, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{directory} is an adapter that cannot be merged into its base: {reason}") from error
    expected = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    shapes = [{name: tuple(tensor.shape) for name, tensor in tensors.items()} for tensors in (found, expected)]
    if differences := checkpoint.compare(*shapes):
        raise CheckpointError(
            f"{directory} is an adapter that differs from its base in {len(differences)} tensors; give it the base that it was trained on:\n  "
            + "\n  ".join(differences[:_SHOWN])
        )
    set_peft_model_state_dict(adapted, found)
    if quantization_of(model) is not None:
        _merge_floats(model)
        return model.requires_grad_(False).eval()
    try:
        merged: Transformer = adapted.merge_and_unload()
    except (RuntimeError, ValueError, NotImplementedError, AttributeError) as error:  # packed weights, and kinds that cannot be added up
        raise CheckpointError(
            f"{directory} is an adapter that cannot be merged into its base: {error}; load the base unquantized"
        ) from error
    return merged.eval()


def _merge_floats(model: Transformer) -> None:
    """Of an adapted model with quantized matrices, merge what lies beside others, such as the head: those are asked for in part."""
    from peft.tuners.lora import LoraLayer
    from torch import nn

    for name, layer in list(model.named_modules()):
        if isinstance(layer, LoraLayer) and isinstance(base := layer.get_base_layer(), nn.Linear):
            layer.merge()
            model.set_submodule(name, base)
