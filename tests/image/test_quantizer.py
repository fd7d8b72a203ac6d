import pytest
import torch

from mmada.image.quantizer import LookupFreeQuantizer, bit_weights, entropy_loss, quantizer_loss, sign, sign_table, straight_through


@pytest.mark.parametrize("num_bits", [1, 6, 13])
def test_every_code_survives_the_round_trip(num_bits):
    quantize = LookupFreeQuantizer(num_bits)
    codes = torch.arange(2**num_bits).reshape(2, -1, 1)
    signs = quantize.signs(codes)
    assert signs.shape == (2, num_bits, 2 ** (num_bits - 1), 1)
    assert torch.equal(quantize(signs), codes)
    assert torch.equal(quantize(0.01 * signs), codes)


def test_channel_0_is_the_most_significant_bit():
    z = torch.tensor([0.7, -1.2, 0.1]).reshape(1, 3, 1, 1)
    assert LookupFreeQuantizer(3)(z).item() == 0b101
    assert bit_weights(3).tolist() == [4, 2, 1]
    assert sign_table(3)[0b100].tolist() == [1, -1, -1]


def test_zero_counts_as_minus_one():
    z = torch.tensor([0.0, -0.0, 1e-30, -1e-30])
    assert sign(z).tolist() == [-1, -1, 1, -1]
    assert LookupFreeQuantizer(4)(z.reshape(1, 4, 1, 1)).item() == 0b0010


def test_straight_through_is_the_sign_forward_and_the_identity_backward():
    z = torch.randn(2, 5, 3, 4, requires_grad=True)
    weight = torch.randn(2, 5, 3, 4)
    signs = straight_through(z)
    assert torch.equal(signs.detach(), sign(z))  # bit for bit, not to rounding
    (signs * weight).sum().backward()
    assert torch.equal(z.grad, weight)


def test_losses_equal_the_naive_formulas():
    torch.manual_seed(0)
    z = torch.randn(2, 3, 4, 5)
    signs = torch.where(z > 0, 1.0, -1.0)
    logits = torch.stack([-((z.double() - 1) ** 2), -((z.double() + 1) ** 2)], dim=-1)
    p = logits.softmax(dim=-1)  # (B, K, h, w, 2)

    def entropy(p):
        return -(p * p.log()).sum(dim=-1)

    naive = 0.1 * (entropy(p).mean() - entropy(p.mean(dim=(0, 2, 3))).mean())
    assert entropy_loss(z).item() == pytest.approx(naive.item(), abs=1e-6)
    assert quantizer_loss(z).item() == pytest.approx(0.125 * ((signs - z) ** 2).mean().item(), abs=1e-7)


def test_commitment_draws_latents_to_their_signs_with_the_weight_of_one_term():
    z = torch.tensor([0.5, -3.0]).reshape(1, 2, 1, 1).requires_grad_()
    quantizer_loss(z).backward()
    assert z.grad.flatten().tolist() == pytest.approx([0.1 * (0.5 - 1), 0.1 * (-3 + 1)])


def test_saturated_bits_have_a_finite_gradient():
    z = torch.full((1, 4, 2, 2), 50.0, requires_grad=True)
    entropy_loss(z).backward()
    assert z.grad.isfinite().all()
