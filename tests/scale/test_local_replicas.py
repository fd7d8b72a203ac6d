"""A batch over processes of one machine: answers as those of one, and a killed process takes no request with it."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from mmada.errors import CheckpointError
from mmada.scale.batch import answer_batch
from mmada.scale.batch_lines import lines_of
from mmada.scale.batch_results import result_file
from mmada.scale.local_replicas import local_replicas
from mmada.scale.replica import ReplicaDownError, batch_settings

from .requests import chat, results, said, written
from .test_batch import answered

SETTINGS = batch_settings("debug", in_flight=8, max_num_batched_tokens=16384)
LOADING = {"device": "cpu"}


@pytest.mark.integration
def test_a_killed_process_takes_no_request_with_it(debug, tmp_path):
    requests = written(tmp_path / "in", [chat(i, tokens=32) for i in range(40)])
    killed: list[int] = []

    async def run():
        async with local_replicas("debug", SETTINGS, LOADING, count=2) as replicas:
            first, second = replicas.pids

            def on_results(report):
                if report.num_results >= 5 and not killed:
                    killed.append(first)
                    os.kill(first, signal.SIGKILL)

            report = await answer_batch(lines_of(requests), found, replicas, in_flight=12, on_results=on_results)
            assert replicas.pids == [second]
            os.kill(second, signal.SIGKILL)
            with pytest.raises(ReplicaDownError, match="no process is left"):
                await replicas.answer(next(iter(lines_of(requests))))
            return report, replicas.num_lost

    with result_file(tmp_path / "out") as found:
        report, num_lost = asyncio.run(run())
    assert report.num_answered == 40
    assert num_lost > 0
    answered(debug, requests, tmp_path / "alone")
    alone = results(tmp_path / "alone")
    for custom_id, result in results(tmp_path / "out").items():
        assert said(result["response"]["body"]) == said(alone[custom_id]["response"]["body"])


@pytest.mark.slow
def test_four_processes_answer_as_one(debug, tmp_path):
    async def run():
        async with local_replicas("debug", SETTINGS, LOADING, count=4) as replicas:
            assert len(set(replicas.pids)) == 4
            return await answer_batch(lines_of(requests), found, replicas, in_flight=12)

    requests = written(tmp_path / "in", [chat(i) for i in range(24)])
    with result_file(tmp_path / "out") as found:
        assert asyncio.run(run()).num_answered == 24
    answered(debug, requests, tmp_path / "alone")
    alone = results(tmp_path / "alone")
    for custom_id, result in results(tmp_path / "out").items():
        assert said(result["response"]["body"]) == said(alone[custom_id]["response"]["body"])


@pytest.mark.integration
def test_what_cannot_be_loaded_is_said_as_by_one(tmp_path):
    async def run():
        async with local_replicas(str(tmp_path), SETTINGS, LOADING, count=2):
            pass

    with pytest.raises(CheckpointError):
        asyncio.run(run())
