"""Fixtures of the whole suite: no network, few threads, and the debug model, built once."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Callable

import pytest
import torch

from mmada.generation.planner import Planner
from mmada.generation.programs import program_of
from mmada.generation.requests import Request
from mmada.generation.steps import Fill, Work
from mmada.pipeline import MMaDA


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    # The models are tiny: a second thread only waits, and waits long when the machine is shared.
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def debug() -> MMaDA:
    """The debug model: two layers, a byte tokenizer, random weights from a fixed seed. Do not change it."""
    return MMaDA.debug()


@pytest.fixture(scope="session")
def first_fill() -> Callable[[Planner, Request], Fill]:
    """What a request's program asks to be filled first."""

    def found(planner: Planner, request: Request) -> Fill:
        program = program_of(request, planner)
        asked = next(program)
        while isinstance(asked, Work):
            asked = program.send(asked.function())
        assert isinstance(asked, Fill)
        return asked

    return found
