"""The doors of the two harnesses: what the entry points of the package name is what a harness finds and runs."""

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import tomllib

DECLARED = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]


def entry_point(group: str) -> EntryPoint:
    return EntryPoint("mmada", DECLARED[group]["mmada"], group)


def test_lm_eval_loads_the_adapter_by_its_entry_point():
    from lm_eval.api.model import LM
    from lm_eval.api.registry import Registry

    from mmada.eval.harness import HarnessModel

    found = Registry("model", base_cls=LM)  # the harness registers entry points as placeholders, and loads them when they are asked for
    found.register("mmada", target=entry_point("lm_eval.models"))
    assert found.get("mmada") is HarnessModel


def test_every_entry_point_can_be_loaded():
    for group, values in DECLARED.items():
        if group == "lmms_eval.models":
            pytest.importorskip("lmms_eval")
        for name, value in values.items():
            assert EntryPoint(name, value, group).load() is not None
