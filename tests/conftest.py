"""Fixtures of the whole suite: no network, few threads, and the debug model, built once."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Iterator

import pytest
import torch

from mmada.pipeline import MMaDA


@pytest.fixture(scope="session", autouse=True)
def _threads() -> Iterator[None]:
    torch.set_num_threads(2)
    yield


@pytest.fixture(scope="session")
def debug() -> MMaDA:
    """The debug model: two layers, a byte tokenizer, random weights from a fixed seed. Do not change it."""
    return MMaDA.debug()
