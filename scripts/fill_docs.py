"""Regenerate the tables of README and docs from docs/results. A test fails when they disagree.

    python scripts/fill_docs.py            # rewrite
    python scripts/fill_docs.py --check    # exit status 1 and the names of the files that are out of date

A table stands between `<!-- results: NAME -->` and `<!-- end -->`; the names are the keys of TABLES.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from mmada.eval import report
from mmada.worlds.emoji.measure import tables

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
DOCUMENTS = ("README.md", "docs/families.md", "docs/finetune.md", "docs/models.md", "docs/rl.md", "docs/scale.md", "docs/speed.md")


def _emoji(name: str, table: Callable[[Mapping[str, object]], str]) -> Callable[[], str]:
    return lambda: table(report.load(RESULTS / f"{name}.json"))


def _against(runs: Mapping[str, str], *parts: str) -> Callable[[], str]:
    return lambda: tables.against({label: report.load(RESULTS / f"{name}.json") for label, name in runs.items()}, parts)


def _finetune() -> str:
    """What finetuning learned and what was left of the rest, right of asked, a run a line."""

    def right(found: Mapping[str, int]) -> str:
        return f"{found['right']} of {found['of']}"

    lines = ["| training | learned | drawings | questions about pictures | word problems, knowledge |", "|---|---|---|---|---|"]
    for name, run in report.load(RESULTS / "finetune.json")["runs"].items():
        lines.append(
            f"| {name} | {right(run['learned'])} | {' | '.join(right(run['kept'][task]) for task in ('draw', 'understand', 'text'))} |"
        )
    return "\n".join(lines)


def _scaling() -> str:
    """Steps of one and two processes, and what the plan said of them."""
    lines = ["| strategy | processes | rows of a step | seconds | the plan says | tokens/s |", "|---|---|---|---|---|---|"]
    for case in report.load(RESULTS / "scaling.json")["cases"]:
        rows = f"{case['rows']}, {case['grows']}" if case["grows"] else f"{case['rows']}"
        said = f"{case['predicted_seconds']:.2f}" if case["grows"] else "(its efficiency is taken from here)"
        lines.append(
            f"| {case['strategy']} | {case['processes']} | {rows} | {case['seconds']:.2f} | {said} | {case['tokens_per_second']:,.0f} |"
        )
    return "\n".join(lines)


def _memory() -> str:
    """Memory of requests to models of the published sizes, computed, in GB; bold where it is more than a card of 24 GB has to give."""
    found = report.load(RESULTS / "memory.json")
    room, kinds = found["card"] - found["reserve"], list(found["cases"][0]["bytes"])
    lines = [
        "| family | request | tokens of a pass | beside the weights | " + " | ".join(kinds) + " |",
        "|---|---|---|---|" + "---|" * len(kinds),
    ]
    for case in found["cases"]:
        totals = {kind: sum(parts.values()) for kind, parts in case["bytes"].items()}
        beside = totals["bf16"] - case["bytes"]["bf16"]["weights"]
        shown = (f"{total / 1e9:.1f} GB" if total <= room else f"**{total / 1e9:.1f} GB**" for total in totals.values())
        lines.append(f"| `{case['family']}` | {case['what']} | {case['tokens']:,} | {beside / 1e9:.1f} GB | {' | '.join(shown)} |")
    return "\n".join(lines)


def _loading() -> str:
    """Memory of loading in units of the files, and seconds of the processor."""
    named = "`MMaDA` | `MMadaModelLM` | `load_file`"
    lines = [f"| family | parameters | files | largest tensor | memory at most: {named} | seconds: {named} |", "|" + "---|" * 10]
    for name, run in report.load(RESULTS / "loading.json")["families"].items():
        ways = [run["ways"][way] for way in ("load_transformer", "MMadaModelLM", "load_file")]
        peaks, seconds = (" | ".join(f"{way[field]:{form}}" for way in ways) for field, form in (("peak", ".3f"), ("cpu_seconds", ".1f")))
        lines.append(f"| `{name}` | {run['parameters'] / 1e9:.2f} B | {run['files']} | {run['tensor']:.2f} | {peaks} | {seconds} |")
    return "\n".join(lines)


def _quantized() -> str:
    """What eight and four bits change."""
    lines = [
        "| model | | change of a logit: mean | most | KL, nats | same best token | same answers | codes as before | drawings accepted | seconds a pass | MB |",
        "|" + "---|" * 11,
    ]
    for name, case in report.load(RESULTS / "quantized.json")["cases"].items():
        model, _, kind = name.rpartition(", ")
        answers = (
            f"{case['same_answers']} of {case['answers']} | {100 * case['same_codes']:.0f} % | {case['accepted']} of {case['drawings']}"
            if "answers" in case
            else "| | "
        )
        lines.append(
            f"| {model} | {kind} | {case['mean_change']:.3f} | {case['max_change']:.2f} | {case['kl']:.4f} | {100 * case['same_best']:.0f} % | "
            f"{answers} | {case['seconds_a_pass']:.3f} | {case['megabytes']:.0f} |"
        )
    return "\n".join(lines)


def _startup() -> str:
    lines = ["| command | seconds | in units of `import torch` |", "|---|---|---|"]
    for command, measured in report.load(RESULTS / "startup.json")["seconds"].items():
        lines.append(f"| `{command}` | {measured['median']:.2f} | {measured['ratio']:.2f} |")
    return "\n".join(lines)


TABLES: Mapping[str, Callable[[], str]] = {
    "base": _emoji("emoji-base", tables.skills),
    "mixcot": _emoji("emoji-mixcot", tables.skills),
    "max": _emoji("emoji-max", tables.skills),
    "chat": _emoji("emoji-chat", tables.skills),
    "summary": _emoji("emoji-chat", tables.summary),
    "drawings": _emoji("emoji-max", tables.about_drawings),
    "best-of": lambda: tables.best_of(report.load(RESULTS / "emoji-max.json"), report.load(RESULTS / "emoji-best-of.json")),
    "steps": _against({"6": "emoji-steps-6", "12": "emoji-steps-12", "24, the default": "emoji-max"}, "Drawing"),
    "threshold": _against(
        {"0.5": "emoji-threshold-0.5", "0.9, the default": "emoji-max", "1, a token a pass": "emoji-threshold-1"}, "Understanding", "Text"
    ),
    "speed": _emoji("speed", tables.cost),
    "training": _emoji("training", tables.training),
    "rl": _emoji("rl", tables.gains),
    "rl-12-steps": _emoji("rl-12-steps", tables.gains),
    "rl-direct": lambda: tables.gains(report.load(RESULTS / "rl-direct.json"), ("draw",)),
    "rl-curves": lambda: tables.courses(report.load(RESULTS / "rl-direct.json"), "draw/drawn"),
    "rl-english": _emoji("rl-english", tables.gains),
    "rl-objectives": _emoji("rl-objectives", tables.objectives),
    "gpu-8b": _emoji("gpu-8b", tables.cases),
    "finetune": _finetune,
    "scaling": _scaling,
    "startup": _startup,
    "memory": _memory,
    "loading": _loading,
    "quantized": _quantized,
    "strangers": lambda: tables.strangers({"right": report.load(RESULTS / "strangers.json")}),
    "strangers-before": lambda: tables.strangers(
        {
            "max": report.load(RESULTS / "strangers-max.json"),
            "chat": report.load(RESULTS / "strangers.json"),
            "a third round": report.load(RESULTS / "strangers-round-3.json"),
        }
    ),
    "perturbed": _emoji("perturbed", tables.perturbed),
    "calibration": _emoji("calibration", tables.calibration),
    "calculator": _emoji("calculator", tables.calculator),
    "image-threshold": _against(
        {"0.9": "emoji-image-threshold-0.9", "0.98, the default": "emoji-max", "1, as many as the steps ask": "emoji-image-threshold-1"},
        "Drawing",
    ),
    "natural": lambda: tables.natural(report.load(RESULTS / "natural.json"), report.load(RESULTS / "natural-before.json")),
}


def main() -> int:
    stale = []
    for name in DOCUMENTS:
        path = ROOT / name
        text = path.read_text(encoding="utf-8")
        filled = report.fill_in(text, TABLES)
        if filled != text:
            stale.append(name)
            if "--check" not in sys.argv:
                path.write_text(filled, encoding="utf-8")
    if stale:
        print("out of date:" if "--check" in sys.argv else "made anew:", ", ".join(stale))
    return int(bool(stale) and "--check" in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
