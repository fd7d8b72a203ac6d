"""Makes the model known to transformers' Auto classes, without loading transformers or torch before they are wanted.

Registering needs our classes, and those need torch: two seconds that `mmada --help` must not pay. So each registration waits
until the module of transformers that holds the mapping has been imported, and then runs:

    transformers.models.auto.configuration_auto     AutoConfig
    transformers.models.auto.modeling_auto          AutoModel, AutoModelForMaskedLM, AutoModelForCausalLM (as published)
    transformers.models.auto.image_processing_auto  AutoImageProcessor
    transformers.models.auto.processing_auto        AutoProcessor

Modules of transformers import each other and these, and ours import them. So nothing is registered while one of them is half
loaded; the last to be complete does it for all: the import hook below, or a module of ours, which calls `register` in its last line.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

__all__ = ["register"]


def _configs(module: ModuleType) -> None:
    from mmada.image.tokenizer import ImageTokenizerConfig
    from mmada.model.config import MMaDAConfig

    for config in (MMaDAConfig, ImageTokenizerConfig):
        module.AutoConfig.register(config.model_type, config, exist_ok=True)


def _models(module: ModuleType) -> None:
    from mmada.image.tokenizer import ImageTokenizer, ImageTokenizerConfig
    from mmada.model.config import MMaDAConfig
    from mmada.model.transformer import MMadaModelLM

    for auto in (module.AutoModel, module.AutoModelForMaskedLM, module.AutoModelForCausalLM):
        auto.register(MMaDAConfig, MMadaModelLM, exist_ok=True)
    module.AutoModel.register(ImageTokenizerConfig, ImageTokenizer, exist_ok=True)


def _image_processors(module: ModuleType) -> None:
    from mmada.hub.processor import MMaDAImageProcessor
    from mmada.model.config import MMaDAConfig

    module.AutoImageProcessor.register(MMaDAConfig, image_processor_classes={"pil": MMaDAImageProcessor}, exist_ok=True)


def _processors(module: ModuleType) -> None:
    from mmada.hub.processor import MMaDAProcessor
    from mmada.model.config import MMaDAConfig

    module.AutoProcessor.register(MMaDAConfig, MMaDAProcessor, exist_ok=True)


_AUTO = "transformers.models.auto."
_WHEN_IMPORTED: dict[str, Callable[[ModuleType], None]] = {
    _AUTO + "configuration_auto": _configs,
    _AUTO + "modeling_auto": _models,
    _AUTO + "image_processing_auto": _image_processors,
    _AUTO + "processing_auto": _processors,
}
_OURS = ("mmada.image.tokenizer", "mmada.model.config", "mmada.model.transformer", "mmada.hub.processor")


class _Finder(MetaPathFinder):
    """Finds modules of transformers as usual, and tries to register whenever one has been executed."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if not _is_watched(fullname):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        register(loaded=module.__name__)


def register(*, loaded: str | None = None) -> None:
    """Register now what transformers has already loaded, and the rest when it loads it. Calling it again changes nothing.

    loaded  the module that calls in its last line, and is complete although Python still counts it as loading
    """
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    ready = [name for name in _WHEN_IMPORTED if name in sys.modules]
    if ready and not any(_is_loading(name) for name in list(sys.modules) if name != loaded and (name in _OURS or _is_watched(name))):
        for name in ready:
            _WHEN_IMPORTED[name](sys.modules[name])


def _is_watched(name: str) -> bool:
    """transformers' own machinery, which our modules import; not its families of models."""
    return name.startswith("transformers.") and (
        name.startswith("transformers.models.auto.") or not name.startswith("transformers.models.")
    )


def _is_loading(name: str) -> bool:
    return bool(getattr(getattr(sys.modules.get(name), "__spec__", None), "_initializing", False))
