"""Runs that begin with a checkpoint, one after another in one process: of all weights and of an adapter, trained and rewarded."""

import os
from pathlib import Path

import yaml

from mmada.rl import config as rl_config
from mmada.rl import setup as rl_setup
from mmada.train import config as train_config
from mmada.train import setup as train_setup

ADAM = {"name": "adamw", "lr": 1e-3, "eps": 1e-3, "ema": 0.0}  # of a large epsilon: see tiny.py
DEFAULTS = {"max_new_tokens": 16, "max_thinking_tokens": 32, "block_length": 16, "image_height": 32, "image_width": 32, "image_steps": 2}
BASE = {
    "debug": True,
    "data": {"world": "shapes"},
    "net": {"patch": 4, "encoder_ch_mult": [1, 2], "decoder_ch_mult": [1, 2]},
    "defaults": {**DEFAULTS, "guidance_scale": 1.0, "full_attention": False},
}
LORA = {"rank": 4, "targets": ["q_proj", "ff_proj", "ff_out"]}
TASKS = {"text": {"prompts": 2, "rewards": {"brevity": 1.0, "nearness": 0.0}}, "draw": {"prompts": 2, "rewards": {"nearness": 1.0}}}


def start(out):
    """A checkpoint."""
    _train({**BASE, "stage": {"name": "base", "optim": ADAM}, "out": str(out)}, out)
    return out / "model"


def main(start, out, names, changes=None):
    """One run of each name, below `out`. changes: settings on top of the others."""
    changes = changes or {}
    for name in names:
        values = {**BASE, **changes, "model": {"start": str(start), **changes.get("model", {})}, "out": str(Path(out) / name)}
        values |= {"lora": LORA} if name.endswith("lora") else {}
        if name.startswith("rl"):
            _reward({**values, "tasks": TASKS, "optim": ADAM, "objective": {"updates": 2, "kl_weight": 0.1}}, Path(out) / name)
        else:
            _train({**values, "stage": {"name": "base", "optim": ADAM}}, Path(out) / name)


def _train(values, out):
    train_setup.run(train_config.load(_file(values, out)), on_plan=print)


def _reward(values, out):
    config = rl_config.load(_file(values, out))
    if config.rollouts == "here" or os.environ.get("RANK", "0") != "0":
        rl_setup.run(config, on_plan=print)
        return
    from mmada.scale.rollouts import ray_rollouts

    with ray_rollouts(config) as remote:
        rl_setup.run(config, on_plan=print, remote=remote)


def _file(values, out):
    file = out.with_name(f"{out.name}-{os.environ.get('RANK', 0)}.yaml")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(values))
    return file
