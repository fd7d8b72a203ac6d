"""`mmada doctor`: is everything here that the package needs, and what would add the rest?

    requirements   the package's own metadata says which versions it needs; the installed ones are compared, not imported
    devices        torch is imported, and one small product in each precision shows what a device can compute
    models         the headers of the checkpoints that ship with the package are read
    hub cache      where downloads go, whether this user may write there, and how much room is left

Exit status 0: the core works. Exit status 1: something that is required is missing or broken. An extra is never required.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from packaging.requirements import Requirement

__all__ = ["Check", "Needs", "diagnose", "doctor"]

Status = Literal["ok", "warning", "failed"]
_SHOWN = 6
"""faults of an extra that are listed on a terminal"""
_PACKAGE = "mmada"
_MARKS: dict[Status, str] = {"ok": "ok", "warning": "--", "failed": "!!"}


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report."""

    section: str
    """requirements, devices, extras, models or storage"""
    name: str
    """what was looked at: a distribution, a device, an extra, a model, a directory"""
    status: Status
    """failed: the core does not work without it; warning: only a part of the package does not"""
    found: str
    """what is there, in a few words"""
    remedy: str = ""
    """the command or the step that mends it; empty if nothing needs to be done"""


@dataclass(frozen=True, slots=True)
class Needs:
    """What the metadata of a distribution ask for."""

    core: tuple[Requirement, ...]
    """always needed on this platform"""
    extras: dict[str, tuple[Requirement, ...]]
    """extra -> what it adds to the core; an extra that names other extras includes theirs"""

    @classmethod
    def read(cls, distribution: metadata.Distribution) -> Needs:
        """From the `Requires-Dist` and `Provides-Extra` fields of an installed distribution."""
        from packaging.requirements import Requirement

        name = distribution.metadata["Name"]
        required = [Requirement(line) for line in distribution.requires or ()]

        def of(extra: str) -> tuple[Requirement, ...]:
            found: dict[str, Requirement] = {}
            for one in required:
                if one.marker is not None and not one.marker.evaluate({"extra": extra}):
                    continue
                parts = [part for inner in sorted(one.extras) for part in of(inner)] if one.name == name else [one]
                found.update((part.name, part) for part in parts)
            return tuple(found.values())

        core = of("")
        names = distribution.metadata.get_all("Provides-Extra") or []
        return cls(core, {extra: tuple(one for one in of(extra) if one not in core) for extra in names})


def doctor(as_json: Annotated[bool, typer.Option("--json", help="As JSON on standard output.")] = False) -> None:
    """Check versions, devices, extras, built-in models and the download cache."""
    import json

    checks = diagnose()
    works = all(check.status != "failed" for check in checks)
    if as_json:
        typer.echo(json.dumps({"works": works, "checks": [asdict(check) for check in checks]}, indent=2))
    else:
        typer.echo("\n".join(_lines(checks)))
        typer.echo("\nThe core works." if works else "\nThe core does not work; mend the lines marked !!.")
    if not works:
        raise typer.Exit(1)


def diagnose() -> list[Check]:
    """Everything that `mmada doctor` reports, section by section."""
    return [*_requirements(), *_devices(), *_models(), *_storage()]


def _lines(checks: list[Check]) -> Iterator[str]:
    width = max(len(check.name) for check in checks)
    section = ""
    for check in checks:
        if check.section != section:
            section = check.section
            yield section
        yield f"  {_MARKS[check.status]}  {check.name:<{width}}  {_shortened(check.found)}".rstrip()
        if check.remedy:
            yield f"      {'':<{width}}  {check.remedy}"


def _shortened(found: str) -> str:
    """The first of many faults, and how many there are; --json has all of them."""
    faults = found.split("; ")
    return found if len(faults) <= _SHOWN else f"{'; '.join(faults[:_SHOWN])}; and {len(faults) - _SHOWN} more"


def _requirements() -> Iterator[Check]:
    """Python and each required distribution, then each extra with what it lacks."""
    import platform

    from packaging.specifiers import SpecifierSet

    import mmada

    try:
        distribution = metadata.distribution(_PACKAGE)
    except metadata.PackageNotFoundError:
        found = f"{mmada.__version__}, run from a folder and not installed"
        yield Check("requirements", _PACKAGE, "failed", found, "in a checkout: pip install -e .")
        return
    yield Check("requirements", _PACKAGE, "ok", mmada.__version__)
    asked, python = distribution.metadata["Requires-Python"] or "", platform.python_version()
    is_new_enough = SpecifierSet(asked).contains(python, prereleases=True)
    remedy = "" if is_new_enough else f"make an environment with Python {asked}"
    yield Check("requirements", "python", "ok" if is_new_enough else "failed", f"{python} (needs {asked})", remedy)
    needs = Needs.read(distribution)
    for one in needs.core:
        fault = _fault(one)
        if fault:
            yield Check("requirements", one.name, "failed", fault, f"pip install '{one.name}{one.specifier}'")
        else:
            yield Check("requirements", one.name, "ok", metadata.version(one.name) + (f" (needs {one.specifier})" if one.specifier else ""))
    for extra, added in needs.extras.items():
        faults = [f"{one.name}: {fault}" for one in added if (fault := _fault(one))]
        remedy = _command(distribution, extra) if faults else ""
        yield Check("extras", extra, "warning" if faults else "ok", "; ".join(faults) or "complete", remedy)


