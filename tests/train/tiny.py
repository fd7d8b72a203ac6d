"""Real classes at a tiny size: byte tokenizer, 64 codes, 16 codes an image, two layers. Run as a script, it trains in another process."""

import sys
from dataclasses import replace
from pathlib import Path

import torch

from mmada import tokenizer
from mmada.model import MMadaModelLM, preset
from mmada.prompt import Prompts, Style
from mmada.train.loop import Loop, train
from mmada.train.optim import Optim
from mmada.train.seeds import integer
from mmada.train.source import EmojiSamples, FlowRows
from mmada.train.stages import STAGES
from mmada.train.step import Objective
from mmada.train.task import BatchPlan, DiffusionTask
from mmada.vocab import VocabLayout

LAYOUT = VocabLayout.compact(256, 64)
NUM_CODES = 16
# A large epsilon: Adam otherwise turns the last bit of a vanishing gradient into a step of full size.
CALM = Optim(lr=1e-3, eps=1e-3, warmup=2, ema=0.9)
QUIET = Loop(prefetch=0, log_every=1, eval_every=0, sample_every=0, save_every=0)


def prompts():
    return Prompts(LAYOUT, tokenizer.byte_level(), Style(thinking="Think. ", draw_thinking="Think. "))


def encode(scenes):
    """Codes that depend on the scene alone."""
    return torch.stack([torch.randint(64, (NUM_CODES,), generator=torch.Generator().manual_seed(integer(repr(s)))) for s in scenes])


def stage(*names, batch=8, **changes):
    """The flows of our mixed stage, or those named, in a small batch."""
    mixcot = STAGES["mixcot"]
    flows = tuple(replace(flow, share=1.0) for flow in mixcot.flows if not names or flow.name in names)
    settings = {"rooms": (8, 64, 256), "optim": CALM, "steps": 12, **changes}
    return replace(mixcot, flows=flows, batch=batch, **settings)


def sources(stage, *, seed=0, split="train", size=None):
    speech = prompts()
    samples = {flow.task: EmojiSamples(flow.task, encode, seed=seed, split=split, size=size) for flow in stage.flows}
    return {flow.name: FlowRows(flow, stage, samples[flow.task], speech, seed=seed, num_image_tokens=NUM_CODES) for flow in stage.flows}


def plan(stage, *, seed=0, size=None):
    return BatchPlan(stage=stage, sources=sources(stage, seed=seed, size=size), layout=LAYOUT, seed=seed)


def model(**changes):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MMadaModelLM(preset("debug", layout=LAYOUT, max_sequence_length=1024, **changes))


def task(stage, *, seed=0, size=None, network=None):
    held_out = sources(stage, seed=seed, split="test")
    return DiffusionTask(plan=plan(stage, seed=seed, size=size), module=Objective(network or model()), held_out=held_out, num_held_out=2)


def fit(stage, out, *, steps=None, settings=QUIET, **changes):
    """Train; returns the task and the outcome."""
    job = task(stage, **changes)
    return job, train(job, stage.optim, settings, steps=steps or stage.steps, out=Path(out))


def weights(job):
    return {name: tensor.clone() for name, tensor in job.module.state_dict().items()}


def main(mode, out):
    """Another process: `rank` is one of several; `kill` dies in the middle of its second save."""
    torch.set_num_threads(1)
    if mode == "kill":
        import os
        import signal

        from mmada.train import state

        whole = state.publish

        def publish(scratch, target):
            if target.name.endswith("4"):
                (scratch / "optimizer.bin").write_bytes(b"half")
                os.kill(os.getpid(), signal.SIGKILL)
            whole(scratch, target)

        state.publish = publish
        fit(stage(), out, settings=replace(QUIET, save_every=2))
        return
    job, _ = fit(stage(), out, steps=3, settings=replace(QUIET, accumulate=2))
    torch.save(weights(job), Path(out) / f"weights-{os_rank()}.pt")


def os_rank():
    import os

    return os.environ.get("RANK", "0")


if __name__ == "__main__":
    main(*sys.argv[1:])
