"""Two directories of one format: the recorded numbers, and made ones with other sizes, so that no test can rest on those of the first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from .other_sizes import write
from .recorded import GOLDEN


@pytest.fixture(scope="session", params=["recorded", "other-sizes"])
def folder(request, tmp_path_factory) -> Callable[[str], Path]:
    """Family -> its folder, made when it is first asked for."""
    if request.param == "recorded":
        return lambda name: GOLDEN / name
    root = tmp_path_factory.mktemp("other-sizes")
    return lambda name: root / name if (root / name).exists() else write(root, name) / name
