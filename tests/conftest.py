"""Fixtures of the whole suite: no network, few threads, the debug model, built once; and which tests share a process."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from mmada.generation.planner import Planner
    from mmada.generation.requests import Request
    from mmada.generation.steps import Fill
    from mmada.pipeline import MMaDA

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# The models are tiny: a second thread only waits, and waits long when the machine is shared.
os.environ["OMP_NUM_THREADS"] = "1"
# Assertions are rewritten once and kept: that takes several seconds, in every process.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# What tests import stays; to look for garbage among it takes a tenth of the time.
gc.set_threshold(100_000, 20, 20)

TOGETHER = {
    "serve": (
        "scale/test_batch",
        "serve/test_bounded",
        "serve/test_deploy",
        "serve/test_faults",
        "serve/test_http",
        "serve/test_mixture",
        "serve/test_openapi",
        "serve/test_s",
    ),
    "processes": ("cli/test_cli_processes", "end_to_end", "rl/test_task", "train/test_file_samples", "train/test_loop", "train/test_state"),
    "transformers": (
        "eval/test_harness",
        "eval/test_lmms",
        "hub",
        "integrations",
        "model/test_graphs",
        "rl/test_config",
        "train/test_lora",
    ),
}
"""Tests that share what is slow to build, first those that take longest: a server, processes that were forked, transformers."""


def group_of(nodeid: str) -> str:
    """What runs in one process, one after the other: a group, or else a file."""
    file = nodeid.split("::")[0].removeprefix("tests/")
    return next((name for name, starts in TOGETHER.items() if file.startswith(starts)), file)


def pytest_configure(config: pytest.Config) -> None:
    """Properties are tried on 10 examples; `make test-slow` tries 100 of them (--hypothesis-profile=thorough)."""
    from hypothesis import settings

    settings.register_profile("thorough", max_examples=100)
    settings.register_profile("quick", max_examples=10)
    settings.load_profile(config.getoption("--hypothesis-profile") or "quick")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    config.option.loadscopereorder = False  # as they were collected: see below
    return ByGroup(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Groups first, files later; and what was imported is no garbage, whoever collects it."""
    order = {name: rank for rank, name in enumerate(TOGETHER)}
    items.sort(key=lambda item: order.get(group_of(item.nodeid), len(order)))
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def debug() -> MMaDA:
    """The debug model: two layers, a byte tokenizer, random weights from a fixed seed. Do not change it."""
    from mmada.pipeline import MMaDA

    return MMaDA.debug()


@pytest.fixture(scope="session")
def first_fill() -> Callable[[Planner, Request], Fill]:
    """What a request's program asks to be filled first."""
    from .families.tiny import planned

    def found(planner: Planner, request: Request) -> Fill:
        return planned(request, planner)

    return found


@contextlib.contextmanager
def _without_loop_of_browser(item: pytest.Item) -> Iterator[None]:
    """Playwright's loop counts as running in this thread as long as its browser lives; tests without a browser run loops of their own."""
    loop = None if "browser" in getattr(item, "fixturenames", ()) else asyncio._get_running_loop()
    if loop is not None:
        asyncio._set_running_loop(None)
    try:
        yield
    finally:
        if loop is not None:
            asyncio._set_running_loop(loop)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    with _without_loop_of_browser(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    with _without_loop_of_browser(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    if nextitem is None:  # the browser itself is closed now
        return (yield)
    with _without_loop_of_browser(item):
        return (yield)
