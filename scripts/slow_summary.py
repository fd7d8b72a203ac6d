"""What a run of the slow tests came to, as JSON: from pytest's junit file, for each file of tests how many passed, failed and were skipped.

    python -m pytest -m "slow or hypothesis" --hypothesis-profile=thorough --junit-xml outputs/slow.xml
    python scripts/slow_summary.py outputs/slow.xml -o docs/results/slow.json

`make test-slow` does both, into outputs/slow.json. Several files are one run in parts; a test that is in two of them counts as in the last.
The commit is that of the working tree, unless --commit says which one was tested.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from mmada.eval import report

ROOT = Path(__file__).parents[1]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("junit", type=Path, nargs="+", help="what --junit-xml wrote")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--commit", help="default: the one that is checked out, with + behind it if files are changed")
    given = parser.parse_args(arguments)
    found = summary(given.junit)
    where = report.environment('pytest -m "slow or hypothesis" --hypothesis-profile=thorough', "cpu")
    where |= {"date": found.pop("date"), **({"commit": given.commit} if given.commit else {})}
    report.save(given.output, {"suite": "slow", "environment": where, **found})
    counts = ", ".join(f"{found[name]} {name}" for name in ("tests", "passed", "failed", "skipped"))
    print(f"wrote {given.output}: {counts}, {found['seconds']:.0f} s")


def summary(paths: Iterable[Path]) -> dict[str, Any]:
    """date: when the first part began. seconds: of the tests alone, so that several processes take less."""
    suites = [suite for path in paths for suite in ElementTree.parse(path).iter("testsuite")]
    cases = {(case.get("classname", ""), case.get("name", "")): case for suite in suites for case in suite.iter("testcase")}
    files: dict[str, dict[str, Any]] = {}
    for (classname, _), case in sorted(cases.items()):
        counts = files.setdefault(file_of(classname), {"tests": 0, "passed": 0, "failed": 0, "skipped": 0, "seconds": 0.0})
        counts["tests"] += 1
        counts[outcome(case)] += 1
        counts["seconds"] += float(case.get("time", 0))
    for counts in files.values():
        counts["seconds"] = round(counts["seconds"], 1)
    names = ("tests", "passed", "failed", "skipped", "seconds")
    return {
        "date": min((suite.get("timestamp", "") for suite in suites), default="")[:10],
        **{name: round(sum(counts[name] for counts in files.values()), 1) for name in names},
        "failures": sorted(f"{file_of(classname)}::{name}" for (classname, name), case in cases.items() if outcome(case) == "failed"),
        "files": files,
    }


def outcome(case: ElementTree.Element) -> str:
    """An error in setting up or tearing down is a failure, too; what is expected to fail counts as skipped, as in the junit file."""
    if case.find("failure") is not None or case.find("error") is not None:
        return "failed"
    return "skipped" if case.find("skipped") is not None else "passed"


def file_of(classname: str) -> str:
    """tests.scale.test_plan -> tests/scale/test_plan.py; names of classes behind it are left out."""
    parts = classname.split(".")
    for end in range(len(parts), 0, -1):
        path = "/".join(parts[:end]) + ".py"
        if (ROOT / path).is_file():
            return path
    return classname


if __name__ == "__main__":
    main()
