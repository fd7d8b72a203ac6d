"""Result files and the tables made of them.

A result file is JSON: what was measured, with which settings, seed and command, on which commit and machine. README and docs show
figures only between the marks `<!-- results: NAME -->` and `<!-- end -->`, and what stands there is generated from the file.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from mmada.errors import InputError

__all__ = ["environment", "fill_in", "load", "save"]

_BLOCK = re.compile(r"(<!-- results: (?P<name>[\w.-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def environment(command: str, device: torch.device | str | None = None) -> dict[str, Any]:
    """What a result depends on besides its settings: command, commit, date, machine, versions.

    device  that was measured; None: the one that models are loaded to
    """
    return {
        "command": command,
        "commit": _commit(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "machine": _processor(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def save(path: Path, results: Mapping[str, Any]) -> None:
    """Write a result file. Raises InputError if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"out={str(path)!r} cannot be written ({error.strerror}); give another path") from error


def load(path: Path) -> dict[str, Any]:
    """Read a result file. Raises InputError if there is none, or it is no JSON object."""
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is no result file ({error}); run the command that writes it") from error
    if not isinstance(results, dict):
        raise InputError(f"{path} holds a {type(results).__name__}, not an object; run the command that writes it")
    return results


def fill_in(text: str, tables: Mapping[str, Callable[[], str]]) -> str:
    """A document with every marked block made anew. Raises InputError for a block whose name is unknown."""

    def block(match: re.Match[str]) -> str:
        if match["name"] not in tables:
            raise InputError(f"the document asks for results {match['name']!r}; known are {', '.join(sorted(tables))}")
        return match[1] + tables[match["name"]]().rstrip() + "\n" + match[3]

    return _BLOCK.sub(block, text)


def _commit() -> str | None:
    """The commit that is checked out, with "+" if there are changes; None outside a checkout."""
    here = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "-uno"], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if dirty else "")


def _processor(device: torch.device | str | None) -> str:
    if torch.cuda.is_available() and (device is None or torch.device(device).type == "cuda"):
        return torch.cuda.get_device_name(device)
    names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) if Path("/proc/cpuinfo").exists() else []
    return f"{names[0] if names else platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
