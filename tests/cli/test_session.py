import pytest
import torch

from mmada.cli.options import Loading
from mmada.cli.session import load, slower
from mmada.pipeline import MMaDA


@pytest.fixture
def gain(monkeypatch):
    """Sets how many times as fast products in bfloat16 are."""
    return lambda gain: monkeypatch.setattr("mmada.model.precision.product_gain", lambda config, dtype: gain)


def test_bfloat16_that_is_slower_here_is_said_with_the_remedy(gain, capsys):
    gain(0.25)
    load("debug", Loading(device="cpu", dtype="bfloat16"))
    said = "products in bfloat16 take 4.0 times as long as in float32 on this CPU; --dtype float32 is faster, and takes twice the memory"
    assert said in capsys.readouterr().err


def test_nothing_is_said_where_it_is_faster_or_not_asked_for(gain):
    gain(2.1)
    model = MMaDA.debug()
    model.model.to(torch.bfloat16)
    assert slower(model) is None
    gain(0.25)
    assert slower(MMaDA.debug()) is None
