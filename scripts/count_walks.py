"""Count the files and functions of the package that four walks pass through, and how often they change from file to file.

    python scripts/count_walks.py                         # a markdown table
    python scripts/count_walks.py -o walks.json           # and as JSON, with the names of the files
    python scripts/count_walks.py --only record rl

    a prompt to pixels           a drawing of one step by the debug model
    a request to the stream      a chat over HTTP, streamed, by the debug model
    a record to the loss         one step of training on records, from the last step's end to the backward pass
    an RL prompt to the gradient one step of reinforcement learning, from the last step's end to the optimizer

files      of the package in which at least one call began
functions  distinct code objects that were called; a comprehension or a lambda is one of its own
changes    how often a call begins in another file than the call before it in the same thread; resuming a generator is a call
climbs     pairs of files of which the one calls the other, and lies in a room of a lower layer (LAYER of tests/test_layers.py)

Every walk is made once before it is counted, so that lazy imports and first loads are not in it; what a module does while it is
imported never counts. `setup` has the files of the steps before, from the program's start, where a walk needs them. The last step's
end of a training run is what torch says: the walk begins after `optimizer.step`, and ends where the backward pass or the next
`optimizer.step` begins. So no name inside the package is used, only COMMANDS. Each walk runs in a process of its own.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import runpy
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from socket import socket
from types import CodeType, FrameType
from typing import Any, cast

os.environ.update(
    OMP_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
    HF_HUB_OFFLINE="1",
    CUDA_VISIBLE_DEVICES="",
    ACCELERATE_USE_CPU="true",
    PYTHONHASHSEED="0",
)

_SPEC = find_spec("mmada")
assert _SPEC is not None
assert _SPEC.origin is not None
PACKAGE = Path(_SPEC.origin).parent
ROOT = PACKAGE.parent

_ONE_BY_ONE = ("loop.prefetch=0", "loop.log_every=1000", "loop.eval_every=0", "loop.sample_every=0", "loop.save_every=0")

COMMANDS: Mapping[str, Sequence[str]] = {
    "serve": ("serve", "--model", "debug", "--device", "cpu"),
    "record": (
        *("train", "configs/finetune.yaml", "model.start=mmada-emoji-mixcot", "data.path=records.jsonl", "out=runs/walk"),
        *(*_ONE_BY_ONE, "stage.steps=3", "stage.batch=24"),
    ),
    "rl": (
        *("rl", "configs/emoji/max.yaml", "out=runs/walk", *_ONE_BY_ONE, "objective.updates=1", "steps=3", "group=2", "data.held_out=2"),
        *(f"tasks.{task}.prompts=1" for task in ("text", "understand", "draw", "reason_draw")),
    ),
}
"""Walk -> arguments of `mmada`, run in an empty directory that holds `configs` and records.jsonl with its picture."""

PROMPT = "two red hearts above a dog"
NUM_COUNTED = 5
"""Chats whose median is taken: how often a stream is woken up depends on the clock."""


class Counter:
    """Counts calls of the package's functions, in all threads, while `is_on`."""

    def __init__(self) -> None:
        self.is_on = False
        self._prefix = str(PACKAGE) + os.sep
        self._importing = threading.local()
        self._layers = layers()
        self.clear()

    def clear(self) -> None:
        self.functions: set[CodeType] = set()
        self.climbs: set[tuple[str, str]] = set()
        self._last: dict[int, str] = {}
        self._changes = 0

    def install(self) -> None:
        """In this thread, and in those that are started later."""
        threading.setprofile(self._event)
        sys.setprofile(self._event)

    def counted(self) -> dict[str, Any]:
        files = sorted({code.co_filename.removeprefix(self._prefix) for code in self.functions})
        climbs = sorted(f"{low} -> {high}" for low, high in self.climbs)
        counts = {"files": len(files), "functions": len(self.functions), "changes": self._changes, "climbs": len(climbs)}
        return {**counts, "names": files, "climbs_names": climbs}

    def _note_climb(self, frame: FrameType) -> None:
        """Whoever of the package called this function, if it lies lower."""
        caller = frame.f_back
        while caller is not None and not caller.f_code.co_filename.startswith(self._prefix):
            caller = caller.f_back
        if caller is not None:
            low, high = (code.co_filename.removeprefix(self._prefix) for code in (caller.f_code, frame.f_code))
            if self._layers.get(_room(low), 0) < self._layers.get(_room(high), 0):
                self.climbs.add((low, high))

    def _event(self, frame: FrameType, event: str, _: object) -> None:
        if event not in ("call", "return"):
            return
        code = frame.f_code
        if code.co_name == "<module>" and frame.f_globals.get("__name__") != "__main__":  # what it calls is part of an import
            self._importing.depth = getattr(self._importing, "depth", 0) + (1 if event == "call" else -1)
        elif event == "call" and self.is_on and code.co_filename.startswith(self._prefix) and getattr(self._importing, "depth", 0) <= 0:
            thread = threading.get_ident()
            self._note_climb(frame)
            self._changes += self._last.get(thread, code.co_filename) != code.co_filename
            self._last[thread] = code.co_filename
            self.functions.add(code)


