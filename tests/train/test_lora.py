"""LoRA trains, merges and loads again, here and in PEFT."""

import pytest
import torch

from mmada.errors import InputError
from mmada.hub.networks import load_transformer, save_transformer
from mmada.model.quantized import QUANTIZATIONS, quantize
from mmada.pipeline import MMaDA
from mmada.train.lora import Lora, inject, merged, save_adapter
from mmada.train.optim import OptimizerConfig

from ..lazy import later
from . import tiny

peft = later("peft")

TOKENS = torch.arange(40)[None]


def adapted():
    network = tiny.model()
    inject(network, Lora(rank=4, targets=("q_proj", "up_proj", "ff_out")), seed=0)
    return network


def logits(network):
    with torch.no_grad():
        return network.eval()(TOKENS).logits


def test_only_the_factors_are_trained_and_the_start_is_the_model_itself(tmp_path):
    network = adapted()
    torch.testing.assert_close(logits(network), logits(tiny.model()), rtol=0, atol=0)
    job, _ = tiny.fit(tiny.stage("text"), tmp_path, steps=4, network=network)
    before, after = tiny.model().state_dict(), network.state_dict()
    assert not torch.allclose(logits(network), logits(tiny.model()))
    for name, tensor in after.items():
        if "lora_" not in name:
            assert torch.equal(tensor, before[name.replace(".base_layer", "")]), name
    factors = [name for name, p in job.module.named_parameters() if p.requires_grad]
    assert factors
    assert all("lora_" in name for name in factors)


def test_the_head_is_adapted_too_and_adapters_are_float32():
    network = tiny.model().bfloat16()
    inject(network, Lora(rank=2), seed=0)
    adapted = [name for name, p in network.named_parameters() if p.requires_grad]
    assert {p.dtype for p in network.parameters() if p.requires_grad} == {torch.float32}
    assert any(".blocks.0.ff_out.lora_A" in name for name in adapted)
    assert any("transformer.ff_out.lora_B" in name for name in adapted)
    assert network.num_logits((5, 9)) == network.head_weight.shape[0] != tiny.model().num_logits((5, 9)) == 4
    assert network.peft_config["default"].lora_alpha == 8  # whatever the rank


def test_the_merged_model_and_the_adapter_give_the_same_logits(tmp_path):
    network = adapted()
    tiny.fit(tiny.stage("text"), tmp_path / "run", steps=4, network=network)
    expected, weights = logits(network), network.state_dict()
    plain = tiny.model()
    plain.load_state_dict(merged(network, weights))
    torch.testing.assert_close(logits(plain), expected, rtol=1e-4, atol=1e-5)

    save_transformer(network, tmp_path / "merged", state=merged(network, weights))
    torch.testing.assert_close(logits(load_transformer(tmp_path / "merged")), expected, rtol=1e-4, atol=1e-5)

    save_adapter(network, weights, tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(tiny.model(), str(tmp_path / "adapter"))
    torch.testing.assert_close(logits(again), expected, rtol=0, atol=0)


def test_a_run_with_lora_resumes_bit_for_bit(tmp_path):
    stage = tiny.stage("text", optim=OptimizerConfig(schedule="constant", warmup=2))
    whole, _ = tiny.fit(stage, tmp_path / "whole", steps=4, network=adapted())
    tiny.fit(stage, tmp_path / "parts", steps=2, network=adapted())
    resumed, outcome = tiny.fit(stage, tmp_path / "parts", steps=4, network=adapted())
    assert outcome.step == 4
    for name, tensor in tiny.weights(whole).items():
        assert torch.equal(tensor, tiny.weights(resumed)[name]), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"rank": -1}, "lora.rank=-1"), ({"rank": 2, "alpha": 0.0}, "lora.alpha=0.0"), ({"rank": 2, "targets": ()}, "adapts nothing")],
)
def test_settings_that_cannot_be_used_are_errors(changes, message):
    with pytest.raises(InputError, match=message):
        Lora(**changes)


def test_a_layer_that_is_not_there_is_an_error():
    with pytest.raises(InputError, match="no layer 'q_prj'"):
        inject(tiny.model(), Lora(rank=2, targets=("q_prj",)), seed=0)


def test_a_head_that_peft_adapts_computes_with_its_adapter():
    model = MMaDA.debug().model
    tokens = torch.tensor([[1, 2, 3]])
    before = model(tokens).logits
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["ff_out"], init_lora_weights=False))
    hidden = model.trunk(tokens)
    assert not torch.equal(adapted(tokens).logits, before)
    assert torch.equal(model.head(hidden, (5, 9)), model.head(hidden)[..., 5:9])
    model.head(hidden).sum().backward()
    assert any("ff_out.lora_B" in name and "blocks" not in name and p.grad is not None for name, p in model.named_parameters())


def packed_and_adapted(name="int4"):
    network = tiny.model()
    quantize(network, name)
    inject(network, Lora(rank=4), seed=0)
    return network


@pytest.mark.parametrize("name", QUANTIZATIONS)
def test_an_adapter_learns_beside_quantized_weights(tmp_path, name):
    network = packed_and_adapted(name)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    factors = {key for key, p in network.named_parameters() if p.requires_grad}
    assert any(".blocks.0.q_proj.lora_A" in key for key in factors)
    assert all("lora_" in key for key in factors)
    tiny.fit(tiny.stage("text"), tmp_path / "run", steps=4, network=network)
    after, expected = network.state_dict(), logits(network)
    assert {key for key in after if not torch.equal(after[key], before[key])} == factors  # the head's and the blocks', and nothing else
    plain = tiny.model()
    plain.load_state_dict(merged(network, after))
    torch.testing.assert_close(logits(plain), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="an adapter beside quantized weights stays in its own directory"):
        save_transformer(network, tmp_path / "saved")


def test_an_adapter_is_loaded_beside_quantized_weights_and_the_head_is_merged(tmp_path):
    base = tmp_path / "base"
    MMaDA.debug().save_pretrained(base)
    network = load_transformer(base, quantize_as="int4")
    inject(network, Lora(rank=4), seed=0, base=str(base))
    for key, p in network.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(p, std=0.1, generator=torch.Generator().manual_seed(len(key)))
    save_adapter(network, network.state_dict(), tmp_path / "adapter")
    loaded = MMaDA.from_pretrained(tmp_path / "adapter", quantize="int4").model
    torch.testing.assert_close(logits(loaded), logits(network), rtol=1e-4, atol=1e-4)
    assert loaded.num_logits((5, 9)) == 4
    assert not any(p.requires_grad for p in loaded.parameters())
    merged_into_floats = MMaDA.from_pretrained(tmp_path / "adapter").model
    assert not torch.allclose(logits(merged_into_floats), logits(loaded), rtol=1e-3)


def test_peft_alone_does_not_merge_into_quantized_weights_in_silence():
    network = tiny.model()
    quantize(network, "int8")
    with pytest.raises(ValueError, match=r"QuantizedLinear.* is not supported"):
        peft.get_peft_model(network, peft.LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(InputError, match="load the base without quantize to merge it"):
        packed_and_adapted().model.transformer["blocks"][0].q_proj.merge()
