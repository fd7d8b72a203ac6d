"""What a command imports: named modules, not seconds. Seconds are in docs/results/startup.json (scripts/bench_startup.py)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
COMMANDS = [
    (["--help"], 0),
    (["draw", "--help"], 0),
    (["train", "--help"], 0),
    (["draw", "--nonsense"], 2),
    (["ask", "missing.png", "x"], 2),
    (["fill", "-i", "missing.png", "-p", "x"], 2),
    (["edit", "--help"], 0),
    (["edit", "missing.png", "x"], 2),
    (["chat", "hi", "--model", "/no/such/dir"], 2),
    (["draw", "a cat", "--model", "/no/such/dir"], 2),
    (["chat", "hi", "--dtype", "float13"], 2),
    (["info", "--model", "no-such-name"], 2),
    (["eval", "shapes", "--model", "/no/such/dir"], 2),
    (["serve", "--model", "/no/such/dir"], 2),
    (["studio", "--model", "/no/such/dir"], 2),
    (["plan", "--model", "/no/such/dir"], 2),
    (["train", "missing.yaml"], 2),
    (["train", f"{ROOT}/configs/finetune.yaml", "data.path=missing.jsonl"], 2),
    (["train", f"{ROOT}/configs/debug.yaml", "out=a-file"], 2),
    (["train", f"{ROOT}/configs/debug.yaml", "data.world=nothing"], 2),
    (["rl", "missing.yaml"], 2),
    (["rl", f"{ROOT}/configs/rl/debug.yaml", "out=a-file"], 2),
    (["data", "check", "missing.jsonl"], 2),
    (["data", "export-replay", "kept.jsonl", "--prompts", "missing.jsonl"], 2),
    (["tokenize", "missing.jsonl", "shards"], 2),
    (["chat", "hi", "--trace", "a-file/x.gif"], 2),
    (["ask", "a-file", "hi", "--trace", "x.txt"], 2),
    (["draw", "a cat", "--trace", "a-file/x.gif"], 2),
    (["edit", "a-file", "x", "--trace", "a-file/x.gif"], 2),
    (["draw", "a cat", "-o", "a-file/x.png"], 2),
]
RUN = """
import json, os, sys

def run(*arguments):
    from mmada.cli import main
    sys.argv = ["mmada", *arguments]
    try:
        main()
    except SystemExit as leave:
        return leave.code or 0

def write(name, status):
    with open(name, "w") as file:
        json.dump([status, sorted(sys.modules)], file)
"""
FORKS = """
import mmada.cli  # what every command imports
for number, arguments in enumerate(json.loads(sys.argv[1])):
    if os.fork() == 0:
        write(f"{number}.json", run(*arguments))
        os._exit(0)
    os.wait()
"""
BUILT_IN = """
import mmada
mmada.MMaDA.from_pretrained("mmada-emoji-max").image_tokenizer
write("load", 0)
assert (os.fstat(1).st_size, os.fstat(2).st_size) == (0, 0)
for verb, arguments in json.loads(sys.argv[1]).items():
    write(verb, run(verb, *arguments))

sys.modules["transformers"] = None
model = mmada.MMaDA.from_pretrained("debug")
model.save_pretrained("copy")
with open("without", "w") as file:
    print(mmada.MMaDA.from_pretrained("copy").chat("hi").text == model.chat("hi").text, file=file)
    for name in ("MMadaModelLM", "MMaDAConfig", "MMaDAProcessor"):
        try:
            getattr(mmada, name)
        except mmada.MissingDependencyError as error:
            print(error, file=file)
