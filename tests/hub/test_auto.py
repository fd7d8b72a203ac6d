"""Auto classes know the model after `import mmada`, in whatever order transformers is imported; and the import stays light."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mmada.pipeline import MMaDA

SCRIPT = """
import os, sys
# What transformers imports itself: one import serves all orders.
import scipy.optimize, torch._dynamo, torch.distributed.checkpoint, torch.distributed.tensor
assert not {"mmada", "transformers"} & set(sys.modules)
for number, first in enumerate(sys.argv[2:]):
    if os.fork() == 0:
        os.dup2(os.open(str(number), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
        exec(first)
        load(sys.argv[1])
        sys.stdout.flush()
        os._exit(0)
    os.wait()
"""
LOAD = """
def load(directory):
    import mmada
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForMaskedLM, AutoProcessor, AutoTokenizer
    autos = AutoConfig, AutoModel, AutoModelForMaskedLM, AutoProcessor, AutoImageProcessor
    print(*(type(auto.from_pretrained(directory)).__name__ for auto in autos), len(AutoTokenizer.from_pretrained(directory)))
    print(type(AutoModel.from_pretrained(directory + "/image_tokenizer")).__name__)
    # transformers replaces its own module while it loads some of its parts, and pipelines look for classes in it.
    from transformers import pipeline
    print(pipeline("text-generation", model=directory)("hi", max_new_tokens=4, do_sample=False)[0]["generated_text"][:2])
"""
FIRST = [
    "from transformers import AutoProcessor, AutoModel",
    "import mmada; from transformers import LlamaForCausalLM, ProcessorMixin",
]
"""transformers before mmada, and mmada before a part of transformers for which it loads all of its registries"""
SELDOM = ["import mmada", "import mmada.hub.processor"]
"""the second of FIRST without what is hard in it, and one that loads transformers by itself"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("debug")
    MMaDA.debug().save_pretrained(folder / "model")
    return folder


@pytest.mark.parametrize("orders", [FIRST, pytest.param(SELDOM, marks=pytest.mark.slow)], ids=["first", "seldom"])
def test_auto_classes(saved, orders):
    """What is printed after each of the first imports, in a process that had imported neither package."""
    code = [sys.executable, "-c", LOAD + SCRIPT, saved / "model", *orders]
    subprocess.run(code, cwd=saved, check=True, timeout=120)
    for number, first in enumerate(orders):
        named, tokenizer, written = (saved / str(number)).read_text().splitlines()
        assert named == "MMaDAConfig MMadaModelLM MMadaModelLM MMaDAProcessor MMaDAImageProcessor 268", first
        assert (tokenizer, written) == ("ImageTokenizer", "hi"), first


def test_import_is_light():
    code = "import sys, mmada\nprint([m for m in ('torch', 'transformers', 'numpy', 'PIL', 'typer') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout == "[]\n"


def test_public_names():
    import mmada

    assert all(getattr(mmada, name) is not None for name in mmada.__all__)
    assert set(dir(mmada)) == set(mmada.__all__)
    with pytest.raises(AttributeError, match="drew"):
        mmada.drew  # noqa: B018
