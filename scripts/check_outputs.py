"""Record what the package computes, and compare it after a change that should change nothing.

    python scripts/check_outputs.py record before.json      # before a refactor
    python scripts/check_outputs.py compare before.json     # after it; exit status 1 if anything differs
    python scripts/check_outputs.py compare before.json --only model/debug train/rl

The cases are answers, token ids and numbers of forward passes of the built-in models, their drawings, what the command line and the
server give, and every number that short training runs log, to the last bit. Pictures, image codes and weights are kept as SHA-256.

A digest holds on one machine and with one version of torch: other kernels round differently, and a token may flip. Both are written
to the file, and `compare` warns where they differ. Everything runs on the CPU with one thread, in about three minutes.

Only public names of `mmada`, the command line and the files that it writes are used. Settings files may move: TRAINING says which
command belongs to which case, and the names of the cases stay. The package is the one that Python imports; its settings are read
from the `configs` beside it.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from socket import socket
from typing import Any

QUIET = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "ACCELERATE_USE_CPU": "true",
    "PYTHONHASHSEED": "0",
    "COLUMNS": "200",
}
"""Environment of this process and of every process that it starts."""
os.environ.update(QUIET)

import torch  # noqa: E402
from PIL import Image, ImageDraw  # noqa: E402

import mmada  # noqa: E402

_SPEC = find_spec("mmada")
assert _SPEC is not None
assert _SPEC.origin is not None
ROOT = Path(_SPEC.origin).parents[1]
"""Of the checkout that is measured."""

_QUICK = ("loop.prefetch=0", "loop.log_every=1", "loop.sample_every=0", "loop.save_every=0", "loop.compile=false", "data.held_out=2")
_TINY = ("model.start=", "model.preset=debug", "model.num_merges=0", "model.image_tokenizer=mmada-emoji-tokenizer")
_PUBLISHED = (("1.1", "1.2"), ("1.2", "1.3"), ("1.3", "2.1"), ("2.1", "2.2"))
_ONE_EACH = ("tasks.understand.prompts=1", "tasks.draw.prompts=1", "tasks.reason_draw.prompts=1")

TRAINING: Mapping[str, Sequence[str]] = {
    "train/debug": ("train", "debug.yaml"),
    "train/finetune": (
        *("train", "configs/finetune.yaml", "data.path=records.jsonl", "data.eval_path=records.jsonl", "out=runs/finetune"),
        *(*_QUICK, "stage.steps=3", "stage.batch=24", "loop.eval_every=3"),
    ),
    "train/base": ("train", "configs/emoji/base.yaml", *_QUICK, *_TINY, "stage.steps=3", "stage.batch=22", "loop.eval_every=3"),
    "train/mixcot": ("train", "configs/emoji/mixcot.yaml", *_QUICK, *_TINY, "stage.steps=3", "stage.batch=26", "loop.eval_every=3"),
    "train/tokenizer": ("train", "configs/emoji/tokenizer.yaml", *_QUICK, "stage.steps=3", "stage.batch=4", "loop.eval_every=3"),
    "train/decoder": (
        *("train", "configs/emoji/decoder.yaml", *_QUICK, "net.start=mmada-emoji-tokenizer"),
        *("stage.steps=3", "stage.batch=4", "loop.eval_every=3"),
    ),
    "train/rl": ("rl", "rl.yaml"),
    "train/rl_max": (
        *("rl", "configs/emoji/max.yaml", *_QUICK, *_ONE_EACH, "tasks.text.prompts=2", "data.num_samples=1"),
        *("steps=2", "group=4", "loop.eval_every=0"),
    ),
}
"""Case -> arguments of `mmada`, run in an empty directory that holds `configs`, SETTINGS, and RECORDS as records.jsonl with its pictures."""

_DEFAULTS: Mapping[str, Any] = {
    **{"max_new_tokens": 32, "max_thinking_tokens": 64, "block_length": 16, "image_height": 64, "image_width": 64, "image_steps": 4},
    **{"guidance_scale": 1.0, "style": {"thinking": "Think. ", "draw_thinking": "Think. "}},
}
_WORLD: Mapping[str, Any] = {
    "debug": True,
    "data": {"world": "emoji"},
    "net": {"patch": 4, "encoder_ch_mult": [1, 2], "decoder_ch_mult": [1, 2]},
}
_CHECKED = {"correct": 2.0, "format": 0.5, "brevity": 1.0}

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "debug.yaml": {
        **_WORLD,
        "loop": {"prefetch": 0},
        "model": {"image_tokenizer": "runs/debug/tokenizer/model"},
        "defaults": {**_DEFAULTS, "reasons_in_one_row": True},
        "runs": [
            {"stage": "tokenizer", "out": "runs/debug/tokenizer"},
            {"stage": "words", "out": "runs/debug/words", "model": {"code_bits": True}},
            {"stage": "base", "out": "runs/debug/base", "model": {"start": "runs/debug/words/model", "code_bits": True}},
            {"stage": "mixcot", "out": "runs/debug/mixcot", "model": {"start": "runs/debug/base/model"}},
            {"stage": "mixcot", "out": "runs/debug/lora", "model": {"start": "runs/debug/base/model"}, "lora": {"rank": 4}},
            {"stage": "1.1", "out": "runs/debug/1.1"},
            *({"stage": new, "out": f"runs/debug/{new}", "model": {"start": f"runs/debug/{old}/model"}} for old, new in _PUBLISHED),
        ],
    },
    "rl.yaml": {
        **_WORLD,
        "out": "runs/debug/rl",
        "tasks": {
            "text": {"prompts": 2, "think": 0.5, "rewards": _CHECKED},
            "understand": {"prompts": 1, "rewards": _CHECKED},
            "draw": {"prompts": 1, "rewards": {"drawn": 1.0, "objects": 0.5}},
            "reason_draw": {"prompts": 1, "rewards": {"drawn": 1.0, "correct": 0.5, "brevity": 1.0}},
        },
        "optim": {"lr": 1.0e-3},
        "defaults": {**_DEFAULTS, "full_attention": False},
    },
}
"""Files of settings of TRAINING: all stages, and reinforcement learning of all tasks, of tiny random networks in the emoji world."""

RECORDS: Sequence[Mapping[str, Any]] = (
    {"id": "text-1", "task": "text", "answer": {"text": "The lighthouse stands on the hill. A penguin keeps it.\n"}},
    {
        "id": "chat-1",
        "task": "text",
        "messages": [{"role": "user", "content": "Who keeps the lighthouse?"}],
        "answer": {"text": "a penguin"},
    },
    {
        "id": "chat-2",
        "task": "text",
        "messages": [{"role": "user", "content": "Tom has 3 apples and buys 4. How many has he?"}],
        "think": {"text": "3 + 4 = 7."},
        "answer": {"text": "7"},
    },
    {
        "id": "look-1",
        "task": "understand",
        "messages": [
            {"role": "user", "content": [{"type": "image", "image": "shapes.png"}, {"type": "text", "text": "What is in the middle?"}]}
        ],
        "answer": {"text": "a blue square"},
    },
    {
        "id": "look-2",
        "task": "understand",
        "messages": [{"role": "user", "content": [{"type": "image", "image": "gradient.png"}, {"type": "text", "text": "Is it dark?"}]}],
        "think": {"text": "The middle is dark."},
        "answer": {"text": "in the middle"},
    },
    {
        "id": "draw-1",
        "task": "draw",
        "messages": [{"role": "user", "content": "a blue square on a red ground"}],
        "answer": {"image": "shapes.png"},
    },
    {
        "id": "plan-1",
        "task": "reason_draw",
        "messages": [{"role": "user", "content": "Draw what fades toward its middle."}],
        "think": {"text": "A gradient fades."},
        "answer": {"text": "a round gradient", "image": "gradient.png"},
    },
)
"""A tiny data set with all the tasks."""

MODELS = ("debug", "mmada-emoji-base", "mmada-emoji-mixcot", "mmada-emoji-max")
CACHES = ("none", "prefix", "dual")
TEXTS = (
    "What is a dog: an animal or a vehicle?",
    "Tom has 8 coins. Tom finds 5 more. How many coins does Tom have now?",
    "What is 23 + 48?",
    "Which is larger, a car or a mouse?",
    "What color is a banana?",
    "Hello",
)
QUESTIONS = ("What is in the picture?", "What color is the background?", "How many red hearts?", "How many objects are there?")
HOLES = ("The [MASK:2] sat on the [MASK:3].", "A dog is an [MASK:1].")
TURNS = (
    {"role": "user", "content": "What is a dog: an animal or a vehicle?"},
    {"role": "assistant", "content": "an animal"},
    {"role": "user", "content": "And a car?"},
)
REQUESTS = ("two red hearts above a dog", "a cat", "a blue car on a green background")
DRAWS: Mapping[str, Mapping[str, Any]] = {
    "direct": {"think": False, "seed": 3},
    "direct/other seed": {"think": False, "seed": 4},
    "default": {"seed": 3},
    "think": {"think": True, "seed": 1, "steps": 8},
    "guided": {"think": False, "guidance_scale": 2.0, "steps": 8},
    "negative": {"think": False, "guidance_scale": 2.0, "negative_prompt": "a cat", "steps": 8},
    "best of 3": {"think": False, "best_of": 3, "steps": 6},
    "one step": {"think": False, "steps": 1},
    "small": {"think": False, "size": (32, 48), "steps": 4},
}
"""Case -> how one of REQUESTS, in turn, is drawn."""


# Pictures and digests.


def shapes() -> Image.Image:
    """64 x 64 pixels: a blue square on red, a yellow disc in a corner."""
    image = Image.new("RGB", (64, 64), (200, 30, 40))
    pen = ImageDraw.Draw(image)
    pen.rectangle((20, 20, 43, 43), fill=(30, 60, 210))
    pen.ellipse((2, 2, 17, 17), fill=(250, 220, 60))
    return image


def gradient() -> Image.Image:
    return Image.radial_gradient("L").resize((64, 64)).convert("RGB")


def middle() -> Image.Image:
    """A mask of the middle of 64 x 64 pixels."""
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (16, 16, 48, 48))
    return mask


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def pixels(image: Image.Image) -> str:
    """Size and digest of the pixels, whatever the file that they came in."""
    return f"{image.width}x{image.height} {sha(image.convert('RGB').tobytes())}"


def weights(directory: Path) -> str:
    """A digest of all tensors below a directory, whatever their names and files."""
    from safetensors.torch import load_file

    tensors = [tensor for file in sorted(directory.rglob("*.safetensors")) for tensor in load_file(file).values()]
    each = [f"{t.dtype} {tuple(t.shape)} {sha(t.reshape(-1).view(torch.uint8).numpy().tobytes())}" for t in tensors]
    return f"{len(each)} tensors {sha(' '.join(sorted(each)).encode())}"


def value_of(result: Any) -> dict[str, Any]:
    """What is kept of an answer or a drawing."""
    if isinstance(result, mmada.Drawing):
        codes = result.codes.to(torch.int64).contiguous().numpy().tobytes()
        kept = {"pixels": pixels(result.image), "codes": sha(codes), "prompt": result.prompt, "seed": result.seed}
    else:
        kept = {"text": result.text, "finish_reason": result.finish_reason, "token_ids": " ".join(map(str, result.token_ids))}
    return {**kept, "thinking": result.thinking, "num_forwards": result.num_forwards}


def outcome(call: Callable[[], Any]) -> Any:
    """The value of what a call returns; of a text that stayed empty as well. An error of the package is a value of its own."""
    try:
        results = call()
    except mmada.EmptyAnswerError as error:
        results = error.results
    except mmada.MMaDAError as error:
        return {"error": type(error).__name__}
    return [value_of(result) for result in results] if isinstance(results, list) else value_of(results)


# The cases, each a name and what computes its value.

Case = tuple[str, Callable[[], Any]]


def model_cases(name: str) -> Iterator[Case]:
    """Answers and drawings of one built-in model."""
    model = mmada.MMaDA.from_pretrained(name, device="cpu")
    for text in TEXTS:
        yield f"chat/direct/{text}", partial(model.chat, text)
        yield f"chat/think/{text}", partial(model.chat, text, think=True)
    yield "chat/turns", partial(model.chat, TURNS)
    for cache in CACHES:
        for text in TEXTS[:3]:
            yield f"cache/{cache}/{text}", partial(_with_cache, model, cache, text)
    published = mmada.published_text(steps=32, block_length=16)
    warm = mmada.published_text(steps=32, block_length=16, temperature=0.7, guidance_scale=1.5)
    fast = mmada.fast_text(threshold=0.6, block_length=8, temperature=0.5)
    yield "recipe/published_text", partial(model.chat, TEXTS[1], max_new_tokens=32, params=published)
    yield "recipe/published_text/warm", partial(model.chat, TEXTS[1], max_new_tokens=32, params=warm, seed=5)
    yield "recipe/fast_text/warm", partial(model.chat, TEXTS[1], max_new_tokens=40, params=fast, seed=7)
    for i, question in enumerate(QUESTIONS):
        yield f"ask/{question}", partial(model.ask, (shapes(), gradient())[i % 2], question, think=i == 2)
    yield "ask/published_text", partial(model.ask, shapes(), QUESTIONS[0], max_new_tokens=32, params=published)
    yield "describe", partial(model.describe, shapes())
    for hole in HOLES:
        yield f"fill/{hole}", partial(model.fill, hole)
    yield "fill/answer", partial(model.fill, "It is [MASK:2].", messages="What is a dog?")
    for i, (how, options) in enumerate(DRAWS.items()):
        yield f"draw/{how}", partial(model.draw, REQUESTS[i % len(REQUESTS)], **options)
    published_image, fast_image = mmada.published_image(steps=6, guidance_scale=1.5), mmada.fast_image(steps=6)
    yield "draw/published", partial(model.draw, REQUESTS[0], think=False, params=published_image)
    yield "draw/fast", partial(model.draw, REQUESTS[1], think=False, params=fast_image)
    yield "paint/mask", partial(model.fill_image, shapes(), middle(), prompt="a cat", steps=6, seed=2)
    yield "paint/extend", partial(model.fill_image, shapes(), prompt="a dog", extend=(16, 0, 16, 16), steps=6)
    guided: Mapping[str, Any] = {"guidance_scale": 1.5, "best_of": 2, "steps": 4}
    yield "paint/guided best of 2", partial(model.fill_image, gradient(), middle(), prompt="a red heart", **guided)
    yield "run", partial(model.run, batch())


def _with_cache(model: Any, cache: str, text: str) -> Any:
    before = model.defaults.cache
    try:
        return model.use(cache=cache).chat(text, think=True)
    finally:
        model.use(cache=before)


def batch() -> list[Any]:
    """Requests of every kind, to be served together."""
    return [
        mmada.ChatRequest(TEXTS[0]),
        mmada.ChatRequest(TEXTS[1], think=True),
        mmada.ChatRequest(QUESTIONS[1], [shapes()]),
        mmada.FillRequest(HOLES[0]),
        mmada.DrawRequest(REQUESTS[0], think=False, steps=6, seed=3),
        mmada.DrawRequest(REQUESTS[1], think=True, steps=6, seed=4),
        mmada.DrawRequest(REQUESTS[2], think=False, steps=6, guidance_scale=2.0, best_of=2),
        mmada.DrawRequest("a cat", image=shapes(), mask=middle(), steps=6),
    ]


def mmada_command(arguments: Sequence[str], directory: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "mmada", *arguments]
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)


def command_cases() -> Iterator[Case]:
    """What the command line prints and writes."""

    def run(*arguments: str) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as scratch:
            directory = Path(scratch)
            shapes().save(directory / "shapes.png")
            middle().save(directory / "mask.png")
            done = mmada_command(arguments, directory)
            drawn = {file.name: pixels(Image.open(file)) for file in sorted(directory.glob("out*.png"))}
            return {"status": done.returncode, "out": done.stdout, **drawn}

    yield "chat", lambda: run("chat", TEXTS[1], "--think")
    yield "ask", lambda: run("ask", "shapes.png", QUESTIONS[0])
    yield "draw", lambda: run("draw", REQUESTS[0], "--seed", "3", "--num", "2", "-o", "out.png")


def serve_cases() -> Iterator[Case]:
    """What a server answers. The debug model is served while the first case is asked for, until the last."""
    with tempfile.TemporaryDirectory() as scratch, serving(Path(scratch)) as url:
        chat = {"model": "debug", "messages": [{"role": "user", "content": TEXTS[0]}], "seed": 3, "max_tokens": 32}
        draw = {"model": "debug", "prompt": REQUESTS[0], "seed": 3, "response_format": "b64_json"}
        yield "chat", lambda: json.loads(_post(f"{url}/v1/chat/completions", chat))["choices"][0]
        yield "chat/stream", lambda: _streamed(_post(f"{url}/v1/chat/completions", {**chat, "stream": True}))
        yield (
            "image",
            lambda: [
                pixels(Image.open(io.BytesIO(base64.b64decode(one["b64_json"]))))
                for one in json.loads(_post(f"{url}/v1/images/generations", draw))["data"]
            ],
        )


@contextmanager
def serving(directory: Path) -> Iterator[str]:
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mmada", "serve", "--model", "debug", "--device", "cpu", "--port", str(port)]
    log, url = directory / "log", f"http://127.0.0.1:{port}"
    with log.open("w") as stream:
        server = subprocess.Popen(command, stdout=stream, stderr=stream, cwd=directory, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        deadline = time.monotonic() + 120
        while not _is_up(f"{url}/v1/models"):
            if server.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the server did not start:\n{log.read_text()}")
            time.sleep(0.1)
        yield url
    finally:
        server.kill()
        server.wait()


def _is_up(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


def _post(url: str, body: Mapping[str, Any]) -> str:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        text: str = answer.read().decode()
    return text


def _streamed(events: str) -> dict[str, Any]:
    """The text of a stream put together; in how many pieces it comes depends on the clock."""
    lines = [line.removeprefix("data: ") for line in events.splitlines() if line.startswith("data: {")]
    choices = [choice for line in lines for choice in json.loads(line).get("choices", [])]
    text = "".join(choice["delta"].get("content") or "" for choice in choices)
    return {"text": text, "finish_reason": next((c["finish_reason"] for c in choices if c["finish_reason"]), None)}


def training_cases() -> Iterator[Case]:
    for name, arguments in TRAINING.items():
        yield name.removeprefix("train/"), partial(trained, arguments)


def trained(arguments: Sequence[str]) -> dict[str, Any]:
    """Everything that the runs of a command log, and digests of what they sampled and of the weights that they wrote."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        (directory / "configs").symlink_to(ROOT / "configs", target_is_directory=True)
        shapes().save(directory / "shapes.png")
        gradient().save(directory / "gradient.png")
        (directory / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in RECORDS), encoding="utf-8")
        for name, settings in SETTINGS.items():
            (directory / name).write_text(json.dumps(settings), encoding="utf-8")  # JSON is YAML
        done = mmada_command(arguments, directory)
        if done.returncode:
            return {"status": done.returncode, "err": done.stderr[-2000:]}
        runs = sorted((directory / "runs").rglob("metrics.jsonl"))
        return {"/".join(file.parent.relative_to(directory / "runs").parts): logged(file.parent) for file in runs}


