"""mmada batch: the answers are those of the server, each result is written once, and what is wrong has a sentence."""

from __future__ import annotations

import asyncio
import json
import signal
import time
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest

from mmada.errors import InputError
from mmada.scale.batch import LostError, answer_batch
from mmada.scale.batch_lines import URLS, check_batch, lines_of
from mmada.scale.batch_results import result_file
from mmada.scale.replica import Replica, ReplicaDownError, batch_settings

from .. import processes
from ..lazy import later
from ..serve.process import serving
from .requests import CHAT, COMPLETIONS, EDITS, GENERATIONS, chat, results, said, written

data_url = later("mmada.serve.pictures", "data_url")
SETTINGS = batch_settings("debug", in_flight=8, max_num_batched_tokens=16384)


def answered(model, requests, output, *, in_flight=8, limit=None):
    """What a run of a batch reports."""

    async def run():
        async with Replica(model, SETTINGS).running() as replica:
            return await answer_batch(lines_of(requests, limit), found, replica, in_flight=in_flight)

    with result_file(output) as found:
        return asyncio.run(run())


def over_http(url, request):
    """Status and body of one request to a server."""
    asked = urllib.request.Request(url + request["url"], json.dumps(request["body"]).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


@pytest.fixture
def every_kind():
    """A request of each url, several forms of chat, and some that the server refuses."""
    from PIL import Image

    picture = Image.radial_gradient("L").resize((32, 32)).convert("RGB")
    mask = Image.new("RGBA", (32, 32), "black")
    mask.paste((0, 0, 0, 0), (8, 8, 24, 24))
    look = [{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": data_url(picture)}}]
    edit = {"prompt": "a sun", "images": [{"image_url": data_url(picture)}], "mask": {"image_url": data_url(mask)}, "seed": 6}
    bodies = [
        (CHAT, {"messages": [{"role": "user", "content": look}], "seed": 1, "max_tokens": 8}),
        (CHAT, {"messages": [{"role": "user", "content": "hi"}], "seed": 2, "n": 3, "temperature": 1.5, "model": "debug"}),
        (CHAT, {"messages": [{"role": "user", "content": "hi"}], "seed": 3, "stop": "e", "reasoning_effort": "low"}),
        (COMPLETIONS, {"prompt": ["a", "b"], "suffix": "c", "max_tokens": 5, "seed": 4}),
        (GENERATIONS, {"prompt": "a cat", "seed": 5, "steps": 4, "response_format": "url"}),
        (EDITS, edit),
        (CHAT, {"messages": [{"role": "user", "content": "hi"}], "model": "another"}),
        (CHAT, {"messages": [{"role": "user", "content": "hi"}], "max_token": 4}),
        (EDITS, {**edit, "images": [{"image_url": "data:image/png;base64,AAAA"}]}),
    ]
    return [{"custom_id": f"request {i}", "method": "POST", "url": url, "body": body} for i, (url, body) in enumerate(bodies)]


def test_a_body_means_what_it_means_over_http(debug, every_kind, tmp_path):
    batch = [*every_kind, *(chat(i, tokens=8 + i) for i in range(8))]
    report = answered(debug, written(tmp_path / "in", batch), tmp_path / "out", in_flight=8)
    found = results(tmp_path / "out")
    with serving(tmp_path / "log") as server:
        for request in batch:
            status, body = over_http(server.url, request)
            result = found[request["custom_id"]]
            assert (result["error"], result["response"]["status_code"]) == (None, status)
            assert said(result["response"]["body"]) == said(body)
            assert len(result["response"]["request_id"]) == 16
    assert (report.num_answered, report.num_refused, report.num_failed) == (14, 3, 0)
    assert report.num_tokens > 8 * 8
    assert set(URLS) == {request["url"] for request in every_kind}


def test_requests_share_rounds(debug, tmp_path):
    async def run():
        async with Replica(debug, SETTINGS).running() as replica:
            await answer_batch(lines_of(requests), found, replica, in_flight=8)
            return replica.engine.metrics.text()

    requests = written(tmp_path / "in", [chat(i) for i in range(16)])
    with result_file(tmp_path / "out") as found:
        metrics = asyncio.run(run()).decode()
    rounds = next(float(line.split()[1]) for line in metrics.splitlines() if line.startswith("mmada_rounds_total "))
    assert rounds < 16 * 16 / 2  # one after the other, each token is a round


@pytest.mark.integration
@pytest.mark.parametrize("workers", [[], pytest.param(["--workers", "2"], marks=pytest.mark.slow)], ids=["one", "two processes"])
def test_killed_in_the_middle_each_result_is_there_once(debug, tmp_path, workers):
    batch = [chat(i, tokens=24) for i in range(24)]
    requests, output = written(tmp_path / "in", batch), tmp_path / "out"
    words = ["batch", str(requests), "-o", str(output), "--model", "debug", "--device", "cpu", "--in-flight", "3", *workers]
    driver = processes.start(processes.command_line, words, out=tmp_path / "log", preload=processes.SERVING)
    deadline = time.monotonic() + 100
    while not output.exists() or output.read_bytes().count(b"\n") < 4:
        assert time.monotonic() < deadline, (tmp_path / "log").read_text()
        time.sleep(0.005)
    driver.kill()
    driver.join(60)
    assert driver.exitcode == -signal.SIGKILL
    kept = output.read_bytes()
    whole = kept[: kept.rindex(b"\n") + 1]
    assert 4 <= whole.count(b"\n") < 24
    output.write_bytes(whole + b'{"id":"batch_req_0","custom')  # as far as a disk may have come
    report = answered(debug, requests, output)
    assert output.read_bytes().startswith(whole)
    assert report.num_answered == 24 - whole.count(b"\n")
    answered(debug, requests, tmp_path / "at once")
    expected = results(tmp_path / "at once")
    found = results(output)
    assert set(found) == {request["custom_id"] for request in batch}
    for custom_id, result in found.items():
        assert said(result["response"]["body"]) == said(expected[custom_id]["response"]["body"])


BAD = {
    "{": "the line is no JSON",
    "[]": "no JSON object",
    json.dumps({**chat(1), "custom_id": 5}): "custom_id=5 must be a text",
    json.dumps({**chat(2), "metod": "POST"}): "metod is unknown: did you mean 'method'?",
    json.dumps({**chat(3), "method": "GET"}): "method='GET' must be 'POST'",
    json.dumps({**chat(4), "url": "/v1/embeddings"}): "url='/v1/embeddings' cannot be asked",
    json.dumps({**chat(5), "body": []}): "body must be an object",
    json.dumps({**chat(6), "body": {"stream": True}}): "a batch has whole answers",
}


def test_a_bad_line_has_an_error_for_its_result(debug, tmp_path):
    requests = written(tmp_path / "in", [chat(0), *BAD, "", "{"])
    for _ in range(2):  # a bad line is known again, too
        answered(debug, requests, tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert len({line["id"] for line in lines}) == len(lines) == 10
    errors = [line["error"]["message"] for line in lines if line["response"] is None]
    assert len(errors) == 9
    for sentence in BAD.values():
        assert any(sentence in error for error in errors)


@pytest.mark.parametrize("line", BAD, ids=range(len(BAD)))
def test_strict_refuses_the_file(tmp_path, line):
    requests = written(tmp_path / "in", [chat(0), line])
    assert check_batch(requests).num_bad == 1
    with pytest.raises(InputError, match="line 2: "):
        check_batch(requests, strict=True)
    assert check_batch(requests, strict=True, limit=1).num_lines == 1


def test_a_name_is_given_once(tmp_path):
    with pytest.raises(InputError, match="line 3: custom_id='chat 1' is given twice"):
        check_batch(written(tmp_path / "in", [chat(1), chat(2), chat(1, tokens=3)]))


def test_a_changed_request_and_a_strange_file_are_refused(debug, tmp_path):
    answered(debug, written(tmp_path / "in", [chat(0), chat(1)]), tmp_path / "out", limit=1)
    assert set(results(tmp_path / "out")) == {"chat 0"}
    with pytest.raises(InputError, match="belongs to another request: line 1 was changed"):
        answered(debug, written(tmp_path / "in", [chat(0, tokens=5)]), tmp_path / "out")
    for text, problem in (("hello\n", "line 1 is no result"), ((tmp_path / "out").read_text() * 2, "two results of 'chat 0'")):
        (tmp_path / "strange").write_text(text)
        with pytest.raises(InputError, match=problem), result_file(tmp_path / "strange"):
            pass
        assert (tmp_path / "strange").read_text() == text


def test_two_runs_do_not_write_one_file(tmp_path):
    with result_file(tmp_path / "out"), pytest.raises(InputError, match="is being written by another run"), result_file(tmp_path / "out"):
        pass


def test_a_full_disk_is_a_sentence_and_the_next_run_goes_on(debug, tmp_path):
    requests = written(tmp_path / "in", [chat(i) for i in range(3)])
    with result_file(tmp_path / "out") as found, Path("/dev/full").open("wb", buffering=0) as full:
        found._file, file = full, found._file

        async def run():
            async with Replica(debug, SETTINGS).running() as replica:
                await answer_batch(lines_of(requests), found, replica, in_flight=2)

        with pytest.raises(InputError, match="No space left on device"):
            asyncio.run(run())
        found._file = file
    assert answered(debug, requests, tmp_path / "out").num_answered == 3


def test_a_replica_that_stops_ends_the_run_and_what_was_answered_stays(tmp_path):
    class Failing:
        """Answers two, then one is lost, then the engine is down."""

        async def answer(self, line):
            if line.number == 4:
                raise LostError("gone")
            if line.number > 4:
                raise ReplicaDownError("the engine failed")
            return {"status_code": 200, "request_id": "0", "body": {}}

    requests = written(tmp_path / "in", [chat(i) for i in range(9)])
    with result_file(tmp_path / "out") as found, pytest.raises(ReplicaDownError):
        asyncio.run(answer_batch(lines_of(requests), found, Failing(), in_flight=1))
    codes = [result["error"] and result["error"]["code"] for result in results(tmp_path / "out").values()]
    assert codes == [None, None, None, "replica_lost"]


def test_an_engine_that_was_stopped_is_no_answer(debug, tmp_path):
    async def run():
        async with Replica(debug, SETTINGS).running() as replica:
            replica.engine.drain()
            await replica.answer(line)

    (line,) = lines_of(written(tmp_path / "in", [chat(0)]))
    with pytest.raises(ReplicaDownError, match="the same command goes on"):
        asyncio.run(run())
    with pytest.raises(InputError, match="was not answered"):
        asyncio.run(_without_app(debug, replace(line, url="/nowhere")))


async def _without_app(model, line):
    from mmada.scale.replica import _post

    async def silent(scope, receive, send):
        await receive()

    await _post(silent, line.url, line.body)


def test_the_verb(tmp_path):
    requests = written(tmp_path / "in", [chat(0), "{"])
    run = ["batch", str(requests), "-o", str(tmp_path / "new" / "out"), "--model", "debug", "--device", "cpu"]
    options = {"cwd": tmp_path, "preload": processes.SERVING}
    done = processes.mmada(run, **options)
    assert done.returncode == 0, done.stderr
    assert "1 of 2 lines cannot be asked; line 2" in done.stderr
    assert "1 answered, 1 failed" in done.stderr
    assert "requests/s" in done.stderr
    again = processes.mmada(run, **options)
    assert "has all 2 results" in again.stderr
    for words, problem in (
        (["--strict"], "line 2: the line is no JSON"),
        (["--replicas", "2"], "or --workers 2"),
        (["--ray", "--workers", "2"], "do not go with --ray"),
    ):
        refused = processes.mmada([*run, *words], **options)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert problem in refused.stderr
