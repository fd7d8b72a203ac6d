"""From a configuration to a task: networks, prompts, rewards and export are put together here.

run(config)     train, or go on with, one run
out/            config.yaml  metrics.jsonl  tensorboard/  samples/  state/  model/ (what from_pretrained takes)
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import PartialState

from mmada.data import Epochs, Record, TableStream, lengths_of, open_source
from mmada.data.find_world import find_world
from mmada.data.format_hints import format_hint
from mmada.data.rows import lacking
from mmada.data.world import SampleKey, Split, World
from mmada.errors import InputError, suggest
from mmada.families import Ability
from mmada.hub import checkpoint
from mmada.rl.config import NEEDS_REFERENCE, REWARDS, PromptDataConfig, RLConfig, RLTaskConfig
from mmada.rl.prompts import PromptSource, RecordPrompts, WorldPrompts
from mmada.rl.rewards import Reward, pictures, text
from mmada.rl.rewards.own import own_reward
from mmada.rl.rewards.world import correct
from mmada.rl.rollout import RemoteRollouts
from mmada.rl.step import Policy
from mmada.rl.task import RLTask
from mmada.train import networks, state
from mmada.train.config import TrainConfig
from mmada.train.export import Parts, export, load_parts
from mmada.train.file_samples import encoding, report_dropped, select_together
from mmada.train.loop import train
from mmada.train.own_words import OwnWords
from mmada.train.plan import RunPlan, begin
from mmada.train.protocols import StepReport, TrainResult
from mmada.train.setup import plain, sized_before
from mmada.train.stages import STAGES

__all__ = ["build_task", "check_processes", "check_remote", "load_policy", "run"]

_ABILITIES: Mapping[str, Ability] = {
    "text": "chat",
    "understand": "look",
    "draw": "draw",
    "reason_draw": "draw",
    "edit": "edit",
    "restyle": "edit",
}
"""What each task asks of a model's family."""
_KEPT = ("model", "net", "lora", "seed", "debug", "data", "tasks", "objective", "group", "scale", "rollout_staleness")
"""Settings that a run keeps to its end; learning rates, numbers of steps and the loop's settings may change."""


def run(
    config: RLConfig,
    *,
    on_step: Callable[[StepReport], None] | None = None,
    on_plan: Callable[[RunPlan], None] | None = None,
    on_begin: Callable[[str], None] | None = None,
    remote: RemoteRollouts | None = None,
) -> TrainResult:
    """Train up to config.steps, from the last save in `out` if there is one. Raises the package's errors.

    on_begin  is told which family's model is rewarded for what
    remote  who samples, of rollouts=ray, on the main process: mmada.scale.rollouts.ray_rollouts(config)
    """
    begin()
    out = Path(config.out)
    with checkpoint.writing(out, "out"):
        pass  # before models are loaded
    _record(config, out)
    task = build_task(config, remote=remote)
    if on_begin is not None:
        on_begin(f"a model of {task.planner.family.title} is rewarded for {', '.join(plan.name for plan in config.active)}")
    return train(task, config.optim, config.loop, steps=config.steps, out=out, on_step=on_step, on_plan=on_plan, optim_key="optim")


def build_task(config: RLConfig, *, remote: RemoteRollouts | None = None) -> RLTask:
    """Networks with the weights that a run begins with, its prompts and rewards. Raises InputError for parts that do not fit together."""
    if not config.active:
        raise InputError("no task has prompts; set tasks.text.prompts=8, for example, with rewards")
    check_processes(config, PartialState().num_processes)
    if not config.model.start and not config.debug:
        raise InputError("model.start='' is empty; reinforcement learning begins with a trained model: name one, or set debug=true")
    data = config.data
    if not data.world and not data.path:
        raise InputError("data.world='' and data.path='' are both empty; name a world, such as shapes, or a file of records")
    check_remote(config, is_main=PartialState().is_main_process, remote=remote)
    world = find_world(data.world, data.options) if data.world else None
    parts, policy = load_policy(config, world)
    planner = parts.planner
    for plan in config.active:
        parts.require(_ability_for(plan, world))
        params = plan.decoding.text(planner)
        if config.objective.masking == "whole" and not params.looks_ahead and plan.of_world not in ("draw", "edit", "restyle"):
            raise InputError(
                "objective.masking='whole' shows the room behind the active block, which this model never sees; use auto or block"
            )
    reference = None
    if config.objective.kl_weight:
        # Adapters begin at 0: without them the model is its own reference. Everything else needs a copy.
        reference = policy if config.lora.rank else copy.deepcopy(policy).eval().requires_grad_(False)
    if config.loop.compile:
        networks.compile_blocks(policy)
    words = OwnWords(parts.lexicon)
    if world is not None:
        words.read_world(world, known=parts.defaults.world)
    sources = _prompts(config, world, parts, "train", words)
    parts = words.kept(parts, config.out)
    return RLTask(
        config=config,
        module=policy,
        planner=planner,
        sources=sources,
        rewards={
            plan.name: {name: (float(weight), _reward(name, config, world)) for name, weight in plan.rewards.items()}
            for plan in config.active
        },
        reference=reference,
        held_out=_prompts(config, world, parts, "test"),
        on_export=partial(export, parts=parts, has_adapter=bool(config.lora.rank)),
        remote=remote,
    )


