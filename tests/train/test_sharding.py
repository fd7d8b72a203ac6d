"""Shards: rows are read where they are held, trained weights stay in float32, and runs equal those of one process."""

import copy

import pytest
import torch
from safetensors.torch import load_file

from mmada.hub import networks
from mmada.hub.weights import Unread

from ..processes import ranks
from . import starts

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return starts.start(tmp_path_factory.mktemp("start") / "run")


def test_a_deferred_network_has_shapes_and_reads_rows(start):
    whole, deferred = networks.load_transformer(start), networks.load_transformer(start, deferred=True)
    assert {name: p.shape for name, p in whole.named_parameters()} == {name: p.shape for name, p in deferred.named_parameters()}
    for name, parameter in copy.deepcopy(deferred).named_parameters():
        assert isinstance(parameter, Unread)
        assert parameter.untyped_storage().nbytes() == 4
        rows = parameter.part((slice(1, 3),) * parameter.dim(), dtype=torch.float32, device="cpu")
        assert torch.equal(rows, whole.get_parameter(name)[(slice(1, 3),) * parameter.dim()])


SHARDED = {"ACCELERATE_USE_FSDP": "true"}


def run_in_two(start, out, *arguments):
    log = out.with_suffix(".txt")
    assert ranks(starts.main, start, out, *arguments, env=SHARDED, out=log) == [0, 0], log.read_text()


@pytest.mark.parametrize("names", [("train-lora",), pytest.param(("train", "rl", "rl-lora"), marks=pytest.mark.slow)])
def test_two_processes_that_share_a_checkpoint_equal_one(start, tmp_path, names):
    run_in_two(start, tmp_path / "two", names)
    starts.main(start, tmp_path / "one", names)
    before = load_file(start / "model.safetensors")
    for name in names:
        one, two = (load_file(tmp_path / number / name / "model" / "model.safetensors") for number in ("one", "two"))
        assert max(float((one[key] - two[key]).abs().max()) for key in one) < 1e-6, name
        assert max(float((one[key] - before[key]).abs().max()) for key in before) > 1e-5, name


@pytest.mark.slow
def test_weights_in_bfloat16_are_trained_in_float32(start, tmp_path):
    """Steps are far below the precision of bfloat16, and are not lost."""
    changes = {"model": {"dtype": "bfloat16"}, "loop": {"precision": "bf16"}}
    run_in_two(start, tmp_path / "two", ("train",), changes)
    before, after = load_file(start / "model.safetensors"), load_file(tmp_path / "two" / "train" / "model" / "model.safetensors")
    name = "model.transformer.blocks.0.q_proj.weight"
    moved = (after[name] - before[name]).abs()
    assert after[name].dtype == torch.float32
    assert 0 < float(moved.max()) < 2e-2
    assert int((moved > 0).sum()) > 0.9 * moved.numel()
    assert "trained in float32, computed in bfloat16" in (tmp_path / "two.txt").read_text()
