"""Files by pattern: which files a source names.

    data-{000..127}.tar    a range, or a choice such as {train,test}
    data-*.tar             also ? and [...]; also in folders
    my data, part 1.tar    a name is a name: blanks, commas and accents belong to it
    [a.tar, b.tar]         several are given as a list

A path that exists is never taken for a pattern, so a folder may be named "runs [1]".

    configs/finetune.yaml  a file that comes with the package, unless there is one of that name here
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from mmada.errors import InputError

__all__ = ["expand_braces", "expand_paths", "is_address", "shipped"]

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/|pipe:")


def expand_paths(pattern: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Path]:
    """The files that a pattern, or each of a list of patterns, names, in order. A name without any sign is there unchecked.

    Raises InputError for a brace that cannot be read, and for a pattern that names no file.
    """
    if not isinstance(pattern, (str, os.PathLike)):
        return [path for one in pattern for path in expand_paths(one)]
    folder, rest = _known(Path(pattern))
    return [path for name in expand_braces(rest) for path in _matching(folder, name)] if rest else [folder]


def is_address(path: str) -> bool:
    """Whether a path is a URL or a pipe; what exists here is a path."""
    return _ADDRESS.match(path) is not None and not Path(path).exists()


def shipped(path: Path) -> Path:
    """The file, or, where `configs/...` is not there, the one of that name that comes with the package."""
    package = Path(__file__).parents[1]
    homes = [package, *([package.parent] if (package.parent / "pyproject.toml").exists() else [])]
    found = [home / path for home in homes if path.parts[:1] == ("configs",) and (home / path).is_file()]
    return found[0] if found and not path.exists() else path


def expand_braces(pattern: str) -> list[str]:
    """ "a-{08..10}.tar" -> a-08.tar, a-09.tar, a-10.tar; "{a,b}" -> a, b; several and nested ones are combined."""
    start = pattern.find("{")
    if start < 0:
        return [pattern]
    depth, commas, stop = 0, [start], -1
    for at in range(start, len(pattern)):
        depth += {"{": 1, "}": -1}.get(pattern[at], 0)
        if depth == 1 and pattern[at] == ",":
            commas.append(at)
        if depth == 0:
            stop = at
            break
    inner = pattern[start + 1 : stop]
    span = re.fullmatch(r"(\d+)\.\.(\d+)", inner)
    if stop < 0 or (span is None and len(commas) == 1):
        raise InputError(f"pattern={pattern!r} has a brace that is neither a range such as {{000..127}} nor a choice such as {{a,b}}")
    if span is not None:
        first, last = int(span[1]), int(span[2])
        if last < first:
            raise InputError(f"pattern={pattern!r}: the range {{{inner}}} is empty; write the smaller number first")
        width = len(span[1]) if span[1].startswith("0") else 0
        choices = [f"{number:0{width}d}" for number in range(first, last + 1)]
    else:
        choices = [pattern[one + 1 : other] for one, other in pairwise([*commas, stop])]
    return [whole for choice in choices for whole in expand_braces(pattern[:start] + choice + pattern[stop + 1 :])]


def _known(path: Path) -> tuple[Path, str]:
    """A path as the part that exists, whatever signs are in it, and the rest."""
    folder = Path(path.anchor)
    parts = path.relative_to(folder).parts
    for i, part in enumerate(parts):
        if not (folder / part).exists():
            return folder, str(Path(*parts[i:]))
        folder /= part
    return folder, ""


def _matching(folder: Path, name: str) -> list[Path]:
    """Paths in a folder that a name with * ? [ stands for, sorted; the name itself if it has none of them, or exists."""
    if (folder / name).exists() or not any(sign in name for sign in "*?["):
        return [folder / name]
    found = [folder]
    for part in Path(name).parts:
        found = [path for one in found for path in ([one / part] if (one / part).exists() else one.glob(part))]
    if not found:
        raise InputError(f"no file is named like {str(folder / name)!r}; check the pattern")
    return sorted(found)
