"""The layer table of the architecture: who may import whom."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mmada"

# Layer of each room; a lower layer never imports a higher one.
LAYER = {
    "errors": 0,
    "diffusion": 1,
    "canvas": 1,
    "model": 2,
    "image": 2,
    "sampling": 3,
    "families": 3,
    "hub": 3,
    "generation": 4,
    "data": 4,
    "pipeline": 5,
    "train": 5,
    "rl": 6,
    "eval": 6,
    "serve": 6,
    "integrations": 6,
    "worlds": 7,
    "scale": 7,
    "cli": 8,
    "__main__": 8,
}
# Within a layer, who may import whom; everything else in one layer is apart.
BESIDE: set[tuple[str, str]] = {("__main__", "cli"), ("families", "sampling"), ("hub", "families"), ("hub", "sampling")}
THIRD_PARTY = {
    0: set(),
    1: {"torch"},
    2: {"torch", "safetensors", "numpy", "PIL"},
}
# The only files that may need transformers: its classes, and those who ask for them.
NEEDS_TRANSFORMERS = {
    "hub/configs.py",
    "hub/pretrained.py",
    "hub/processor.py",
    "hub/text_tokenizer.py",
    "rl/rewards/pictures.py",
}
STANDARD = set(__import__("sys").stdlib_module_names)


def unit(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


@cache
def imports(file: Path) -> set[str]:
    """Dotted names of everything a file imports, also inside functions and for type checking."""
    names: set[str] = set()
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} if node.module == "mmada" else {str(node.module)}
    return names


FILES = [file for file in sorted(PACKAGE.rglob("*.py")) if unit(file) != "__init__"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_go_down(file):
    own = unit(file)
    for name in imports(file):
        if not name.startswith("mmada"):
            continue
        other = [*name.split("."), "errors"][1]
        if other in (own, "__version__"):
            continue
        allowed = LAYER[other] < LAYER[own] or (own, other) in BESIDE
        assert allowed, f"{file.name} (layer {LAYER[own]}) imports mmada.{other} (layer {LAYER[other]})"


@pytest.mark.parametrize("file", [f for f in FILES if LAYER[unit(f)] <= 2], ids=lambda file: str(file.relative_to(PACKAGE)))
def test_lower_layers_need_little(file):
    roots = {name.split(".")[0] for name in imports(file)} - STANDARD - {"mmada"}
    assert roots <= THIRD_PARTY[LAYER[unit(file)]]


def test_few_files_need_transformers():
    found = {str(f.relative_to(PACKAGE)) for f in FILES if any(name.split(".")[0] == "transformers" for name in imports(f))}
    assert found <= NEEDS_TRANSFORMERS


def test_sampling_does_not_know_the_model():
    for file in (PACKAGE / "sampling").glob("*.py"):
        assert not any(name.startswith(("mmada.model", "transformers")) for name in imports(file))


def test_nothing_prints_below_the_command_line():
    for file in FILES:
        if unit(file) != "cli":
            calls = [n for n in ast.walk(tree(file)) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
            assert not [n.lineno for n in calls if n.func.id == "print"], file


CHECKPOINTS = re.compile(r"mmada-emoji-[a-z]+")
ARTWORK = re.compile(r"(noto[ -]|tw)emoji|emoji=False", re.IGNORECASE)
"""Names of the built-in checkpoints, and of the artwork that they draw, which its license wants named; and an option of rich."""
ROOT = PACKAGE.parent
ENGINE = [
    *(f for f in sorted(PACKAGE.rglob("*")) if f.suffix in (".py", ".html", ".js", ".css") and unit(f) != "worlds"),
    *(f for f in sorted((ROOT / "configs").rglob("*.yaml")) if f.parent.name != "emoji"),
    *(f for f in sorted((ROOT / "tests").rglob("*.py")) if "worlds" not in f.parts and f.name not in ("test_layers.py", "test_words.py")),
]


def test_the_engine_knows_no_world_by_name():
    naming = {str(f.relative_to(ROOT)) for f in ENGINE if "emoji" in ARTWORK.sub("", CHECKPOINTS.sub("", f.read_text())).lower()}
    assert naming == set()


def test_worlds_do_not_know_each_other():
    worlds = PACKAGE / "worlds"
    for file in worlds.rglob("*.py"):
        own = file.relative_to(worlds).parts[0]
        others = {name.split(".")[2] for name in imports(file) if name.startswith("mmada.worlds.")} - {own}
        assert others == set(), file


FOLDERS = sorted(file.parent for file in PACKAGE.rglob("__init__.py"))
VERBS = re.compile(r"^\"\"\"`(python -m )?mmada\b")
"""How the docstring of a verb's file begins."""


def parts(folder: Path) -> set[str]:
    """Modules and packages of a folder; files of verbs are named by the command line itself."""
    files = {f.stem for f in folder.glob("*.py") if not (folder.name == "cli" and VERBS.match(f.read_text(encoding="utf-8")))}
    return (files | {init.parent.name for init in folder.glob("*/__init__.py")}) - {"__init__"}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(PACKAGE.parent)))
def test_every_folder_has_a_map(folder):
    drawn = ast.get_docstring(tree(folder / "__init__.py")) or ""
    assert sorted(parts(folder) - set(re.findall(r"\w+", drawn))) == []


@pytest.mark.parametrize("document", ["CONTRIBUTING.md", "docs/map.md"])
def test_documents_have_the_same_layers(document):
    text = (PACKAGE.parent / document).read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d) \| ([^|]*) \|", text, re.MULTILINE)
    written = {room: int(layer) for layer, names in rows for room in re.findall(r"`(\w+)`", names)}
    assert written == {room: layer for room, layer in LAYER.items() if room != "__main__"}
