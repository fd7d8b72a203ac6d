"""Split models: passes and gradients of two processes are those of one, and one of them answers the sampler while the other computes along."""

import pytest
import torch

from mmada.errors import InputError
from mmada.hub import weights
from mmada.model import preset
from mmada.model.tensor_parallel import TPGroup, check_split, own_range, split_dim

from ..processes import SERVING, ranks
from . import split
from .conftest import LAYOUT, build


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("split")
    assert ranks(split.main, folder, preload=SERVING) == [0, 0]
    return torch.load(folder / "facts.pt") | {"counts": torch.load(folder / "counts.pt")}


def test_logits_and_gradients_are_those_of_a_whole_model(facts):
    for logits, images, gradients in facts["compared"]:
        assert 0 < logits < 1e-5  # a sum over halves has other bits
        assert images < 1e-5
        assert gradients < 1e-5


def test_weights_in_bfloat16_agree_as_far_as_they_can(facts):
    whole, parts = facts["narrow"]
    assert whole.shape == parts.shape
    assert 0 < float((whole.float() - parts.float()).abs().max()) < 0.05 * float(whole.float().abs().max())


def test_a_leader_answers_as_a_whole_model_with_every_cache(facts):
    assert set(facts["answers"]) == {"none", "prefix", "dual"}
    for whole, leading in facts["answers"].values():
        assert all(map(torch.equal, whole, leading))
    assert all(map(torch.equal, facts["again"], facts["answers"]["none"][0]))


def test_a_follower_keeps_caches_as_long_as_the_leader(facts):
    assert facts["counts"][0] == 0
    assert max(facts["counts"]) == 2
    assert facts["counts"][-1] == 0


def test_what_followers_would_not_hear_of_is_refused(facts):
    direct, long, closed = facts["refused"]
    assert direct.startswith("InputError: a model with tensor_parallel=2 answers the sampler's queries")
    assert "4097 positions" in long
    assert closed.startswith("StoppedError: the model, which several processes hold together, has stopped (it was closed)")


def test_every_parameter_is_split_or_small():
    model = build(n_kv_heads=2, attention_layer_norm=True, image_positions=3, short_conv=5)
    whole = [name for name, _ in model.named_parameters() if split_dim(name) is None]
    assert {name.split(".")[-2] for name in whole} == {"attn_norm", "ff_norm", "ln_f", "conv", "wpe_image"}
    assert [own_range(7, rank, 3) for rank in range(3)] == [(0, 3), (3, 6), (6, 7)]


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (3, r"tensor_parallel=3 must divide the model's 2 heads of keys and its feed-forward width of 48; try 1 or 2"),
        (4, r"tensor_parallel=4 must divide"),
    ],
)
def test_heads_that_cannot_be_shared_out_are_refused(size, message):
    config = preset("debug", layout=LAYOUT, d_model=32, n_heads=4, n_kv_heads=2, n_layers=2, mlp_hidden_size=48)
    with pytest.raises(InputError, match=message):
        check_split(config, size)


def test_layers_of_others_are_refused():
    model = build()
    model.model.transformer["blocks"][0].q_proj = torch.nn.Bilinear(2, 2, 2)
    with pytest.raises(InputError, match=r"q_proj is a Bilinear, and tensor parallelism splits plain layers alone"):
        weights.split(model, TPGroup(0, 2))
