"""Modules that are imported when a test first uses them: every process collects every file, and one of them runs it."""

from __future__ import annotations

import importlib
from typing import Any


class later:  # noqa: N801  read as a function
    """`openai = later("openai")` is `import openai` that waits for the first `openai.something`.

    `AutoModel = later("transformers", "AutoModel")` waits for the first call, or the first `AutoModel.something`.
    """

    def __init__(self, module: str, name: str | None = None) -> None:
        self._module, self._name = module, name

    def _found(self) -> Any:
        module = importlib.import_module(self._module)
        return module if self._name is None else getattr(module, self._name)

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):  # pytest asks everything in a file whether it is a fixture
            raise AttributeError(attribute)
        return getattr(self._found(), attribute)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self._found()(*arguments, **keywords)
