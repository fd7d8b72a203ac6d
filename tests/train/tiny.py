"""Real classes at a tiny size: byte tokenizer, 64 codes, 16 codes an image, two layers. `main` trains in another process."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

from mmada.canvas import Prompts, Style, VocabLayout
from mmada.data.seeds import integer
from mmada.hub import tokenizer
from mmada.model import Transformer, preset
from mmada.train import state
from mmada.train.loop import LoopConfig, train
from mmada.train.optim import OptimizerConfig
from mmada.train.recipes import named_stage
from mmada.train.source import ComponentRows
from mmada.train.step import DiffusionLoss
from mmada.train.task import BatchPlan, DiffusionTask
from mmada.train.world import WorldSamples
from mmada.worlds.shapes import Shapes

LAYOUT = VocabLayout.compact(256, 64)
NUM_CODES = 16
# A large epsilon: Adam otherwise turns the last bit of a vanishing gradient into a step of full size.
CALM = OptimizerConfig(lr=1e-3, eps=1e-3, warmup=2, ema=0.9)
QUIET = LoopConfig(prefetch=0, log_every=1, eval_every=0, sample_every=0, save_every=0)


def prompts():
    return Prompts(LAYOUT, tokenizer.byte_level(), Style(thinking="Think. ", draw_thinking="Think. "))


def encode(pictures):
    """Codes that depend on the picture alone."""
    seeds = [integer(picture.tobytes().hex()) for picture in pictures]
    return torch.stack([torch.randint(64, (NUM_CODES,), generator=torch.Generator().manual_seed(seed)) for seed in seeds])


# Thinking and drawing in one row, which our stages do in two.
JOINT = {
    "plan": {"layout": "reason_draw", "noise": ("count", "hidden")},
    "make": {"layout": "reason_draw", "noise": ("given", "cosine"), "think": 1.0},
}


def stage(*names, batch=8, **changes):
    """The components of the shapes' mixed stage, thinking and drawing as joint rows, or those named, in a small batch."""
    mixcot = named_stage("mixcot", "shapes")
    chosen = [component for component in mixcot.components if not names or component.name in names]
    components = tuple(replace(component, mixture_weight=1.0, **JOINT.get(component.name, {})) for component in chosen)
    settings = {"answer_lengths": (8, 64, 448), "optim": CALM, "steps": 12, "block_length": 16, **changes}
    return replace(mixcot, components=components, batch=batch, **settings)


def small(**changes):
    """Components of short rows: what saves, several processes and accumulation are tested with."""
    return stage("draw", "look", "interview", "text", **changes)


def sources(stage, *, seed=0, split="train", size=None):
    speech = prompts()
    samples = {
        component.task: WorldSamples(Shapes(), component.task, encode, seed=seed, split=split, size=size) for component in stage.components
    }
    return {
        component.name: ComponentRows(component, stage, samples[component.task], speech, seed=seed, num_image_tokens=NUM_CODES)
        for component in stage.components
    }


def plan(stage, *, seed=0, size=None):
    return BatchPlan(stage=stage, sources=sources(stage, seed=seed, size=size), layout=LAYOUT, seed=seed)


def model(**changes):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Transformer(preset("debug", layout=LAYOUT, max_sequence_length=1024, **changes))


def task(stage, *, seed=0, size=None, network=None):
    held_out = sources(stage, seed=seed, split="test")
    return DiffusionTask(
        plan=plan(stage, seed=seed, size=size), module=DiffusionLoss(network or model()), held_out=held_out, num_held_out=2
    )


def fit(stage, out, *, steps=None, settings=QUIET, **changes):
    """Train; returns the task and the outcome."""
    job = task(stage, **changes)
    return job, train(job, stage.optim, settings, steps=steps or stage.steps, out=Path(out))


def weights(job):
    return {name: tensor.clone() for name, tensor in job.module.state_dict().items()}


def main(mode, out):
    """Another process: `rank` is one of several, with copies of the weights and then with shards; `kill` dies in its second save."""
    if mode == "kill":
        whole = state.publish

        def publish(scratch, target):
            if target.name.endswith("4"):
                (scratch / "optimizer.bin").write_bytes(b"half")
                os.kill(os.getpid(), signal.SIGKILL)
            whole(scratch, target)

        state.publish = publish
        fit(small(), out, settings=replace(QUIET, save_every=2))
        return
    job, _ = fit(small(), out, steps=3, settings=replace(QUIET, accumulate=2))
    rank = os.environ["RANK"]
    torch.save(weights(job), Path(out) / f"weights-{rank}.pt")
    shard_next_run()
    unaveraged = small(optim=replace(CALM, ema=0.0))
    job = task(unaveraged)
    job.on_export = lambda _, whole: torch.save({f"model.{name}": tensor for name, tensor in whole.items()}, Path(out) / "sharded.pt")
    train(job, unaveraged.optim, replace(QUIET, accumulate=2, eval_every=3), steps=3, out=Path(out) / "sharded")


def shard_next_run():
    """The next run of this process uses FSDP2. accelerate offers it on GPUs only, so they are what it is told this is."""
    torch.distributed.destroy_process_group()
    AcceleratorState._reset_state(reset_partial_state=True)
    os.environ["MASTER_PORT"] = os.environ["NEXT_PORT"]
    os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"}
    os.environ |= {"FSDP_TRANSFORMER_CLS_TO_WRAP": "Block", "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT"}
    PartialState(cpu=True)
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
