"""Real classes at a tiny size: byte tokenizer, 64 codes, 16 codes an image, two layers. `main` trains in another process."""

import os
import resource
import signal
from dataclasses import replace
from pathlib import Path

import torch
from accelerate.state import AcceleratorState
from torch.distributed.tensor import distribute_tensor

from mmada.canvas import Prompts, Style, VocabLayout
from mmada.data.seeds import integer
from mmada.errors import CheckpointError
from mmada.hub import tokenizer
from mmada.model import Transformer, preset
from mmada.train import scoring, state
from mmada.train.loop import LoopConfig, train
from mmada.train.optim import Muon, OptimizerConfig, build
from mmada.train.plan import begin
from mmada.train.recipes import named_stage
from mmada.train.sharding import shard, whole
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
    """Another process: `rank` is one of several, with copies of the weights and then with shards; `more` goes on with shards;
    `parts` splits every matrix; `long` trains with shards from the start, and the second process may die; `kill` dies in its second save;
    `saves` saves in both ways."""
    if mode == "kill":
        whole = state.publish

        def publish(scratch, target):
            if target.name.endswith("4"):
                (scratch / "optimizer.bin").write_bytes(b"half")
                os.kill(os.getpid(), signal.SIGKILL)
            whole(scratch, target)

        state.publish = publish
        fit(small(), out, settings=replace(QUIET, save_every=2, async_saves="ASYNC" in os.environ))
        return
    if mode == "parts":  # every matrix is split, logits come in chunks, and the best weights are kept
        begin()
        scoring.MAX_LOGITS = 3000
        best_of_four(Path(out), async_saves=True, tensor_parallel=2)
        return
    if mode == "saves":  # while the run waits, and while it goes on
        begin_sharded()
        for name in ("waits", "goes-on"):
            best_of_four(Path(out) / name, async_saves=name == "goes-on")
        try:
            best_of_four(Path(out) / "full", async_saves=True, on_step=fill_the_disk)
        except CheckpointError as error:
            (Path(out) / f"error-{os.environ['RANK']}").write_text(str(error))
        return
    if mode == "more":  # another number of processes goes on
        begin_sharded()
        exported(small(), out, steps=4, settings=replace(QUIET, accumulate=2))
        return
    if mode == "long":
        begin_sharded()
        exported(small(), out, steps=8, settings=replace(QUIET, save_every=2), on_step=die_at_5 if os.environ.get("DIES") else None)
        return
    job, _ = fit(small(), out, steps=3, settings=replace(QUIET, accumulate=2, save_every=1, async_saves=True))
    rank = os.environ["RANK"]
    torch.save(weights(job), Path(out) / f"weights-{rank}.pt")
    torch.distributed.destroy_process_group()
    AcceleratorState._reset_state(reset_partial_state=True)
    os.environ["MASTER_PORT"] = os.environ["NEXT_PORT"]
    begin_sharded()
    exported(small(), Path(out) / "sharded", steps=3, settings=replace(QUIET, accumulate=2, eval_every=3))
    torch.save(muon_in_parts(), Path(out) / f"muon-{rank}.pt")
    torch.save(muon_in_parts(tensor_parallel=2), Path(out) / f"split-muon-{rank}.pt")


def begin_sharded():
    """The next run of this process uses FSDP2."""
    os.environ["ACCELERATE_USE_FSDP"] = "true"
    begin()


def exported(stage, out, **options):
    """Train; what would be exported goes to a file."""
    job = task(stage)
    job.on_export = lambda _, whole: torch.save({f"model.{name}": tensor for name, tensor in whole.items()}, Path(out) / "exported.pt")
    return train(job, stage.optim, options["settings"], steps=options["steps"], out=Path(out), on_step=options.get("on_step"))


def fill_the_disk(report):
    """Of the second process; a limit on the size of files stands for the disk."""
    if report.step == 2 and os.environ["RANK"] == "1":
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**12, resource.RLIM_INFINITY))


def best_of_four(out, on_step=None, **changes):
    """A run that exports the best of its weights, which are not its last."""
    stage = small(optim=replace(CALM, lr=0.05, warmup=0))
    job = task(stage)
    job.compared = {"held_out": {"text": job.held_out["text"]}}
    job.on_export = lambda _, whole: torch.save(whole, out / "exported.pt")
    outcome = train(
        job, stage.optim, replace(QUIET, eval_every=1, keep_best=True, save_every=1, **changes), steps=4, out=out, on_step=on_step
    )
    (out / f"kept-{os.environ.get('RANK', 0)}").write_text(str(outcome.kept_step))


def die_at_5(report):
    if report.step == 5 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)


def muon_in_parts(**shards):
    """Weights of Muon after two steps with the same gradients: whole, and put together of the parts that each process moved."""
    made = {}
    for name in ("whole", "parts"):
        network = model()
        if name == "parts":
            shard(network, device=torch.device("cpu"), precision="fp32", **shards)
        (optimizer,) = (one for one in build(network.named_parameters(), OptimizerConfig(name="muon")) if isinstance(one, Muon))
        moved = optimizer.param_groups[0]["params"]
        for step in range(2):
            for i, weight in enumerate(moved):
                gradient = torch.randn(weight.shape, generator=torch.Generator().manual_seed(100 * step + i))
                weight.grad = gradient if name == "whole" else distribute_tensor(gradient, weight.device_mesh, weight.placements)
            optimizer.step()
        made[name] = [whole(weight.detach()) for weight in moved]
    return made
