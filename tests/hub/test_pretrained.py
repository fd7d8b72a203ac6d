import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mmada.errors import CheckpointError

from ..lazy import later

pretrained = later("mmada.hub.pretrained")

BLOCK = ["attn_norm", "q_proj", "k_proj", "v_proj", "attn_out", "ff_norm", "ff_proj", "up_proj", "ff_out"]


def names_on_disk(directory):
    found = {}
    for file in directory.glob("*.safetensors"):
        with safe_open(file, "pt") as stream:
            found.update({name: stream.get_slice(name).get_shape() for name in stream.keys()})  # noqa: SIM118
    return found


def same_weights(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a)


@pytest.fixture
def saved(shared_model, tmp_path):
    shared_model.save_pretrained(tmp_path)
    return tmp_path


def test_the_loaded_model_gives_the_same_bits(saved, shared_model, tokens):
    loaded = pretrained.MMadaModelLM.from_pretrained(saved)
    assert same_weights(loaded, shared_model)
    assert loaded.config.layout == shared_model.config.layout
    assert not loaded.training
    with torch.no_grad():
        assert torch.equal(loaded(tokens).logits, shared_model(tokens).logits)


def test_names_and_shapes_on_disk_are_the_published_ones(build_model, tmp_path):
    build_model().save_pretrained(tmp_path)
    found = names_on_disk(tmp_path)
    expected = {f"model.transformer.blocks.{i}.{name}.weight" for i in range(2) for name in BLOCK}
    assert found.keys() == expected | {f"model.transformer.{name}.weight" for name in ("wte", "ln_f", "ff_out")}
    assert found["model.transformer.ff_out.weight"] == found["model.transformer.wte.weight"] == [48, 32]
    assert found["model.transformer.blocks.1.ff_proj.weight"] == [48, 32]
    assert found["model.transformer.blocks.1.ff_out.weight"] == [32, 48]
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["MMadaModelLM"]


def test_normalised_queries_and_keys_have_their_own_tensors(saved):
    assert {name for name in names_on_disk(saved) if "norm" in name and ".0." in name} == {
        f"model.transformer.blocks.0.{name}.weight" for name in ("attn_norm", "q_norm", "k_norm", "ff_norm")
    }


def test_shapes_allocate_nothing_and_agree_with_the_file(saved, shared_model):
    shapes = pretrained.MMadaModelLM.shapes(shared_model.config)
    assert shapes == {name: tuple(shape) for name, shape in names_on_disk(saved).items()}


def test_sharded(shared_model, tmp_path):
    shared_model.save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert same_weights(pretrained.MMadaModelLM.from_pretrained(tmp_path), shared_model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_dtype(saved, shared_model, tokens, dtype):
    loaded = pretrained.MMadaModelLM.from_pretrained(saved, dtype=dtype)
    assert {p.dtype for p in loaded.parameters()} == {dtype}
    for name, tensor in shared_model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor.to(dtype))
    with torch.no_grad():
        assert loaded(tokens).logits.dtype == dtype


def test_a_bfloat16_checkpoint_keeps_its_dtype_and_half_its_size(shared_model, build_model, tmp_path):
    model = build_model(n_kv_heads=2, attention_layer_norm=True).bfloat16()
    model.save_pretrained(tmp_path)
    assert same_weights(pretrained.MMadaModelLM.from_pretrained(tmp_path, dtype="auto"), model)


def test_tied_weights_are_stored_once(build_model, tmp_path, tokens):
    model = build_model(weight_tying=True)
    model.save_pretrained(tmp_path)
    assert "model.transformer.ff_out.weight" not in names_on_disk(tmp_path)
    loaded = pretrained.MMadaModelLM.from_pretrained(tmp_path)
    assert loaded.get_output_embeddings() is loaded.get_input_embeddings()
    with torch.no_grad():
        assert torch.equal(loaded(tokens).logits, model(tokens).logits)


def test_saving_after_loading_gives_the_same_file(saved, tmp_path_factory):
    again = tmp_path_factory.mktemp("again")
    pretrained.MMadaModelLM.from_pretrained(saved).save_pretrained(again)
    assert names_on_disk(again) == names_on_disk(saved)
    first, second = (load_file(d / "model.safetensors") for d in (saved, again))
    assert all(torch.equal(first[name], second[name]) for name in first)


# What does not fit.


