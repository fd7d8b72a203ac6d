"""Matrices in eight and four bits: how far they are from the floats, what is left alone, gradients through them, and memory."""

import pytest
import torch
import torch.nn.functional as F

from mmada.canvas import VocabLayout
from mmada.errors import InputError
from mmada.hub.networks import skeleton
from mmada.model import Transformer, preset
from mmada.model.quantized import QUANTIZATIONS, QuantizedLinear, pack, packed, quantization_of, quantize, unpack, unpacked

LAYOUT = VocabLayout.compact(20, 16, multiple_of=8)
IDS = torch.randint(48, (2, 12), generator=torch.Generator().manual_seed(1))
BITS = [8, 4]


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def model(**changes):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Transformer(preset("debug", layout=LAYOUT, init_std=0.1, **{"d_model": 64, "mlp_hidden_size": 96, **changes})).eval()


def linear(bits, rows=24, width=96, seed=0):
    """A quantized layer, and the matrix that it stands for."""
    weight = random(rows, width, seed=seed)
    layer = QuantizedLinear(width, rows, bits)
    layer.codes, layer.scales = pack(weight, bits)
    return layer, weight


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("width", [8, 64, 96, 224, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_weight_is_a_scale_away(bits, width, dtype):
    weight = (random(24, width) * torch.logspace(-2, 1, 24)[:, None]).to(dtype)
    weight[3] = 0
    codes, scales = pack(weight, bits)
    found = unpack(codes, scales)
    size = width // scales.shape[1]
    assert 8 <= size <= 64
    assert (codes.dtype, codes.shape) == ((torch.int8, (24, width)) if bits == 8 else (torch.uint8, (24, width // 2)))
    assert scales.dtype == torch.float16
    step = scales.float().abs().repeat_interleave(size, 1)
    error = (found - weight.float()).abs()
    assert bool(
        (error <= step * 1.1).all()
    )  # more than half a step only beside the end that has one code less, and by the rounding of scales
    assert float((error > step * 0.501).float().mean()) < 0.1
    assert bool((found[3] == 0).all())
    again = pack(found, bits)
    assert torch.equal(unpack(*again), found)


@pytest.mark.parametrize(("bits", "most"), [(8, 0.006), (4, 0.1)])
def test_the_relative_error_of_a_matrix(bits, most):
    weight = random(256, 256)
    error = (unpack(*pack(weight, bits)) - weight).norm() / weight.norm()
    assert most / 2 < float(error) < most


@pytest.mark.parametrize("bits", BITS)
def test_outputs_and_gradients_are_those_of_the_unpacked_matrix(bits):
    layer, _ = linear(bits)
    x = random(3, 5, 96, seed=1).requires_grad_()
    twin = x.detach().clone().requires_grad_()
    out, expected = layer(x), F.linear(twin, layer.weight)
    assert torch.equal(out, expected)
    grad = random(*out.shape, seed=2)
    out.backward(grad)
    expected.backward(grad)
    torch.testing.assert_close(x.grad, twin.grad)
    assert not any(p.requires_grad for p in layer.parameters())


def test_under_autocast_the_product_has_its_precision_and_the_gradient_that_of_the_input():
    layer, _ = linear(4)
    x = random(5, 96, seed=1).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert x.grad.dtype == torch.float32
    torch.testing.assert_close(x.grad[0], layer.weight.sum(0), rtol=0.05, atol=0.05)


def test_no_unpacked_matrix_waits_for_the_backward_pass():
    layer, weight = linear(4, rows=512, width=512)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        layer(random(2, 512).requires_grad_())
    assert sum(tensor.numel() * tensor.element_size() for tensor in kept) < weight.numel()  # floats would be four times that


@pytest.mark.parametrize("name", QUANTIZATIONS)
def test_the_matrices_of_the_blocks_and_nothing_else(name):
    plain, made = model(), model()
    quantize(made, name)
    assert quantization_of(made) == name
    assert quantization_of(plain) is None
    layers = {type(part) for block in made.model.transformer["blocks"] for part in block.children() if hasattr(part, "in_features")}
    assert layers == {QuantizedLinear}
    state = plain.state_dict()
    left = {key for key in state if key in made.state_dict()}
    assert {key for key in state if key not in left} == {key for key in state if ".blocks." in key and "norm" not in key}
    assert all(torch.equal(state[key], made.state_dict()[key]) for key in left)
    assert made.num_logits((3, 7)) == 4  # the head is asked for in part, as ever
    expected = {}
    for key, tensor in state.items():
        expected |= packed(made, key, tensor)
    assert expected.keys() == made.state_dict().keys()
    assert all(torch.equal(tensor, made.state_dict()[key]) for key, tensor in expected.items())
    with torch.no_grad():
        logits, exact = made(IDS).logits, plain(IDS).logits
    error = float((logits - exact).norm() / exact.norm())
    assert 0 < error < {"int8": 0.02, "int4": 0.35}[name]


@pytest.mark.parametrize(("name", "most"), [("int8", 8.3), ("int4", 4.3)])
def test_bits_of_a_weight(name, most):
    made = model(d_model=256, n_heads=4, mlp_hidden_size=256)
    blocks = made.model.transformer["blocks"]
    num = sum(part.weight.numel() for block in blocks for part in block.children() if hasattr(part, "in_features"))
    quantize(made, name)
    stored = sum(b.numel() * b.element_size() for b in blocks.buffers())
    assert 8 * stored / num < most


def test_a_state_of_floats_again():
    made = model()
    quantize(made, "int4")
    plain = model()
    plain.load_state_dict(unpacked(made, made.state_dict(), torch.float32))
    with torch.no_grad():
        torch.testing.assert_close(plain(IDS).logits, made(IDS).logits)


def test_a_model_of_shapes_alone_and_one_that_is_cast():
    shapes = skeleton(model)
    quantize(shapes, "int4")
    assert all(tensor.is_meta for tensor in shapes.state_dict().values())
    made = model()
    quantize(made, "int4")
    before = [(part.codes.clone(), part.scales.clone()) for part in made.modules() if isinstance(part, QuantizedLinear)]
    made.bfloat16()
    after = [(part.codes, part.scales) for part in made.modules() if isinstance(part, QuantizedLinear)]
    assert all(torch.equal(a, b) for was, now in zip(before, after, strict=True) for a, b in zip(was, now, strict=True))
    assert made(IDS).logits.dtype == torch.bfloat16


def test_what_cannot_be_quantized_says_what_to_do():
    with pytest.raises(InputError, match="quantize='int3' is unknown: did you mean 'int"):
        quantize(model(), "int3")
    made = model()
    quantize(made, "int8")
    with pytest.raises(InputError, match="q_proj is a QuantizedLinear; quantize the model that it was made of"):
        quantize(made, "int4")
    with pytest.raises(InputError, match="a matrix is 36 wide, and quantized ones are multiples of 8; leave quantize out"):
        quantize(model(d_model=36, n_heads=2), "int4")


def test_large_matrices_are_packed_in_parts():
    weight = random(1100, 1024)
    parts = [pack(part, 4) for part in weight.split(400)]
    assert all(torch.equal(whole, torch.cat(pieces)) for whole, pieces in zip(pack(weight, 4), zip(*parts, strict=True), strict=True))
