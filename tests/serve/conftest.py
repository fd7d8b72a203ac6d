"""One server for all tests that leave it as it was, and pictures."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from PIL import Image

from ..lazy import later
from .process import Server, serving

openai = later("openai")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("serve") / "log") as running:
        yield running


@pytest.fixture
def client(server: Server) -> openai.OpenAI:
    return server.client()


@pytest.fixture(scope="session")
def picture() -> Image.Image:
    return Image.radial_gradient("L").resize((40, 40)).convert("RGB")


@pytest.fixture(scope="session")
def mask() -> Image.Image:
    """Transparent in the middle: that is what is edited."""
    mask = Image.new("RGBA", (40, 40), "black")
    mask.paste((0, 0, 0, 0), (8, 8, 24, 24))
    return mask