def _room(file: str) -> str:
    return file.partition(os.sep)[0].removesuffix(".py")


def layers() -> dict[str, int]:
    """Room -> its layer, as the test of the layers has it."""
    module = ast.parse((ROOT / "tests" / "test_layers.py").read_text(encoding="utf-8"))
    tables = (node for node in module.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "LAYER")
    found: dict[str, int] = ast.literal_eval(next(tables).value)
    return found


# The walks, each in a process of its own.


def prompt_to_pixels() -> dict[str, Any]:
    import mmada

    model = mmada.MMaDA.from_pretrained("debug", device="cpu")
    model.draw(PROMPT, steps=1)
    counter = Counter()
    counter.install()
    counter.is_on = True
    model.draw(PROMPT, steps=1)
    counter.is_on = False
    return counter.counted()


def request_to_stream() -> dict[str, Any]:
    """The server runs in the main thread, the client in another, which stops it when everything is counted."""
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    counter, results = Counter(), list[dict[str, Any]]()

    def ask() -> None:
        try:
            _wait_for(f"http://127.0.0.1:{port}/v1/models")
            for _ in range(NUM_COUNTED + 1):
                counter.clear()
                counter.is_on = True
                _stream(f"http://127.0.0.1:{port}/v1/chat/completions")
                time.sleep(0.2)  # until the server has put everything away
                counter.is_on = False
                results.append(counter.counted())
        finally:
            signal.raise_signal(signal.SIGTERM)

    # A server that ends as it was told to may leave the process to the signal; this one has something left to do.
    threading.Thread(target=ask, daemon=True).start()
    counter.install()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _run_command([*COMMANDS["serve"], "--port", str(port)])
    counted = results[1:]
    middle = {key: int(statistics.median(result[key] for result in counted)) for key in ("files", "functions", "changes", "climbs")}
    names = {key: sorted({name for result in counted for name in result[key]}) for key in ("names", "climbs_names")}
    return {**middle, **names}


def record_to_loss() -> dict[str, Any]:
    """From the end of the first step to the second step's backward pass."""
    return _training_walk(COMMANDS["record"], until="backward")


def prompt_to_gradient() -> dict[str, Any]:
    """From the end of the first step to the second step's optimizer."""
    return _training_walk(COMMANDS["rl"], until="optimizer")


WALKS: Mapping[str, tuple[str, Callable[[], dict[str, Any]]]] = {
    "prompt": ("a prompt to pixels", prompt_to_pixels),
    "request": ("a request to the stream", request_to_stream),
    "record": ("a record to the loss", record_to_loss),
    "rl": ("an RL prompt to the gradient", prompt_to_gradient),
}