def _fault(requirement: Requirement) -> str:
    """What is wrong with an installed distribution, in a few words; empty if it is as asked for."""
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return f"missing (needs {requirement.specifier})" if requirement.specifier else "missing"
    if requirement.specifier.contains(version, prereleases=True):
        return ""
    return f"{version} does not satisfy {requirement.specifier}"


def _command(distribution: metadata.Distribution, extra: str) -> str:
    """The pip command that adds an extra, in the way in which the package was installed."""
    import json
    from urllib.parse import urlparse
    from urllib.request import url2pathname

    origin: dict[str, Any] = json.loads(distribution.read_text("direct_url.json") or "{}")
    if origin.get("dir_info", {}).get("editable"):
        return f"pip install -e '{url2pathname(urlparse(origin['url']).path)}[{extra}]'"
    return f"pip install '{origin['url']}[{extra}]'" if "url" in origin else f"pip install '{_PACKAGE}[{extra}]'"


def _devices() -> Iterator[Check]:
    """The CPU and each accelerator with memory and precisions. A torch that cannot be imported is a failure."""
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Check("devices", "torch", "failed", f"cannot be imported: {error}", "pip install --force-reinstall torch")
        return
    memory = f", {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.1f} GB memory" if hasattr(os, "sysconf") else ""
    yield _device("cpu", f"{torch.get_num_threads()} threads{memory}")
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        yield _device(f"cuda:{index}", f"{properties.name}, {properties.total_memory / 1e9:.1f} GB memory")
    if torch.backends.mps.is_available():
        yield _device("mps", "Apple GPU")
    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        yield Check("devices", "GPU", "ok", f"none that torch {torch.__version__} can use; the CPU is used")


def _device(device: str, what: str) -> Check:
    """What a device computes: 2 x 3 in each precision that the package offers."""
    import torch

    able, broken = [], ""
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        try:
            product = torch.full((1, 1), 2.0, device=device, dtype=dtype) @ torch.full((1, 1), 3.0, device=device, dtype=dtype)
            if product.item() == 6:
                able.append(str(dtype).removeprefix("torch."))
        except (RuntimeError, TypeError) as error:
            broken = broken or str(error).splitlines()[0]
    if "float32" in able:
        return Check("devices", device, "ok", f"{what}, {' '.join(able)}")
    remedy = "reinstall torch" if device == "cpu" else "use --device cpu, or update the driver"
    return Check("devices", device, "failed" if device == "cpu" else "warning", f"{what}, cannot compute: {broken}", remedy)


def _models() -> Iterator[Check]:
    """Each checkpoint that ships with the package; the headers of its weights are read."""
    from mmada.errors import CheckpointError
    from mmada.hub import checkpoint

    for name in checkpoint.built_in():
        try:
            shapes = checkpoint.shapes(checkpoint.find(name))
        except CheckpointError as error:
            yield Check("models", name, "failed", str(error), "install the package again")
            continue
        yield Check("models", name, "ok", f"{len(shapes)} tensors")
    if not checkpoint.built_in():
        yield Check("models", "built-in", "failed", "none was found", "install the package again")


def _storage() -> Iterator[Check]:
    """Where the hub's client puts downloads. A built-in model needs none of it, so nothing here is a failure."""
    import shutil

    try:
        from huggingface_hub.constants import HF_HUB_CACHE, HF_HUB_OFFLINE
    except ImportError:
        found = "huggingface_hub is missing: only local and built-in models"
        yield Check("storage", "hub cache", "warning", found, "pip install huggingface_hub")
        return
    cache = Path(HF_HUB_CACHE)
    there = next(path for path in (cache, *cache.parents) if path.exists())
    may_write = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    found = f"{cache}, {'writable' if may_write else 'not writable'}, {shutil.disk_usage(there).free / 1e9:.1f} GB free"
    yield Check("storage", "hub cache", "ok" if may_write else "warning", found, "" if may_write else "set HF_HOME to a directory of yours")
    if HF_HUB_OFFLINE:
        yield Check("storage", "downloads", "warning", "off: HF_HUB_OFFLINE is set", "unset HF_HUB_OFFLINE to download models")
