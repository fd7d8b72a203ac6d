"""What lmms-eval finds by the entry point group `lmms_eval.models`: the name `mmada`, and where its class is."""

from __future__ import annotations

from lmms_eval.models.registry_v2 import ModelManifest

__all__ = ["manifest"]


def manifest() -> ModelManifest:
    """The model `mmada`. lmms-eval has one of that name, which needs a clone of the published code; an installed plugin comes before it."""
    return ModelManifest(model_id="mmada", simple_class_path="mmada.eval.lmms.LmmsModel")
