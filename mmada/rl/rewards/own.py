"""Rewards that a user brings: found by name, run within a time limit, plain functions or coroutines, failures told in a sentence.

    reward = own_reward("my_rewards:polite", seconds=300)

A reward that raises, or returns what is no number, ends the run with a RewardError that names the reward and the record. One that takes
longer than `seconds` for the answers of a round gives NaN for all of them, so these rollouts failed, are counted and take no part.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from importlib import import_module
from types import FrameType
from typing import Any, TypeAlias

from mmada.errors import InputError, MMaDAError
from mmada.rl.records import Completion
from mmada.rl.rewards.combine import Reward

__all__ = ["OwnReward", "RewardError", "guarded", "own_reward"]

OwnReward: TypeAlias = Callable[[Sequence[Completion]], Sequence[float | None] | Awaitable[Sequence[float | None]]]
"""As rewards.Reward, or the same as a coroutine function (`async def`)."""

_log = logging.getLogger("mmada.rl")


class RewardError(MMaDAError):
    """A reward of the user failed."""


class _TimeOverError(BaseException):
    """Raised inside a reward whose time is over. No Exception, so that no handler of the reward keeps it."""


def own_reward(name: str, *, seconds: float) -> Reward:
    """package.module:function, from the Python path, guarded. Raises InputError if it is not there."""
    module, _, function = name.partition(":")
    try:
        found: OwnReward = getattr(import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"reward {name!r} cannot be imported ({error}); put its folder on PYTHONPATH, and write package.module:function"
        ) from error
    return guarded(name, found, seconds=seconds)


def guarded(name: str, reward: OwnReward, *, seconds: float) -> Reward:
    """A user's reward as one that keeps the contract of `combine`. seconds: limit of one call; 0: none."""

    def call(samples: Sequence[Completion]) -> list[float | None]:
        try:
            values = _within(reward, samples, seconds)
        except _TimeOverError:
            _log.warning("reward %r took longer than reward_timeout=%g seconds; %d rollouts have failed", name, seconds, len(samples))
            return [float("nan")] * len(samples)
        except MMaDAError:
            raise
        except Exception as error:
            raise _failed(name, reward, samples, error, seconds) from error
        return _numbers(name, values, samples)

    return call


def _within(reward: OwnReward, samples: Sequence[Completion], seconds: float) -> Any:
    """What the reward returns. Raises _TimeOverError if that takes too long."""
    with _alarm(seconds) as is_set:
        if is_set or not seconds:
            return _finished(reward(samples), seconds)
    # Without alarms, in another thread or on Windows, a hanging function cannot be ended: it is left behind.
    return _in_thread(lambda: _finished(reward(samples), seconds), seconds)


def _in_thread(function: Callable[[], Any], seconds: float | None) -> Any:
    """The result of a function in a thread that nobody waits for at the end of the process."""
    future: Future[Any] = Future()

    def work() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    if not wait([future], timeout=seconds).done:
        raise _TimeOverError
    return future.result()


def _finished(values: Any, seconds: float) -> Any:
    """The values; those of a coroutine once it has run to its end."""
    if not inspect.isawaitable(values):
        return values

    async def run() -> Any:
        try:
            async with asyncio.timeout(seconds or None) as limit:
                return await values
        except TimeoutError:
            if limit.expired():
                raise _TimeOverError from None
            raise  # the reward's own

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(run())
    return _in_thread(lambda: asyncio.run(run()), None)  # a loop runs here already, as in a notebook


@contextmanager
def _alarm(seconds: float) -> Iterator[bool]:
    """Raise _TimeOverError in this thread after that long, if it can have an alarm; yields whether it can."""
    if not seconds or threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield False
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise _TimeOverError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _failed(name: str, reward: OwnReward, samples: Sequence[Completion], error: Exception, seconds: float) -> RewardError:
    """What a reward raised, and for which record: each is asked for alone until it raises again."""
    place = f"{len(samples)} samples together"
    for sample in samples if len(samples) > 1 else ():
        try:
            _within(reward, [sample], seconds)
        except _TimeOverError:
            continue
        except Exception as alone:
            error, place = alone, _place(sample)
            break
    if len(samples) == 1:
        place = _place(samples[0])
    return RewardError(
        f"reward {name!r} raised {type(error).__name__}: {_line(error)} ({_where(error)}) for {place}; "
        "mend the function, or let it return nan for what it cannot score"
    )


def _numbers(name: str, values: Any, samples: Sequence[Completion]) -> list[float | None]:
    if not isinstance(values, Sequence) and hasattr(values, "tolist"):  # a tensor or an array
        values = values.tolist()
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != len(samples):
        count = f"{len(values)} values" if isinstance(values, Sequence) and not isinstance(values, str) else f"a {type(values).__name__}"
        raise RewardError(f"reward {name!r} returned {count} for {len(samples)} samples; return a list with one number, or None, for each")
    numbers: list[float | None] = []
    for value, sample in zip(values, samples, strict=True):
        try:
            numbers.append(None if value is None else float(value))
        except (TypeError, ValueError):
            raise RewardError(f"reward {name!r} returned {value!r} for {_place(sample)}; return a number, or None") from None
    return numbers


def _place(sample: Completion) -> str:
    """The record of a sample, and what was asked."""
    prompt = sample.prompt
    text = prompt.text if len(prompt.text) <= 60 else f"{prompt.text[:57]}..."
    return f"record {prompt.place} ({text!r})"


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


def _where(error: Exception) -> str:
    """File and line that raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "no place is known" if trace is None else f"{trace.tb_frame.f_code.co_filename}, line {trace.tb_lineno}"
