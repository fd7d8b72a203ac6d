"""What the processes of tests/pipeline/test_followers.py do: each leads followers of its own."""

import copy
import json
import os
import subprocess

import torch
from PIL import Image

from mmada.errors import MMaDAError, StoppedError
from mmada.generation.requests import ChatRequest, Drawing, DrawRequest
from mmada.pipeline import MMaDA

PICTURE = Image.new("RGB", (32, 32), (200, 30, 90))
REQUESTS = [ChatRequest("Hello", seed=1), DrawRequest("a cat", seed=2), ChatRequest("What is it?", images=(PICTURE,), think=True)]


def results(model):
    return [result.codes if isinstance(result, Drawing) else result.token_ids for result in model.run(REQUESTS)]


def answers(folder):
    """Answers of a whole model and of one that two processes hold, and what the second refuses."""
    whole, led = MMaDA.debug(), MMaDA.from_pretrained("debug", device="cpu", tensor_parallel=2)
    facts = {"whole": results(whole), "led": results(led), "cached": [results(m.use(cache="dual")) for m in (whole, led)]}
    facts["held"] = [sum(weight.numel() for weight in m.model.parameters()) for m in (whole, led)]
    facts["bytes_per_token"] = [m.bytes_per_token for m in (whole, led)]
    refused = {"to": lambda: led.to("cpu"), "save": lambda: led.save_pretrained(folder / "saved"), "copy": lambda: copy.deepcopy(led)}
    refused["again"] = lambda: MMaDA.from_pretrained("debug", device="cpu", tensor_parallel=2)
    facts["refused"] = {name: refusal(call) for name, call in refused.items()}
    children = pids()
    led.close()
    facts["children"] = [len(children), len(pids())]
    torch.save(facts, folder / "facts.pt")


def refusal(call):
    try:
        call()
    except MMaDAError as error:
        return str(error)
    return "nothing"


def pids():
    """Of the followers of this process."""
    found = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(os.getpid())], capture_output=True, text=True, check=True).stdout
    return [int(line.split()[0]) for line in found.splitlines() if "mmada.pipeline.followers" in line and "defunct" not in line]


def lose_a_follower(folder):
    led = MMaDA.from_pretrained("debug", device="cpu", tensor_parallel=2)
    led.chat("Hello")
    (follower,) = pids()
    os.kill(follower, 9)
    messages = []
    for _ in range(2):
        try:
            led.chat("Hello")
        except StoppedError as error:
            messages.append(str(error))
    led.close()
    (folder / "messages.json").write_text(json.dumps(messages))


def lose_the_leader(folder):
    led = MMaDA.from_pretrained("debug", device="cpu", tensor_parallel=2)
    led.chat("Hello")
    (folder / "pids.json").write_text(json.dumps(pids()))
    os.kill(os.getpid(), 9)
