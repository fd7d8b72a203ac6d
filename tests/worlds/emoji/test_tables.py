"""Tables of documents: each figure is that of a result file, and README shows the tables that the files give."""

import runpy
import sys
from pathlib import Path

import pytest

from mmada.errors import InputError
from mmada.eval.metrics import Share
from mmada.worlds.emoji import KINDS
from mmada.worlds.emoji.measure.tables import (
    NOISE_TITLES,
    SKILLS,
    about_drawings,
    against,
    best_of,
    calibration,
    cases,
    cost,
    courses,
    gains,
    objectives,
    perturbed,
    share_of,
    skills,
    summary,
)

ROOT = Path(__file__).parents[3]


def part(correct, total):
    return Share(correct, total).to_dict()


RESULTS = {
    "outcomes": [
        {"kind": "count", "mode": "think", "held_out": {"pair": part(9, 10), "number": part(10, 10), "style": part(1, 4)}},
        {"kind": "total", "mode": "think", "held_out": {"pair": part(20, 20)}},
        {"kind": "count", "mode": "direct", "held_out": {"pair": part(5, 10)}},
    ]
}


def test_every_kind_is_counted_in_exactly_one_skill():
    named = [kind for rows in SKILLS.values() for kinds in rows.values() for kind in kinds]
    assert sorted(named) == sorted(KINDS)


def test_an_unseen_style_is_counted_apart():
    kinds = ("count", "count_category", "total")
    assert share_of(RESULTS["outcomes"], kinds, "think") == Share(39, 40)
    assert share_of(RESULTS["outcomes"], kinds, "think", unseen_style=True) == Share(1, 4)
    assert share_of(RESULTS["outcomes"], kinds, "direct", unseen_style=True) is None


def test_the_table_of_skills():
    (row,) = (line for line in skills(RESULTS).splitlines() if line.startswith("| counting") and "n 40" in line)
    assert row == "| counting | 50.0 (24–76, n 10) | 97.5 (87–100, n 40) | 25.0 (5–70, n 4) |"
    header, _, _, *rows = skills({"outcomes": RESULTS["outcomes"][2:]}).splitlines()  # a model that never thinks
    assert header == "| | without thinking | unseen art style |"
    assert "| counting | 50.0 (24–76, n 10) | – |" in rows
    with pytest.raises(InputError, match="has no outcomes"):
        skills({"suite": "judge"})


def test_the_summary_adds_up_all_skills_of_a_part():
    header, _, questions, *others = summary(RESULTS).splitlines()
    assert header == "| | without thinking | thinking | unseen art style |"
    assert questions == "| questions about pictures | 50.0 (24–76, n 10) | 97.5 (87–100, n 40) | 25.0 (5–70, n 4) |"
    assert [row.split(" | ")[1] for row in others] == ["–"] * 4


def test_the_likeliest_of_several_drawings():
    def drawn(correct, **settings):
        return {"settings": settings, "outcomes": [{"kind": "draw_two", "mode": "think", "held_out": {"pair": part(correct, 10)}}]}

    table = best_of(drawn(2, best_of=1), drawn(5, best_of=8)).splitlines()
    assert table[0] == "| | one drawing | the likeliest of 8 |"
    assert "| two objects | 20.0 (6–51, n 10) | 50.0 (24–76, n 10) |" in table


def test_accuracy_against_passes():
    def run(passes, correct, *more):
        drawn = {"mode": "think", "mean_forwards": passes, "seconds_each": passes / 100, "held_out": {"pair": part(correct, 10)}}
        return {"outcomes": [{"kind": kind, **drawn} for kind in ("draw_two", "draw_place", *more)]}

    table = against({"6": run(20.0, 4), "the default": run(38.0, 9, "count", "draw_single")}, ["Drawing", "Text"]).splitlines()
    assert table[0] == "| | passes | seconds | drawing | text |"
    assert table[2:] == ["| 6 | 20.0 | 0.20 | 40.0 (22–61, n 20) | – |", "| the default | 38.0 | 0.38 | 90.0 (70–97, n 20) | – |"]


def test_the_other_tables():
    judge = {
        "real": part(99, 100), "reconstructed": part(98, 100), "refused": {"blurred": part(90, 100)},
        "refused_single": {"blurred": part(80, 100)}, "distance_real": 1.0,
        "distance_reconstructed": 2.0, "psnr": 31.25, "psnr_single": 30.0, "psnr_unseen_style": 24.0, "codes_in_use": 600,
    }  # fmt: skip
    table = about_drawings({"judge": judge})
    assert "| blurred art that it refuses: small, large | 90.0 (83–94, n 100); 80.0 (71–87, n 100) |" in table
    assert "| PSNR of reconstructions (large objects) | 31.2 dB (30.0 dB) |" in table
    case = {"forwards": 12, "warm_seconds": 0.123, "cold_seconds": 4.56}
    (row,) = cases({"cases": {"text": {"seconds": 1.5, "eager_seconds": 3.0, "forwards": 60, "tokens_per_second": 1234.5}}}).splitlines()[
        2:
    ]
    assert row == "| text | 60 | 3.00 | 1.50 | 0.025 | 1,234 |"
    assert cost({"cases": {"draw": case}}).splitlines()[-1] == "| draw | 12 | 0.12 | 4.6 |"


