"""Masked diffusion over text and images in one transformer: reason, see and draw.

    from mmada import MMaDA
    model = MMaDA.from_pretrained("debug")
    model.draw("two red hearts above a dog", seed=3).image.save("out.png")

Names are imported at first use, so that `import mmada` costs milliseconds. After it, transformers' Auto classes know the
model: AutoConfig, AutoModel, AutoTokenizer, AutoImageProcessor, AutoProcessor (mmada/hub/auto.py).

diffusion/, canvas/                          the mathematics; a prompt as a row of tokens with open positions
model/, image/                               the transformer; pixels <-> codes
sampling/, families/, hub/                   filling a canvas; published models; checkpoints and transformers' classes
generation/, data/                           one engine for every request; records, shards and mixtures
pipeline/, train/, rl/, eval/                `MMaDA`; training; rewards; measuring
serve/, integrations/                        the OpenAI-compatible server; other libraries
worlds/, scale/                              sources of samples with exact answers; many machines
cli/, __main__.py                            the command line; `python -m mmada`
errors.py                                    what the package raises on purpose

The four paths through the code are drawn in docs/map.md.
"""

from __future__ import annotations

import sys
from importlib import import_module

from mmada.hub import auto

TYPE_CHECKING = False  # as type checkers know it: to import `typing` takes longer than all that is below
if TYPE_CHECKING:
    from typing import Any

    from mmada.canvas import PUBLISHED, Canvas, Field, Hole, IdRange, Message, Prompts, Style, VocabLayout
    from mmada.errors import CheckpointError, ImageError, InputError, MissingDependencyError, MMaDAError, TokenizerError
    from mmada.families import FAMILIES, Family
    from mmada.generation.requests import (
        Answer,
        ChatRequest,
        Drawing,
        DrawRequest,
        EditRequest,
        EmptyAnswerError,
        FillRequest,
        GenerationConfig,
        ParallelRequest,
    )
    from mmada.hub.collator import MaskedDiffusionCollator
    from mmada.hub.configs import ImageTokenizerConfig, MMaDAConfig
    from mmada.hub.pretrained import ImageTokenizer, MMadaModelLM
    from mmada.hub.processor import MMaDAImageProcessor, MMaDAProcessor
    from mmada.model import Transformer, TransformerConfig, TransformerDenoiser, preset
    from mmada.pipeline import MMaDA
    from mmada.sampling import (
        CacheConfig,
        Denoising,
        SamplingParams,
        denoise,
        fast_image,
        fast_text,
        infill,
        published_image,
        published_text,
    )

__version__ = "0.1.0"

_WHERE = {
    "mmada.canvas": "Canvas Field",
    "mmada.errors": "CheckpointError ImageError InputError MMaDAError MissingDependencyError TokenizerError",
    "mmada.hub.collator": "MaskedDiffusionCollator",
    "mmada.hub.configs": "ImageTokenizerConfig MMaDAConfig",
    "mmada.hub.pretrained": "ImageTokenizer MMadaModelLM",
    "mmada.model": "Transformer TransformerConfig TransformerDenoiser preset",
    "mmada.pipeline": "MMaDA",
    "mmada.hub.processor": "MMaDAImageProcessor MMaDAProcessor",
    "mmada.canvas.prompts": "Hole Message Prompts Style",
    "mmada.families": "FAMILIES Family",
    "mmada.generation.requests": "Answer ChatRequest DrawRequest Drawing EditRequest EmptyAnswerError FillRequest GenerationConfig ParallelRequest",
    "mmada.sampling": "CacheConfig Denoising SamplingParams denoise fast_image fast_text infill published_image published_text",
    "mmada.canvas.vocab": "PUBLISHED IdRange VocabLayout",
}
_MODULE_OF = {name: module for module, names in _WHERE.items() for name in names.split()}

__all__ = [
    "FAMILIES",
    "PUBLISHED",
    "Answer",
    "CacheConfig",
    "Canvas",
    "ChatRequest",
    "CheckpointError",
    "Denoising",
    "DrawRequest",
    "Drawing",
    "EditRequest",
    "EmptyAnswerError",
    "Family",
    "Field",
    "FillRequest",
    "GenerationConfig",
    "Hole",
    "IdRange",
    "ImageError",
    "ImageTokenizer",
    "ImageTokenizerConfig",
    "InputError",
    "MMaDA",
    "MMaDAConfig",
    "MMaDAError",
    "MMaDAImageProcessor",
    "MMaDAProcessor",
    "MMadaModelLM",
    "MaskedDiffusionCollator",
    "Message",
    "MissingDependencyError",
    "ParallelRequest",
    "Prompts",
    "SamplingParams",
    "Style",
    "TokenizerError",
    "Transformer",
    "TransformerConfig",
    "TransformerDenoiser",
    "VocabLayout",
    "__version__",
    "denoise",
    "fast_image",
    "fast_text",
    "infill",
    "preset",
    "published_image",
    "published_text",
]


# Former names of public things; docs/glossary.md says why.
_FORMER = {
    "Cache": "CacheConfig",
    "Defaults": "GenerationConfig",
    "Recipe": "SamplingParams",
}
# Former modules, for whoever imports them.
_MOVED = {
    "checkpoint": "hub.checkpoint",
    "jobs": "generation.planner",
    "processor": "hub.processor",
    "prompt": "canvas.prompts",
    "request": "generation.requests",
    "tokenizer": "hub.tokenizer",
    "trace": "pipeline.trace",
    "vocab": "canvas.vocab",
}


def _moved(name: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(
        f"module mmada.{name} is now mmada.{_MOVED[name]}; what most programs need is in mmada itself", name=f"mmada.{name}"
    )


class _Moved:
    """The last finder of modules: what comes here was found nowhere."""

    @staticmethod
    def find_spec(fullname: str, path: object = None, target: object = None) -> None:
        package, _, name = fullname.partition(".")
        if package == __name__ and name in _MOVED:
            raise _moved(name)


def __getattr__(name: str) -> Any:
    name = _FORMER.get(name, name)
    if name in _MOVED:  # no AttributeError, whose words `from mmada import ...` hides
        raise _moved(name)
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'mmada' has no attribute {name!r}")
    try:
        return getattr(import_module(_MODULE_OF[name]), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "transformers":
            raise
        from mmada.errors import MissingDependencyError

        raise MissingDependencyError(f"mmada.{name} is a class for transformers; pip install 'mmada[transformers]'") from error


def __dir__() -> list[str]:
    return sorted(__all__)


auto.register()
sys.meta_path.append(_Moved)
