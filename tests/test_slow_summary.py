"""scripts/slow_summary.py: what pytest's junit file says, file by file."""

import importlib.util
import json
from pathlib import Path

ROOT = Path(__file__).parents[1]
JUNIT = """<?xml version="1.0"?><testsuites><testsuite name="pytest" timestamp="2026-11-29T21:00:00.5+00:00">
<testcase classname="tests.scale.test_plan" name="test_a" time="1.25"/>
<testcase classname="tests.scale.test_plan" name="test_b[x.y]" time="0.5"><failure message="no">trace</failure></testcase>
<testcase classname="tests.test_slow_summary.Group" name="test_c" time="0.1"><skipped message="no GPU"/></testcase>
<testcase classname="tests.test_slow_summary" name="test_d" time="0.1"><error message="set-up">trace</error></testcase>
</testsuite></testsuites>"""


def script():
    spec = importlib.util.spec_from_file_location("slow_summary", ROOT / "scripts" / "slow_summary.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_junit_file_is_counted(tmp_path):
    (tmp_path / "one.xml").write_text(JUNIT)
    again = '<testsuite timestamp="2026-11-30T01:00:00"><testcase classname="tests.scale.test_plan" name="test_b[x.y]" time="0.75"/></testsuite>'
    (tmp_path / "two.xml").write_text(again)
    words = [str(tmp_path / "one.xml"), str(tmp_path / "two.xml"), "-o", str(tmp_path / "new" / "slow.json"), "--commit", "abc"]
    script().main(words[:1] + words[2:])
    found = json.loads((tmp_path / "new" / "slow.json").read_text())
    assert (
        found["environment"]["commit"],
        found["environment"]["date"],
        found["tests"],
        found["passed"],
        found["failed"],
        found["skipped"],
    ) == (
        "abc",
        "2026-11-29",
        4,
        1,
        2,
        1,
    )
    assert found["files"]["tests/scale/test_plan.py"] == {"tests": 2, "passed": 1, "failed": 1, "skipped": 0, "seconds": 1.8}
    assert found["files"]["tests/test_slow_summary.py"]["tests"] == 2
    assert found["failures"] == ["tests/scale/test_plan.py::test_b[x.y]", "tests/test_slow_summary.py::test_d"]
    script().main(words)
    assert json.loads((tmp_path / "new" / "slow.json").read_text())["failed"] == 1
