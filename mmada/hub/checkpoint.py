"""What lies in a checkpoint directory, and whether it fits.

    find(name)       a directory as it is, a model that ships with the package, or a hub name downloaded into the hub's cache -> Path
    shapes(path)     tensor name -> shape, read from the headers of the safetensors files, no weights are loaded
    check(path, …)   every missing, unexpected and misshapen tensor in one CheckpointError

A safetensors file is an 8-byte header length, a JSON header with shapes and offsets, and the data. A file that is shorter
than its header says was written only half.
"""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmada.errors import CheckpointError, InputError

__all__ = [
    "CONFIG_NAME",
    "DEFAULT_MODEL",
    "HUB_KEYWORDS",
    "built_in",
    "check",
    "compare",
    "find",
    "local",
    "read_config",
    "saving",
    "shapes",
    "weight_files",
    "writing",
]

DEFAULT_MODEL = "mmada-emoji-chat"
"""What every command uses unless it is told otherwise."""


CONFIG_NAME = "config.json"
INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
PICKLE_NAME = "pytorch_model.bin"
_PATTERNS = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", PICKLE_NAME)
_SHOWN = 12


_BUILT_IN = Path(__file__).parents[1] / "checkpoints"


def built_in() -> list[str]:
    """Names of the checkpoints that ship with the package."""
    return sorted(path.parent.name for path in _BUILT_IN.glob(f"*/{CONFIG_NAME}"))


HUB_KEYWORDS = ("revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder")
"""Of transformers' `from_pretrained`, what `find` takes."""


def find(
    name: str | os.PathLike[str],
    *,
    revision: str | None = None,
    patterns: Sequence[str] = _PATTERNS,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    subfolder: str = "",
) -> Path:
    """The local directory of a checkpoint, or of a built-in one; a hub name (`owner/name`) is downloaded with a progress bar.

    subfolder  of the checkpoint, such as image_tokenizer; the other keywords are those of the hub's client
    Raises CheckpointError if there is no such directory and no such hub repository, or it cannot be downloaded.
    """
    hub = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only, "force_download": force_download}
    directory = _root(name, revision, patterns, hub) / subfolder
    if not directory.is_dir():
        raise CheckpointError(f"subfolder={subfolder!r} is not in model={str(name)!r}; leave it out, or give one that is")
    return directory


def local(name: str | os.PathLike[str]) -> Path | None:
    """The directory of a checkpoint that is here; None for a hub name, which `find` would download.

    Raises CheckpointError for what is neither.
    """
    if not isinstance(name, str | os.PathLike):
        raise CheckpointError(f"model={name!r} is of type {type(name).__name__}; give a directory, a hub name, or {_names()}")
    if not str(name):
        raise CheckpointError(f"model='' is empty; give a directory, a hub name such as Gen-Verse/MMaDA-8B-MixCoT, or {_names()}")
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise CheckpointError(f"model={str(name)!r} is a file; give the directory that holds {CONFIG_NAME} and the weights")
    text = str(name)
    if text in built_in():
        return _BUILT_IN / text
    if found := re.match(r"https?://[^/]+/([\w.-]+/[\w.-]+)", text):
        raise CheckpointError(f"model={text!r} is an address; give the hub name in it, {found[1]!r}")
    if text.count("/") != 1 or text.startswith((".", "/", "~")):
        raise CheckpointError(
            f"model={text!r} is no directory; give an existing directory, a hub name such as Gen-Verse/MMaDA-8B-MixCoT, or {_names()}"
        )
    return None


