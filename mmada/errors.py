"""The errors that most of the package raises on purpose.

    MMaDAError
    ├── InputError (also ValueError)       a bad argument: names it, its value and the remedy
    │   └── ContextError                 a request that needs more tokens than the model's context has
    ├── CheckpointError (also ValueError)  weights or configuration that do not fit; lists all mismatches
    ├── TokenizerError (also ValueError)   a text tokenizer that does not belong to the vocabulary layout
    ├── ImageError (also ValueError)       an image that cannot be read or has an unusable size
    ├── MissingDependencyError (also ImportError)  an extra that is not installed
    └── StoppedError                       processes that hold a model together do not work together any more

Below the command line every message is one sentence with argument, value and remedy; the command line prints it and
exits with status 2.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
    "CheckpointError",
    "ContextError",
    "ImageError",
    "InputError",
    "MMaDAError",
    "MissingDependencyError",
    "StoppedError",
    "TokenizerError",
    "suggest",
]


class MMaDAError(Exception):
    """Base of all errors that the package raises on purpose."""

    param: str | None = None
    """the part of a request's body that it is about, where the server knows it"""


class InputError(MMaDAError, ValueError):
    """An argument has a value that cannot be used."""


class ContextError(InputError):
    """A request needs more tokens than the model's context has."""


class CheckpointError(MMaDAError, ValueError):
    """A checkpoint is missing, incomplete, or does not fit the model."""


class TokenizerError(MMaDAError, ValueError):
    """A text tokenizer does not match the vocabulary layout of the model."""


class ImageError(MMaDAError, ValueError):
    """An image cannot be read, or its size cannot be used."""


class MissingDependencyError(MMaDAError, ImportError):
    """A feature needs an optional dependency that is not installed."""


class StoppedError(MMaDAError):
    """A model that several processes hold together has lost one of them, and answers nothing any more."""


def suggest(name: str, known: Iterable[str]) -> str:
    """A sentence that names the nearest known name, for messages about unknown options and files."""
    from difflib import get_close_matches

    known = sorted(known)
    near = get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known names are {', '.join(known)}"