def test_runs_of_reinforcement_learning_stand_side_by_side():
    before, after = Share(50, 100).to_dict(), Share(75, 100).to_dict()
    rewards = {"first": {"mean": 1.0, "error": None}, "last": {"mean": 1.5, "error": 0.125}}
    run = {
        "settings": {"objective": {"name": "espo"}},
        "judged": {"draw": {"before": before, "after": after}},
        "rewards": {"draw": rewards},
        "kl": {"draw": 0.25},
        "rollouts": 1920,
        "minutes": 6.4,
    }
    header, _, none, espo = objectives({"runs": [run]}).splitlines()
    assert header.count("|") == none.count("|") == espo.count("|") == 7
    assert "reward of `draw`" in header
    assert "50.0 (40–60, n 100)" in none
    assert espo.startswith("| `espo` | 75.0 (")
    assert "1.00 → 1.50 (± 0.12) | 0.25 | 1,920 | 6 |" in espo
    rewards["last"]["error"] = None  # of a single round
    assert "1.00 → 1.50 | 0.25 |" in objectives({"runs": [run]})
    del run["judged"]
    for results in ({"suite": "rl", "runs": [run]}, {"suite": "emoji"}):
        with pytest.raises(InputError, match=r"report_rl\.py --judge 40"):
            objectives(results)


def test_the_gain_of_several_seeds():
    def one(seed, right):
        shares = {"before": part(50, 100), "after": part(right, 100)}
        return {"settings": {"seed": seed}, "judged": dict.fromkeys(("text", "understand", "draw", "reason_draw"), shares)}

    def ways(scenes):
        return {"scenes": scenes, "distance": 9.0, "prompts": 24, "seeds": 8}

    header, _, *rows = gains({"runs": [one(0, 60), one(1, 64)]}).splitlines()
    assert header == "| task, held-out, with thinking | before | after, seed 0 | after, seed 1 | gain |"
    assert len(rows) == 4
    assert rows[2] == "| drawings | 50.0 (40–60, n 100) | 60.0 | 64.0 | +12.0 ± 2.8 |"
    assert gains({"runs": [one(0, 60) | {"diversity": {"before": ways(5.0), "after": ways(4.0)}}]}).splitlines()[-1] == (
        "| different scenes in 8 drawings of a prompt | 5.0 (n 24) | 4.0 | -1.0 |"
    )
    assert gains({"mode": "direct", "runs": [one(0, 60)]}).startswith("| task, held-out, without thinking | before |")
    assert gains({"runs": [one(0, 60)]}).splitlines()[-1].endswith("| 60.0 | +10.0 |")
    skills = [{**part(right, 100), "skills": {"counting": part(right, 100)}} for right in (50, 75)]
    skilled = {"settings": {"seed": 0}, "judged": {"draw": dict(zip(("before", "after"), skills, strict=True))}}
    assert gains({"runs": [skilled]}, ["draw"]).splitlines()[-1].startswith("| … counting |")
    assert gains({"runs": [skilled]}, ["draw"]).splitlines()[-1].endswith("| 75.0 | +25.0 |")
    assert "counting" not in gains({"runs": [skilled]})
    with pytest.raises(InputError, match="no judged examples"):
        gains({"suite": "rl", "runs": [{}]})


def test_documents_show_what_the_result_files_say(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["fill_docs.py", "--check"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "scripts" / "fill_docs.py"), run_name="__main__")
    assert end.value.code == 0, capsys.readouterr().out


def test_curves_in_pieces():
    runs = [{"settings": {"seed": 3}, "curves": {"draw/drawn": [0.0, 0.2, 0.5, 0.5, 0.9, 1.1]}}]
    assert courses({"runs": runs}, "draw/drawn").splitlines() == [
        "| `draw/drawn` | rounds 1 to 2 | rounds 3 to 4 | rounds 5 to 6 |",
        "|---|---|---|---|",
        "| seed 3 | 0.10 ± 0.10 | 0.50 ± 0.00 | 1.00 ± 0.10 |",
    ]
    with pytest.raises(InputError, match=r"part='draw' has no curve of 6 rounds or more in every run; known are \['draw/drawn'\]"):
        courses({"runs": runs}, "draw")


def test_each_noise_has_a_row_and_each_part_a_column():
    rows = [{"kind": "noise_none_sums", "correct": 3, "total": 4}, {"kind": "noise_typo_sums", "correct": 2, "total": 4}]
    lines = perturbed({"suite": "strangers", "outcomes": rows}).splitlines()
    assert len(lines) == 2 + len(NOISE_TITLES)
    assert lines[2] == "| as it was written | – | – | – | – | 3 of 4 | – |"
    assert next(line for line in lines if "typo" in line).endswith("| 2 of 4 | – |")


def test_calibration_has_a_row_for_each_group():
    share = {"correct": 1, "total": 2}
    group = {"from": -1.0, "to": -0.5, **share}
    mode = {"groups": [group] * 5, "one": share, "likeliest": share, "any": share, "area_under_curve": 0.75, "area_within_a_prompt": None}
    lines = calibration({"drawn": 4, "modes": {"thinking": mode}}).splitlines()
    assert len(lines) == 2 + 5 + 3 + 2
    assert lines[2].startswith("| the least likely fifth | 50.0")
    assert lines[-2].endswith("| 75 % |")
    assert lines[-1].endswith("| – |")
