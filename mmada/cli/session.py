"""What the verbs have in common while they run: loading a model, progress on standard error, errors, writing pictures."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL import Image

    from mmada.cli.options import Loading
    from mmada.pipeline import MMaDA, Progress

__all__ = [
    "check_data",
    "check_dtype",
    "check_folder",
    "check_model",
    "check_output",
    "check_picture",
    "check_trace",
    "check_world",
    "check_writable",
    "free",
    "load",
    "now_and_then",
    "printable",
    "remarks",
    "report",
    "save",
    "slower",
    "watched",
    "wrote",
]

remarks = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
"""Standard error, for everything that is not the result. What users or models wrote is never read as markup, and paths are never wrapped."""


def load(name: str, loading: Loading, *, cache: str | None = None) -> MMaDA:
    """The model of a command. Raises the package's errors."""
    from mmada.errors import InputError

    check_model(name, loading.dtype)
    if loading.quantize is not None and loading.quantize not in ("int8", "int4"):
        raise InputError(f"quantize={loading.quantize!r} is unknown; use int8 or int4, or leave it out")

    from mmada.pipeline import MMaDA

    if name == "debug":
        remarks.print("model debug: random weights, its answers and drawings make no sense", style="dim")
    model = MMaDA.from_pretrained(name, **asdict(loading))
    if model.tensor_parallel > 1:
        n, held = model.tensor_parallel, sum(weight.numel() * weight.element_size() for weight in model.model.parameters())
        remarks.print(
            f"{n} processes, tensor parallelism, {model.model.device.type}; each holds 1/{n} of every matrix and of every KV cache, "
            f"{held / 1e9:.3g} GB of weights; the image tokenizer is with the first"
        )
    if (remark := slower(model)) is not None:
        remarks.print(remark, style="dim")
    return model if cache is None else model.use(cache=cache)


def slower(model: MMaDA) -> str | None:
    """What is to be said of a model in fewer bits than float32 on a CPU whose products in them take longer, by measurement; else None."""
    from mmada.model.precision import product_gain

    backbone = model.model
    if backbone.device.type != "cpu" or backbone.dtype.itemsize >= 4 or (gain := product_gain(backbone.config, backbone.dtype)) >= 1:
        return None
    name = str(backbone.dtype).removeprefix("torch.")
    return f"products in {name} take {1 / gain:.1f} times as long as in float32 on this CPU; --dtype float32 is faster, and takes twice the memory"


def check_model(name: str, dtype: str = "auto") -> None:
    """Raise the package's errors for what is no checkpoint, or no precision, without importing torch, which takes longest."""
    from mmada.hub import checkpoint
    from mmada.hub.adapters import adapter_of

    check_dtype(dtype)
    if name != "debug" and (directory := checkpoint.local(name)) is not None and adapter_of(directory) is None:
        checkpoint.read_config(directory)


def check_picture(path: Path) -> None:
    """Raise ImageError, as reading it would, if a picture is not there; without importing what reads pictures."""
    from mmada.errors import ImageError

    address = re.match(r"(?i)([a-z][a-z0-9+.-]+):/(?=[^/])(.*)", str(path))  # a Path has one slash of two or three
    if address is not None and not path.exists():
        given = f"{address[1]}:{'///' if address[1].lower() == 'file' else '//'}{address[2]}"
        raise ImageError(f"image={given!r} is an address, and addresses are not fetched; download it and give the path of the file")
    try:
        path.expanduser().open("rb").close()
    except (OSError, ValueError, RuntimeError) as error:
        raise ImageError(f"image={str(path)!r} cannot be read ({getattr(error, 'strerror', None) or error}); check the path") from error


_ENDINGS = (".jsonl", ".json", ".gz", ".tar", ".parquet", ".csv")
"""Of files of records: another name may be a folder, or a data set of the hub."""


def check_data(path: str) -> None:
    """Raise InputError, as reading it would, if a file of records is not there; without importing what reads records."""
    from mmada.data.paths import expand_paths, is_address
    from mmada.errors import InputError

    if path.endswith(_ENDINGS) and not is_address(path):
        for file in expand_paths(path):
            if not file.exists():
                raise InputError(f"data file {str(file)!r} does not exist; check the path")


def check_world(name: str) -> None:
    """Raise InputError, as finding it would, for a world that is not installed; without importing one."""
    from mmada.data.find_world import installed_worlds, unknown_world

    if ":" not in name and name not in installed_worlds():
        raise unknown_world(name)


def check_folder(path: Path, name: str) -> None:
    """Raise InputError, for the argument `name`, if a folder could not be made or written there. Makes nothing."""
    import os

    from mmada.errors import InputError

    there = next(one for one in (path, *path.absolute().parents) if one.exists())
    if not there.is_dir():
        raise InputError(f"{name}={str(path)!r} cannot be a folder: {str(there)!r} is a file; give another path")
    if not os.access(there, os.W_OK):
        raise InputError(f"{name}={str(path)!r} cannot be written: {str(there)!r} is read-only; give another path")