def _training_walk(command: Sequence[str], *, until: str) -> dict[str, Any]:
    import torch
    from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

    counter, found = Counter(), list[dict[str, Any]]()
    backward = cast(Callable[..., None], torch.Tensor.backward)
    has_gradient = False

    def ended(where: str) -> None:
        """The first ending is that of the first step: everything until then was setup, or is made for the first time."""
        if where == until and counter.functions:
            found.append(counter.counted())
            counter.clear()
        counter.is_on = where != until

    def before_backward(self: Any, *args: Any, **options: Any) -> Any:
        nonlocal has_gradient
        ended("backward")
        has_gradient = True
        return backward(self, *args, **options)

    def before_step(*_: Any) -> None:
        nonlocal has_gradient
        if has_gradient:  # of the several optimizers of a step, the first
            ended("optimizer")
        has_gradient = False

    def after_step(*_: Any) -> None:
        counter.clear()
        counter.is_on = True

    torch.Tensor.backward = before_backward  # type: ignore[method-assign]
    register_optimizer_step_pre_hook(before_step)
    register_optimizer_step_post_hook(after_step)
    counter.install()
    counter.is_on = True
    _run_command(command)
    setup, walk = found[:2]
    return {**walk, "setup": len(set(setup["names"]) - set(walk["names"])), "setup_names": setup["names"]}


def _run_command(arguments: Sequence[str]) -> None:
    """`python -m mmada ARGUMENTS`, in this process, in a directory of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        _lay_out(Path(scratch))
        os.chdir(scratch)
        sys.argv = ["mmada", *arguments]
        try:
            runpy.run_module("mmada", run_name="__main__", alter_sys=True)
        except SystemExit as leave:
            if leave.code:
                raise
        finally:
            os.chdir(ROOT)


def _lay_out(directory: Path) -> None:
    from PIL import Image

    (directory / "configs").symlink_to(ROOT / "configs", target_is_directory=True)
    Image.radial_gradient("L").resize((64, 64)).convert("RGB").save(directory / "picture.png")
    shown = {"role": "user", "content": [{"type": "image", "image": "picture.png"}, {"type": "text", "text": "Is it dark?"}]}
    asked, drawn = ({"role": "user", "content": text} for text in ("Who keeps the lighthouse?", "a round gradient"))
    records: list[dict[str, Any]] = [
        {"task": "text", "messages": [asked], "think": {"text": "It is cold."}, "answer": {"text": "a penguin"}},
        {"task": "understand", "messages": [shown], "answer": {"text": "in the middle"}},
        {"task": "draw", "messages": [drawn], "answer": {"image": "picture.png"}},
        {"task": "reason_draw", "messages": [drawn], "think": {"text": "Round."}, "answer": {"text": "a disc", "image": "picture.png"}},
    ]
    (directory / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + 300
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _stream(url: str) -> None:
    body = {"model": "debug", "messages": [{"role": "user", "content": "Hello"}], "stream": True, "seed": 3}
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as answer:
        text = answer.read().decode()
    assert "[DONE]" in text, text


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    lines = ["| walk | files | functions | changes of file | climbs | further files of setup |", "|---|---|---|---|---|---|"]
    for name, result in results.items():
        lines.append(
            f"| {WALKS[name][0]} | {result['files']} | {result['functions']} | {result['changes']:,} | {result['climbs']} "
            f"| {result.get('setup', '')} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=tuple(WALKS), default=tuple(WALKS))
    parser.add_argument("-o", "--out", type=Path, metavar="FILE", help="write JSON as well")
    parser.add_argument("--here", type=Path, metavar="FILE", help="count the one walk of --only in this process")
    options = parser.parse_args()
    if options.here:
        result = WALKS[options.only[0]][1]()
        sys.setprofile(None)
        options.here.write_text(json.dumps(result), encoding="utf-8")
        return 0
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in options.only:
            file = Path(scratch) / f"{name}.json"
            command = [sys.executable, __file__, "--only", name, "--here", str(file)]
            done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
            if not file.exists():
                print(done.stdout + done.stderr, file=sys.stderr)
                print(f"the walk {name!r} failed with status {done.returncode}; its output is above", file=sys.stderr)
                return 2
            results[name] = json.loads(file.read_text(encoding="utf-8"))
    print(table(results))
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
