"""Log-probabilities of masked tokens: the plain formula, chunks, slices, and what is measured beside them."""

import pytest
import torch

from mmada.canvas import IdRange
from mmada.train import scoring
from mmada.train.scoring import entropy, is_correct, logit_targets, masked_logprobs

from . import tiny

NEVER = (tiny.LAYOUT.mask_id,)
SLICES = (None, IdRange(0, tiny.LAYOUT.image_offset, NEVER), tiny.LAYOUT.image_ids)


@pytest.fixture(scope="module")
def model():
    return tiny.model()


def case(model, *, seed=0):
    """Hidden states of 40 tokens, and 24 of them scored, eight on each slice, in mixed order."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(40, model.config.d_model, generator=generator)
    positions = torch.randperm(40, generator=generator)[:24].sort().values
    member = torch.arange(3).repeat(8)[torch.randperm(24, generator=generator)]
    starts = torch.tensor([0, 0, tiny.LAYOUT.image_ids.start])[member]
    targets = starts + torch.randint(60, (24,), generator=generator)
    temperature = 0.5 + torch.rand(24, generator=generator)
    return hidden, positions, member, targets, temperature


def naive(model, hidden, positions, member, targets, temperature):
    """(24,) log p and entropies, one token after the other."""
    found = []
    for position, slice_, target, t in zip(positions, member, targets, temperature, strict=True):
        ids = SLICES[slice_] or IdRange(0, model.head_weight.shape[0])
        allowed = [i for i in range(ids.start, ids.stop) if i not in ids.never]
        logps = (model.head(hidden[position])[allowed] / t).log_softmax(-1)
        found.append(torch.stack([logps[allowed.index(int(target))], -(logps.exp() * logps).sum()]))
    return torch.stack(found).T


@pytest.mark.parametrize("size", [2**26, 700, 1])
def test_logprobs_and_entropies_equal_the_plain_formula_in_any_chunks(model, monkeypatch, size):
    monkeypatch.setattr(scoring, "MAX_LOGITS", size)
    hidden, positions, member, targets, temperature = case(model)
    hidden.requires_grad_()
    parts = logit_targets(SLICES, member, positions, targets, temperature)
    values, chunks = torch.zeros(2, 24), 0
    for index, logp, spread in masked_logprobs(model, hidden, parts, entropy):
        assert not spread.requires_grad
        values, chunks = values.index_copy(1, index, torch.stack([logp, spread])), chunks + 1
    widths = (model.head_weight.shape[0], tiny.LAYOUT.image_offset, 64)
    assert chunks == sum(-(-8 // min(8, max(1, size // width))) for width in widths)
    expected = naive(model, hidden, positions, member, targets, temperature)
    torch.testing.assert_close(values, expected, rtol=1e-5, atol=1e-5)
    inputs = [hidden, model.head_weight]
    for one, other in zip(torch.autograd.grad(values[0].sum(), inputs), torch.autograd.grad(expected[0].sum(), inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_chunks_are_computed_again_in_the_backward_pass(model, monkeypatch):
    """Without it, the logits of all chunks would be held: what is saved for the backward pass stays below one chunk's logits."""
    hidden, positions, member, targets, _ = case(model)
    parts = logit_targets(SLICES, torch.zeros_like(member), positions, targets)
    width = model.head_weight.shape[0]
    held = {}
    for size in (2**26, 2 * width):
        monkeypatch.setattr(scoring, "MAX_LOGITS", size)
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, into=sizes: into.append(x.numel()) or x, lambda x: x):
            list(masked_logprobs(model, hidden.requires_grad_(), parts))
        held[size] = max(n for n in sizes if n != model.head_weight.numel())
    assert held[2**26] == 24 * width
    assert held[2 * width] < 2 * width


def test_a_token_is_correct_if_its_logit_is_the_largest(model):
    hidden, positions, member, _, _ = case(model)
    best = model.head(hidden[positions]).argmax(-1)
    targets = torch.where(torch.arange(24) % 2 == 0, best, (best + 1) % 60)
    (part,) = logit_targets((None,), torch.zeros_like(member), positions, targets)
    ((index, _, correct),) = masked_logprobs(model, hidden, [part], is_correct)
    assert correct.tolist() == [float(i % 2 == 0) for i in index.tolist()]


def test_slices_that_nobody_needs_are_left_out():
    positions, targets = torch.tensor([3, 5]), torch.tensor([7, 9])
    (part,) = logit_targets(SLICES, torch.tensor([1, 1]), positions, targets)
    assert (part.vocab, part.never, part.temperature) == ((0, tiny.LAYOUT.image_offset), NEVER, None)
    assert (part.index.tolist(), part.positions.tolist(), part.targets.tolist()) == ([0, 1], [3, 5], [7, 9])
    start = tiny.LAYOUT.image_ids.start
    (codes,) = logit_targets(SLICES, torch.tensor([2]), positions[:1], torch.tensor([start + 4]))
    assert codes.targets.tolist() == [4]