def logged(run: Path) -> dict[str, Any]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    values: dict[str, Any] = {f"step {line['step']}": _numbers(line) for line in lines}
    for file in sorted((run / "samples").rglob("*")) if (run / "samples").is_dir() else []:
        if file.suffix == ".png":
            values[f"samples/{file.name}"] = pixels(Image.open(file))
        elif file.is_file():
            values[f"samples/{file.name}"] = sha(file.read_bytes())
    return {**values, "weights": weights(run / "model")}


def _numbers(line: Mapping[str, float]) -> str:
    """Numbers in the order of the log, without those that the clock gives. Their names may change, so they are not kept."""
    kept = (value for name, value in line.items() if "second" not in name and name != "step")
    return " ".join(repr(value) for value in kept)


GROUPS: Mapping[str, Callable[[], Iterator[Case]]] = {
    **{f"model/{name}": partial(model_cases, name) for name in MODELS},
    "command": command_cases,
    "serve": serve_cases,
    "train": training_cases,
}


# Recording and comparing.


def record(only: Sequence[str]) -> dict[str, Any]:
    """Case -> value, of the cases whose names begin with one of `only`; of all if there is none."""
    values: dict[str, Any] = {}
    for group, cases in GROUPS.items():
        if only and not any(group.startswith(prefix) or prefix.startswith(group) for prefix in only):
            continue
        begin = time.monotonic()
        for name, compute in cases():
            case = f"{group}/{name}"
            if not only or any(case.startswith(prefix) for prefix in only):
                values[case] = outcome(compute) if group.startswith("model/") else compute()
        print(f"{group}: {time.monotonic() - begin:.0f} s", file=sys.stderr)
    return values


