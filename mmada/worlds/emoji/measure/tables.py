"""Result files of `mmada eval emoji` as tables of a document: a row for each skill, with and without thinking.

skills(results)           Markdown: share right in per cent with its 95 % interval, held-out combinations of art that was trained on
summary(results)          Markdown: the same in five rows, for a README
against(results, parts)   Markdown: accuracy against passes, by runs with other settings
best_of(one, several)     Markdown: drawings, and the likeliest of several drawings
about_drawings(results)   Markdown: what the judge itself gets right, and what the image tokenizer loses
cost(results)             Markdown: seconds of an answer and an image (mmada eval speed)
training(results)         Markdown: minutes and speed of each stage (scripts/report_training.py)
objectives(results)       Markdown: runs of reinforcement learning side by side (scripts/report_rl.py --judge N)
gains(results)            Markdown: what such runs, of several seeds, gained in each task
courses(results, part)    Markdown: a part of their rewards over the rounds
perturbed(result)         Markdown: a stranger's prompts under each surface noise
calibration(result)       Markdown: what the score of --best-of says (scripts/emoji/measure_calibration.py)
cases(results)            Markdown: seconds of each case of scripts/gpu/bench_8b.py

Combinations of one type, an object in an art style in which it was never seen, are counted apart. They ask for another thing: to know
a picture by a likeness instead of parts that are known.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from mmada.errors import InputError
from mmada.eval.metrics import Share

__all__ = [
    "NATURAL",
    "NOISE_TITLES",
    "PARTS",
    "PERTURBED",
    "SKILLS",
    "SUMMARY",
    "TASKS",
    "about_drawings",
    "against",
    "best_of",
    "calculator",
    "calibration",
    "cases",
    "cost",
    "courses",
    "gains",
    "natural",
    "objectives",
    "perturbed",
    "share_of",
    "skills",
    "summary",
    "training",
]

SKILLS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "Understanding": {
        "presence": ("presence",),
        "position": ("where", "what_at", "relation"),
        "colour": ("colour", "background"),
        "counting": ("count", "count_category", "total"),
        "comparison": ("compare",),
        "caption, all of it": ("caption", "contents"),
    },
    "Text": {
        "word problems, one step": ("arithmetic1",),
        "word problems, two steps": ("arithmetic2",),
        "word problems, three steps": ("arithmetic3",),
        "expressions": ("expression",),
        "knowledge of the objects": ("category", "is_a", "odd_one_out", "clue", "keyword"),
    },
    "Drawing": {
        "single object": ("draw_single",),
        "two objects": ("draw_two",),
        "counting": ("draw_count", "draw_counts"),
        "position": ("draw_place", "draw_relation"),
        "colour and attribute binding": ("draw_binding",),
    },
    "Thinking before drawing": {
        "final scene": tuple(
            f"reason_{name}" for name in ("restate", "more", "times", "rest", "change", "sum", "opposite", "swap", "clue", "tint")
        ),
    },
}
"""Part -> skill -> the kinds of examples that it is measured by."""

UNSEEN_STYLE = "style"


def share_of(outcomes: Iterable[Mapping[str, Any]], kinds: Sequence[str], mode: str, *, unseen_style: bool = False) -> Share | None:
    """Over all examples of these kinds in a mode: those with an unseen art style, or all others. None if there are none."""
    parts = [
        part
        for outcome in outcomes
        if outcome["kind"] in kinds and outcome["mode"] == mode
        for name, part in outcome["held_out"].items()
        if (name == UNSEEN_STYLE) == unseen_style
    ]
    total = sum(part["total"] for part in parts)
    return Share(sum(part["correct"] for part in parts), total) if total else None


def skills(results: Mapping[str, Any]) -> str:
    """A column for each mode that was measured. Raises InputError if the file is of another suite."""
    outcomes = _outcomes(results)
    modes = [mode for mode in ("direct", "think") if any(outcome["mode"] == mode for outcome in outcomes)]
    titles = {"direct": "without thinking", "think": "thinking"}
    lines = ["| | " + " | ".join([*(titles[mode] for mode in modes), "unseen art style"]) + " |", "|---" * (len(modes) + 2) + "|"]
    for part, rows in SKILLS.items():
        lines.append(f"| **{part}** |" + " |" * (len(modes) + 1))
        for skill, kinds in rows.items():
            shares = [share_of(outcomes, kinds, mode) for mode in modes]
            unseen = share_of(outcomes, kinds, "think", unseen_style=True) or share_of(outcomes, kinds, "direct", unseen_style=True)
            lines.append(f"| {skill} | " + " | ".join(map(_cell, [*shares, unseen])) + " |")
    return "\n".join(lines)


SUMMARY: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "questions about pictures": ("Understanding", tuple(SKILLS["Understanding"])),
    "word problems and sums": ("Text", tuple(skill for skill in SKILLS["Text"] if "knowledge" not in skill)),
    "knowledge of the objects": ("Text", ("knowledge of the objects",)),
    "drawings": ("Drawing", tuple(SKILLS["Drawing"])),
    "drawings that need thought": ("Thinking before drawing", ("final scene",)),
}
"""Row of `summary` -> part and skills of SKILLS, all their examples together."""


def summary(results: Mapping[str, Any]) -> str:
    """A row for each of SUMMARY, as `skills` has one for each skill. Raises InputError if the file is of another suite."""
    outcomes = _outcomes(results)
    lines = ["| | without thinking | thinking | unseen art style |", "|---|---|---|---|"]
    for title, (part, names) in SUMMARY.items():
        kinds = [kind for name in names for kind in SKILLS[part][name]]
        shares = [share_of(outcomes, kinds, mode) for mode in ("direct", "think")]
        lines.append(f"| {title} | " + " | ".join(map(_cell, [*shares, share_of(outcomes, kinds, "think", unseen_style=True)])) + " |")
    return "\n".join(lines)


NATURAL: Mapping[str, str] = {
    "natural_draw": "requests for what the world has: the right picture",
    "false_refusal": "the same: neither refused nor called unknown",
    "natural_unknown": "requests with what it lacks: said so, and the rest drawn",
    "unknown_words": "nouns that no list of training has: said so",
    "perturbed_lower": "in small letters",
    "perturbed_title": "In Title Case",
    "perturbed_no_punctuation": "without punctuation",
    "perturbed_more_punctuation": "with more punctuation!!!",
    "perturbed_space": "with a second space",
    "perturbed_typo": "with a typo in a longer word",
}
"""Row of the suite `natural` -> what it asks."""


def natural(results: Mapping[str, Any], before: Mapping[str, Any]) -> str:
    """A row for each part of the suite `natural`, beside the same weights without lexicon, checks and reading."""
    now, then = ({row["kind"]: Share(row["correct"], row["total"]) for row in found["outcomes"]} for found in (results, before))
    lines = ["| | without them | with them |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {title} | {_cell(then.get(kind))} | {_cell(now[kind])} |" for kind, title in NATURAL.items())])


PERTURBED: Mapping[str, str] = {
    "draw": "drawings", "look": "questions about pictures", "facts": "about its objects", "problems": "word problems", "sums": "sums", "talk": "small talk",
}  # fmt: skip
"""Part of the suite -> heading of its column."""
NOISE_TITLES: Mapping[str, str] = {
    "none": "as it was written", "lower": "in small letters", "title": "In Title Case", "no_punctuation": "without punctuation",
    "more_punctuation": "with more punctuation!!!", "space": "with a second space", "typo": "with a typo in a longer word",
    "system": "behind a system turn", "earlier": "behind an earlier exchange", "no_break_spaces": "with no-break spaces",
}  # fmt: skip

STRANGERS: Mapping[str, tuple[str, ...]] = {
    "drawing requests: the right picture": ("draw",),
    "the same: neither refused nor called unknown": ("draw_refused",),
    "drawing requests with what it lacks: said so, and the rest drawn": ("draw_unknown",),
    "questions about pictures": ("look_",),
    "questions about its objects": ("facts_",),
    "word problems": ("problems",),
    "sums to a hundred, in words and signs": ("sums",),
    "small talk, and what it cannot do": ("talk",),
    "word problems, by two more writers": ("others_problems",),
    "sums and comparisons, by two more writers": ("others_sums",),
    "small talk, by two more writers": ("others_talk",),
}
"""Row of the table -> kinds of the suite, or what their names begin with."""


def strangers(results: Mapping[str, Mapping[str, Any]]) -> str:
    """A row for each part of the suite `strangers`, a column for each model, by its title."""
    lines = ["| asked by a stranger | " + " | ".join(results) + " |", "|---" * (1 + len(results)) + "|"]
    for title, kinds in STRANGERS.items():
        lines.append(f"| {title} | " + " | ".join(_cell(_pooled(result, kinds)) for result in results.values()) + " |")
    return "\n".join(lines)


def perturbed(result: Mapping[str, Any]) -> str:
    """A row for each surface noise, a column for each part of the suite `strangers`: right of some prompts, always the same ones."""
    shares = {row["kind"]: Share(row["correct"], row["total"]) for row in _outcomes(result)}
    lines = ["| | " + " | ".join(PERTURBED.values()) + " |", "|---" * (1 + len(PERTURBED)) + "|"]
    for noise, title in NOISE_TITLES.items():
        found = [shares.get(f"noise_{noise}_{part}") for part in PERTURBED]
        lines.append(f"| {title} | " + " | ".join("\u2013" if one is None else f"{one.correct} of {one.total}" for one in found) + " |")
    return "\n".join(lines)


def calculator(result: Mapping[str, Any]) -> str:
    """Right answers and forward passes without and with the calculator, a row for each kind of prompt."""
    lines = ["| asked | without | with | passes without | passes with |", "|---" * 5 + "|"]
    for row in result["rows"]:
        both = row["without"], row["with"]
        passes = [f"{found['mean_forwards']:.1f}" if "mean_forwards" in found else "\u2013" for found in both]
        lines.append(f"| {row['asked']} | " + " | ".join([*(_cell(_share(found)) for found in both), *passes]) + " |")
    return "\n".join(lines)


def calibration(result: Mapping[str, Any]) -> str:
    """Right among drawings in groups by their score, and of several drawings of a prompt; a column for each mode."""
    modes = result["modes"]
    lines = ["| | " + " | ".join(modes) + " |", "|---" * (1 + len(modes)) + "|"]
    num = len(next(iter(modes.values()))["groups"])
    names = ("the least likely fifth", *(f"fifth {i}" for i in range(2, num)), "the likeliest fifth")
    for i, name in enumerate(names):
        groups = [mode["groups"][i] for mode in modes.values()]
        lines.append(f"| {name} | " + " | ".join(f"{_cell(_share(g))}, {g['from']:.2f} to {g['to']:.2f} nats" for g in groups) + " |")
    titles = {"one": "one drawing", "likeliest": f"the likeliest of {result['drawn']}", "any": f"any of {result['drawn']}"}
    lines += [f"| {title} | " + " | ".join(_cell(_share(mode[name])) for mode in modes.values()) + " |" for name, title in titles.items()]
    areas = {
        "area_under_curve": "of a right and a wrong drawing, the right one scores higher",
        "area_within_a_prompt": "the same, of one prompt",
    }
    for name, title in areas.items():
        lines.append(
            f"| {title} | " + " | ".join("\u2013" if mode[name] is None else f"{100 * mode[name]:.0f} %" for mode in modes.values()) + " |"
        )
    return "\n".join(lines)


def _pooled(results: Mapping[str, Any], kinds: tuple[str, ...]) -> Share | None:
    """Of kinds by name, or of all that begin with a name that ends in _."""
    found = [row for row in _outcomes(results) if row["kind"] in kinds or (kinds[0].endswith("_") and row["kind"].startswith(kinds))]
    return Share(sum(row["correct"] for row in found), sum(row["total"] for row in found)) if found else None


def against(results: Mapping[str, Mapping[str, Any]], parts: Sequence[str]) -> str:
    """A row for each run, label -> its result file: passes and seconds of an example, and each part of SKILLS, all skills together, thinking.

    Of kinds that all runs have. Raises InputError if a file is of another suite.
    """
    runs = {label: [outcome for outcome in _outcomes(result) if outcome["mode"] == "think"] for label, result in results.items()}
    common = set.intersection(*({outcome["kind"] for outcome in outcomes} for outcomes in runs.values()))
    kinds = {part: [kind for skill in SKILLS[part].values() for kind in skill if kind in common] for part in parts}
    lines = ["| | passes | seconds | " + " | ".join(part.lower() for part in parts) + " |", "|---" * (3 + len(parts)) + "|"]
    for label, outcomes in runs.items():
        measured = [outcome for outcome in outcomes if any(outcome["kind"] in those for those in kinds.values())]
        passes, seconds = (statistics.mean(outcome[key] for outcome in measured) for key in ("mean_forwards", "seconds_each"))
        cells = [_cell(share_of(outcomes, kinds[part], "think")) for part in parts]
        lines.append(f"| {label} | {passes:.1f} | {seconds:.2f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def best_of(one: Mapping[str, Any], several: Mapping[str, Any]) -> str:
    """Both of the same examples, thought about before they are drawn. Raises InputError if a file is of another suite."""
    lines = [f"| | one drawing | the likeliest of {several['settings']['best_of']} |", "|---|---|---|"]
    for skill, kinds in SKILLS["Drawing"].items():
        cells = (_cell(share_of(_outcomes(results), kinds, "think")) for results in (one, several))
        lines.append(f"| {skill} | {' | '.join(cells)} |")
    return "\n".join(lines)


def about_drawings(results: Mapping[str, Any]) -> str:
    """What the judge says of real scenes, reconstructions and unknown art; one row each."""
    judge = results["judge"]
    rows = [
        ("real scenes that the judge reads exactly", _cell(_share(judge["real"]))),
        ("their reconstructions by the image tokenizer", _cell(_share(judge["reconstructed"]))),
        *(
            (f"{name} art that it refuses: small, large", f"{_cell(_share(part))}; {_cell(_share(judge['refused_single'][name]))}")
            for name, part in judge["refused"].items()
        ),
        ("feature distance of real scenes to others", f"{judge['distance_real']:.1f}"),
        ("feature distance of reconstructions", f"{judge['distance_reconstructed']:.1f}"),
        ("PSNR of reconstructions (large objects)", f"{judge['psnr']:.1f} dB ({judge['psnr_single']:.1f} dB)"),
        ("PSNR with an art style that was never trained", f"{judge['psnr_unseen_style']:.1f} dB"),
        ("image codes in use", f"{judge['codes_in_use']}"),
    ]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def cost(results: Mapping[str, Any]) -> str:
    """A row for each case of `mmada eval speed`: forward passes, seconds once loaded, and seconds of the whole command."""
    lines = ["| | forwards | seconds, model loaded | seconds, whole command |", "|---|---|---|---|"]
    for name, case in results["cases"].items():
        lines.append(f"| {name} | {case['forwards']:g} | {case['warm_seconds']:.2f} | {case['cold_seconds']:.1f} |")
    return "\n".join(lines)


def cases(results: Mapping[str, Any]) -> str:
    """A row for each case of scripts/gpu/bench_8b.py: forward passes, seconds with CUDA graphs and without, tokens per second."""
    lines = ["| | forwards | seconds without graphs | seconds | seconds a forward | tokens per second |", "|---|---|---|---|---|---|"]
    for name, case in results["cases"].items():
        seconds, eager, forwards = case["seconds"], case["eager_seconds"], case["forwards"]
        lines.append(f"| {name} | {forwards} | {eager:.2f} | {seconds:.2f} | {seconds / forwards:.3f} | {case['tokens_per_second']:,.0f} |")
    return "\n".join(lines)


def training(results: Mapping[str, Any]) -> str:
    """A row for each training run, and one for all minutes together."""
    lines = ["| run | steps | tokens | minutes | tokens per second | share of the matrix rate |", "|---|---|---|---|---|---|"]
    for name, run in {**results["runs"], **results.get("gpu", {})}.items():
        share = f"{100 * run['share_of_matrix_rate']:.0f} % of {run['matrix_gflops']:.0f} GFLOP/s" if "matrix_gflops" in run else "–"
        lines.append(
            f"| {name} | {run['steps']:,} | {run['tokens'] / 1e6:.1f} M | {run['minutes']:.0f} | {run['tokens_per_second']:,.0f} | {share} |"
        )
    others = sum(run["minutes"] for run in results.get("gpu", {}).values())
    lines.append(f"| together | | | {results['total_minutes']:.0f}{f' and {others:.0f}' if others else ''} | | |")
    return "\n".join(lines)


def objectives(results: Mapping[str, Any]) -> str:
    """Of runs with the same start and tasks; rewards from their first tenth to their last. Raises InputError if nothing was judged."""
    _check_judged(results)
    tasks = list(results["runs"][0]["kl"])
    rewards = " | ".join(f"reward of `{task}`" for task in tasks)
    lines = [f"| objective | held-out drawings | {rewards} | divergence | rollouts | minutes |", "|" + "---|" * (5 + len(tasks))]
    before = results["runs"][0]["judged"]["draw"]["before"]
    lines.append(f"| none: before | {_cell(_share(before))} |" + " |" * (3 + len(tasks)))
    for run in results["runs"]:
        cells = [f"`{run['settings']['objective']['name']}`", _cell(_share(run["judged"]["draw"]["after"]))]
        cells += [_course(run["rewards"][task]) for task in tasks]
        cells += [f"{max(kl for kl in run['kl'].values() if kl is not None):.2f}", f"{run['rollouts']:,}", f"{run['minutes']:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def gains(results: Mapping[str, Any], skills: Sequence[str] = ()) -> str:
    """Of runs that differ by their seed: each task before, after, and the mean gain with its standard deviation over runs, in points.

    skills  tasks whose skills have rows of their own
    """
    _check_judged(results)
    runs = results["runs"]
    seeds = ", ".join(f"after, seed {run['settings']['seed']}" for run in runs).replace(", after", " | after")
    how = "without" if results.get("mode") == "direct" else "with"
    lines = [f"| task, held-out, {how} thinking | before | {seeds} | gain |", "|" + "---|" * (3 + len(runs))]
    for task in runs[0]["judged"]:
        before, after = runs[0]["judged"][task]["before"], [run["judged"][task]["after"] for run in runs]
        lines.append(_gain({**TASKS, **ENGLISH}[task], before, after))
        if task in skills:
            lines += [_gain(f"… {name}", share, [one["skills"][name] for one in after]) for name, share in before["skills"].items()]
    if all("diversity" in run for run in runs):
        before, *after = [runs[0]["diversity"]["before"], *(run["diversity"]["after"] for run in runs)]
        name = f"different scenes in {before['seeds']} drawings of a prompt"
        change = statistics.fmean(one["scenes"] for one in after) - before["scenes"]
        cells = " | ".join(f"{one['scenes']:.1f}" for one in after)
        lines.append(f"| {name} | {before['scenes']:.1f} (n {before['prompts']}) | {cells} | {change:+.1f} |")
    return "\n".join(lines)


def courses(results: Mapping[str, Any], part: str, pieces: int = 3) -> str:
    """The curves of runs in a few pieces: a part of the reward, mean over the rounds of each piece with its standard error. Raises InputError without it."""
    if not all(len(run.get("curves", {}).get(part, ())) >= 2 * pieces for run in results["runs"]):
        raise InputError(
            f"part={part!r} has no curve of {2 * pieces} rounds or more in every run; known are {sorted(results['runs'][0].get('curves', {}))}"
        )
    num = min(len(run["curves"][part]) for run in results["runs"])
    edges = [round(i * num / pieces) for i in range(pieces + 1)]
    heads = " | ".join(f"rounds {start + 1} to {stop}" for start, stop in pairwise(edges))
    lines = [f"| `{part}` | {heads} |", "|" + "---|" * (1 + pieces)]
    for run in results["runs"]:
        curve = run["curves"][part]
        cells = [
            f"{statistics.fmean(some):.2f} ± {statistics.stdev(some) / len(some) ** 0.5:.2f}"
            for some in (curve[start:stop] for start, stop in pairwise(edges))
        ]
        lines.append(f"| seed {run['settings']['seed']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _gain(name: str, before: Mapping[str, Any], after: Sequence[Mapping[str, Any]]) -> str:
    changes = [100 * (share["value"] - before["value"]) for share in after]
    spread = f" ± {statistics.stdev(changes):.1f}" if len(changes) > 1 else ""
    cells = " | ".join(f"{100 * share['value']:.1f}" for share in after)
    return f"| {name} | {_cell(_share(before))} | {cells} | {round(statistics.fmean(changes), 1) + 0.0:+.1f}{spread} |"


TASKS: Mapping[str, str] = {
    "text": "word problems, expressions, knowledge",
    "understand": "questions about pictures",
    "draw": "drawings",
    "reason_draw": "drawings that need thought",
}
"""Every task of the emoji world, in words."""

ENGLISH: Mapping[str, str] = {
    "problem": "word problems, in sentences of training",
    "story": "stories of the grammar, with other people",
    "sum": "sums and comparisons, in sentences of training",
    "others_problems": "word problems, by two more writers",
    "others_sums": "sums and comparisons, by two more writers",
}
"""What is asked in ordinary English around reinforcement learning, in words."""

PARTS: Mapping[str, str] = {"text": "Text", "understand": "Understanding", "draw": "Drawing", "reason_draw": "Thinking before drawing"}
"""Task -> its part in SKILLS."""


def _check_judged(results: Mapping[str, Any]) -> None:
    if not all("judged" in run for run in results.get("runs", [{}])):
        raise InputError(
            f"suite={results.get('suite')!r} has no judged examples; give a file that `scripts/report_rl.py --judge 40 -o FILE` wrote"
        )


def _course(reward: Mapping[str, Mapping[str, float | None]]) -> str:
    first, last = reward["first"], reward["last"]
    return f"{first['mean']:.2f} → {last['mean']:.2f}" + ("" if last["error"] is None else f" (± {last['error']:.2f})")


def _outcomes(results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if "outcomes" not in results:
        raise InputError(f"suite={results.get('suite')!r} has no outcomes; give a file that `mmada eval emoji -o FILE` wrote")
    outcomes: list[Mapping[str, Any]] = results["outcomes"]
    return outcomes


def _share(part: Mapping[str, Any]) -> Share:
    return Share(part["correct"], part["total"])


def _cell(share: Share | None) -> str:
    if share is None:
        return "–"
    low, high = share.interval
    return f"{100 * share.value:.1f} ({100 * low:.0f}–{100 * high:.0f}, n {share.total})"
