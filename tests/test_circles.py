"""No circle of files: whoever reads a file can read first what it builds on."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mmada"

# Imports that close a circle today (hub/auto, hub/processor, image): networks register themselves with transformers.
# Delete an entry as soon as its files are apart.
STILL = {("mmada.hub.auto", "mmada.hub.processor")}


def module(file: Path, root: Path) -> str:
    return ".".join(file.relative_to(root.parent).with_suffix("").parts).removesuffix(".__init__")


def imports(root: Path) -> dict[str, set[str]]:
    """Module -> modules that it names, also in functions and for type checking. What a package re-exports counts as its __init__."""
    files = {module(file, root): file for file in sorted(root.rglob("*.py"))}
    found: dict[str, set[str]] = {}
    for name, file in files.items():
        wanted: set[str] = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                wanted |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                wanted |= {full if full in files else str(node.module) for full in inner}
        found[name] = (wanted & set(files)) - {name}
    return found


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The modules of one circle, each imported by the next, or nothing."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


def test_the_package_has_no_circle():
    graph = imports(PACKAGE)
    left = {name: {other for other in wanted if (name, other) not in STILL} for name, wanted in graph.items()}
    assert " <- ".join(circle(left)) == ""


@pytest.mark.parametrize(
    "line", ["import there.b", "from there import b", "from there.b import thing", "def f():\n    from there import b"]
)
def test_a_circle_is_found_however_it_is_written(tmp_path, line):
    root = tmp_path / "there"
    root.mkdir()
    for name, text in {
        "__init__": "",
        "a": line,
        "b": "from there.c import x",
        "c": "if TYPE_CHECKING:\n    from there.a import y",
    }.items():
        (root / f"{name}.py").write_text(text + "\n")
    assert set(circle(imports(root))) == {"there.a", "there.b", "there.c"}
    (root / "c.py").write_text("x = 1\n")
    assert circle(imports(root)) == []


def test_what_a_package_exports_counts_as_its_init(tmp_path):
    root = tmp_path / "there"
    root.mkdir()
    (root / "__init__.py").write_text("from there.a import thing\n")
    (root / "a.py").write_text("from there import thing\n")
    assert set(circle(imports(root))) == {"there", "there.a"}