def _root(name: str | os.PathLike[str], revision: str | None, patterns: Sequence[str], hub: Mapping[str, Any]) -> Path:
    if (found := local(name)) is not None:
        return found
    text = str(name)

    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(text, revision=revision, allow_patterns=list(patterns), **hub))
    except errors.GatedRepoError as error:
        raise CheckpointError(
            f"model={text!r} asks for consent; give it on the model's page of the hub, then log in (hf auth login)"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(
            f"revision={revision!r} is not in the repository {text!r}; leave it out, or give a branch, tag or commit"
        ) from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise CheckpointError(
            f"model={text!r} is neither a directory nor a repository of the hub; check the spelling, and log in if it is private"
        ) from error
    except (errors.LocalEntryNotFoundError, errors.HfHubHTTPError) as error:
        raise CheckpointError(
            f"model={text!r} is not in the local cache and the hub cannot be reached; go online once, or copy the files and give their directory"
        ) from error
    except Exception as error:  # a full disk, a broken connection of the client's own kinds
        raise CheckpointError(
            f"model={text!r} could not be downloaded ({type(error).__name__}: {error}); mend that and try again"
        ) from error


def _names() -> str:
    return "a built-in name: " + ", ".join(["debug", *(name for name in built_in() if not name.endswith("-tokenizer"))])


def read_config(directory: Path) -> dict[str, Any]:
    """What config.json says. Raises CheckpointError if it is missing or not a JSON object."""
    file = directory / CONFIG_NAME
    if not file.exists() and (directory / "adapter_config.json").exists():
        raise CheckpointError(
            f"{directory} is an adapter without its model; load it by MMaDA.from_pretrained, and save that as a checkpoint"
        )
    if not file.exists():
        raise CheckpointError(f"{directory} has no {CONFIG_NAME}; {_instead(directory)}")
    values = _json(file)
    if not isinstance(values, dict):
        raise CheckpointError(f"{file} is not a JSON object; copy or download it again")
    return values


def _instead(directory: Path) -> str:
    """What to give for a directory that is no checkpoint: the model of a run, or what a save becomes."""
    if (directory / "model" / CONFIG_NAME).exists():
        return f"it looks like a run, whose model is {directory / 'model'}"
    if (directory.parent / "config.yaml").exists() or (directory.parent.parent / "config.yaml").exists():
        return f"if it is a save of a run, make a model of it (mmada convert {directory} OUT)"
    return "is it the directory of a checkpoint?"


def weight_files(directory: Path, *, variant: str | None = None) -> list[Path]:
    """The safetensors files of a directory, the single one or those of its index, in its order: transformers reads them in this order, too.

    variant  part of their names, such as fp16 in model.fp16.safetensors
    Raises CheckpointError if there are none, or the index names files that are not there.
    """
    index, single = (directory / _named(name, variant) for name in (INDEX_NAME, SINGLE_NAME))
    if single.exists():
        return [single]
    if not index.exists():
        if known := _variants(directory):
            named = ", ".join(f"variant={name!r}" for name in known)
            raise CheckpointError(f"{directory} has no weights of variant={variant!r}; there are {named}")
        raise CheckpointError(f"{directory} has neither {SINGLE_NAME} nor {INDEX_NAME}; is it the directory of a checkpoint?")
    try:
        names = sorted(set(_json(index)["weight_map"].values()))
    except (AttributeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{index} has no weight_map from tensors to files; copy or download it again") from error
    lost = [name for name in names if not (directory / name).exists()]
    if lost or not names:
        raise CheckpointError(
            f"{index} names {len(names)} files, of which {len(lost)} are missing ({', '.join(lost[:_SHOWN])}); copy or download the checkpoint again"
        )
    return [directory / name for name in names]


def _variants(directory: Path) -> list[str]:
    """Variants of which there are weights."""
    found = (re.fullmatch(r"model\.(?:safetensors\.index\.)?(\w+)\.(?:safetensors|json)", file.name) for file in directory.glob("model.*"))
    return sorted({match[1] for match in found if match is not None} - {"index", "safetensors"})


def _named(name: str, variant: str | None) -> str:
    """model.safetensors -> model.fp16.safetensors, as transformers names variants."""
    stem, dot, suffix = name.rpartition(".")
    return name if variant is None else f"{stem}.{variant}{dot}{suffix}"


def shapes(directory: Path, *, variant: str | None = None) -> dict[str, tuple[int, ...]]:
    """Tensor name -> shape over all weight files of a directory: safetensors, or else a pickled state dict.

    Raises CheckpointError if a file is truncated or of another format.
    """
    found: dict[str, tuple[int, ...]] = {}
    pickled = directory / PICKLE_NAME
    if pickled.exists() and not any(directory.glob("*.safetensors")):
        return _pickle_shapes(pickled)
    for file in weight_files(directory, variant=variant):
        found.update(_header_shapes(file))
    return found


def compare(found: Mapping[str, Sequence[int]], expected: Mapping[str, Sequence[int]], *, optional: Iterable[str] = ()) -> list[str]:
    """One line per difference: missing, unexpected and misshapen tensors. `optional` names may be missing."""
    optional = set(optional)
    missing = [f"missing     {name} {tuple(expected[name])}" for name in expected if name not in found and name not in optional]
    unexpected = [f"unexpected  {name} {tuple(found[name])}" for name in found if name not in expected]
    wrong = [
        f"wrong shape {name} {tuple(found[name])}, the configuration asks for {tuple(expected[name])}"
        for name in expected
        if name in found and tuple(found[name]) != tuple(expected[name])
    ]
    return missing + unexpected + wrong


def check(directory: Path, expected: Mapping[str, Sequence[int]], *, optional: Iterable[str] = (), variant: str | None = None) -> None:
    """Raise one CheckpointError that lists every tensor by which a directory differs from `expected` (name -> shape)."""
    differences = compare(shapes(directory, variant=variant), expected, optional=optional)
    if differences:
        raise CheckpointError(
            f"{directory} does not fit its {CONFIG_NAME} in {len(differences)} of {len(expected)} tensors; "
            "use the configuration that the weights were saved with:\n  " + "\n  ".join(differences)
        )


@contextmanager
def writing(directory: Path, name: str = "directory") -> Iterator[None]:
    """Around what writes into a directory, which is made.

    Raises InputError, for the argument `name`, if it cannot be made, or a file in it cannot be written.
    """
    from safetensors import SafetensorError

    try:
        directory.mkdir(parents=True, exist_ok=True)
        yield
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        if reason is None:  # not of the file system: of an upload
            raise
        raise InputError(f"{name}={str(directory)!r} cannot be written ({reason}); give a new directory, or make room in it") from error


@contextmanager
def saving(directory: Path) -> Iterator[None]:
    """Around what writes weights into a directory: afterwards no older ones in the other form, one file or several, are left beside them,
    which would be read instead. Whoever may read config.json may read the weights, which safetensors writes for their owner alone.

    Raises InputError as `writing` does.
    """
    with writing(directory), _one_form(directory):
        yield


@contextmanager
def _one_form(directory: Path) -> Iterator[None]:
    forms = directory / SINGLE_NAME, directory / INDEX_NAME

    def stamp(file: Path) -> tuple[int, int] | None:
        return (file.stat().st_ino, file.stat().st_mtime_ns) if file.exists() else None

    before = [stamp(file) for file in forms]
    yield
    written = [stamp(file) != then for file, then in zip(forms, before, strict=True)]
    for file, is_new in zip(forms, written, strict=True):
        if any(written) and not is_new:
            file.unlink(missing_ok=True)
    config = directory / CONFIG_NAME
    for file in directory.glob("*.safetensors") if config.exists() else ():
        file.chmod(config.stat().st_mode & 0o666)


def _header_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    try:
        size, stream = file.stat().st_size, file.open("rb")
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read ({error.strerror}); ask its owner, or copy it again") from error
    with stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > size - 8:
            raise CheckpointError(f"{file} ({size} bytes) is truncated or not a safetensors file; copy or download it again")
        try:
            header = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            found = {name: tuple(entry["shape"]) for name, entry in header.items()}
            end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{file} has an unreadable header; copy or download it again") from error
    if size != 8 + length + end:
        raise CheckpointError(
            f"{file} has {size} bytes, its header promises {8 + length + end}; it was written or copied only in part, fetch it again"
        )
    return found


def _pickle_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """The published image tokenizer comes as a pickle; only tensors are accepted, no code is run."""
    import torch

    try:
        return {name: tuple(tensor.shape) for name, tensor in torch.load(file, map_location="meta", weights_only=True).items()}
    except (AttributeError, EOFError, OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{file} is truncated or not a state dict; copy or download it again") from error


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read ({error.strerror}); ask its owner, or copy it again") from error
    except ValueError as error:
        raise CheckpointError(f"{file} is not valid JSON ({error}); copy or download it again") from error
