"""Build the wheel and the sdist, look at what is in them, install the wheel in a new environment and try it.

    python scripts/check_package.py            # every day: the new environment borrows the dependencies of this one
    python scripts/check_package.py --clean    # before a release: pip fetches the dependencies; a gigabyte and minutes

Both environments have what the wheel's metadata asks for, and nothing else. The borrowed one has links to those packages as they are
installed here. Both find a file that the wheel lacks, a wrong entry point, code that only runs from a checkout, and a dependency that
pyproject.toml forgets. The clean one also finds a range of versions whose newest does not work.

Needs hatchling, build and twine (the extra dev). Exit status 1: something is wrong, and said.
"""

from __future__ import annotations

import argparse
import email
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Iterable, Iterator
from email.message import Message
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
LIMIT = 100 * 10**6
"""bytes that PyPI takes for one file, unless a project asks for more"""
NEEDED = (
    "mmada/py.typed",
    "mmada/checkpoints/mmada-emoji-chat/model.safetensors",
    "mmada/checkpoints/mmada-emoji-max/model.safetensors",
    "mmada/serve/web/index.html",
    "mmada/worlds/emoji/sprites.png",
    "mmada/worlds/emoji/sprites_large.webp",
)
GROUPS = ("console_scripts", "lm_eval.models", "lmms_eval.models", "mmada.worlds")
ALSO_NEEDED_TO_BUILD = ("LICENSE", "README.md", "hatch_build.py", "pyproject.toml")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clean", action="store_true", help="fetch the dependencies anew instead of borrowing them")
    parser.add_argument("-o", "--out", type=Path, help="where wheel and sdist are left; default: nowhere")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = arguments.out or Path(folder) / "dist"
        wheel, sdist = build(out)
        faults = [*faults_of_wheel(wheel), *faults_of_sdist(sdist)]
        if faults:
            sys.exit("\n".join(faults))
        try_out(wheel, Path(folder), clean=arguments.clean)


def build(out: Path) -> tuple[Path, Path]:
    """The sdist, and the wheel made of the sdist, so that the sdist is known to be enough."""
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT), quiet=True)
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    run(sys.executable, "-m", "twine", "--no-color", "check", "--strict", str(wheel), str(sdist), quiet=True)
    return wheel, sdist


def faults_of_wheel(wheel: Path) -> Iterator[str]:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (info,) = {name.split("/")[0] for name in names if ".dist-info/" in name}
        metadata = email.message_from_bytes(archive.read(f"{info}/METADATA"))
        entry_points = archive.read(f"{info}/entry_points.txt").decode()
    yield from faults_of_size(wheel)
    for name in names:
        if name.split("/")[0] not in ("mmada", info) or "__pycache__" in name:
            yield f"{name} does not belong into the wheel"
    for name in (*NEEDED, f"{info}/licenses/LICENSE", f"{info}/licenses/mmada/worlds/emoji/ATTRIBUTION.md"):
        if name not in names:
            yield f"{name} is missing in the wheel"
    for group in GROUPS:
        if f"[{group}]" not in entry_points:
            yield f"the entry points {group} are missing in the wheel"
    yield from faults_of_metadata(metadata)


def faults_of_metadata(metadata: Message) -> Iterator[str]:
    for field in ("Summary", "Author", "License-Expression", "Requires-Python", "Keywords", "Classifier", "Description-Content-Type"):
        if not metadata[field]:
            yield f"the metadata has no {field}"
    for target in re.findall(r"\]\(([^)]*)\)", metadata.get_payload()):
        if not re.match(r"https?://|mailto:|#", target):
            yield f"the long description has the relative link {target!r}, which leads nowhere on a package index"


def faults_of_sdist(sdist: Path) -> Iterator[str]:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    yield from faults_of_size(sdist)
    for name in (*NEEDED, *ALSO_NEEDED_TO_BUILD):
        if name not in names:
            yield f"{name} is missing in the sdist"


def faults_of_size(file: Path) -> Iterator[str]:
    size = file.stat().st_size
    print(f"{file.name}: {size / 1e6:.1f} MB")
    if size > LIMIT:
        yield f"{file.name} has {size / 1e6:.1f} MB, and PyPI takes {LIMIT / 1e6:.0f}; move weights out of the package, or ask for more"


def try_out(wheel: Path, folder: Path, *, clean: bool) -> None:
    """Install the wheel in a new environment, and use it from a folder that has nothing of ours."""
    environment, empty = folder / "environment", folder / "empty"
    empty.mkdir()
    venv.create(environment, with_pip=clean)
    bin = environment / ("Scripts" if os.name == "nt" else "bin")
    python = bin / "python"
    if clean:
        run(str(python), "-m", "pip", "install", "--quiet", str(wheel))
    else:
        run(sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index", str(wheel))
        with zipfile.ZipFile(wheel) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
            wanted = email.message_from_bytes(archive.read(name)).get_all("Requires-Dist", [])
        own = Path(sysconfig.get_path("purelib", vars={"base": str(environment), "platbase": str(environment)}))
        for package in needed(map(Requirement, wanted)).values():
            borrow(package, own)
    where = run(str(python), "-c", "import mmada; print(mmada.__file__)", cwd=empty, quiet=True)
    if environment.resolve() not in Path(where.strip()).resolve().parents:
        sys.exit(f"mmada was imported from {where.strip()}, not from the wheel")
    run(str(bin / "mmada"), "doctor", cwd=empty, quiet=True)
    answer = run(str(bin / "mmada"), "chat", "What is 3 + 4?", cwd=empty, quiet=True)
    run(str(bin / "mmada"), "draw", "a cat", "--seed", "3", "-o", "cat.png", cwd=empty, quiet=True)
    if "7" not in answer or not (empty / "cat.png").read_bytes().startswith(b"\x89PNG"):
        sys.exit(f"the installed package answers {answer!r}, and draws no PNG or a wrong one")
    print("the installed wheel answers and draws; mmada doctor is content")


def needed(requirements: Iterable[Requirement]) -> dict[str, Distribution]:
    """Name of a package -> it, of all that requirements without a condition, or with one that holds here, ask for in the end."""
    found: dict[str, Distribution] = {}
    waiting = [(requirement, "") for requirement in requirements]
    seen: set[tuple[str, str]] = set()
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        package = found.setdefault(requirement.name.lower(), distribution(requirement.name))
        for also in ("", *requirement.extras):
            if (key := (requirement.name.lower(), also)) not in seen:
                seen.add(key)
                waiting += [(Requirement(text), also) for text in package.requires or ()]
    return found


def borrow(package: Distribution, folder: Path) -> None:
    """Links in a folder to what a package has installed beside others; its commands are left out."""
    for name in {file.parts[0] for file in package.files or () if file.parts[0] != ".."}:
        target = folder / name
        if not target.exists():
            target.symlink_to(Path(str(package.locate_file(name))).resolve())


def run(*command: str, cwd: Path | None = None, quiet: bool = False) -> str:
    """What a command prints. Ends this program with what it said if it fails."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed with status {done.returncode}:\n{done.stdout}{done.stderr}")
    if not quiet and done.stdout:
        print(done.stdout, end="")
    return done.stdout


if __name__ == "__main__":
    main()
