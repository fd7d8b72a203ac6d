"""Rewards of users: what they see, that they may be coroutines, and that a failure is a sentence and a hanging one does not hang the run."""

import asyncio
import contextlib
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from mmada.data import Meta
from mmada.errors import InputError
from mmada.generation.requests import ChatRequest
from mmada.rl.records import Completion, Prompt
from mmada.rl.rewards import combine
from mmada.rl.rewards.own import RewardError, guarded, own_reward


def completion(i, *, answer="", **meta):
    prompt = Prompt(task="text", index=i, request=ChatRequest(f"question {i}"), meta=Meta(extra=meta), record=f"prompts.jsonl:{i + 1}")
    return Completion(prompt=prompt, text=answer, answer=answer)


SAMPLES = [completion(i, answer="abc", letters=i) for i in range(4)]


def counts_letters(samples):
    return [float(len(sample.answer) == sample.prompt.meta.extra["letters"]) for sample in samples]


async def asks_a_service(samples):
    async def one(sample):
        await asyncio.sleep(0.001)
        return float(sample.prompt.meta.extra["letters"])

    return await asyncio.gather(*map(one, samples))


def test_a_reward_sees_what_the_record_says_beside_the_answer():
    assert counts_letters(SAMPLES) == [0.0, 0.0, 0.0, 1.0]
    reward = own_reward("tests.rl.test_own_rewards:counts_letters", seconds=10)
    assert combine(SAMPLES, {"own": (2.0, reward)}).total == (0.0, 0.0, 0.0, 2.0)
    with pytest.raises(InputError, match="cannot be imported"):
        own_reward("tests.rl.test_own_rewards:nothing", seconds=10)


@pytest.mark.parametrize("seconds", [0, 10])
def test_a_reward_may_be_a_coroutine(seconds):
    reward = guarded("own", asks_a_service, seconds=seconds)
    assert reward(SAMPLES) == [0.0, 1.0, 2.0, 3.0]

    async def inside_a_loop():
        return reward(SAMPLES)

    with ThreadPoolExecutor(1) as apart:  # a browser of other tests may have left a loop in this thread
        assert apart.submit(asyncio.run, inside_a_loop()).result() == [0.0, 1.0, 2.0, 3.0]


def hangs(samples):
    time.sleep(30)


def loops(samples):
    while True:
        with contextlib.suppress(Exception):  # as a reward that tries again for ever
            time.sleep(0.01)


async def waits(samples):
    await asyncio.sleep(30)


@pytest.mark.parametrize("reward", [hangs, loops, waits])
def test_a_reward_that_hangs_fails_its_rollouts(reward, caplog):
    begin = time.monotonic()
    assert all(map(math.isnan, guarded("my:slow", reward, seconds=0.1)(SAMPLES)))
    assert time.monotonic() - begin < 5
    assert "reward 'my:slow' took longer than reward_timeout=0.1 seconds; 4 rollouts have failed" in caplog.text


def test_a_reward_that_hangs_in_another_thread_is_left_behind():
    found = []
    thread = threading.Thread(target=lambda: found.append(guarded("my:slow", hangs, seconds=0.1)(SAMPLES)))
    thread.start()
    thread.join(timeout=5)
    assert all(map(math.isnan, found[0]))


def divides(samples):
    return [1 / (2 - sample.prompt.meta.extra["letters"]) for sample in samples]


def forgets(samples):
    return [{}["score"] for sample in samples]


async def is_refused(samples):
    raise ConnectionError("the service\nis down")


def times_out(samples):
    raise TimeoutError("the service is slow")


def of_many(samples):
    return [1.0] if len(samples) == 1 else [1.0 / 0 for _ in samples]


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (
            divides,
            r"reward 'my:own' raised ZeroDivisionError: .*test_own_rewards.py, line \d+\) for record prompts.jsonl:3 \('question 2'\)",
        ),
        (forgets, r"raised KeyError: 'score' .* for record prompts.jsonl:1 \('question 0'\)"),
        (is_refused, r"raised ConnectionError: the service \(.*\) for record prompts.jsonl:1"),
        (times_out, r"raised TimeoutError: the service is slow \("),
        (of_many, r"raised ZeroDivisionError: .* for 4 samples together"),
        (lambda samples: [1.0], r"returned 1 values for 4 samples"),
        (lambda samples: None, r"returned a NoneType for 4 samples; return a list with one number, or None, for each"),
        (lambda samples: 1.0, r"returned a float for 4 samples"),
        (lambda samples: [1, None, "good", 2], r"returned 'good' for record prompts.jsonl:3 \('question 2'\); return a number, or None"),
    ],
)
def test_what_goes_wrong_is_one_sentence_that_names_reward_and_record(reward, message):
    with pytest.raises(RewardError, match=message) as caught:
        guarded("my:own", reward, seconds=10)(SAMPLES)
    assert "\n" not in str(caught.value)


def test_tensors_and_arrays_are_numbers_too():
    for values in (torch.tensor([1.0, 2.0, 3.0, 4.0]), np.arange(1, 5), (1, 2, 3, 4), [np.float32(1), 2, 3, 4]):
        assert guarded("own", lambda samples, values=values: values, seconds=10)(SAMPLES) == [1.0, 2.0, 3.0, 4.0]
