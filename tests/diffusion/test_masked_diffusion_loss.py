import math

import pytest
import torch

from mmada.diffusion.loss import masked_diffusion_loss, token_nll
from mmada.errors import InputError

ROWS, LENGTH, VOCAB = 3, 7, 11


@pytest.fixture
def batch():
    """logits (B, L, V), x0 (B, L), scored (B, L), weight (B, L)."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(ROWS, LENGTH, VOCAB, generator=generator)
    x0 = torch.randint(VOCAB, (ROWS, LENGTH), generator=generator)
    scored = torch.rand(ROWS, LENGTH, generator=generator) < 0.5
    return logits, x0, scored, 0.1 + torch.rand(ROWS, LENGTH, generator=generator)


def naive(logits, x0, scored, weight, normalizer):
    """The definition, one position after the other, in Python floats."""
    total = 0.0
    for b in range(ROWS):
        for i in range(LENGTH):
            if scored[b, i]:
                row = [math.exp(value) for value in logits[b, i].tolist()]
                w = weight if isinstance(weight, float) else float(weight.expand(ROWS, LENGTH)[b, i])
                total += w * -math.log(row[x0[b, i]] / sum(row))
    return total / float(normalizer)


@pytest.mark.parametrize("kind", ["(B, L)", "(B, 1)", "number", "scalar tensor"])
def test_loss_equals_the_double_loop(batch, kind):
    logits, x0, scored, weight = batch
    weight = {"(B, L)": weight, "(B, 1)": weight[:, :1], "number": 0.7, "scalar tensor": torch.tensor(0.7)}[kind]
    for normalizer in (13.0, scored.sum(), torch.tensor(2.5)):
        loss = masked_diffusion_loss(logits, x0, scored, weight, normalizer)
        assert (loss.shape, loss.dtype) == ((), torch.float32)
        assert loss.item() == pytest.approx(naive(logits, x0, scored, weight, normalizer), rel=1e-6)


def test_gathered_logits_give_the_same_loss(batch):
    logits, x0, scored, weight = batch
    full = masked_diffusion_loss(logits, x0, scored, weight, 5.0)
    assert torch.equal(masked_diffusion_loss(logits[scored], x0, scored, weight, 5.0), full)


def test_only_scored_positions_matter(batch):
    logits, x0, scored, weight = batch
    loss = masked_diffusion_loss(logits, x0, scored, weight, 5.0)
    other = torch.where(scored[..., None], logits, torch.nan)
    hidden = torch.where(scored, x0, -100)  # the label of an unscored position is never read
    assert torch.equal(masked_diffusion_loss(other, hidden, scored, torch.where(scored, weight, torch.nan), 5.0), loss)


def test_gradient_is_softmax_minus_one_hot(batch):
    logits, x0, scored, weight = batch
    logits.requires_grad_()
    masked_diffusion_loss(logits, x0, scored, weight, 5.0).backward()
    expected = (logits.detach().softmax(-1) - torch.nn.functional.one_hot(x0, VOCAB)) * (weight * scored / 5)[..., None]
    torch.testing.assert_close(logits.grad, expected, rtol=1e-5, atol=1e-7)


def test_nothing_scored_gives_zero_with_zero_gradient(batch):
    logits, x0, scored, weight = batch
    logits.requires_grad_()
    loss = masked_diffusion_loss(logits, x0, torch.zeros_like(scored), weight, 5.0)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_half_precision_logits_are_summed_in_float32(batch):
    logits, x0, scored, weight = batch
    half = logits.bfloat16()
    assert torch.equal(masked_diffusion_loss(half, x0, scored, weight, 5.0), masked_diffusion_loss(half.float(), x0, scored, weight, 5.0))


def test_everything_masked_at_ratio_one_is_the_mean_cross_entropy(batch):
    # reference/mmada.md, section 13, number 8.
    logits, x0, _, _ = batch
    mean = torch.nn.functional.cross_entropy(logits.flatten(0, 1), x0.flatten())
    everything = torch.ones_like(x0).bool()
    torch.testing.assert_close(masked_diffusion_loss(logits, x0, everything, 1.0, x0.numel()), mean)
    torch.testing.assert_close(masked_diffusion_loss(logits, x0, everything, 1 / LENGTH, ROWS), mean)


def test_two_processes_with_the_global_normaliser_add_up(batch):
    logits, x0, scored, weight = batch
    whole = masked_diffusion_loss(logits, x0, scored, weight, scored.sum())
    parts = [masked_diffusion_loss(logits[r], x0[r], scored[r], weight[r], scored.sum()) for r in (slice(0, 1), slice(1, 3))]
    torch.testing.assert_close(sum(parts), whole)


def test_token_nll(batch):
    logits, x0, _, _ = batch
    nll = token_nll(logits.half(), x0)
    assert (nll.shape, nll.dtype) == (x0.shape, torch.float32)
    torch.testing.assert_close(nll, -logits.half().float().log_softmax(-1).gather(-1, x0[..., None])[..., 0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda logits, x0, scored, weight: (logits, x0, scored.long(), weight), r"scored must be bool with the shape \(3, 7\)"),
        (lambda logits, x0, scored, weight: (logits, x0, scored[:, 1:], weight), r"scored must be bool .* got torch.bool \(3, 6\)"),
        (
            lambda logits, x0, scored, weight: (logits[:, 1:], x0, scored, weight),
            r"logits hold \(3, 6\) positions, but \(\d+,\) are scored",
        ),
        (lambda logits, x0, scored, weight: (logits[scored][1:], x0, scored, weight), "are scored; gather"),
        (
            lambda logits, x0, scored, weight: (logits, x0, scored, weight[:, 0]),
            r"weight has the shape \(3,\); expected \(3, 7\), \(3, 1\)",
        ),
        (lambda logits, x0, scored, weight: (logits, x0, scored, weight[:1]), r"weight has the shape \(1, 7\)"),
    ],
)
def test_refused(batch, change, message):
    with pytest.raises(InputError, match=message):
        masked_diffusion_loss(*change(*batch), 5.0)


def test_a_weight_of_one_number_a_row_is_not_taken_for_one_a_column():
    # Rows and columns are equally many here, so that (B,) would broadcast to the wrong axis.
    logits, x0 = torch.zeros(2, 2, 5), torch.zeros(2, 2, dtype=torch.long)
    with pytest.raises(InputError, match=r"weight has the shape \(2,\)"):
        masked_diffusion_loss(logits, x0, torch.ones(2, 2).bool(), torch.tensor([1.0, 2.0]), 1.0)