def _ability_for(plan: RLTaskConfig, world: World | None) -> Ability:
    """What a checkpoint must be able to do for the prompts of a part. Of a task of the world's own its first sample says it."""
    if world is None or plan.of_world in _ABILITIES:
        return _ABILITIES.get(plan.of_world, "chat")
    first = world.sample(SampleKey(task=plan.of_world, split="train", seed=0, index=0, stream="prompt", kinds=plan.kinds))
    return "look" if first.seen else "draw" if first.drawn is not None else "chat"


def load_policy(config: RLConfig, world: World | None) -> tuple[Parts, Policy]:
    """The network with the weights that a run begins with, and what belongs to it. Raises the package's errors."""
    base = TrainConfig(
        stage=STAGES["finetune"],
        out=config.out,
        seed=config.seed,
        model=config.model,
        net=config.net,
        loop=config.loop,
        lora=config.lora,
        defaults=config.defaults,
        debug=config.debug,
    )
    parts = load_parts(base, world)
    return parts, Policy(parts.model, max_tokens=config.max_tokens)


def check_processes(config: RLConfig, num_processes: int) -> None:
    """Raises InputError if some processes would get no prompt in any round: they would compute nothing, and nobody would see it."""
    most = max(config.active, key=lambda task: task.prompts)
    idle = num_processes - most.prompts
    if idle > 0:
        raise InputError(
            f"tasks.{most.name}.prompts={most.prompts} leaves {idle} of {num_processes} processes without a prompt in each round; "
            f"set tasks.{most.name}.prompts={num_processes} or a multiple of it, or start {most.prompts} processes"
        )


def check_remote(config: RLConfig, *, is_main: bool, remote: RemoteRollouts | None) -> None:
    """Raises InputError if who samples is not whom the settings name. Of several processes the main one asks the workers, for all."""
    if config.rollouts == "ray" and is_main and remote is None:
        raise InputError(
            "rollouts=ray needs workers: start the run by `mmada rl`, or give remote= of mmada.scale.rollouts.ray_rollouts(config)"
        )
    if remote is not None and (config.rollouts == "here" or not is_main):
        where = "this process" if config.rollouts == "here" else "workers that the main process asks"
        raise InputError(
            f"rollouts={config.rollouts} samples in {where}, and remote= gives this one workers; leave it out, or set rollouts=ray"
        )


def _reward(name: str, config: RLConfig, world: World | None) -> Reward:
    """The reward of a name; weights of learned ones are loaded here."""
    if ":" in name:
        return own_reward(name, seconds=config.reward_timeout)
    own = world.rewards() if world else {}
    if name in own:
        return own[name]
    reward_models, device = config.reward_models, str(PartialState().device)
    makers: Mapping[str, Callable[[], Reward]] = {
        "format": lambda: text.think_format,
        "brevity": lambda: text.brevity,
        "exact": lambda: text.exact,
        "math": lambda: text.math_verified,
        "correct": lambda: _correct(world),
        "clip": lambda: pictures.clip_score(reward_models.clip, device=device),
        "caption_clip": lambda: pictures.clip_score(reward_models.clip, device=device, caption=True),
        "pick": lambda: pictures.pick_score(reward_models.pick, device=device),
        "image_reward": lambda: pictures.image_reward(reward_models.image_reward, device=device),
        "hps": lambda: pictures.hps(reward_models.hps),
        "pixels": lambda: pictures.pixels,
    }
    assert set(makers) == set(REWARDS)
    if name not in makers:
        raise InputError(f"unknown reward {name!r}: {suggest(name, {*makers, *own})}")
    return makers[name]()


def _correct(world: World | None) -> Reward:
    if world is None or not world.verifies:
        raise InputError("the reward correct needs a data.world that verifies answers; reward exact or math, or write a reward of your own")
    return correct(world)


