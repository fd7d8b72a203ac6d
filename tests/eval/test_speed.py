"""Times are positive and belong to the cases that README shows."""

import pytest

from mmada.errors import MMaDAError
from mmada.eval import speed
from mmada.worlds.shapes import SCENES, render

ASKED = speed.Asked(prompt=SCENES[0].prompt, question="what color is it?", picture=lambda: render(SCENES[0]), problem="2 + 3 =")


@pytest.mark.slow
def test_every_case_is_timed(monkeypatch):
    steps = []
    found = speed.run("debug", ASKED, repeats=1, num_cold=0, on_step=steps.append)
    assert steps == list(found["cases"]) == [f"{case}{how}" for case in ("draw", "ask", "word problem") for how in ("", ", thinking")]
    assert all(case["warm_seconds"] > 0 and case["forwards"] >= 1 and case["cold_seconds"] is None for case in found["cases"].values())


def test_a_command_is_timed_whole_and_its_failure_is_said():
    assert speed._command(["--help"]) > 0.05
    with pytest.raises(MMaDAError, match="mmada draw failed"):
        speed._command(["draw"])
