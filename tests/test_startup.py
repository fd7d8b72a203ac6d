"""What a command imports: named modules, not seconds. Seconds are in docs/results/startup.json (scripts/bench_startup.py)."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from PIL import Image

RUN = """
import json, sys
from mmada.cli import main
sys.argv = ["mmada", *json.loads(sys.argv[1])]
status = 0
try:
    main()
except SystemExit as leave:
    status = leave.code or 0
print()
print(json.dumps([status, sorted(sys.modules)]))
"""
NOT_FOR_HELP = {"torch", "numpy", "PIL", "safetensors", "tokenizers"}
NEVER_BUILT_IN = {"transformers", "accelerate", "datasets", "huggingface_hub", "tensorboard", "peft", "pandas", "fastapi"}
COMPILER = {"sympy", "torch._dynamo", "torch._inductor", "torch.onnx", "torch.distributed.fsdp", "torch.utils.tensorboard"}
"""What torch.compile and distributed training need: as long to import as torch itself."""


def imported(cwd, *arguments) -> tuple[int, set[str]]:
    """Exit status of `mmada ARGUMENTS` in a process of its own, and the modules that it had imported at its end."""
    done = subprocess.run([sys.executable, "-c", RUN, json.dumps(arguments)], capture_output=True, text=True, cwd=cwd, timeout=120)
    status, modules = json.loads(done.stdout.splitlines()[-1])
    return status, set(modules)


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--help"], 0),
        (["draw", "--help"], 0),
        (["train", "--help"], 0),
        (["draw", "--nonsense"], 2),
        (["ask", "missing.png", "x"], 2),
        (["fill", "-i", "missing.png", "-p", "x"], 2),
        (["chat", "hi", "--model", "/no/such/dir"], 2),
        (["draw", "a cat", "--model", "/no/such/dir"], 2),
        (["chat", "hi", "--dtype", "float13"], 2),
        (["info", "--model", "no-such-name"], 2),
    ],
)
def test_help_and_wrong_arguments_need_no_torch(tmp_path, arguments, status):
    # Whether a picture can be written there is asked of PIL.
    allowed = {"PIL"} if arguments[:1] == ["fill"] or "a cat" in arguments else set()
    found, modules = imported(tmp_path, *arguments)
    assert found == status
    assert not modules & (NOT_FOR_HELP | NEVER_BUILT_IN) - allowed


@pytest.mark.parametrize("verb", ["chat", "ask", "draw", "fill"])
def test_a_built_in_model_needs_torch_alone(tmp_path, verb):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    arguments = {"chat": ["hello"], "ask": ["red.png", "what?"], "draw": ["a cat", "--steps", "2"], "fill": ["The [MASK] sat."]}[verb]
    status, modules = imported(tmp_path, verb, *arguments)
    assert status in (0, 1)  # 1: an answer that stayed empty
    assert {"torch", "tokenizers", "safetensors"} <= modules
    assert not modules & (NEVER_BUILT_IN | COMPILER)


def test_loading_says_nothing(tmp_path):
    code = "import mmada; mmada.MMaDA.from_pretrained('mmada-emoji-max').image_tokenizer"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=120, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_without_transformers_only_its_classes_are_missing(tmp_path):
    code = """
import sys
sys.modules["transformers"] = None
import mmada
model = mmada.MMaDA.from_pretrained("debug")
model.save_pretrained("copy")
print(mmada.MMaDA.from_pretrained("copy").chat("hi").text == model.chat("hi").text)
for name in ("MMadaModelLM", "MMaDAConfig", "MMaDAProcessor"):
    try:
        getattr(mmada, name)
    except mmada.MissingDependencyError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=120, check=True)
    same, *errors = done.stdout.splitlines()
    assert same == "True"
    assert errors == [
        f"mmada.{name} is a class for transformers; pip install 'mmada[transformers]'"
        for name in ("MMadaModelLM", "MMaDAConfig", "MMaDAProcessor")
    ]
