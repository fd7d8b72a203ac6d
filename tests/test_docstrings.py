"""Every public name says what it is: those of `__all__`, and the methods of public classes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mmada"
FILES = sorted(PACKAGE.rglob("*.py"))
FOREIGN = ("forward", "extra_repr", "chat_template")
"""Methods that a library asks for; what a module's `forward` takes and returns is said by its class."""
Function = ast.FunctionDef | ast.AsyncFunctionDef
Classes = dict[str, list[ast.ClassDef]]
"""name -> those that have it"""


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def exported(module: ast.Module) -> frozenset[str]:
    """The strings of `__all__`."""
    for node in module.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return frozenset(ast.literal_eval(node.value))
    return frozenset()


def methods(node: ast.ClassDef) -> Iterator[Function]:
    """Public ones; properties read as facts, and many need no more than their name."""
    for one in node.body:
        is_property = isinstance(one, Function) and any("property" in ast.unparse(mark) for mark in one.decorator_list)
        if isinstance(one, Function) and not one.name.startswith("_") and not is_property:
            yield one


def explained(node: ast.ClassDef, classes: Classes) -> set[str]:
    """Methods that a class explains, or a class that it builds on: in a docstring of their own, or in a row of the class's."""
    rows = ast.get_docstring(node) or ""
    found = {method.name for method in methods(node) if ast.get_docstring(method) or re.search(rf"\b{method.name}\b", rows)}
    for base in node.bases:
        name = ast.unparse(base).partition("[")[0].rpartition(".")[2]
        found = found.union(*(explained(one, classes) for one in classes.get(name, []) if one is not node))
    return found


def by_name(modules: list[ast.Module]) -> Classes:
    found: Classes = {}
    for node in (node for module in modules for node in module.body if isinstance(node, ast.ClassDef)):
        found.setdefault(node.name, []).append(node)
    return found


def unexplained(module: ast.Module, classes: Classes, known: set[str]) -> list[str]:
    """Names of `__all__` without a docstring, and Class.method of theirs that neither the class nor `known` explains."""
    public = [node for node in module.body if isinstance(node, ast.ClassDef | Function) and node.name in exported(module)]
    found = [node.name for node in public if not ast.get_docstring(node)]
    for node in (node for node in public if isinstance(node, ast.ClassDef)):
        own = explained(node, classes) | known
        found += [f"{node.name}.{method.name}" for method in methods(node) if method.name not in own]
    return found


def test_public_names_are_explained():
    classes = by_name([tree(file) for file in FILES])
    protocols = [node for nodes in classes.values() for node in nodes if any("Protocol" in ast.unparse(base) for base in node.bases)]
    known = set(FOREIGN).union(*(explained(protocol, classes) for protocol in protocols))  # of which a class need not say more
    found = {str(file.relative_to(PACKAGE)): unexplained(tree(file), classes, known) for file in FILES}
    assert {file: names for file, names in found.items() if names} == {}


@pytest.mark.parametrize(
    ("methods", "missing"),
    [
        ("    def silent(self): ...", ["Own.silent", "function"]),
        ("    def said(self): ...\n    def row(self): ...\n    def known(self): ...", ["function"]),
        ("    def _private(self): ...\n    @property\n    def fact(self): ...", ["function"]),
    ],
)
def test_what_is_not_explained_is_found(methods, missing):
    source = f'''
__all__ = ["Own", "function"]
class Base:
    """A base.

    row  what is said in a row
    """
    def said(self):
        """What was said."""
    def row(self): ...
class Own(Base):
    """A class."""
{methods}
def function(): ...
def other(): ...
'''
    module = ast.parse(source)
    assert sorted(unexplained(module, by_name([module]), {"known"})) == missing
