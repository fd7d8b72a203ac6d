"""The published losses as settings of the one loss."""

from __future__ import annotations

import pytest
import torch

from mmada.diffusion.loss import masked_diffusion_loss

MASK_VALUE = -1.0  # the published training code adds 1 to visible pairs and nothing to hidden ones


@pytest.fixture(scope="module")
def logits(golden):
    tokens, t2i = golden["loss.input_ids"], golden["loss.t2i_masks"].bool()
    pairs = torch.ones(*tokens.shape, tokens.shape[1], dtype=torch.bool)
    pairs[: len(t2i)] = t2i[:, :, None] & t2i[:, None]
    with torch.no_grad():
        return golden.model(tokens, pairs, mask_value=MASK_VALUE).logits


def part(golden, logits, task):
    """The rows of a task: image rows come first, then text, then understanding."""
    sizes = [len(golden[name]) for name in ("loss.t2i_masks", "loss.p_mask_lm", "loss.p_mask_mmu")]
    start = sum(sizes[:task])
    rows = slice(start, start + sizes[task])
    labels = golden["loss.labels"][rows]
    is_masked = golden["loss.input_ids"][rows] == golden.mask_id
    return logits[rows], labels, is_masked


def close(loss, expected):
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=0)


def test_text_to_image(golden, logits):
    x, labels, _ = part(golden, logits, 0)
    scored = labels != -100
    close(masked_diffusion_loss(x, labels, scored, 1.0, scored.sum()), golden["loss.t2i"])


def test_text(golden, logits):
    x, labels, is_masked = part(golden, logits, 1)
    p = golden["loss.p_mask_lm"]
    close(masked_diffusion_loss(x, labels, is_masked, 1 / p, labels.numel()), golden["loss.lm"])
    a = golden["loss.answer_lengths_lm"]
    close(masked_diffusion_loss(x, labels, is_masked, 1 / (p * a), len(labels)), golden["loss.lm_chat"])


def test_understanding(golden, logits):
    x, labels, is_masked = part(golden, logits, 2)
    weight = 1 / (golden["loss.p_mask_mmu"] * golden["loss.answer_lengths"])
    close(masked_diffusion_loss(x, labels, is_masked, weight, len(labels)), golden["loss.mmu"])
    gathered = x[is_masked]
    close(masked_diffusion_loss(gathered, labels, is_masked, weight, len(labels)), golden["loss.mmu"])
