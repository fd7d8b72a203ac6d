"""Worlds by name: those of installed packages, those that come with this one, and any object of the Python path.

    find_world("shapes")                      a name that a package registers under the entry point group `mmada.worlds`
    find_world("mypackage.world:MyWorld")     an object on the Python path

A package registers its world in its pyproject.toml:

    [project.entry-points."mmada.worlds"]
    myworld = "mypackage.world:MyWorld"

What stands there is called with the run's `data.options`, and gives a World. The worlds that come with mmada need no registration:
`mmada.worlds.NAME` is a module with a callable `world`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from pkgutil import iter_modules
from typing import Any

from mmada.data.world import World
from mmada.errors import InputError, suggest

__all__ = ["GROUP", "find_world", "installed_worlds", "unknown_world"]

GROUP = "mmada.worlds"
"""Of entry points, and the package of the worlds that come with this one."""


def installed_worlds() -> tuple[str, ...]:
    """Names of all worlds that can be found, in order."""
    return tuple(sorted(_built_in() | {entry.name for entry in entry_points(group=GROUP)}))


def _built_in() -> set[str]:
    package = find_spec(GROUP)
    places = package.submodule_search_locations if package else None
    return {module.name for module in iter_modules(places)} if places else set()


def find_world(name: str, options: Mapping[str, Any] | None = None) -> World:
    """The world of a name or a `package.module:object`, made with the options.

    Raises InputError for a world that is not there, cannot be imported, or does not know an option.
    """
    return _made(name, _maker(name), options or {})


def _maker(name: str) -> Any:
    if ":" in name:
        module, _, path = name.partition(":")
        return _imported(name, module, path)
    if name in _built_in():  # without a look at all distributions that are installed: every drawing of a built-in model begins here
        return _imported(name, f"{GROUP}.{name}", "world")
    for entry in entry_points(group=GROUP):
        if entry.name == name:
            return _imported(name, entry.module, entry.attr)
    raise unknown_world(name)


def unknown_world(name: str) -> InputError:
    """What to say of a world that is not there."""
    return InputError(
        f"world {name!r} is not installed; there are {', '.join(installed_worlds())}. Install the package that brings it, write "
        f"package.module:object, or register your own as an entry point of the group {GROUP} (docs/worlds.md)"
    )


def _imported(name: str, module: str, path: str) -> Any:
    try:
        found: Any = import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"world {name!r} cannot be imported ({error}); put its folder on PYTHONPATH, and write package.module:object"
        ) from error
    return found


def _made(name: str, maker: Callable[..., Any], options: Mapping[str, Any]) -> World:
    known = list(inspect.signature(maker).parameters) if callable(maker) else []
    for option in options:
        if option not in known:
            raise InputError(f"unknown setting data.options.{option}: {suggest(option, known)}")
    world = maker(**options) if callable(maker) else maker
    if not isinstance(world, World):
        raise InputError(f"world {name!r} is a {type(world).__name__}; make it a subclass of mmada.data.world.World")
    return world
