"""A batch over Ray: answers as on one machine, and a killed replica costs nothing but time."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from mmada.errors import CheckpointError, InputError, MissingDependencyError
from mmada.scale.batch import answer_batch
from mmada.scale.batch_lines import lines_of
from mmada.scale.batch_results import result_file
from mmada.scale.ray_cluster import raised
from mmada.scale.ray_replicas import ray_replicas
from mmada.scale.replica import batch_settings

from .requests import chat, results, said, written
from .test_batch import answered

ROOT = Path(__file__).parents[2]
SETTINGS = batch_settings("debug", in_flight=8, max_num_batched_tokens=16384)
LOADING = {"device": "cpu"}


def test_without_ray_a_sentence_says_what_to_install(monkeypatch):
    async def run():
        async with ray_replicas("debug", SETTINGS, LOADING):
            pass

    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'mmada\[scale\]'"):
        asyncio.run(run())


def test_a_model_that_is_not_there_is_said_before_ray_is_started(monkeypatch):
    async def run():
        async with ray_replicas("nosuch", SETTINGS, LOADING):
            pass

    monkeypatch.setattr("mmada.scale.ray_replicas.connected", lambda *_: pytest.fail("Ray is started"))
    with pytest.raises(CheckpointError, match="'nosuch' is no directory"):
        asyncio.run(run())


def test_of_a_report_of_ray_the_last_error_is_shown():
    report = "The actor died:\n  File x\nValueError: 3\n\nDuring it:\n  File y\nmmada.errors.CheckpointError: x has no y; copy it again"
    assert raised(report) == "x has no y; copy it again"
    assert raised("The actor died.") == "The actor died."


@pytest.mark.slow
def test_replicas_that_do_not_start_are_a_sentence(debug, tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="Ray is not installed (pip install 'mmada[scale]')")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    debug.save_pretrained(tmp_path / "half")
    (tmp_path / "half" / "tokenizer.json").unlink()  # which only loading finds

    async def run():
        async with ray_replicas(str(tmp_path / "half"), SETTINGS, LOADING):
            pass

    with pytest.raises(InputError, match=r"^the replicas could not be started: the tokenizer in .*half cannot be read"):
        asyncio.run(run())


@pytest.mark.slow
def test_a_killed_replica_is_started_again_and_its_requests_are_answered_once(debug, tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="Ray is not installed (pip install 'mmada[scale]')")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    requests = written(tmp_path / "in", [chat(i, tokens=32) for i in range(40)])

    async def run():
        async with ray_replicas("debug", SETTINGS, LOADING, count=2, num_threads=1) as replicas:
            first, second = await replicas.pids()

            def on_results(report):
                if report.num_results >= 5 and not killed:
                    killed.append(first)
                    os.kill(first, signal.SIGKILL)

            report = await answer_batch(lines_of(requests), found, replicas, in_flight=12, on_results=on_results)
            with pytest.raises(InputError, match="ask for fewer"):
                async with ray_replicas("debug", SETTINGS, LOADING, count=10_000):
                    pass
            return report, replicas.num_lost, await replicas.pids(), second

    killed: list[int] = []
    with result_file(tmp_path / "out") as found:
        report, num_lost, pids, second = asyncio.run(run())
    assert killed
    assert report.num_answered == 40
    assert num_lost > 0
    assert second in pids
    assert killed[0] not in pids
    answered(debug, requests, tmp_path / "alone")
    alone = results(tmp_path / "alone")
    for custom_id, result in results(tmp_path / "out").items():
        assert said(result["response"]["body"]) == said(alone[custom_id]["response"]["body"])


@pytest.mark.slow
def test_four_replicas_answer_as_one(debug, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="Ray is not installed (pip install 'mmada[scale]')")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    requests = written(tmp_path / "in", [chat(i) for i in range(24)])

    async def run():
        async with ray_replicas("debug", SETTINGS, LOADING, count=4, num_threads=1) as replicas:
            assert len(set(await replicas.pids())) == 4
            return await answer_batch(lines_of(requests), found, replicas, in_flight=12)

    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="error")  # more than there are cores: they share
    try:
        with result_file(tmp_path / "out") as found:
            assert asyncio.run(run()).num_answered == 24
    finally:
        ray.shutdown()
    answered(debug, requests, tmp_path / "alone")
    alone = results(tmp_path / "alone")
    for custom_id, result in results(tmp_path / "out").items():
        assert said(result["response"]["body"]) == said(alone[custom_id]["response"]["body"])
