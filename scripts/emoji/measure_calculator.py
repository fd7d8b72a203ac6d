"""What the calculator does for chat: right answers and forward passes without it and with it.

    python scripts/emoji/measure_calculator.py -o docs/results/calculator.json

Asked are sentences of the voices in training, with the numbers, people and things of the held-out side, and what a stranger wrote.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mmada import Answer, ChatRequest, MMaDA
from mmada.data.world import SuiteSettings
from mmada.eval import report
from mmada.eval.exact import run_requests
from mmada.eval.metrics import Share
from mmada.hub.checkpoint import DEFAULT_MODEL
from mmada.worlds.emoji.chooser import Chooser, DeadEndError
from mmada.worlds.emoji.example import Example
from mmada.worlds.emoji.measure.strangers import Strangers
from mmada.worlds.emoji.natural.problems import natural_expression, natural_problem, natural_story, natural_sum
from mmada.worlds.emoji.natural.voice import TAUGHT
from mmada.worlds.emoji.split import Split
from mmada.worlds.emoji.verify import is_correct

Maker = Callable[[Chooser, Split], Example]
VOICES: Mapping[str, Maker] = {
    "sums in signs, in sentences of training": natural_expression,
    "sums and comparisons, in sentences of training": partial(natural_sum, voices=TAUGHT),
    "word problems, in sentences of training": partial(natural_problem, voices=TAUGHT),
    "stories of the grammar, with other people": natural_story,
}
STRANGERS = {
    "sums": "sums to a hundred, by a stranger",
    "problems": "word problems, by a stranger",
    "others_sums": "sums and comparisons, by two more writers",
    "others_problems": "word problems, by two more writers",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--num", type=int, default=200, help="of each kind of sentence")
    parser.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_args()
    model = MMaDA.from_pretrained(options.model, device="cpu")
    rows = [{"asked": name, **_compared(model, _examples(make, options.num))} for name, make in VOICES.items()]
    by_strangers = {name: _by_strangers(model.use(calculator=on)) for name, on in (("without", False), ("with", True))}
    rows += [{"asked": asked, **{name: found[kind] for name, found in by_strangers.items()}} for kind, asked in STRANGERS.items()]
    command = f"python scripts/emoji/measure_calculator.py -o {options.out}"
    report.save(
        options.out,
        {
            "suite": "calculator",
            "environment": report.environment(command, "cpu"),
            "model": options.model,
            "num": options.num,
            "rows": rows,
        },
    )
    for row in rows:
        print(row)


def _examples(make: Maker, num: int) -> list[Example]:
    c, found = Chooser(np.random.default_rng(7)), list[Example]()
    while len(found) < num:
        try:
            found.append(make(c, "test"))
        except DeadEndError:
            continue
    return found


def _compared(model: MMaDA, examples: list[Example]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, on in (("without", False), ("with", True)):
        answers = run_requests(model, [ChatRequest(example.prompt, seed=i, calculator=on) for i, example in enumerate(examples)])
        right = sum(is_correct(e, a.text) for e, a in zip(examples, answers, strict=True) if isinstance(a, Answer) and not a.problem)
        found[name] = {
            **Share(right, len(examples)).to_dict(),
            "mean_forwards": round(float(np.mean([a.num_forwards for a in answers])), 2),
        }
    return found


def _by_strangers(model: MMaDA) -> dict[str, dict[str, Any]]:
    measured = Strangers().run(model, SuiteSettings(kinds=tuple(STRANGERS)), lambda share, what: None)
    return {row["kind"]: {key: value for key, value in row.items() if key not in ("kind", "mode")} for row in measured.values["outcomes"]}


if __name__ == "__main__":
    main()
