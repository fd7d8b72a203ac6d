"""Makes the classes known to transformers' Auto classes, and the model to PEFT, as soon as, and only if, somebody imports those.

transformers has no entry point for models: its registries are filled by calls, and a call needs transformers and torch, two seconds that
`import mmada` must not cost. So a finder waits for the modules that hold a registry, runs the registration behind each, and does
nothing else. What is loaded already when mmada comes is registered at once.

    transformers.models.auto.configuration_auto     AutoConfig
    transformers.models.auto.modeling_auto          AutoModel, AutoModelForMaskedLM; AutoModelForCausalLM and those for pictures, which
                                                    say what to use instead
    transformers.models.auto.image_processing_auto  AutoImageProcessor
    transformers.models.auto.processing_auto        AutoProcessor
    transformers.pipelines                          pipeline("text-generation"), which needs `generate` alone
    peft.utils.constants                            layers that LoRA adapts where nobody names any
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec, PathFinder

TYPE_CHECKING = False  # as type checkers know it: `typing` and `importlib.abc` take longer to import than all that is below
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.abc import Loader
    from types import ModuleType
else:
    Loader = object

__all__ = ["register"]


def _configs(module: ModuleType) -> None:
    from mmada.hub.configs import ImageTokenizerConfig, MMaDAConfig

    for config in (MMaDAConfig, ImageTokenizerConfig):
        module.AutoConfig.register(config.model_type, config, exist_ok=True)


def _models(module: ModuleType) -> None:
    from mmada.hub.configs import ImageTokenizerConfig, MMaDAConfig
    from mmada.hub.pretrained import ImageTokenizer, MMadaModelLM, NoCausalLM, NoImageTextToText

    for auto in (module.AutoModel, module.AutoModelForMaskedLM):
        auto.register(MMaDAConfig, MMadaModelLM, exist_ok=True)
    module.AutoModelForCausalLM.register(MMaDAConfig, NoCausalLM, exist_ok=True)
    for auto in (module.AutoModelForImageTextToText, module.AutoModelForMultimodalLM):
        auto.register(MMaDAConfig, NoImageTextToText, exist_ok=True)
    module.AutoModel.register(ImageTokenizerConfig, ImageTokenizer, exist_ok=True)


def _image_processors(module: ModuleType) -> None:
    from mmada.hub.configs import MMaDAConfig
    from mmada.hub.processor import MMaDAImageProcessor

    module.AutoImageProcessor.register(MMaDAConfig, image_processor_classes={"pil": MMaDAImageProcessor}, exist_ok=True)


def _processors(module: ModuleType) -> None:
    from mmada.hub.configs import MMaDAConfig
    from mmada.hub.processor import MMaDAProcessor

    module.AutoProcessor.register(MMaDAConfig, MMaDAProcessor, exist_ok=True)


def _pipelines(_: ModuleType) -> None:
    from mmada.hub.pretrained import MMadaModelLM

    # Pipelines look in this module for the class that a config.json names.
    sys.modules["transformers"].__dict__.setdefault("MMadaModelLM", MMadaModelLM)


def _adapters(module: ModuleType) -> None:
    # As for models of transformers with these names.
    module.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.setdefault("mmada", ["q_proj", "v_proj"])


_REGISTRIES: dict[str, Callable[[ModuleType], None]] = {
    "transformers.models.auto.configuration_auto": _configs,
    "transformers.models.auto.modeling_auto": _models,
    "transformers.models.auto.image_processing_auto": _image_processors,
    "transformers.models.auto.processing_auto": _processors,
    "transformers.pipelines": _pipelines,
    "peft.utils.constants": _adapters,
}


class _Finder:
    """Finds these modules as usual, with a loader that registers when one has been executed."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname in _REGISTRIES else None
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _REGISTRIES[module.__name__](module)


def register() -> None:
    """Register what transformers has loaded, and the rest when it loads it. Calling it again changes nothing."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
        for name, run in _REGISTRIES.items():
            if name in sys.modules:
                run(sys.modules[name])
