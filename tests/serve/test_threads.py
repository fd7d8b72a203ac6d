"""Threads of a pass are chosen by what they bring, in a fraction of a second."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from mmada.serve.threads import available, choose, set_threads, threads_for


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("one", "two", "chosen"), [(0.03, 0.01, 2), (0.03, 0.029, 1), (0.01, 0.03, 1), (0.3, 0.2, 2)])
def test_the_faster_number_is_kept_and_more_threads_must_be_worth_it(one, two, chosen):
    seconds = {1: one, 2: two}
    begin = time.perf_counter()
    assert choose(lambda: time.sleep(seconds[torch.get_num_threads()]), 2) == chosen == torch.get_num_threads()
    assert time.perf_counter() - begin < 0.4


def test_one_core_is_not_measured():
    def never() -> None:
        raise AssertionError

    assert choose(never, 1) == 1


def test_a_number_that_is_given_counts_and_the_debug_model_is_measured(debug):
    assert set_threads(debug.denoiser, debug.planner, 3, 2) == 3 == torch.get_num_threads()
    assert set_threads(debug.denoiser, debug.planner, 0, 2) in (1, 2)


def test_they_are_known_without_the_weights(debug):
    torch.set_num_threads(1)
    assert threads_for(debug.model.config, 2) in (1, 2)
    assert torch.get_num_threads() == 1, "to ask changes nothing"
    large = replace(debug.model.config, d_model=4096, n_heads=32, n_kv_heads=32, n_layers=32, mlp_hidden_size=12288)
    begin = time.perf_counter()
    assert threads_for(large, 7) == 7
    assert time.perf_counter() - begin < 5, "billions of weights are not allocated for that"


def test_workers_share_the_cores():
    assert available(1) >= available(2) >= available(1000) == 1
