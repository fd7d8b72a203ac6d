"""Modules that are imported when a test first uses them: every process collects every file, and one of them runs it."""

from __future__ import annotations

import importlib
from typing import Any


class later:  # noqa: N801  read as a function
    """`openai = later("openai")` is `import openai` that waits for the first `openai.something`."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):  # pytest asks everything in a file whether it is a fixture
            raise AttributeError(attribute)
        return getattr(importlib.import_module(self._name), attribute)
