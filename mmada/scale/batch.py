"""Answer a batch: keep the replicas busy, and write each result once.

    lines without a result ──► at most `in_flight` questions ──► results, as they come ──► appended, flushed to the disk

One writer writes what has gathered while it wrote before, so that the disk is waited for once for many results.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from mmada.errors import MMaDAError
from mmada.scale.batch_lines import BatchLine, result_of
from mmada.scale.batch_results import ResultFile

__all__ = ["Answers", "BatchReport", "LostError", "answer_batch"]


class LostError(MMaDAError):
    """A request that no replica could answer: each that tried has died."""


class Answers(Protocol):
    """Who answers: one replica, or many behind one name."""

    def answer(self, line: BatchLine) -> Awaitable[dict[str, Any]]:
        """Status, request id and body. Raises LostError for a request that is given up, another error if nothing can be answered."""
        ...


@dataclass(slots=True)
class BatchReport:
    """What a run has done. Tokens are those that the model wrote or drew."""

    num_answered: int = 0
    num_refused: int = 0
    """answered with an error of the server"""
    num_failed: int = 0
    """lines that could not be asked, and requests that were given up"""
    num_tokens: int = 0
    began: float = field(default_factory=time.monotonic)

    @property
    def num_results(self) -> int:
        """Lines that were written: answers, refusals and failures."""
        return self.num_answered + self.num_refused + self.num_failed

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return max(1e-9, time.monotonic() - self.began)

    def count(self, result: dict[str, Any]) -> None:
        """Count a result: failed without a response, refused with a status other than 200, else answered, with its tokens."""
        response = result["response"]
        if response is None:
            self.num_failed += 1
        elif response["status_code"] != 200:
            self.num_refused += 1
        else:
            usage = response["body"].get("usage", {})
            self.num_answered += 1
            self.num_tokens += usage.get("completion_tokens", 0) + usage.get("output_tokens", 0)


async def answer_batch(
    lines: Iterable[BatchLine],
    results: ResultFile,
    replicas: Answers,
    *,
    in_flight: int,
    on_results: Callable[[BatchReport], None] | None = None,
) -> BatchReport:
    """Answer the lines that have no result. Raises what a replica raises that answers nothing more; what is written stays.

    in_flight   requests that are asked at a time
    on_results  is told the report after each write
    """
    report = BatchReport()
    ready: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
    places = asyncio.Semaphore(in_flight)
    asked: set[asyncio.Task[None]] = set()

    async def ask(line: BatchLine) -> None:
        try:
            ready.put_nowait(await _result(line, replicas))
        finally:
            places.release()

    writer = asyncio.ensure_future(_write(ready, results, report, on_results))
    try:
        for line in lines:
            if results.has(line):
                continue
            await places.acquire()
            _raise_first({*asked, writer})
            asked = {task for task in asked if not task.done()} | {asyncio.ensure_future(ask(line))}
        for task in asyncio.as_completed(asked):
            await task
        ready.put_nowait(None)
        await writer
    finally:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        if not writer.done():
            ready.put_nowait(None)  # what was answered is written, whatever went wrong with the others
            await writer
    return report


async def _result(line: BatchLine, replicas: Answers) -> dict[str, Any]:
    if line.problem is not None:
        return result_of(line)
    try:
        return result_of(line, await replicas.answer(line))
    except LostError as error:
        return result_of(line, code="replica_lost", message=str(error))


async def _write(
    ready: asyncio.Queue[dict[str, Any] | None],
    results: ResultFile,
    report: BatchReport,
    on_results: Callable[[BatchReport], None] | None,
) -> None:
    """Until None comes."""
    is_open = True
    while is_open:
        gathered = [await ready.get()]
        while not ready.empty():
            gathered.append(ready.get_nowait())
        is_open = None not in gathered
        found = [result for result in gathered if result is not None]
        if not found:
            continue
        await asyncio.to_thread(results.write, found)
        for result in found:
            report.count(result)
        if on_results is not None:
            on_results(report)


def _raise_first(tasks: Iterable[asyncio.Task[None]]) -> None:
    """The error of a task that has failed."""
    for task in tasks:
        if task.done() and not task.cancelled() and (error := task.exception()) is not None:
            raise error