def rewrite(directory, change):
    file = directory / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def test_every_mismatch_is_in_one_error(saved):
    def change(tensors):
        del tensors["model.transformer.blocks.1.q_proj.weight"], tensors["model.transformer.ln_f.weight"]
        tensors["model.transformer.wte.weight"] = torch.zeros(40, 32)
        tensors["model.extra.weight"] = torch.zeros(3)
        return tensors

    rewrite(saved, change)
    with pytest.raises(CheckpointError) as error:
        pretrained.MMadaModelLM.from_pretrained(saved)
    first, *lines = str(error.value).splitlines()
    assert f"{saved} does not fit its config.json in 4 of 25 tensors" in first
    assert sorted(line.strip() for line in lines) == [
        "missing     model.transformer.blocks.1.q_proj.weight (32, 32)",
        "missing     model.transformer.ln_f.weight (32,)",
        "unexpected  model.extra.weight (3,)",
        "wrong shape model.transformer.wte.weight (40, 32), the configuration asks for (48, 32)",
    ]


@pytest.mark.parametrize(
    ("field", "value", "line"),
    [
        ("n_layers", 3, r"missing     model\.transformer\.blocks\.2\.attn_norm\.weight \(32,\)"),
        ("n_layers", 1, r"unexpected  model\.transformer\.blocks\.1\.attn_norm\.weight \(32,\)"),
        (
            "mlp_hidden_size",
            64,
            r"wrong shape model\.transformer\.blocks\.0\.ff_out\.weight \(32, 48\), the configuration asks for \(32, 64\)",
        ),
        ("n_kv_heads", 4, r"wrong shape model\.transformer\.blocks\.0\.k_proj\.weight \(16, 32\), the configuration asks for \(32, 32\)"),
        ("attention_layer_norm", False, r"unexpected  model\.transformer\.blocks\.0\.q_norm\.weight \(32,\)"),
        ("weight_tying", True, r"unexpected  model\.transformer\.ff_out\.weight \(48, 32\)"),
    ],
)
def test_a_config_of_another_model_is_refused(saved, field, value, line):
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, field: value}))
    with pytest.raises(CheckpointError, match=line):
        pretrained.MMadaModelLM.from_pretrained(saved)


def test_a_truncated_file_is_refused(saved):
    file = saved / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="written or copied only in part"):
        pretrained.MMadaModelLM.from_pretrained(saved)


def test_a_missing_shard_is_refused(shared_model, tmp_path):
    shared_model.save_pretrained(tmp_path, max_shard_size="10KB")
    lost = sorted(tmp_path.glob("model-*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(CheckpointError, match=rf"of which 1 are missing \({lost.name}\)"):
        pretrained.MMadaModelLM.from_pretrained(tmp_path)


def test_a_missing_config_is_refused(saved):
    (saved / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no config\.json; is it the directory of a checkpoint\?"):
        pretrained.MMadaModelLM.from_pretrained(saved)


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_damaged_config_is_refused(saved, text):
    (saved / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json .*copy or download it again"):
        pretrained.MMadaModelLM.from_pretrained(saved)


def test_missing_weights_are_refused(saved):
    (saved / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has neither model\.safetensors nor model\.safetensors\.index\.json"):
        pretrained.MMadaModelLM.from_pretrained(saved)


# Adapters.


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_lora_trains_its_adapters_only_and_merges(build_model, tokens):
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model = build_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj", "attn_out", "up_proj"]))
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=1.0)
    for _ in range(2):
        loss = torch.nn.functional.cross_entropy(adapted(input_ids=tokens).logits.flatten(0, 1), tokens.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        trained = adapted(input_ids=tokens).logits
        merged = adapted.merge_and_unload()
        torch.testing.assert_close(merged(tokens).logits, trained, rtol=1e-4, atol=1e-4)
    changed = {name.split(".")[-2] for name, tensor in merged.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"q_proj", "attn_out", "up_proj"}


# As a model of transformers.


@torch.no_grad()
def test_the_answer_as_a_tuple(shared_model, tokens):
    (logits,) = shared_model(tokens, return_dict=False)
    assert torch.equal(logits, shared_model(tokens).logits)
    logits, states = shared_model(tokens, output_hidden_states=True, return_dict=False)
    assert len(states) == 3


def test_embeddings_can_be_replaced_and_resized(build_model, tokens):
    model = build_model()
    before = model(tokens).logits
    model.resize_token_embeddings(56)
    assert model.get_input_embeddings().weight.shape == model.get_output_embeddings().weight.shape == (56, 32)
    torch.testing.assert_close(model(tokens).logits[..., :48], before)


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
def test_gradient_checkpointing_gives_the_same_gradients(build_model, tokens):
    model = build_model(n_kv_heads=2).train()

    def gradients():
        model.zero_grad()
        model(tokens).logits.square().mean().backward()
        return [p.grad.clone() for p in model.parameters()]

    plain = gradients()
    calls = []
    handle = model.model.transformer["blocks"][0].q_proj.register_forward_hook(lambda *_: calls.append(1))
    model.gradient_checkpointing_enable()
    recomputed = gradients()
    handle.remove()
    assert len(calls) == 2  # forward, and again in the backward pass
    for a, b in zip(plain, recomputed, strict=True):
        assert torch.equal(a, b)
