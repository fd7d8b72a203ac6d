"""Report runs of reinforcement learning: rewards at the start and the end, KL divergence, and cost.

    python scripts/report_rl.py runs/emoji/max-0 runs/emoji/max-1 --judge 40 -o docs/results/rl.json
    python scripts/report_rl.py runs/rl/unigrpo runs/rl/espo --judge 40 --tasks draw -o docs/results/rl-objectives.json

One entry for each run, in the given order:

    rewards     means over rollouts of training prompts, in the first and the last tenth of the rounds (at least one),
                with their standard error over rounds
    signal      share of groups whose rollouts did not all earn the same, mean over rounds
    kl          mean divergence over the last tenth of the updates
    curves      the rewards of all rounds
    held_out    the evaluations during the run (loop.eval_every)
    judged      with --judge N: share of correct held-out examples of each task, for the run's model and for its start
                with --natural N also N prompts of each kind of ordinary English, and those of writers whom nobody is taught; all
                without the calculator
    diversity   with --diversity N: how different eight drawings of the same prompt are, over N held-out prompts (benchmark.diversity)

--judge takes N examples of each kind, the same for all models. It judges them like `mmada eval emoji`, without unseen art styles.
--steps sets the steps of its drawings; --direct turns thinking off.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from mmada.cli.session import check_writable
from mmada.data.world import SampleKey, SuiteSettings
from mmada.eval import report
from mmada.eval.exact import run_requests
from mmada.eval.metrics import Share
from mmada.pipeline import MMaDA
from mmada.train.world import request_of
from mmada.worlds.emoji import KINDS
from mmada.worlds.emoji.measure import benchmark
from mmada.worlds.emoji.measure.judge import the_judge
from mmada.worlds.emoji.measure.strangers import Strangers
from mmada.worlds.emoji.measure.tables import PARTS, SKILLS, TASKS, share_of
from mmada.worlds.emoji.source import EmojiWorld

SETTINGS = ("seed", "group", "scale", "tasks", "objective", "optim", "model")


def read(directory: Path) -> list[dict[str, Any]]:
    file = directory / "metrics.jsonl"
    if not file.exists():
        raise SystemExit(f"{file} is missing; give the directory that a run of `mmada rl` wrote")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def mean(values: Sequence[float]) -> dict[str, float | None]:
    if not values:
        return {"mean": None, "error": None}
    error = round(statistics.stdev(values) / len(values) ** 0.5, 4) if len(values) > 1 else None
    return {"mean": round(statistics.fmean(values), 4), "error": error}


def run(directory: Path) -> dict[str, Any]:
    lines = read(directory)
    config = yaml.safe_load((directory / "config.yaml").read_text(encoding="utf-8"))
    names = [task["name"] for task in config["tasks"] if task["prompts"]]
    rounds = [line for line in lines if any(f"reward/{name}" in line for name in names)]
    tenth = max(1, len(rounds) // 10)
    parts = sorted({key for line in rounds for key in line if key.startswith("reward/")})
    last = [line for line in lines if "seconds" in line][-1]
    late = [line for line in lines if line["step"] > 0.9 * last["step"]]
    return {
        "directory": directory.name,
        "settings": {name: config[name] for name in SETTINGS if name in config},
        "updates": last["step"],
        "rounds": (num_rounds := -(-last["step"] // config["objective"]["updates"])),
        "rollouts": sum(task["prompts"] for task in config["tasks"]) * config["group"] * num_rounds,
        "minutes": round(last["seconds"] / 60, 1),
        "rewards": {
            part.removeprefix("reward/"): {
                "first": mean([line[part] for line in rounds[:tenth] if part in line]),
                "last": mean([line[part] for line in rounds[-tenth:] if part in line]),
            }
            for part in parts
        },
        "signal": {name: mean([line[f"signal/{name}"] for line in rounds if f"signal/{name}" in line])["mean"] for name in names},
        "kl": {name: mean([line[f"kl/{name}"] for line in late if f"kl/{name}" in line])["mean"] for name in names},
        "curves": {part.removeprefix("reward/"): [round(line[part], 4) for line in rounds if part in line] for part in parts},
        "held_out": [
            {"step": line["step"], **{key.removeprefix("eval/"): round(value, 4) for key, value in line.items() if key.startswith("eval/")}}
            for line in lines
            if any(key.startswith("eval/") for key in line)
        ],
    }


def judged(pipeline: MMaDA, num: int, tasks: Sequence[str], steps: int | None, direct: bool) -> dict[str, dict[str, Any]]:
    """Share of correct held-out examples, by task and by skill. `num` examples of each kind; thinking as the model does by default."""
    found = {}
    for task in tasks:
        thinks = not direct and (task != "draw" or pipeline.defaults.thinks_before_drawing)
        mode = "think" if thinks else "direct"
        kinds = tuple(name for name, kind in KINDS.items() if kind.task == task)
        settings = benchmark.Settings(num=num, kinds=kinds, modes=(mode,), image_steps=steps)
        outcomes = [outcome.to_dict() for outcome in benchmark.run(pipeline, the_judge(), settings)]
        share = share_of(outcomes, kinds, mode)
        assert share is not None  # some example has another combination held out
        skills = {name: share_of(outcomes, some, mode) for name, some in SKILLS[PARTS[task]].items()}
        found[task] = {**share.to_dict(), "skills": {name: one.to_dict() for name, one in skills.items() if one is not None}}
    return found


OTHERS = ("others_problems", "others_sums")


def in_ordinary_english(pipeline: MMaDA, num: int) -> dict[str, dict[str, Any]]:
    """Share of right answers, by kind: `num` held-out prompts of each, and what two more writers ask. Thinking, without the calculator."""
    world, found = EmojiWorld(), dict[str, dict[str, Any]]()
    plain = pipeline.use(calculator=False)
    for name in ("problem", "story", "sum"):
        keys = [SampleKey(task="natural_text", split="test", seed=0, index=i, stream="report", kinds=(name,)) for i in range(num)]
        samples = [world.sample(key) for key in keys]
        answers = run_requests(plain, [request_of(sample, think=True, seed=i) for i, sample in enumerate(samples)])
        right = sum(world.verify(sample.origin, str(answer)) for sample, answer in zip(samples, answers, strict=True))
        found[name] = Share(right, num).to_dict()
    measured = Strangers().run(plain, SuiteSettings(kinds=OTHERS), lambda share, what: None)
    return found | {row["kind"]: row for row in measured.values["outcomes"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="directories of runs")
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/results/rl.json"))
    parser.add_argument("--judge", type=int, default=0, metavar="N", help="judge N held-out examples of each kind; 0: none")
    parser.add_argument("--tasks", nargs="+", choices=tuple(TASKS), default=tuple(TASKS), help="whose examples are judged")
    parser.add_argument(
        "--natural", type=int, default=0, metavar="N", help="ask N held-out prompts of each kind of ordinary English; 0: none"
    )
    parser.add_argument("--steps", type=int, metavar="N", help="steps of a judged drawing; default: the checkpoint's")
    parser.add_argument("--direct", action="store_true", help="judge answers and drawings that nothing was thought about for")
    parser.add_argument("--diversity", type=int, default=0, metavar="N", help="draw N held-out prompts with eight seeds each; 0: none")
    arguments = parser.parse_args()
    check_writable(arguments.output, "output")
    if lost := [str(directory) for directory in arguments.runs if not (directory / "model").is_dir()]:
        parser.error(f"no model in {', '.join(lost)}; let the run come to its end")
    found = [run(directory) for directory in arguments.runs]
    load = cache(MMaDA.from_pretrained)
    measure_diversity = cache(
        lambda model: benchmark.diversity(load(model), the_judge(), num=arguments.diversity, think=False if arguments.direct else None)
    )
    measure_shares = cache(lambda model: judged(load(model), arguments.judge, arguments.tasks, arguments.steps, arguments.direct))
    measure_english = cache(lambda model: in_ordinary_english(load(model), arguments.natural))
    for directory, one in zip(arguments.runs, found, strict=True):
        before, after = one["settings"]["model"]["start"], str(directory / "model")
        if arguments.diversity:
            one["diversity"] = {"before": measure_diversity(before), "after": measure_diversity(after)}
        if arguments.judge:
            one["judged"] = {
                task: {"before": measure_shares(before)[task], "after": measure_shares(after)[task]} for task in arguments.tasks
            }
        if arguments.natural:
            both = measure_english(before), measure_english(after)
            one["judged"] = one.get("judged", {}) | {kind: {"before": both[0][kind], "after": both[1][kind]} for kind in both[0]}
    for one in found:
        print(f"{one['directory']}: {one['updates']} updates, {one['rollouts']} rollouts, {one['minutes']} minutes")
        for task, parts in one.get("judged", {}).items():
            print(f"    {task:28}", *(f"{when} {100 * share['value']:.1f} %" for when, share in parts.items()))
        for name, values in one["rewards"].items():
            first, last = values["first"], values["last"]
            print(f"    {name:28} {first['mean']}  ->  {last['mean']}   ± {last['error']}")
    environment = report.environment(" ".join(["python", "scripts/report_rl.py", *sys.argv[1:]]))
    mode = "direct" if arguments.direct else "think"
    report.save(arguments.output, {"suite": "rl", "environment": environment, "mode": mode, "runs": found})


if __name__ == "__main__":
    main()