def _prompts(config: RLConfig, world: World | None, parts: Parts, split: Split, words: OwnWords | None = None) -> dict[str, PromptSource]:
    """Task -> prompts, of the training or the test side; without records for the test, none. words: reads the records that are prompts."""
    if world is not None:
        made = partial(WorldPrompts, world, seed=config.seed, split=split, upscale=1 if parts.images is None else parts.images.upscale)
        return {plan.name: made(plan.of_world, name=plan.name, think=plan.think, kinds=plan.kinds) for plan in config.active}
    path = config.data.path if split == "train" else config.data.eval_path
    if not path:
        return {}
    speech, defaults, context = parts.prompts, parts.defaults, parts.planner.context
    source = config.data.source(path, is_eval=split == "test", prompts_only=True)
    reader = open_source(source, settings=encoding(parts)[0])
    assert not isinstance(reader, TableStream)  # only where streaming is asked for
    num_codes = parts.grid[0] * parts.grid[1]
    style = len(speech.encode(defaults.style.thinking))
    compared = {plan.name: [name for name in NEEDS_REFERENCE if plan.rewards.get(name)] for plan in config.active}
    answer_lengths = {plan.name: (plan.decoding.max_new_tokens or defaults.max_thinking_tokens) + style for plan in config.active}

    def reason(record: Record) -> str | None:
        if record.task not in answer_lengths:
            return f"task {record.task} has no prompts in this run"
        if not record.turns:
            return "a text without a question"
        if (problem := lacking(record, parts.family)) is not None:
            return problem
        if record.answer is None and compared[record.task] and record.task in ("text", "understand"):
            return f"no answer, which reward {compared[record.task][0]} compares with"
        given, answer_length = lengths_of(record, speech, grid=parts.grid).given, answer_lengths[record.task]
        row = given + (num_codes if record.task in ("draw", "edit", "restyle") else answer_length)
        if record.task == "reason_draw":  # what was thought is a prompt in its turn, or stands in one row with the drawing
            row = max(row, (given if defaults.reasons_in_one_row else 0) + answer_length + num_codes)
        if row > context:
            return "the prompt and its answer are longer than the context"
        return "a picture file is missing" if any(p.is_missing for turn in record.turns for p in turn.pictures) else None

    chosen, dropped = select_together(reader, reason, words)
    report_dropped(path, len(reader), dropped, f"context {context}, answer lengths {max(answer_lengths.values())} at most")
    found: dict[str, PromptSource] = {}
    for plan in config.active:
        if plan.name not in chosen:
            remedy = format_hint(reader, as_settings=True) or "; see `mmada data check`, or set its prompts=0"
            raise InputError(f"data.path={path!r} holds no record of task {plan.name} that fits{remedy}")
        found[plan.name] = RecordPrompts(
            Epochs(chosen[plan.name], seed=config.seed, shuffle=split == "train"), seed=config.seed, think=plan.think
        )
    return found


def _completed(task: dict[str, Any], before: Mapping[str, Any] | None) -> dict[str, Any]:
    """A task's recorded settings, with the defaults of what an older version did not know: a task without prompts, and new settings."""
    if before is None and not task["prompts"]:
        return task
    defaults, values = plain(asdict(RLTaskConfig(name=task["name"]))), before or {}
    return {**defaults, **values, "decoding": {**defaults["decoding"], **values.get("decoding", {})}}


def _record(config: RLConfig, out: Path) -> None:
    """Keep the settings beside the state. Raises InputError if the state there was begun with settings that cannot change."""
    import yaml

    values = yaml.safe_load(yaml.safe_dump(plain(asdict(config))))
    file = out / "config.yaml"
    if file.exists() and state.latest(out / "state") is not None:
        before = yaml.safe_load(file.read_text(encoding="utf-8"))
        before["data"] = plain(asdict(PromptDataConfig())) | before.get("data", {})  # what an older version did not know had its default
        before |= {name: sized_before(before.get(name, {}), section) for name, section in (("model", config.model), ("net", config.net))}
        before.setdefault("rollout_staleness", 0)
        tasks = {task["name"]: task for task in before.get("tasks", [])}
        before["tasks"] = [_completed(task, tasks.get(task["name"])) for task in values["tasks"]]
        changed = [name for name in _KEPT if before.get(name) != values[name]]
        if changed:
            raise InputError(
                f"{out} holds a run with other settings of {', '.join(changed)} (see {file}), which cannot be continued; "
                "restore them, or start afresh (--fresh)"
            )
    if PartialState().is_main_process:
        file.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
