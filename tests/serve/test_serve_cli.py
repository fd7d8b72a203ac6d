"""`mmada serve` with options that cannot work: one sentence, before anything is loaded."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from mmada.cli import main
from mmada.errors import MissingDependencyError
from mmada.pipeline import MMaDA


@pytest.fixture(autouse=True)
def _nothing_is_loaded(monkeypatch):
    def load(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(MMaDA, "from_pretrained", load)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-n", "50", "--max-queue", "10"], "max_n=50 is above max_queue=10"),
        (["--api-key", " "], "empty key"),
    ],
)
def test_bad_options(monkeypatch, capsys, options, message):
    monkeypatch.setattr(sys, "argv", ["mmada", "serve", "--model", "debug", *options])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_missing_extra_is_named(monkeypatch):
    from mmada.cli.serve import serve

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "prometheus_client" else real(name))
    with pytest.raises(MissingDependencyError, match=r"needs prometheus_client; install the extra: pip install 'mmada\[serve\]'"):
        serve()
