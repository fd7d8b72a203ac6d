"""One server for all tests that leave it as it was, and pictures."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from ..lazy import later
from .process import Server, serving

openai = later("openai")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    # One thread, as in the tests: with two, products round otherwise, and a drawing in fifty is another one.
    with serving(tmp_path_factory.mktemp("serve") / "log", "--threads", "1") as running:
        yield running


@pytest.fixture
def client(server: Server) -> openai.OpenAI:
    return server.client()


CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A Chromium of this machine, shared by all tests of the studio."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install 'mmada[browser]')")
    with playwright.sync_playwright() as tools:
        running = tools.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield running
        running.close()


@pytest.fixture(scope="session")
def picture() -> Image.Image:
    return Image.radial_gradient("L").resize((40, 40)).convert("RGB")


@pytest.fixture(scope="session")
def mask() -> Image.Image:
    """Transparent in the middle: that is what is edited."""
    mask = Image.new("RGBA", (40, 40), "black")
    mask.paste((0, 0, 0, 0), (8, 8, 24, 24))
    return mask
