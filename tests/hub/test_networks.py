"""Directories of the transformer, read and written without transformers; and that transformers reads and writes the same."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from mmada.errors import CheckpointError, InputError
from mmada.hub import checkpoint, networks, weights
from mmada.model import Transformer, preset, quantized

from ..lazy import later

pretrained = later("mmada.hub.pretrained")

SIZES = [{}, {"weight_tying": True}, {"image_positions": 3, "short_conv": 5}, {"n_kv_heads": 2, "attention_layer_norm": True}]


def plain(layout, **changes):
    torch.manual_seed(0)
    return Transformer(preset("debug", layout=layout, d_model=32, mlp_hidden_size=48, **changes)).eval()


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a)


def test_the_class_of_transformers_refuses_a_file_too(shared_model, tmp_path):
    """Its own `save_pretrained` logs that, and returns."""
    file = tmp_path / "out"
    file.touch()
    with pytest.raises(InputError, match="cannot be written \\(File exists\\); give a new directory"):
        pretrained.MMadaModelLM(plain(shared_model.config.layout).config).save_pretrained(file)


def test_an_upload_that_fails_is_no_directory_that_cannot_be_written(tmp_path):
    with pytest.raises(OSError, match="the hub is away"), checkpoint.saving(tmp_path / "new"):
        raise OSError("the hub is away")


@pytest.mark.parametrize("changes", SIZES)
def test_both_read_what_either_writes(shared_model, tmp_path, changes):
    model = plain(shared_model.config.layout, **changes)
    networks.save_transformer(model, tmp_path / "ours")
    theirs = pretrained.MMadaModelLM.from_pretrained(tmp_path / "ours")
    assert same(theirs, model)
    theirs.save_pretrained(tmp_path / "theirs")
    for name in ("ours", "theirs"):
        loaded = networks.load_transformer(tmp_path / name)
        assert same(loaded, model)
        assert not loaded.training
        assert all(parameter.requires_grad for parameter in loaded.parameters())
        assert loaded.config.layout == model.config.layout
    ids = torch.tensor([[1, 2, 3, 40]])
    assert torch.equal(loaded(ids).logits, theirs(ids).logits)


def test_a_new_model_has_the_same_weights_in_both_classes(shared_model):
    small = preset("debug", layout=shared_model.config.layout, short_conv=9, image_positions=4)
    torch.manual_seed(5)
    ours = Transformer(small)
    after = torch.rand(1)
    torch.manual_seed(5)
    theirs = pretrained.MMadaModelLM(small)
    assert same(ours, theirs)
    assert torch.equal(after, torch.rand(1))
    assert isinstance(theirs, Transformer)


def test_every_matrix_of_a_block_is_a_plain_linear_layer(shared_model):
    """Quantization packages replace modules whose type is exactly nn.Linear, and leave others as they are, in silence."""
    model = plain(shared_model.config.layout)
    matrices = [part for block in model.model.transformer["blocks"] for part in block.children() if hasattr(part, "in_features")]
    assert len(matrices) == 7 * model.config.n_layers
    assert {type(part) for part in matrices} == {nn.Linear}


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_all_matrices_of_the_blocks_are_quantized_and_no_others(shared_model, tmp_path, name):
    model = plain(shared_model.config.layout)
    networks.save_transformer(model, tmp_path)
    loaded = networks.load_transformer(tmp_path, quantize_as=name)
    packed = {at for at, part in loaded.named_modules() if isinstance(part, quantized.QuantizedLinear)}
    left = {at for at, part in loaded.named_modules() if type(part) in (nn.Linear, nn.Embedding)}
    wide = {at for at, part in model.named_modules() if type(part) is nn.Linear}
    assert len(packed) == 7 * model.config.n_layers
    assert {part.bits for part in loaded.modules() if isinstance(part, quantized.QuantizedLinear)} == {int(name[3:])}
    assert packed < wide
    assert left == {"model.transformer.wte", "model.transformer.ff_out"}


@pytest.mark.parametrize("bits", [8, 4])
def test_bitsandbytes_quantizes_all_matrices_of_the_blocks(shared_model, tmp_path, bits):
    bitsandbytes = pytest.importorskip("bitsandbytes", reason="the extra quant")
    from transformers import BitsAndBytesConfig

    networks.save_transformer(plain(shared_model.config.layout), tmp_path)
    config = BitsAndBytesConfig(**{f"load_in_{bits}bit": True})
    loaded = pretrained.MMadaModelLM.from_pretrained(tmp_path, quantization_config=config)
    kind = bitsandbytes.nn.Linear4bit if bits == 4 else bitsandbytes.nn.Linear8bitLt
    assert sum(isinstance(part, kind) for block in loaded.blocks for part in block.modules()) == 7 * loaded.config.n_layers
    assert {type(part) for name, part in loaded.named_modules() if name.endswith("transformer.ff_out")} == {nn.Linear}


@pytest.mark.parametrize("dtype", ["bfloat16", torch.float64, "auto"])
def test_tensors_are_converted_as_they_come(shared_model, tmp_path, dtype):
    model = plain(shared_model.config.layout).bfloat16()
    networks.save_transformer(model, tmp_path)
    loaded = networks.load_transformer(tmp_path, dtype=dtype)
    expected = dtype if isinstance(dtype, torch.dtype) else torch.bfloat16
    assert {parameter.dtype for parameter in loaded.parameters()} == {expected}
    assert loaded.dtype == expected
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor.to(expected))


def test_a_precision_that_does_not_exist_is_refused(tmp_path, shared_model):
    networks.save_transformer(plain(shared_model.config.layout), tmp_path)
    with pytest.raises(InputError, match="dtype='float13' is unknown; use auto, float32"):
        networks.load_transformer(tmp_path, dtype="float13")


def test_eight_bit_matrices_are_computed_in_float32(tmp_path, shared_model):
    model = plain(shared_model.config.layout)
    networks.save_transformer(model, tmp_path)
    file = tmp_path / "model.safetensors"
    packed = {name: tensor.to(torch.float8_e4m3fn) if tensor.dim() > 1 else tensor for name, tensor in load_file(file).items()}
    save_file(packed, file, metadata={"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_text())
    del config["dtype"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = networks.load_transformer(tmp_path).state_dict()
    assert all(torch.equal(loaded[name], tensor.float()) for name, tensor in packed.items())


def test_weights_do_not_change_when_their_file_is_written_anew(tmp_path, shared_model):
    model = plain(shared_model.config.layout)
    networks.save_transformer(model, tmp_path)
    loaded = networks.load_transformer(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"\xff" * file.stat().st_size)
    assert same(loaded, model)


def test_shards_and_their_index(tmp_path, shared_model):
    model = plain(shared_model.config.layout)
    networks.save_transformer(model, tmp_path, max_shard_size="10KB")
    names = sorted(file.name for file in tmp_path.glob("model-*.safetensors"))
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert len(names) > 2
    assert names[0] == f"model-00001-of-{len(names):05d}.safetensors"
    assert set(index["weight_map"].values()) == set(names)
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in model.state_dict().values())
    assert same(networks.load_transformer(tmp_path), model)
    networks.save_transformer(model, tmp_path, max_shard_size="20KB")
    assert {file.name for file in tmp_path.glob("model*")} == {
        *(f.name for f in checkpoint.weight_files(tmp_path)),
        "model.safetensors.index.json",
    }
    assert same(pretrained.MMadaModelLM.from_pretrained(tmp_path), model)


@pytest.mark.parametrize(("text", "size"), [("5GB", 5 * 10**9), ("1.5mb", 1_500_000), ("10KB", 10_000)])
def test_sizes_in_words(text, size):
    assert weights.size_in_bytes(text) == size


def test_a_size_without_a_unit_is_refused():
    with pytest.raises(InputError, match="max_shard_size='5' must be a number with its unit"):
        weights.size_in_bytes("5")


def test_what_does_not_fit_is_one_error(tmp_path, shared_model):
    networks.save_transformer(plain(shared_model.config.layout), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "n_layers": 3}))
    with pytest.raises(CheckpointError, match=r"does not fit its config\.json in 9 of 30 tensors"):
        networks.load_transformer(tmp_path)


def test_what_config_json_says_beyond_the_model_is_written_back(tmp_path, shared_model):
    networks.save_transformer(plain(shared_model.config.layout), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"w_clip_vit": False, "transformers_version": "4.1"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    networks.save_transformer(networks.load_transformer(tmp_path), tmp_path / "again")
    del config["transformers_version"]  # of who wrote it before
    assert json.loads((tmp_path / "again" / "config.json").read_text()) == config


def test_shapes_allocate_nothing_and_draw_nothing():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    found = networks.shapes(preset("8b"))
    assert found["model.transformer.wte.weight"] == (134656, 4096)
    assert torch.equal(torch.get_rng_state(), before)


def test_packing_while_loading_is_packing_afterwards_and_can_be_saved(shared_model, tmp_path):
    model = plain(shared_model.config.layout).bfloat16()
    networks.save_transformer(model, tmp_path / "floats")
    loaded = networks.load_transformer(tmp_path / "floats", quantize_as="int4")
    quantized.quantize(model, "int4")
    assert same(loaded, model)
    assert loaded.dtype == torch.bfloat16
    networks.save_transformer(loaded, tmp_path / "packed", max_shard_size="20KB")
    assert networks.quantization(tmp_path / "packed") == "int4"
    assert json.loads((tmp_path / "packed" / "config.json").read_text())["dtype"] == "bfloat16"
    for again in (networks.load_transformer(tmp_path / "packed"), networks.load_transformer(tmp_path / "packed", quantize_as="int4")):
        assert same(again, model)
    wide = networks.load_transformer(tmp_path / "packed", dtype="float32")
    assert wide.dtype == torch.float32
    assert torch.equal(wide.model.transformer["blocks"][0].q_proj.scales, model.model.transformer["blocks"][0].q_proj.scales)
    sizes = [sum(file.stat().st_size for file in (tmp_path / name).glob("*.safetensors")) for name in ("packed", "floats")]
    assert sizes[0] < 0.6 * sizes[1]


def test_a_directory_of_packed_weights_says_what_it_is(shared_model, tmp_path):
    model = plain(shared_model.config.layout)
    quantized.quantize(model, "int8")
    networks.save_transformer(model, tmp_path)
    with pytest.raises(InputError, match=r"quantize='int4': .* is quantized as int8 already; leave quantize out, or give the checkpoint"):
        networks.load_transformer(tmp_path, quantize_as="int4")
    with pytest.raises(InputError, match="quantize='int2' is unknown"):
        networks.load_transformer(tmp_path, quantize_as="int2")
    with pytest.raises(InputError, match=r"quantized as int8, which MMaDA\.from_pretrained loads; for transformers"):
        pretrained.MMadaModelLM.from_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(file.read_text().replace('"int8"', '"int1"'))
    with pytest.raises(CheckpointError, match="quantized weights='int1', and this version reads int8, int4; use a newer one"):
        networks.load_transformer(tmp_path)
