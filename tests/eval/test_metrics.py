"""Intervals and distances against known values, reports and marked blocks."""

from __future__ import annotations

import math

import pytest
import torch

from mmada.errors import InputError
from mmada.eval import report
from mmada.eval.metrics import Share, frechet_distance


def test_wilson_interval():
    # 8 of 10: Brown, Cai and DasGupta 2001 give (0.490, 0.943).
    low, high = Share(8, 10).interval
    assert (round(low, 3), round(high, 3)) == (0.490, 0.943)
    assert Share(0, 20).interval[0] == 0
    assert Share(20, 20).interval[1] == pytest.approx(1.0)
    assert Share(1, 2).to_dict() == {"correct": 1, "total": 2, "value": 0.5, "low": 0.0945, "high": 0.9055}
    for bad in ((3, 2), (0, 0), (-1, 2)):
        with pytest.raises(InputError, match="no share"):
            Share(*bad)


def test_frechet_distance_of_known_gaussians():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4000, 5, generator=generator)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(x, x + 2) == pytest.approx(5 * 4, rel=1e-4)
    # Scaling by 3: the means are near 0, and tr(C + 9C - 6C) = 4 tr C.
    expected = 4 * float(x.T.cov().trace()) + float((2 * x.mean(0)).square().sum())
    assert frechet_distance(x, 3 * x) == pytest.approx(expected, rel=1e-3)
    assert frechet_distance(x[:50], x[:60]) == pytest.approx(frechet_distance(x[:60], x[:50]), rel=1e-6)
    with pytest.raises(InputError, match="shapes"):
        frechet_distance(x, x[:, :3])


def test_report_round_trip(tmp_path):
    facts = report.environment("mmada eval shapes")
    assert {"command", "commit", "machine", "torch"} <= set(facts)
    report.save(tmp_path / "a" / "r.json", {"environment": facts, "share": 0.5})
    assert report.load(tmp_path / "a" / "r.json")["share"] == 0.5
    (tmp_path / "bad.json").write_text("[1]")
    for name in ("bad.json", "none.json"):
        with pytest.raises(InputError, match=name):
            report.load(tmp_path / name)


def test_marked_blocks_are_made_anew():
    text = "before\n<!-- results: table -->\nold\n<!-- end -->\nafter"
    filled = report.fill_in(text, {"table": lambda: "| new |"})
    assert filled == "before\n<!-- results: table -->\n| new |\n<!-- end -->\nafter"
    assert report.fill_in(filled, {"table": lambda: "| new |"}) == filled
    with pytest.raises(InputError, match="asks for results 'table'"):
        report.fill_in(text, {})
    assert math.isfinite(Share(1, 3).value)