"""
VERBS = {
    "chat": ["hello"],
    "ask": ["red.png", "what?"],
    "draw": ["a cat", "--steps", "2"],
    "fill": ["The [MASK] sat."],
}
NOT_FOR_HELP = {"torch", "numpy", "PIL", "safetensors", "tokenizers"}
NEVER_BUILT_IN = {"transformers", "accelerate", "datasets", "huggingface_hub", "tensorboard", "peft", "pandas", "fastapi"}
COMPILER = {"sympy", "torch._dynamo", "torch._inductor", "torch.onnx", "torch.distributed.fsdp", "torch.utils.tensorboard"}
"""What torch.compile and distributed training need: as long to import as torch itself."""


def result(file) -> tuple[int, set[str]]:
    """Exit status of a command, and the modules that had been imported at its end."""
    status, modules = json.loads(file.read_text())
    return status, set(modules)


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    """The commands that need no model, each in a process that has imported nothing else."""
    folder = tmp_path_factory.mktemp("commands")
    (folder / "a-file").touch()
    code = [sys.executable, "-c", RUN + FORKS, json.dumps([arguments for arguments, _ in COMMANDS])]
    subprocess.run(code, cwd=folder, capture_output=True, check=True, timeout=120)
    return folder


@pytest.mark.parametrize("number", range(len(COMMANDS)), ids=[" ".join(arguments) for arguments, _ in COMMANDS])
def test_help_and_wrong_arguments_need_no_torch(commands, number):
    arguments, status = COMMANDS[number]
    # Whether a picture can be written there is asked of PIL, and what a world is takes numpy.
    allowed = (
        {"PIL"} if {"fill", "edit", "a cat", "--trace"} & set(arguments) else {"numpy"} if "data.world=nothing" in arguments else set()
    )
    found, modules = result(commands / f"{number}.json")
    assert found == status
    assert "mmada.cli" in modules
    assert not modules & (NOT_FOR_HELP | NEVER_BUILT_IN) - allowed
    assert ("mmada.cli.doctor" in modules) == (arguments == ["--help"])  # the files of other verbs, where one is named


def test_import_mmada_needs_next_to_nothing():
    """The library's larger modules take longer than all that the package does then."""
    code = "import sys; before = set(sys.modules); import mmada; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path[:0] = {[str(ROOT)]}; {code}"], capture_output=True, text=True
    )
    modules = set(done.stdout.split())
    assert {"mmada", "mmada.hub.auto"} <= modules, done.stderr
    assert not modules & {"typing", "re", "dataclasses", "inspect", "tempfile", "importlib.abc", "importlib.metadata"}


@pytest.fixture(scope="module")
def built_in(tmp_path_factory):
    """A process that loads a built-in model, runs the verbs on it, and then does without transformers."""
    folder = tmp_path_factory.mktemp("built-in")
    Image.new("RGB", (64, 64), "red").save(folder / "red.png")
    code = [sys.executable, "-c", RUN + BUILT_IN, json.dumps(VERBS)]
    with (folder / "out").open("w") as out, (folder / "error").open("w") as error:
        done = subprocess.run(code, cwd=folder, stdout=out, stderr=error, check=False, timeout=120)
    assert done.returncode == 0, (folder / "error").read_text()
    return folder


def test_loading_says_nothing_and_needs_torch_alone(built_in):
    """The process goes on only if it has not said anything."""
    _, modules = result(built_in / "load")
    assert {"torch", "tokenizers", "safetensors"} <= modules
    assert not modules & (NEVER_BUILT_IN | COMPILER)


@pytest.mark.parametrize("verb", VERBS)
def test_a_built_in_model_needs_torch_alone(built_in, verb):
    status, modules = result(built_in / verb)
    assert status in (0, 1)  # 1: an answer that stayed empty
    assert not modules & (NEVER_BUILT_IN | COMPILER)


def test_without_transformers_only_its_classes_are_missing(built_in):
    same, *errors = (built_in / "without").read_text().splitlines()
    assert same == "True"
    assert errors == [
        f"mmada.{name} is a class for transformers; pip install 'mmada[transformers]'"
        for name in ("MMadaModelLM", "MMaDAConfig", "MMaDAProcessor")
    ]