def about() -> dict[str, str]:
    return {"torch": torch.__version__, "python": platform.python_version(), "machine": f"{platform.machine()} {_processor()}"}


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    )
    return names[0] if names else platform.processor()


def leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every value that is no container, with its dotted place."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from leaves(part, f"{name} . {key}")
    elif isinstance(value, list):
        for i, part in enumerate(value):
            yield from leaves(part, f"{name} . {i}")
    else:
        yield name, value


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(place, before, after) of everything that is not the same, or is only in one of them."""
    sides = [{place: leaf for case, value in side.items() for place, leaf in leaves(value, case)} for side in (before, after)]
    nothing = "(nothing)"
    pairs = ((place, sides[0].get(place, nothing), sides[1].get(place, nothing)) for place in {**sides[0], **sides[1]})
    return [(place, old, new) for place, old, new in pairs if old != new]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("do", choices=("record", "compare"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--only", nargs="+", default=[], metavar="PREFIX", help="only cases whose names begin so")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.do == "record":
        values = record(options.only)
        options.file.write_text(json.dumps({"about": about(), "cases": values}, indent=1) + "\n", encoding="utf-8")
        print(f"{len(values)} cases of {ROOT} in {options.file}")
        return 0
    saved = json.loads(options.file.read_text(encoding="utf-8"))
    if saved["about"] != about():
        print(f"warning: recorded with {saved['about']}, now {about()}; digests may differ for that alone", file=sys.stderr)
    before = {case: value for case, value in saved["cases"].items() if not options.only or case.startswith(tuple(options.only))}
    if not before:
        print(f"--only {' '.join(options.only)} names no case of {options.file}; leave it out, or name one", file=sys.stderr)
        return 2
    found = differences(before, record(options.only))
    for place, old, new in found:
        print(f"{place}\n  before  {old}\n  now     {new}")
    print(f"{len(before)} cases, {len(found)} values differ ({ROOT})")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