def check_dtype(dtype: str) -> None:
    """Raise InputError for a precision that is not offered."""
    from mmada.errors import InputError

    if dtype not in ("auto", "float32", "bfloat16", "float16"):
        raise InputError(f"dtype={dtype!r} is unknown; use auto, float32, bfloat16 or float16")


@contextmanager
def watched(what: str, trace: Path | None = None, *, force: bool = False) -> Iterator[Callable[[Progress], None] | None]:
    """An `on_step` that shows how far a request is, if somebody looks, and records its trace, which is written at the end."""
    if trace is None:
        with _progress_bar(what) as show:
            yield show
        return
    from mmada.pipeline.trace import Recorder

    check_output(trace, "trace")
    Recorder.check(trace)
    recorder = Recorder()
    with _progress_bar(what) as show:

        def on_step(progress: Progress) -> None:
            recorder(progress)
            if show is not None:
                show(progress)

        yield on_step
    recorder.save(target := free(trace, force=force))
    wrote(target, trace, f"{len(recorder.frames)} frames")


@contextmanager
def _progress_bar(what: str) -> Iterator[Callable[[Progress], None] | None]:
    if not remarks.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns: tuple[Any, ...] = (
        SpinnerColumn(),
        TextColumn(what),
        BarColumn(),
        TextColumn("{task.fields[round]} steps"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=remarks, transient=True) as bar:
        task = bar.add_task(what, total=1.0, round=0)
        yield lambda progress: bar.update(task, completed=progress.fraction, round=progress.round)


def now_and_then(seconds: float = 30) -> Callable[[float, str], None]:
    """How far a long job is, where no bar can be shown: a line with a share and what is done, at most every so many seconds."""
    from time import monotonic

    last = monotonic()

    def tell(share: float, what: str) -> None:
        nonlocal last
        if monotonic() - last >= seconds:
            last = monotonic()
            remarks.print(f"{share:4.0%} {what}")

    return tell


def check_output(path: Path, name: str = "output") -> None:
    """Raise InputError, for the argument `name`, if a picture could not be written there, before any work is done for it."""
    from PIL import Image

    from mmada.errors import InputError

    if Image.registered_extensions().get(path.suffix.lower()) not in Image.SAVE:
        raise InputError(f"{name}={str(path)!r} ends in {path.suffix!r}, which is no picture format; end it in .png or .jpg")
    check_writable(path, name)


def check_trace(path: Path | None) -> None:
    """Raise InputError if a trace was asked for and could not be written there."""
    if path is not None:
        check_output(path, "trace")


def check_writable(path: Path, name: str) -> None:
    """Raise InputError, for the argument `name`, if a file could not be written there. Makes its directory."""
    import os

    from mmada.errors import InputError

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise InputError(f"{name}={str(path)!r} cannot be written: {str(path.parent)!r} is a file; give another path") from error
    except OSError as error:
        raise InputError(f"{name}={str(path)!r} cannot be written ({error.strerror}); give another path") from error
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InputError(f"{name}={str(path)!r} is not writable, or a directory; give another path")


def free(path: Path, *, force: bool) -> Path:
    """Where to write: the path itself, or, if a file is there that may not be replaced, the first free one with a number behind its name."""
    if force or not path.exists():
        return path
    return next(other for i in count(1) if not (other := path.with_stem(f"{path.stem}-{i}")).exists())


def wrote(path: Path, wanted: Path, what: str) -> None:
    """Say what was written, and why it has another name than it was to have."""
    remarks.print(f"wrote {path} ({what})" + ("" if path == wanted else f"; {wanted} exists, and --force replaces it"))


def save(image: Image.Image, path: Path, *, force: bool = False) -> None:
    """Write a picture; the format is that of the name's ending. Raises InputError if it cannot be written after all."""
    from mmada.errors import InputError

    target = free(path, force=force)
    try:
        image.save(target)
    except (OSError, ValueError) as error:
        raise InputError(f"output={str(path)!r} cannot be written ({error}); give another path") from error
    wrote(target, path, f"{image.width}x{image.height}")


_DIRECTIONS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Characters that turn the direction of writing."""


def printable(text: str) -> str:
    """Without what a terminal would obey, control characters and those that turn the direction of writing; line ends and tabs stay."""
    from unicodedata import category

    return "".join(c for c in text if c in "\n\t" or (category(c) != "Cc" and c not in _DIRECTIONS))


def report(error: Exception) -> int:
    """Say what went wrong; returns the exit status."""
    sys.stdout.flush()
    remarks.print(Text.assemble(("error: ", "bold red"), str(error)))
    return 1 if type(error).__name__ in ("EmptyAnswerError", "NotDrawnError") else 2
