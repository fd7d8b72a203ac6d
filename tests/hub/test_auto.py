"""Auto classes know the model after `import mmada`, in whatever order transformers is imported; and the import stays light."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mmada.pipeline import MMaDA

LOAD = """
import mmada
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForMaskedLM, AutoProcessor, AutoTokenizer
autos = AutoConfig, AutoModel, AutoModelForMaskedLM, AutoProcessor, AutoImageProcessor
print(*(type(auto.from_pretrained({directory!r})).__name__ for auto in autos), len(AutoTokenizer.from_pretrained({directory!r})))
print(type(AutoModel.from_pretrained({directory!r} + '/image_tokenizer')).__name__)
"""
FIRST = [
    "import mmada",
    "from transformers import AutoProcessor, AutoModel",
    "import mmada.hub.processor",
    "import mmada; from transformers import LlamaForCausalLM, ProcessorMixin",
]
PIPELINE = """
import mmada
from transformers import pipeline
print(pipeline("text-generation", model={directory!r})("hi", max_new_tokens=4, do_sample=False, return_full_text=False))
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("debug")
    MMaDA.debug().save_pretrained(path)
    return str(path)


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.mark.parametrize("first", FIRST)
def test_auto_classes(directory, first):
    named, tokenizer = run(f"{first}\n{LOAD.format(directory=directory)}").splitlines()
    assert named == "MMaDAConfig MMadaModelLM MMadaModelLM MMaDAProcessor MMaDAImageProcessor 268"
    assert tokenizer == "ImageTokenizer"


def test_a_pipeline_by_directory(directory):
    """transformers replaces its own module while it loads some of its parts, and pipelines look for classes in it."""
    assert run("import transformers; transformers.AutoProcessor" + PIPELINE.format(directory=directory)).startswith("[{'generated_text': ")


def test_import_is_light():
    assert run("import sys, mmada\nprint([m for m in ('torch', 'transformers', 'numpy', 'PIL', 'typer') if m in sys.modules])") == "[]\n"


def test_public_names():
    import mmada

    assert all(getattr(mmada, name) is not None for name in mmada.__all__)
    assert set(dir(mmada)) == set(mmada.__all__)
    with pytest.raises(AttributeError, match="drew"):
        mmada.drew  # noqa: B018
