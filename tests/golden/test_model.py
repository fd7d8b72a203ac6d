"""Logits of the published backbone, and the tensor list of the 8B model."""

from __future__ import annotations

import torch

from mmada.hub.networks import shapes
from mmada.model import preset


@torch.no_grad()
def test_logits(golden):
    logits = golden.model(golden["forward.input_ids"]).logits
    torch.testing.assert_close(logits, golden["forward.logits"], atol=1e-4, rtol=0)


@torch.no_grad()
def test_logits_of_padded_rows(golden):
    attend = golden["forward_padded.attention_mask"].bool()
    for mask in (attend, attend[:, :, None] & attend[:, None]):
        logits = golden.model(golden["forward.input_ids"], mask).logits
        torch.testing.assert_close(logits[attend], golden["forward_padded.logits"][attend], atol=1e-4, rtol=0)


def test_the_8b_preset_has_the_published_tensors(manifest):
    found = shapes(preset("8b"))
    assert found == manifest
    assert sum(torch.Size(s).numel() for s in found.values()) == 8_082_690_048
